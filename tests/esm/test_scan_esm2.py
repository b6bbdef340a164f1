"""Few answers of ESM-2 at a fraction of the work: the same states as those of the whole model."""

import numpy as np
import peft
import pytest
import torch

import exapt
from exapt.data.batching import collate
from exapt.parts import Backbone
from exapt_esm import asked
from exapt_esm.layers import attend

WILD = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGD"


def copies(tokenizer, hidden):
    """Return one input in as many copies as there are tuples of positions to hide."""
    batch = collate([tokenizer.encode(WILD)] * len(hidden))
    for row, places in enumerate(hidden):
        batch["input_ids"][row, list(places)] = tokenizer.mask
    return batch


def same(backbone, batch, rows, places):
    with torch.no_grad():
        found = backbone.at_places(batch, torch.tensor(rows), torch.tensor(places))
        whole = backbone.at_layer(batch, -1).hidden[rows, places]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.fixture
def worked(monkeypatch):
    """Return the names of the layers that left out work."""
    told = []
    for name in ("first_layer", "last_layer"):
        real = getattr(asked, name)
        monkeypatch.setattr(
            f"exapt_esm.backbone.{name}", lambda *words, real=real, name=name: (told.append(name), real(*words))[1]
        )
    return told


def test_copies_that_hide_one_token_each_share_the_first_layer(build, tokenizer_of, worked):
    batch = copies(tokenizer_of(), [(place,) for place in range(1, 9)])
    same(build(), batch, list(range(8)), list(range(1, 9)))
    assert worked == ["first_layer", "last_layer"]


def test_copies_that_hide_unlike_numbers_share_nothing(build, tokenizer_of, worked):
    # Token dropout scales the whole of an input by how much of it is hidden.
    batch = copies(tokenizer_of(), [(3,), (4, 9)])
    same(build(), batch, [0, 1, 1], [3, 4, 9])
    assert worked == ["last_layer"]


def test_inputs_of_unlike_lengths_and_numbers_of_places(build, tokenizer_of, worked):
    tokenizer = tokenizer_of()
    batch = collate([tokenizer.encode(text) for text in (WILD, WILD[:20], WILD[5:])])
    same(build(), batch, [0, 0, 0, 2], [1, 7, 0, 38])
    assert worked == ["last_layer"]


def test_where_most_is_asked_for_the_whole_model_works(build, tokenizer_of, worked):
    batch = copies(tokenizer_of(), [()])
    same(build(), batch, [0] * 42, list(range(1, 43)))
    assert worked == []


def test_low_rank_updates_count(build, tokenizer_of, worked):
    backbone = build()
    config = peft.LoraConfig(r=2, target_modules=["query", "key", "value"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, backbone.module)
    batch = copies(tokenizer_of(), [(place,) for place in range(1, 9)])
    same(backbone.eval(), batch, list(range(8)), list(range(1, 9)))
    assert worked == ["first_layer", "last_layer"]


def test_any_backbone_tells_states_of_places(build, tokenizer_of):
    backbone, batch = build(), copies(tokenizer_of(), [(3,), (4,)])
    with torch.no_grad():
        found = Backbone.at_places(backbone, batch, torch.tensor([1, 0]), torch.tensor([4, 3]))
        assert torch.equal(found, backbone(batch).hidden[[1, 0], [4, 3]])


@pytest.mark.parametrize("tokens", [5, 200, 300])
def test_attention_input_by_input_is_that_of_torch(tokens):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, tokens, 8, 16) for _ in range(3))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(states.transpose(1, 2) for states in (query, key, value))
    ).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value), theirs, atol=1e-6, rtol=0)
        absent = torch.ones(3, 1, 1, tokens, dtype=torch.bool)
        absent[0, ..., -2:] = False
        torch.testing.assert_close(attend(query, key, value, absent)[1:], theirs[1:], atol=1e-6, rtol=0)


def test_gradients_pass_through_attention():
    query = torch.randn(1, 6, 2, 4, requires_grad=True)
    attend(query, query, query).sum().backward()
    assert query.grad.abs().sum() > 0


def test_a_scan_scores_what_the_whole_model_does(golden, monkeypatch):
    source = f"esm2:{golden / 'model'}"
    quick = exapt.scan([WILD], source)["score"].to_numpy()
    monkeypatch.setattr("exapt_esm.backbone.Esm2.at_places", Backbone.at_places)
    monkeypatch.setattr("exapt.scanning.scores_together", lambda *words: None)
    np.testing.assert_allclose(quick, exapt.scan([WILD], source)["score"].to_numpy(), atol=1e-5, rtol=0)
