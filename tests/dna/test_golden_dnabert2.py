"""DNABERT-2 says what the reference says: ids, hidden states and logits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dna.long_models import DNABERT2, EXACT, PUBLISHED_PIECES, Copy, built, encoded, ids, reader, refusal
from exapt.data.batching import collate
from exapt_dna.dnabert2.layers import distances, square

# Characters that are no nucleotide are refused, where the reference makes [UNK] of them, or skips them.
REFUSED = {
    "rna": "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T",
    "space": "character ' ' at position 5 is no nucleotide",
    "newline": r"character '\n' at position 6 is no nucleotide",
    "mask": "character '[' at position 5 is no nucleotide",
    "digits": "character '1' at position 4 is no nucleotide",
}
NAMES = [
    *("readme", "lower", "mixed", "with_N", "all_N", "ambiguous", "rna", "one", "two", "three", "empty"),
    *("space", "newline", "poly_T", "repeat", "mask", "digits", "len97", "len180"),
]
ENTRIES = {entry["id"]: entry for entry in json.loads((DNABERT2 / "inputs.json").read_text())["entries"]}
BATCH = ("readme", "with_N", "len97", "two")

pieces = pytest.mark.skipif(
    not PUBLISHED_PIECES.is_file(),
    reason="DNABERT-2's own tokenizer.json is no part of this repository, and not in ../shared/golden either",
)


@pytest.fixture(scope="module")
def expected():
    return load_file(DNABERT2 / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return built("dnabert2", Copy(DNABERT2 / "model", tmp_path_factory.mktemp("golden") / "dnabert2").folder)


@pytest.fixture(scope="module")
def tokenizer():
    return reader("dnabert2", PUBLISHED_PIECES.parent, **EXACT)


def test_every_entry_of_the_reference_is_tested():
    assert list(ENTRIES) == NAMES
    assert tuple(json.loads((DNABERT2 / "inputs.json").read_text())["batch"]) == BATCH


@pieces
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_ids(name, tokenizer):
    assert ids(tokenizer.encode(ENTRIES[name]["sequence"])) == ENTRIES[name]["input_ids"]


@pieces
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_spans_are_the_letters_of_each_piece(name, tokenizer):
    sequence = ENTRIES[name]["sequence"]
    encoding = tokenizer.encode(sequence)
    assert encoding.spans[[0, -1]].tolist() == [[-1, -1], [-1, -1]]
    read = [sequence[first : last + 1] for first, last in encoding.spans[1:-1]]
    assert "".join(read) == sequence
    known = zip(read, ENTRIES[name]["tokens"][1:-1], strict=True)
    assert [piece for piece, token in known if token not in (piece, "[UNK]")] == []


@pieces
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_nucleotide_is_refused(name, tokenizer):
    assert refusal(tokenizer.encode, ENTRIES[name]["sequence"]) == REFUSED[name]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_and_logits(name, expected, backbone):
    with torch.inference_mode():
        hidden = backbone(collate([encoded("dnabert2", ENTRIES[name]["input_ids"])])).hidden
        logits = backbone.language.head(hidden)[..., :64]
    torch.testing.assert_close(hidden, expected[f"{name}.last_hidden_state"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits, expected[f"{name}.logits_first64"], atol=2e-5, rtol=0)


def test_all_logits(expected, backbone):
    with torch.inference_mode():
        hidden = backbone(collate([encoded("dnabert2", ENTRIES["two"]["input_ids"])])).hidden
        torch.testing.assert_close(backbone.language.head(hidden), expected["two.logits"], atol=2e-5, rtol=0)


def test_a_padded_batch_zero_where_there_is_padding(expected, backbone):
    batch = collate([encoded("dnabert2", ENTRIES[name]["input_ids"]) for name in BATCH])
    assert torch.equal(batch["input_ids"], expected["batch.input_ids"])
    with torch.inference_mode():
        hidden = backbone(batch).hidden
    torch.testing.assert_close(hidden, expected["batch.last_hidden_state"], atol=2e-5, rtol=0)
    assert not hidden[~batch.present].any()


def test_pooling_is_the_mean_over_tokens_that_stand_for_bases(expected, backbone):
    batch = collate([encoded("dnabert2", ENTRIES["len97"]["input_ids"])])
    with torch.inference_mode():
        features = backbone(batch)
    torch.testing.assert_close(features.pool("mean"), expected["len97.mean_pool_no_special"], atol=2e-5, rtol=0)
    torch.testing.assert_close(features.pool("cls"), expected["len97.cls"], atol=2e-5, rtol=0)


def test_biases_are_those_of_the_reference(expected):
    table = distances(12, 9, torch.device("cpu"))
    torch.testing.assert_close(square(table, 6).flip(-1), expected["alibi_6"], atol=1e-6, rtol=0)
