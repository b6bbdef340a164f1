"""The author's kit checks tokenizers and backbones of structures as well, and moves residues where it else changes letters."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from exapt.structures import Structure
from exapt.testing import LETTERS, TINY, ConformanceError, check_backbone, check_tokenizer
from exapt.testing._structures import halved, lost, moved, seen
from exapt.testing.tiny import TinyBackbone, seeded
from kit.structure_tokenizers import STRUCTURE_FAULTS, STRUCTURES, Residues

READS = replace(LETTERS, build=lambda _options: Residues())


class Folded(TinyBackbone):
    """The tiny backbone, whose embeddings know where a residue is, seen from the first one."""

    def __init__(self):
        super().__init__()
        self.spots = nn.Linear(3, self.width)

    def stem(self, batch):
        alphas = batch["alphas"]
        return super().stem(batch) + self.spots(alphas - alphas[:, :1])


@pytest.mark.parametrize(("kind", "message"), STRUCTURE_FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_tokenizer_of_structures_with_a_fault_is_told_of_it(kind, message):
    with pytest.raises(ConformanceError) as caught:
        check_tokenizer(replace(LETTERS, build=lambda _options: kind()), inputs=STRUCTURES)
    assert str(caught.value) == f"tokenizer 'tiny-letters' fails {message}"


def test_a_tokenizer_may_read_structures():
    check_tokenizer(READS, inputs=[Structure.of(value) for value in STRUCTURES])


def test_a_backbone_of_structures_whose_atoms_do_not_matter_is_told_of_it():
    with pytest.raises(ConformanceError) as caught:
        check_backbone(TINY, tokenizer=READS, inputs=STRUCTURES)
    assert (
        str(caught.value)
        == "backbone 'tiny' fails input-matters: input 0 has the same features with the residue at position 1 moved"
    )


def test_a_backbone_may_read_structures():
    spec = replace(TINY, build=lambda _options, weights: seeded(Folded, weights))
    check_backbone(spec, tokenizer=READS, inputs=STRUCTURES)


def test_a_structure_is_cut_moved_and_lost_in_its_own_place():
    structure = Structure.of(STRUCTURES[1])
    half = halved(structure)
    assert (half.chains, half.letters, half.starts.tolist()) == (("A",), "ACD-", [0, 4])
    assert halved(STRUCTURES[0]).numbers == tuple("12345")
    assert list(seen(structure)) == [0, 1, 2, 4, 5, 6, 7]
    apart = torch.from_numpy(moved(structure, 4).atoms - structure.atoms)
    assert apart[4].eq(0.5).all()
    assert not apart[[0, 1, 2, 5, 6, 7]].any()
    assert lost(structure, 4).letters == "ACD--GHW"
    assert list(seen(lost(structure, 4))) == [0, 1, 2, 5, 6, 7]
