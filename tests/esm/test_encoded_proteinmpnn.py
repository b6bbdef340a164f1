"""What ProteinMPNN keeps of structures that are asked about again holds only as long as nothing of the model changes."""

import copy

import pytest
import torch
from torch import nn

from esm.mpnn import TINY, encoding
from exapt.data.batching import collate
from exapt_esm.proteinmpnn.backbone import build

NAMES = ["edge_short20", "edge_gap"]


class Scaled(nn.Module):
    """A scale around a linear layer that can be changed or taken away, as that of a low-rank update can."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale, self.beside = inner, 1.0, torch.ones(())

    def forward(self, hidden):
        return self.inner(hidden) * self.scale * self.beside


def write(tensor, value):
    tensor.data.copy_(torch.as_tensor(value))


CHANGES = {
    "a parameter": lambda mpnn: mpnn.W_e.weight.mul_(1.5),
    "a parameter, uncounted": lambda mpnn: write(mpnn.W_e.weight, mpnn.W_e.weight * 1.5),
    "a buffer": lambda mpnn: mpnn.num_edges.fill_(5),
    "a buffer, uncounted": lambda mpnn: write(mpnn.num_edges, 5),
    "a setting": lambda mpnn: setattr(mpnn.encoder_layers[0].W2, "scale", 1.5),
    "a tensor beside the parameters": lambda mpnn: write(mpnn.encoder_layers[0].W2.beside, 1.5),
    "a layer": lambda mpnn: setattr(mpnn.encoder_layers[0], "W2", copy.deepcopy(mpnn.encoder_layers[0].W3)),
    "a hook": lambda mpnn: mpnn.W_e.register_forward_hook(lambda module, given, made: made * 1.5),
}


@pytest.fixture
def model():
    backbone = build(str(TINY), True)
    backbone.mpnn.encoder_layers[0].W2 = Scaled(backbone.mpnn.encoder_layers[0].W2)
    return backbone.eval()


@pytest.fixture
def batch():
    return collate([encoding("tiny", name) for name in NAMES])


def asked(model, batch):
    return model.at_places(batch, torch.tensor([0, 1]), torch.tensor([4, 30]))


def whole(model, batch):
    return model(batch).hidden[[0, 1], [4, 30]]


@pytest.fixture
def encoded(model, monkeypatch):
    """Return how many structures were encoded at each time."""
    counts, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda given: counts.append(len(given.lengths)) or encode(given))
    return counts


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_whatever_changes_in_the_model_changes_its_answers(change, model, batch):
    before = asked(model, batch)
    change(model.mpnn)
    after = asked(model, batch)
    assert torch.allclose(after, whole(model, batch), atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


@torch.no_grad()
def test_structures_are_encoded_once_as_long_as_nothing_changes(model, batch, encoded):
    first = asked(model, batch)
    assert torch.equal(asked(model, batch), first)
    assert encoded == [1, 1]


@torch.no_grad()
def test_chance_is_drawn_anew_each_time(model, batch):
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(asked(model, batch), asked(model, batch), atol=1e-3)
    model.eval()
    assert torch.allclose(asked(model, batch), whole(model, batch), atol=1e-5)


def test_gradients_reach_the_encoder_whatever_was_kept_before(model, batch, encoded):
    with torch.inference_mode():
        before = asked(model, batch)
    for _ in range(2):
        model.zero_grad()
        asked(model, batch).square().sum().backward()
        assert model.mpnn.W_e.weight.grad.abs().max() > 0
    with torch.inference_mode():
        assert torch.equal(asked(model, batch), before)
    assert encoded == [1, 1] * 3


@torch.no_grad()
def test_a_copy_of_a_model_keeps_apart(model, batch):
    before, other = asked(model, batch), copy.deepcopy(model)
    other.mpnn.W_e.weight.data.mul_(1.5)
    assert not torch.allclose(asked(other, batch), before, atol=1e-3)
    assert torch.equal(asked(model, batch), before)
