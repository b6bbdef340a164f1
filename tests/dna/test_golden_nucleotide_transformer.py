"""Nucleotide Transformer, both versions, says what the reference says: ids, hidden states and logits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dna.kmer_models import EXACT, NT, NT1, NT2, built, ids, reader
from exapt import DataError
from exapt.data.batching import collate
from exapt.parts import Encoding, unit_spans

# Characters that are no nucleotide are refused, where the reference reads <unk>, nothing, or the mask itself.
REFUSED = {
    "rna": "character 'U' at position 2 is RNA; set tokenizer.rna = true to read U as T",
    "dash": "character '-' at position 7 is no nucleotide",
    "space": "character ' ' at position 7 is no nucleotide",
    "mask": "character '<' at position 7 is no nucleotide",
}
NAMES = [
    *("len18", "lower", "mixed", "N_middle", "N_run", "N_lead_trail", "all_N", "iupac", "rna", "empty", "one", "two"),
    *("five", "six", "seven", "eleven", "dash", "space", "mask", "len120", "len200"),
]


@pytest.fixture(scope="module", params=[NT1, NT2], ids=["v1", "v2"])
def golden(request):
    return request.param


@pytest.fixture(scope="module")
def inputs(golden):
    return json.loads((golden / "inputs.json").read_text())


@pytest.fixture(scope="module")
def entries(inputs):
    return {entry["id"]: entry for entry in inputs["entries"]}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone(golden):
    return built(NT, golden / "model")


@pytest.fixture(scope="module")
def tokenizer(golden):
    return reader(NT, golden / "model", **EXACT)


def encoding(given):
    """Wrap reference ids, so that the model is tested apart from the tokenizer."""
    return Encoding({"input_ids": np.array(given)}, {"input_ids": 1}, unit_spans(len(given) - 1, 1), len(given) - 1)


def answers(backbone, encodings):
    with torch.inference_mode():
        hidden = backbone(collate(encodings)).hidden
        return hidden, backbone.language.head(hidden)


def test_every_entry_of_the_reference_is_tested(inputs):
    assert [entry["id"] for entry in inputs["entries"]] == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_ids(name, entries, tokenizer):
    assert ids(tokenizer.encode(entries[name]["sequence"])) == entries[name]["hf_input_ids"]
    assert entries[name].get("jax_input_ids", entries[name]["hf_input_ids"]) == entries[name]["hf_input_ids"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_reference_reads_and_exapt_refuses(name, entries, tokenizer):
    with pytest.raises(DataError) as refusal:
        tokenizer.encode(entries[name]["sequence"])
    assert str(refusal.value) == REFUSED[name]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_and_logits(name, entries, expected, backbone):
    hidden, logits = answers(backbone, [encoding(entries[name]["hf_input_ids"])])
    torch.testing.assert_close(hidden, expected[f"{name}.last_hidden_state"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[..., :64], expected[f"{name}.logits_first64"], atol=2e-5, rtol=0)
    if f"{name}.logits" in expected:
        torch.testing.assert_close(logits, expected[f"{name}.logits"], atol=2e-5, rtol=0)


def test_a_padded_batch(inputs, entries, expected, backbone):
    hidden, logits = answers(backbone, [encoding(entries[name]["hf_input_ids"]) for name in inputs["batch"]])
    for row, name in enumerate(inputs["batch"]):
        tokens = len(entries[name]["hf_input_ids"])
        for ours, theirs in ((hidden, "last_hidden_state"), (logits[..., :64], "logits_first64")):
            beside = expected[f"batch.{theirs}"][row, :tokens]
            torch.testing.assert_close(ours[row, :tokens], beside, atol=2e-5, rtol=0)


def test_pooled_features(entries, expected, tokenizer, backbone):
    names = ["len18", "N_run", "iupac", "two", "len120"]
    with torch.inference_mode():
        features = backbone(collate([tokenizer.encode(entries[name]["sequence"]) for name in names]))
    for row, name in enumerate(names):
        mean, cls = expected[f"{name}.mean_pool_no_cls"][0], expected[f"{name}.cls"][0]
        torch.testing.assert_close(features.pool("mean")[row], mean, atol=2e-5, rtol=0)
        torch.testing.assert_close(features.pool("cls")[row], cls, atol=2e-5, rtol=0)
