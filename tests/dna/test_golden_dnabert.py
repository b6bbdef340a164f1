"""DNABERT says what the reference says: ids, hidden states and logits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dna.kmer_models import DNABERT, EXACT, built, ids, reader
from exapt import DataError
from exapt.data.batching import collate
from exapt.parts import Encoding, unit_spans

# Characters that are no nucleotide are refused, where the reference makes [UNK] of what stands around them.
REFUSED = {
    "rna": "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T",
    "dash": "character '-' at position 5 is no nucleotide",
}
# The reference cuts 510 and more k-mers into pieces; exapt refuses them, or reads them in windows.
PIECES = {"len515", "len600"}
NAMES = [
    *("plain20", "lower", "mixed", "with_N", "all_N", "iupac", "rna", "empty", "one", "five", "six", "seven"),
    *("len33", "len64", "homopolymer", "dash", "len514", "len515", "len600"),
]
MODELLED = [name for name in NAMES if name not in PIECES | {"len514"}]


@pytest.fixture(scope="module")
def inputs():
    return json.loads((DNABERT / "inputs.json").read_text())


@pytest.fixture(scope="module")
def entries(inputs):
    return {entry["id"]: entry for entry in inputs["entries"]}


@pytest.fixture(scope="module")
def expected():
    return load_file(DNABERT / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone():
    return built("dnabert", DNABERT / "model")


@pytest.fixture(scope="module")
def tokenizer():
    return reader("dnabert", DNABERT / "model", **EXACT)


def encoding(given):
    """Wrap reference ids, so that the model is tested apart from the tokenizer."""
    return Encoding({"input_ids": np.array(given)}, {"input_ids": 0}, unit_spans(len(given) - 2, 1, 1), len(given) - 2)


def answers(backbone, encodings):
    with torch.inference_mode():
        hidden = backbone(collate(encodings)).hidden
        return hidden, backbone.language.head(hidden)


def test_every_entry_of_the_reference_is_tested(inputs):
    assert [entry["id"] for entry in inputs["entries"]] == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PIECES | REFUSED.keys()])
def test_ids(name, entries, tokenizer):
    assert ids(tokenizer.encode(entries[name]["sequence"])) == entries[name]["input_ids"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_reference_reads_and_exapt_refuses(name, entries, tokenizer):
    with pytest.raises(DataError) as refusal:
        tokenizer.encode(entries[name]["sequence"])
    assert str(refusal.value) == REFUSED[name]


@pytest.mark.parametrize("name", sorted(PIECES))
def test_long_sequences_have_the_kmers_of_the_references_pieces_in_one(name, entries, tokenizer):
    theirs = [token for token in entries[name]["input_ids"] if token not in (2, 3)]
    assert ids(tokenizer.encode(entries[name]["sequence"])) == [2, *theirs, 3]


@pytest.mark.parametrize("name", MODELLED)
def test_hidden_states_and_logits(name, entries, expected, backbone):
    hidden, logits = answers(backbone, [encoding(entries[name]["input_ids"])])
    torch.testing.assert_close(hidden, expected[f"{name}.last_hidden_state"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[..., :64], expected[f"{name}.logits_first64"], atol=2e-5, rtol=0)
    if f"{name}.logits" in expected:
        torch.testing.assert_close(logits, expected[f"{name}.logits"], atol=2e-5, rtol=0)


def test_a_padded_batch(inputs, entries, expected, backbone):
    hidden, logits = answers(backbone, [encoding(entries[name]["input_ids"]) for name in inputs["batch"]])
    for row, name in enumerate(inputs["batch"]):
        tokens = len(entries[name]["input_ids"])
        beside = expected["batch.last_hidden_state"][row, :tokens]
        torch.testing.assert_close(hidden[row, :tokens], beside, atol=2e-5, rtol=0)
        alone = expected[f"{name}.logits_first64"][0]
        torch.testing.assert_close(logits[row, :tokens, :64], alone, atol=2e-5, rtol=0)


def test_pooled_features(entries, expected, tokenizer, backbone):
    names = ["plain20", "with_N", "six", "len64", "homopolymer"]
    with torch.inference_mode():
        features = backbone(collate([tokenizer.encode(entries[name]["sequence"]) for name in names]))
    for row, name in enumerate(names):
        mean, cls = expected[f"{name}.mean_pool_no_special"][0], expected[f"{name}.cls"][0]
        torch.testing.assert_close(features.pool("mean")[row], mean, atol=2e-5, rtol=0)
        torch.testing.assert_close(features.pool("cls")[row], cls, atol=2e-5, rtol=0)
