"""ProteinMPNN in steps: packed states, orders, single steps, wrapped layers, and CA atoms."""

import numpy as np
import pytest
import torch
from torch import nn

from esm.mpnn import SHIPPED, TINY, apart, backbone_of, encoding, expected, log_probabilities, tokenizer_of
from exapt import RecipeError
from exapt.data.batching import collate
from exapt.structures import Structure
from exapt_esm.proteinmpnn.backbone import build
from exapt_esm.proteinmpnn.probes import PROBES
from exapt_esm.proteinmpnn.stepping import Stepper

NAMES = ("6MRR", "edge_gap", "edge_chains", "edge_two")


def shuffled(name, seed=0):
    return encoding("tiny", name, np.random.default_rng(seed).permutation(len(expected("tiny", name, "S"))))


@torch.inference_mode()
def test_every_way_through_the_blocks_ends_at_the_same_states():
    backbone, batch = backbone_of(TINY), collate([shuffled(name) for name in NAMES])
    whole = backbone(batch).hidden
    for turn in range(7):
        half = backbone.run(backbone.stem(batch), batch, 0, turn)
        assert torch.equal(backbone.finish(backbone.run(half, batch, turn, 6), batch).hidden, whole)
    state = backbone.encode(batch)
    assert torch.equal(backbone.decode(state, batch["input_ids"], batch["rank"]), whole)
    hidden = backbone.at_layer(batch, backbone.features_layer).hidden
    assert torch.equal(hidden, state.nodes.view_as(hidden))


@torch.inference_mode()
def test_a_residue_sees_the_letters_before_it_and_no_others():
    backbone, one = backbone_of(TINY), shuffled("edge_short20")
    before = log_probabilities(backbone, [one])[0]
    rank = one.arrays["rank"]
    for place in (0, 7, 19):
        ids = one.arrays["input_ids"].copy()
        ids[place] = (ids[place] + 5) % 20
        changed = encoding("tiny", "edge_short20", rank)
        changed.arrays["input_ids"][:] = ids
        after = log_probabilities(backbone, [changed])[0]
        assert np.array_equal(after[rank <= rank[place]], before[rank <= rank[place]])
        later = rank > rank[place]
        assert not later.any() or (np.abs(after - before)[later].max() > 1e-6)


@torch.inference_mode()
def test_steps_of_single_residues_say_what_the_whole_says():
    backbone, name = backbone_of(TINY), "edge_gap"
    orders = [shuffled(name, seed).arrays["rank"] for seed in (1, 2)]
    batch = collate([encoding("tiny", name)])
    state = backbone.encode(batch)
    ids = batch["input_ids"].expand(2, -1)
    whole = backbone.decode(state.repeated(2), ids, torch.from_numpy(np.stack(orders)))
    stepper = Stepper(backbone.mpnn, state, 2)
    for places in torch.from_numpy(np.stack([np.argsort(rank) for rank in orders], 1)):
        states = stepper.states(places)
        assert torch.allclose(states, whole[torch.arange(2), places], atol=1e-5)
        stepper.put(places, ids[torch.arange(2), places])


class Around(nn.Module):
    """Something around a linear layer, as PEFT puts it there."""

    def __init__(self, inner, scale):
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, hidden):
        return self.inner(hidden) * self.scale


@pytest.mark.parametrize("layer", ["W1", "W2", "W3", "W11", "W12", "W13"])
def test_layers_that_something_is_put_around_are_called_as_a_whole(layer):
    one = shuffled("6MRR")
    alike, other = build(str(TINY), True), build(str(TINY), True)
    for backbone, scale in ((alike, 1.0), (other, 1.5)):
        for block in backbone.blocks():
            if hasattr(block, layer):
                setattr(block, layer, Around(getattr(block, layer), scale))
    before = log_probabilities(backbone_of(TINY), [one])
    assert np.abs(log_probabilities(alike, [one]) - before).max() < 1e-5
    assert np.abs(log_probabilities(other, [one]) - before).max() > 1e-3


def test_gradients_are_the_same_when_activations_are_computed_again():
    found = []
    for recompute in (False, True):
        backbone = build(str(TINY), True)
        backbone.recompute = recompute
        backbone(collate([shuffled("6MRR")])).hidden.square().sum().backward()
        found.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    first, second = found
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first if first[name] is not None)
    assert {name for name, gradient in first.items() if gradient is None} == {"W_out.weight", "W_out.bias"}


def test_where_and_how_a_structure_lies_does_not_matter():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    structure = Structure.of(PROBES[1])
    elsewhere = structure.with_atoms(structure.atoms @ turn.T + np.array([4.0, -20, 11]))
    mirrored = structure.with_atoms(structure.atoms * np.array([1, 1, -1]))
    values = [tokenizer_of(TINY).encode(value) for value in (structure, elsewhere, mirrored)]
    one, same, other = (log_probabilities(backbone_of(TINY), [value])[0] for value in values)
    assert np.abs(one - same).max() < 1e-5
    # A mirror image is another structure.
    assert np.abs(one - other).max() > 1e-2


def test_ca_atoms_alone_are_read_by_the_models_of_ca_atoms():
    source, structure = SHIPPED("ca", "020"), Structure.of(PROBES[2])
    atoms = structure.atoms.copy()
    atoms[:, [0, 2, 3]] = np.nan
    whole, alone = (tokenizer_of(source).encode(value) for value in (structure, structure.with_atoms(atoms)))
    assert np.array_equal(*(log_probabilities(backbone_of(source), [one]) for one in (whole, alone)))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_chains_of_few_ca_atoms(length):
    source, structure = SHIPPED("ca", "002"), Structure.of(PROBES[0])
    few = Structure(
        ("A",), np.array([0, length]), structure.letters[:length], structure.numbers[:length], structure.atoms[:length]
    )
    encode = tokenizer_of(source).encode
    alone = log_probabilities(backbone_of(source), [encode(few)])[0]
    beside = log_probabilities(backbone_of(source), [encode(few), encode(structure)])[0, :length]
    assert np.isfinite(alone).all()
    assert apart(beside, alone) < 1e-5


def test_there_is_no_layer_beyond_the_last():
    with pytest.raises(RecipeError) as caught:
        backbone_of(TINY).at_layer(collate([encoding("tiny", "edge_one")]), 7)
    assert str(caught.value) == "there is no layer 7: this backbone has layers 0 to 6"
