"""The tokenizer of ProteinMPNN: a token for each position, a unit for each that is resolved."""

import numpy as np
import pytest

from esm.mpnn import ARRAYS, SHIPPED, TINY, entries, expected, tokenizer_of
from esm.structure_files import golden, one
from exapt import DataError
from exapt.structures import Structure
from exapt_esm.proteinmpnn import CA_CHECKPOINTS
from exapt_esm.proteinmpnn.probes import PROBES

GAP = PROBES[2]


def refusal(value, **options):
    with pytest.raises(DataError) as caught:
        tokenizer_of(TINY, **options).encode(value)
    return str(caught.value)


def without(value, *atoms):
    """Return a probe without some of the atoms N, CA, C and O (0 to 3) of each residue."""
    kept = Structure.of(value).atoms.copy()
    kept[:, atoms] = np.nan
    return Structure.of(value).with_atoms(kept)


@pytest.mark.parametrize("name", [name for name, entry in entries("real")[0].items() if name.startswith("edge_")])
def test_golden_structures_become_the_reference_arrays(name):
    entry = entries("real")[0][name]
    structure = one(golden(entry["pdb"])).only(entry["feature_chain_order"])
    if name == "edge_caonly":
        with pytest.raises(DataError, match=r"^has CA atoms alone, and this model reads N, CA, C and O; use one of "):
            tokenizer_of(TINY).encode(structure)
        return
    encoded = tokenizer_of(TINY).encode(structure)
    for ours, theirs in ARRAYS.items():
        assert np.allclose(encoded.arrays[ours], expected("real", name, theirs), atol=1e-6), ours


def test_units_are_positions_and_only_resolved_ones_have_a_token():
    encoded = tokenizer_of(TINY).encode(GAP)
    assert encoded.length == encoded.tokens == 35
    assert np.flatnonzero(~encoded.covered).tolist() == [10, 11]
    assert encoded.arrays["input_ids"][10:12].tolist() == [20, 20]
    assert not encoded.arrays["rank"].any()
    assert encoded.unknown == 0


def test_chains_are_numbered_and_stand_apart():
    encoded = tokenizer_of(TINY).encode(PROBES[1])
    assert encoded.arrays["chain"].tolist() == [1] * 20 + [2] * 17
    assert encoded.arrays["residue_index"].tolist() == [*range(20), *range(120, 137)]
    assert tokenizer_of(TINY).unit_names(PROBES[1])[19:21] == ("A:20", "B:1")


def test_what_is_told_of_gaps_and_of_strange_residues():
    tokenizer = tokenizer_of(TINY)
    tally = tokenizer.tally()
    tally.count(PROBES, [tokenizer.encode(value) for value in PROBES])
    assert tally.lines("structure") == [
        "2 of 92 positions of 'structure', in 1 of 3 structures, lack atoms of the backbone: they have no features",
        "1 residue in 1 of 3 structures of 'structure' are none of the twenty, and read as X",
    ]
    assert tokenizer.tally().lines("structure") == []


def test_structures_without_the_atoms_that_the_model_reads():
    names = ", ".join(CA_CHECKPOINTS)
    assert refusal(without(GAP, 0, 2, 3)) == (
        f"has CA atoms alone, and this model reads N, CA, C and O; use one of {names}"
    )
    assert refusal(without(GAP, 3)) == "has no backbone atoms: no residue has all of N, CA, C and O"
    assert refusal(without(GAP, 0, 1, 2, 3)) == "has no backbone atoms: no residue has all of N, CA, C and O"
    assert refusal(without(GAP, 1), atoms="ca") == "has no backbone atoms: no residue has a CA atom"
    assert refusal("MKTAYIAK") == "is 'MKTAYIAK', not a protein structure such as a PDB file holds"


def test_ca_atoms_are_enough_for_models_that_read_no_others():
    alone = without(GAP, 0, 2, 3)
    encoded = tokenizer_of(SHIPPED("ca", "020")).encode(alone)
    assert np.flatnonzero(~encoded.covered).tolist() == [10, 11]
    assert tokenizer_of(TINY, atoms="ca").rules == {"atoms": "ca"}
    assert tokenizer_of(TINY).rules == {"atoms": "backbone"}


def test_a_residue_that_lacks_one_atom_keeps_the_others_as_the_reference_does():
    atoms = Structure.of(GAP).atoms.copy()
    atoms[4, 3] = np.nan
    encoded = tokenizer_of(TINY).encode(Structure.of(GAP).with_atoms(atoms))
    assert not encoded.covered[4]
    assert encoded.arrays["atoms"][4, 1].any()
    assert not encoded.arrays["atoms"][4, 3].any()
