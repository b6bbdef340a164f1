"""scGPT says what the reference says: genes, bins where they are not drawn, hidden states, and what the decoder tells."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exapt.cells import Cell, Genes
from exapt.data.batching import collate
from exapt.parts import Encoding, unit_spans
from singlecell.scgpt_models import GOLDEN, built, reader, tokens

NAMES = [
    *("distinct30", "sparse20", "many_ties", "all_same", "float_lognorm", "exact_max", "overflow", "large"),
    *("single_gene", "two_genes", "all_zero", "with_unknown", "only_unknown", "distinct_bins"),
]
# The reference raises where no known gene is expressed; exapt reads a cell that says nothing.
EMPTY = ["all_zero", "only_unknown"]
MODELLED = [name for name in NAMES if name not in EMPTY]
# Of these the reference draws the genes at random.
DRAWN = ["overflow"]
CLS = 304


@pytest.fixture(scope="module")
def inputs():
    return json.loads((GOLDEN / "inputs.json").read_text())


@pytest.fixture(scope="module")
def entries(inputs):
    return {entry["id"]: entry for entry in inputs["entries"]}


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone():
    return built()


@pytest.fixture(scope="module")
def tokenizer(inputs):
    return reader(max_length=inputs["max_length"])


@pytest.fixture(scope="module")
def genes(inputs):
    return Genes(tuple(inputs["gene_columns"]))


def cell(genes, entry):
    return Cell.from_dense(genes, [entry["counts"].get(name, 0) for name in genes.names])


def recorded(entry):
    """Wrap the reference's tokens, so that the model is tested apart from the tokenizer."""
    ids = np.array(entry["gene_ids"])
    arrays = {"input_ids": ids, "values": np.array(entry["binned_values_seed0"], dtype=np.float32)}
    return Encoding(arrays, {"input_ids": 303, "values": -2}, unit_spans(len(ids) - 1, 1), len(ids) - 1)


def near(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_every_entry_of_the_reference_is_tested(inputs, entries):
    assert [entry["id"] for entry in inputs["entries"]] == NAMES
    assert [name for name in NAMES if "reference_error" in entries[name]] == EMPTY
    assert [name for name in MODELLED if entries[name]["sampled_subset"]] == DRAWN
    assert all(set(entry["counts"]) <= set(inputs["gene_columns"]) for entry in entries.values())


@pytest.mark.parametrize("name", [name for name in MODELLED if name not in DRAWN])
def test_genes_in_the_tables_order(name, entries, genes, tokenizer):
    encoding = tokenizer.encode(cell(genes, entries[name]))
    assert tokens(encoding)[0] == entries[name]["gene_ids"]
    assert encoding.length == len(entries[name]["counts"])
    assert encoding.unknown == encoding.length + 1 - len(entries[name]["gene_ids"])


@pytest.mark.parametrize("name", [name for name in MODELLED if name not in DRAWN])
def test_bins(name, entries, genes, tokenizer):
    entry = entries[name]
    (first, *bins) = tokens(tokenizer.encode(cell(genes, entry)))[1]
    assert first == -2
    if entry["binning_deterministic"]:
        assert bins == entry["binned_values_seed0"][1:]
    for ours, left, right in zip(bins, entry["bin_left_digits"], entry["bin_right_digits"], strict=True):
        drawn = range(right + 1, left + 1) if right < left else [left]
        assert ours == sum(drawn) // len(drawn)


def test_of_too_many_genes_some_stay_with_the_bins_of_all(entries, genes, tokenizer, inputs):
    entry = entries["overflow"]
    ids, bins = tokens(tokenizer.encode(cell(genes, entry)))
    columns = {name: place for place, name in enumerate(inputs["gene_columns"])}
    known = {columns[name]: left for name, left in zip(entry["counts"], entry["bin_left_digits"], strict=True)}
    assert len(ids) == len(entry["gene_ids"]) == inputs["max_length"]
    assert (ids[0], bins[0]) == (CLS, -2)
    assert len(set(ids)) == len(ids)
    assert [known[token] for token in ids[1:]] == bins[1:]


@pytest.mark.parametrize("name", EMPTY)
def test_a_cell_without_a_known_gene_is_cls_alone(name, entries, genes, tokenizer, backbone):
    encoding = tokenizer.encode(cell(genes, entries[name]))
    assert tokens(encoding) == ([CLS], [-2])
    assert encoding.unknown == encoding.length == len(entries[name]["counts"])
    with torch.inference_mode():
        features = backbone(collate([encoding]))
    assert features.summary.isfinite().all()
    assert not features.pool("mean").any()


@pytest.mark.parametrize("name", MODELLED)
def test_embeddings_hidden_states_and_decoder(name, entries, expected, backbone):
    batch = collate([recorded(entries[name])])
    assert torch.equal(batch["input_ids"], expected[f"{name}.gene_ids"])
    assert torch.equal(batch["values"], expected[f"{name}.values"])
    with torch.inference_mode():
        features = backbone(batch)
        near(backbone.scgpt.encoder(batch["input_ids"]), expected[f"{name}.gene_encoder_out"])
        near(backbone.scgpt.value_encoder(batch["values"]), expected[f"{name}.value_encoder_out"])
        near(features.hidden, expected[f"{name}.last_hidden_state"])
        near(backbone.language.head(features.hidden)[..., 0], expected[f"{name}.mlm_output"])


@pytest.mark.parametrize("name", MODELLED)
def test_pooled_features_and_the_cell_embedding_of_scgpt(name, entries, expected, backbone):
    with torch.inference_mode():
        features = backbone(collate([recorded(entries[name])]))
    near(features.summary, expected[f"{name}.cls"])
    near(torch.nn.functional.normalize(features.pool("cls"), dim=-1), expected[f"{name}.cls_l2"])
    near(features.pool("mean"), expected[f"{name}.mean_genes"])


def test_a_padded_batch(inputs, entries, expected, backbone):
    batch = collate([recorded(entries[name]) for name in inputs["batch"]])
    assert torch.equal(batch["input_ids"], expected["batch.gene_ids"])
    assert torch.equal(batch["values"], expected["batch.values"])
    assert torch.equal(~batch.present, expected["batch.src_key_padding_mask"].bool())
    with torch.inference_mode():
        hidden = backbone(batch).hidden
    near(hidden[batch.present], expected["batch.last_hidden_state"][batch.present])
