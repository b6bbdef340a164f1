"""HyenaDNA says what the reference says, in both layouts: ids, hidden states and logits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dna.long_models import EXACT, HYENA, built, encoded, ids, reader, refusal
from exapt.data.batching import collate

# Characters that are no nucleotide are refused, where the reference makes [UNK] of them.
REFUSED = {
    "ambiguous": "character 'X' at position 15 is no nucleotide",
    "rna_U": "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T",
    "space": "character ' ' at position 4 is no nucleotide",
    "mask": "character '[' at position 4 is no nucleotide",
    "gap": "character '-' at position 4 is no nucleotide",
    "newline": r"character '\n' at position 4 is no nucleotide",
}
NAMES = [
    *("plain16", "lower", "mixed_case", "with_N", "ambiguous", "rna_U", "short1", "short2", "empty", "space"),
    *("mask", "gap", "len37", "newline", "max_minus_special", "max_len_tokens", "too_long"),
]
# The reference reads no more than its 66 positions; with [CLS], one sequence more is too long.
MODELLED = [name for name in NAMES if name != "too_long"]
WITH_CLS = [name for name in MODELLED if name != "max_len_tokens"]
ENTRIES = {entry["id"]: entry for entry in json.loads((HYENA / "inputs.json").read_text())["entries"]}
BATCH = ("plain16", "len37", "with_N", "short2")
IDS = {"hf": "hf_input_ids", "original": "github_input_ids"}

pytestmark = pytest.mark.parametrize("layout", IDS)


@pytest.fixture(scope="module")
def expected():
    return load_file(HYENA / "expected.safetensors")


@pytest.fixture(scope="module")
def backbones():
    return {layout: built("hyenadna", HYENA / layout) for layout in IDS}


def test_every_entry_of_the_reference_is_tested(layout):
    assert list(ENTRIES) == NAMES
    assert tuple(json.loads((HYENA / "inputs.json").read_text())["batch"]) == BATCH


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_ids(name, layout):
    assert (
        ids(reader("hyenadna", HYENA / layout, **EXACT).encode(ENTRIES[name]["sequence"]))
        == (ENTRIES[name][IDS[layout]])
    )


@pytest.mark.parametrize(
    ("ends", "key"), [("sep", "hf_input_ids"), ("cls-sep", "github_input_ids"), ("none", "github_input_ids_no_special")]
)
def test_the_special_tokens_are_the_users_choice(ends, key, layout):
    tokenizer = reader("hyenadna", HYENA / layout, ends=ends, **EXACT)
    assert ids(tokenizer.encode(ENTRIES["len37"]["sequence"])) == ENTRIES["len37"][key]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_nucleotide_is_refused(name, layout):
    tokenizer = reader("hyenadna", HYENA / layout, **EXACT)
    assert refusal(tokenizer.encode, ENTRIES[name]["sequence"]) == REFUSED[name]


@pytest.mark.parametrize("name", MODELLED)
def test_hidden_states_and_logits(name, layout, expected, backbones):
    backbone, batch = backbones[layout], collate([encoded("hyenadna", ENTRIES[name]["hf_input_ids"])])
    with torch.inference_mode():
        features, first = backbone(batch), backbone.at_layer(batch, 1).hidden
        logits = backbone.language.head(features.hidden)
    torch.testing.assert_close(features.hidden, expected[f"{name}.last_hidden_state"], atol=5e-5, rtol=0)
    torch.testing.assert_close(logits, expected[f"{name}.logits"], atol=5e-5, rtol=0)
    torch.testing.assert_close(first, expected[f"{name}.hidden_after_layer0"], atol=5e-5, rtol=0)
    torch.testing.assert_close(features.summary, expected[f"{name}.last_token"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", WITH_CLS)
def test_hidden_states_under_the_original_tokenizer(name, layout, expected, backbones):
    with torch.inference_mode():
        hidden = backbones[layout](collate([encoded("hyenadna", ENTRIES[name]["github_input_ids"])])).hidden
    torch.testing.assert_close(hidden, expected[f"{name}.github_tokens.last_hidden_state"], atol=5e-5, rtol=0)


def test_a_batch_padded_behind(layout, expected, backbones):
    batch = collate([encoded("hyenadna", ENTRIES[name]["hf_input_ids"]) for name in BATCH])
    assert torch.equal(batch["input_ids"], expected["batch_right.input_ids"])
    with torch.inference_mode():
        hidden = backbones[layout](batch).hidden
        logits = backbones[layout].language.head(hidden)
    wanted = expected["batch_right.last_hidden_state"]
    torch.testing.assert_close(hidden[batch.present], wanted[batch.present], atol=5e-5, rtol=0)
    torch.testing.assert_close(logits[batch.present], expected["batch_right.logits"][batch.present], atol=5e-5, rtol=0)


def test_pooling_leaves_special_tokens_out(layout, expected, backbones):
    with torch.inference_mode():
        features = backbones[layout](collate([encoded("hyenadna", ENTRIES["len37"]["hf_input_ids"])]))
    torch.testing.assert_close(features.pool("mean"), expected["len37.mean_pool_no_sep"], atol=5e-5, rtol=0)


def test_the_filter(layout, expected, backbones):
    operator = backbones[layout].blocks()[0].mixer
    torch.testing.assert_close(operator.filter_fn.filters(66).T, expected["filter.layer0"], atol=1e-6, rtol=0)
