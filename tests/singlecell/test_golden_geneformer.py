"""Geneformer says what the references say: ids, hidden states and logits, of version 1 and of version 2."""

import json
import pickle

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from exapt.cells import Cell, Genes
from exapt.data.batching import collate
from exapt_singlecell.geneformer import PROBES
from singlecell.geneformer_models import GIVEN, GOLDEN, SHARED, STEMS, built, cell_of, ids, inputs_of, reader, table_of

VERSIONS = ("v1", "v2")
NAMES = [
    *("sparse20", "sparse45", "overflow", "exact_max", "exact_max_minus2", "single_gene", "all_zero", "only_unknown"),
    *("unknown_plus_known", "all_ones_first10", "large_counts", "low_counts", "two_genes", "scaled_x7_of_sparse25"),
    "sparse25",
]
EMPTY = {"all_zero", "only_unknown"}
TIED = {"v1": ["all_ones_first10"], "v2": []}
EACH = [(version, name) for version in VERSIONS for name in NAMES]
MODELLED = [(version, name) for version, name in EACH if version == "v2" or name not in EMPTY]


class Golden:
    """Everything of one version."""

    def __init__(self, version):
        self.version = version
        self.inputs = inputs_of(version)
        self.entries = {entry["id"]: entry for entry in self.inputs["entries"]}
        self.expected = load_file(GIVEN[version] / "expected.safetensors")
        self.genes = table_of(self.inputs)
        self.tokenizer = reader(GIVEN[version] / "model")
        self.backbone = built(GIVEN[version] / "model")

    def encoding(self, name):
        return self.tokenizer.encode(cell_of(self.entries[name], self.genes))

    def answers(self, names):
        batch = collate([self.encoding(name) for name in names])
        with torch.inference_mode():
            features = self.backbone(batch)
            return features, self.backbone.language.head(features.hidden), self.backbone.at_layer(batch, 1)


@pytest.fixture(scope="module")
def golden():
    return {version: Golden(version) for version in VERSIONS}


def near(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_every_entry_of_the_references_is_tested(golden):
    assert [list(golden[version].entries) for version in VERSIONS] == [NAMES, NAMES]


@pytest.mark.parametrize(("version", "name"), EACH)
def test_ids(version, name, golden):
    given, entry = golden[version], golden[version].entries[name]
    encoding = given.encoding(name)
    assert ids(encoding) == entry["input_ids_stable_sort"]
    assert (encoding.length, encoding.unknown) == (
        len(entry["counts"]),
        len(entry["counts"]) - entry["n_expressed_in_vocab"],
    )


@pytest.mark.parametrize(("version", "name"), EACH)
def test_ids_are_those_of_both_references_but_for_the_order_of_ties(version, name, golden):
    entry = golden[version].entries[name]
    ours = ids(golden[version].encoding(name))
    for theirs in (entry["input_ids_helical"], entry["input_ids_second_reference"]):
        assert (ours == theirs) == (name not in TIED[version])
        assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize(("version", "name"), EACH)
def test_spans_lead_from_each_token_to_its_gene(version, name, golden):
    given = golden[version]
    cell, encoding = cell_of(given.entries[name], given.genes), given.encoding(name)
    for token, (first, last) in zip(ids(encoding), encoding.spans.tolist(), strict=True):
        if token in given.tokenizer.special:
            assert (first, last) == (-1, -1)
        else:
            assert first == last
            assert given.tokenizer.vocabulary[cell.names[first]] == token


@pytest.mark.parametrize(("version", "name"), MODELLED)
def test_hidden_states_and_logits(version, name, golden):
    given = golden[version]
    features, logits, second = given.answers([name])
    near(features.hidden, given.expected[f"{name}.last_hidden_state"])
    near(second.hidden, given.expected[f"{name}.second_to_last_hidden_state"])
    if f"{name}.logits" in given.expected:
        near(logits, given.expected[f"{name}.logits"])


@pytest.mark.parametrize(("version", "name"), [each for each in MODELLED if each[1] not in EMPTY])
def test_pooled_features(version, name, golden):
    given = golden[version]
    features, _, second = given.answers([name])
    mean = "mean_pool_no_cls_eos" if version == "v2" else "mean_pool_all"
    near(features.pool("mean"), given.expected[f"{name}.{mean}_last"])
    near(second.pool("mean"), given.expected[f"{name}.{mean}_second_to_last"])
    if version == "v2":
        near(features.pool("cls"), given.expected[f"{name}.cls_last"])
    else:
        assert features.summary is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_batch(version, golden):
    given = golden[version]
    names = given.inputs["batch"]
    features, logits, _ = given.answers(names)
    present = given.expected["batch.attention_mask"] == 1
    near(features.hidden[present], given.expected["batch.last_hidden_state"][present])
    for row, name in enumerate(names):
        if f"{name}.logits" in given.expected:
            near(logits[row, : present[row].sum()], given.expected[f"{name}.logits"][0])


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_cell_beside_others_is_zeros_and_leaves_them_as_they_are(version, golden):
    given = golden[version]
    features, _, _ = given.answers(["all_zero", "sparse20", "only_unknown"])
    assert not features.pool("mean")[[0, 2]].any()
    near(features.hidden[1][features.mask[1]], given.answers(["sparse20"])[0].hidden[0][features.mask[1]])


def collapse():
    example = json.loads((GOLDEN / "v2" / "collapse_example.json").read_text())
    genes = Genes(tuple(example["columns"]))
    return [
        (Cell.from_dense(genes, counts), derived)
        for counts, derived in zip(example["counts"], example["derived_expected"], strict=True)
    ]


@pytest.mark.parametrize("row", [0, 1])
def test_genes_under_several_names_are_summed(row, golden):
    cell, derived = collapse()[row]
    tokenizer = golden["v2"].tokenizer
    encoding = tokenizer.encode(cell)
    assert ids(encoding) == derived["input_ids"]
    assert {tokenizer.vocabulary[gene] for gene in derived["collapsed_counts"]} == set(ids(encoding)) - {2, 3}
    assert encoding.unknown == 1


REAL = {"v1": ("_gc30M", 25_426, 2048), "v2": ("_gc95M", 20_275, 4096)}


@pytest.fixture(params=VERSIONS)
def real(request, tmp_path):
    """Return a tokenizer over a version's real dictionaries, and these: as published, in pickles beside its folder."""
    suffix, size, context = REAL[request.param]
    if not SHARED.is_dir():
        pytest.skip("Geneformer's dictionaries are no part of this repository, and not in ../shared/golden either")
    found = {}
    place = tmp_path / "geneformer" / ("gene_dictionaries_30m" if request.param == "v1" else "")
    place.mkdir(parents=True)
    for stem in STEMS:
        path = SHARED / f"{stem}{suffix}.parquet"
        if path.is_file():
            table = parquet.read_table(path)
            found[stem] = dict(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
            numbers = (
                {key: np.float64(value) for key, value in found[stem].items()} if "median" in stem else found[stem]
            )
            (place / path.with_suffix(".pkl").name).write_bytes(pickle.dumps(numbers))
    folder = tmp_path / "Geneformer"
    folder.mkdir()
    config = json.loads((GIVEN[request.param] / "model" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size, "max_position_embeddings": context}))
    return request.param, reader(folder), found


def test_real_dictionaries_as_published(real):
    version, tokenizer, found = real
    tokens, medians = found["token_dictionary"], found["gene_median_dictionary"]
    assert tokenizer.vocabulary == tokens
    genes = [gene for gene in tokens if not gene.startswith("<")][:6000]
    counts = np.random.default_rng(0).poisson(1.5, len(genes))
    encoding = tokenizer.encode(Cell.from_dense(Genes(tuple(genes)), counts))
    total = int(counts.sum())
    levels = {
        gene: count / total * 10_000 / medians[gene]
        for gene, count in zip(genes, counts.tolist(), strict=True)
        if count
    }
    kept = [tokens[gene] for gene in sorted(levels, key=lambda gene: -levels[gene])]
    assert len(kept) > 4094
    assert ids(encoding) == (kept[:2048] if version == "v1" else [2, *kept[:4094], 3])


def test_real_dictionaries_know_all_genes_of_the_probes(real):
    encodings = [real[1].encode(probe) for probe in PROBES]
    assert [encoding.unknown for encoding in encodings] == [0] * len(PROBES)


def test_real_symbols_and_ids_with_versions(real):
    _, tokenizer, found = real
    wanted = [found["token_dictionary"][found["gene_name_id_dict"][symbol]] for symbol in ("CD3E", "LYZ", "C16orf74")]
    symbols = Cell.from_dense(Genes(("CD3E", "LYZ", "C16orf74")), [1, 2, 3])
    versions = Genes(tuple(f"{found['gene_name_id_dict'][name]}.7" for name in ("CD3E", "LYZ", "C16orf74")))
    read = [tokenizer.encode(each) for each in (symbols, Cell.from_dense(versions, [1, 2, 3]))]
    assert [sorted(set(ids(encoding)) - tokenizer.special) for encoding in read] == [sorted(wanted)] * 2
