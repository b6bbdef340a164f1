"""ESM-2 says what the reference says: ids, hidden states and logits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exapt.data.batching import collate
from exapt.parts import Encoding, unit_spans

# What the reference tokenizer shifts or skips is no target: exapt gives one token per residue, or refuses.
REFERENCE_FAULTS = {"lower", "mixed", "stop", "J", "space"}
# Tokens in angle brackets are the language model's own; no sequence of a user holds them.
TOKENS = {"mask", "two_masks", "all_mask", "null1"}
NAMES = [
    *("plain", "lower", "mixed", "rare", "all_X", "gap", "stop", "mask", "two_masks"),
    *("all_mask", "one", "empty", "J", "space", "null1", "poly_L", "all20", "len100"),
]


@pytest.fixture(scope="module")
def inputs(golden):
    return json.loads((golden / "inputs.json").read_text())


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone(build):
    return build()


def encoding(ids):
    """Wrap reference ids, so that the model is tested apart from the tokenizer."""
    units = max(len(ids) - 2, 0)
    return Encoding({"input_ids": np.array(ids)}, {"input_ids": 1}, unit_spans(units, 1, 1), units)


def answers(backbone, encodings):
    with torch.inference_mode():
        features = backbone(collate(encodings))
        return features.hidden, backbone.language.head(features.hidden)


def test_every_entry_of_the_reference_is_tested(inputs):
    assert [entry["id"] for entry in inputs["entries"]] == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFERENCE_FAULTS | TOKENS])
def test_ids(name, inputs, tokenizer_of):
    entry = next(entry for entry in inputs["entries"] if entry["id"] == name)
    assert tokenizer_of().encode(entry["sequence"]).arrays["input_ids"].tolist() == entry["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_and_logits(name, inputs, expected, backbone):
    entry = next(entry for entry in inputs["entries"] if entry["id"] == name)
    hidden, logits = answers(backbone, [encoding(entry["input_ids"])])
    torch.testing.assert_close(hidden, expected[f"{name}.last_hidden_state"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits, expected[f"{name}.logits"], atol=2e-5, rtol=0)


def test_a_padded_batch_with_masks_counts_no_padding_in_token_dropout(inputs, expected, backbone):
    entries = {entry["id"]: entry for entry in inputs["entries"]}
    hidden, logits = answers(backbone, [encoding(entries[name]["input_ids"]) for name in inputs["batch"]])
    for row, name in enumerate(inputs["batch"]):
        tokens = len(entries[name]["input_ids"])
        for ours, theirs in ((hidden, "last_hidden_state"), (logits, "logits")):
            alone, beside = expected[f"{name}.{theirs}"][0], expected[f"batch.{theirs}"][row, :tokens]
            torch.testing.assert_close(ours[row, :tokens], alone, atol=2e-5, rtol=0)
            torch.testing.assert_close(ours[row, :tokens], beside, atol=2e-5, rtol=0)


def test_pooled_features(expected, inputs, tokenizer_of, backbone):
    tokenizer = tokenizer_of()
    entries = {entry["id"]: entry["sequence"] for entry in inputs["entries"]}
    names = ["plain", "rare", "gap", "one", "poly_L", "all20", "len100"]
    with torch.inference_mode():
        features = backbone(collate([tokenizer.encode(entries[name]) for name in names]))
    for row, name in enumerate(names):
        mean, cls = expected[f"{name}.mean_pool_no_special"][0], expected[f"{name}.cls"][0]
        torch.testing.assert_close(features.pool("mean")[row], mean, atol=2e-5, rtol=0)
        torch.testing.assert_close(features.pool("cls")[row], cls, atol=2e-5, rtol=0)


def test_wild_type_marginals_from_the_logits(inputs, expected, tokenizer_of, backbone):
    tokenizer = tokenizer_of()
    wild = tokenizer.encode(inputs["variant_sequence"])
    _, logits = answers(backbone, [wild])
    logs = logits[0, 1:-1].log_softmax(-1)
    columns = [tokenizer.vocabulary[letter] for letter in inputs["aa_order"]]
    marginals = logs[:, columns] - logs.gather(1, torch.from_numpy(wild.arrays["input_ids"][1:-1, None]))
    torch.testing.assert_close(marginals, expected["variants.wt_marginal"], atol=2e-5, rtol=0)
