"""Models of other genes than those that exapt probes with are used like any; and two dictionaries of one size are told apart."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import exapt
from exapt import AdapterError, DataError
from exapt.fingerprint import fingerprint_tokenizer
from exapt.testing import inline
from exapt_singlecell import geneformer, plugin, scgpt, tl
from singlecell import geneformer_models, scgpt_models
from singlecell.command_line import said

COUNT = 40
FAMILIES = ["geneformer-v1", "geneformer-v2", "scgpt"]
HEADS = {
    "geneformer-v1": {"name": "masked-lm"},
    "geneformer-v2": {"name": "masked-lm"},
    "scgpt": {"name": "masked-expression"},
}


def foreign(family, folder):
    """Write a model of mouse genes and return how a user names it, with the genes."""
    if family == "scgpt":
        scgpt_models.other(folder, genes=COUNT)
        return f"scgpt:{folder}", [f"GENE{number}" for number in range(COUNT)]
    geneformer_models.other(folder, genes=COUNT, special=family.endswith("2"), max_position_embeddings=64)
    human = [f"ENSG{number:011d}" for number in range(100, 100 + COUNT)]
    for stem in geneformer_models.STEMS[:2]:
        held = geneformer_models.read_pickle(folder / f"{stem}.pkl")
        renamed = {name.replace("ENSG", "ENSMUSG"): value for name, value in held.items()}
        geneformer_models.write(folder, {stem: renamed})
    return f"geneformer:{folder}", [name.replace("ENSG", "ENSMUSG") for name in human]


def cells(genes, rows=30):
    """Return cells of two kinds, by whether they express the even or the odd genes more."""
    odd = np.arange(rows)[:, None] % 2 == np.arange(len(genes)) % 2
    counts = np.random.default_rng(0).poisson(np.where(odd, 9.0, 1.0)).astype(np.float32)
    parts = ["train"] * (rows - 10) + ["valid"] * 4 + ["test"] * 6
    obs = pd.DataFrame({"kind": ["a", "b"] * (rows // 2), "split": parts}, index=[f"c{row}" for row in range(rows)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_no_probe_is_known_and_cells_are_embedded(family, tmp_path):
    name, genes = foreign(family, tmp_path / "model")
    probes = (scgpt if family == "scgpt" else geneformer).PROBES
    made = scgpt_models if family == "scgpt" else geneformer_models
    encodings = [made.reader(tmp_path / "model").encode(probe) for probe in probes]
    special = {"geneformer-v1": 0, "geneformer-v2": 2, "scgpt": 1}[family]
    assert [encoding.tokens for encoding in encodings] == [special] * 3
    assert all(encoding.empty for encoding in encodings)
    adata = cells(genes)
    with inline(plugin):
        tl.embed(adata, name)
    assert np.isfinite(adata.obsm[f"X_exapt_{family[:10].rstrip('-')}"]).all()
    assert adata.obsm[f"X_exapt_{family[:10].rstrip('-')}"].any(axis=1).all()


@pytest.mark.parametrize("what", ["kinds", "pretraining"])
def test_adapters_are_learned_loaded_and_asked(what, family, tmp_path):
    name, genes = foreign(family, tmp_path / "model")
    table, out = tmp_path / "cells.h5ad", tmp_path / "adapter"
    cells(genes).write_h5ad(table)
    head = ("--head", HEADS[family]["name"])
    if what == "kinds":
        head = ("--head", "sequence-classification", "--label", "kind")
    flags = ("--split", "split", "--strategy", "lora", "--set", "training.epochs=1")
    said("train", "--data", table, "--backbone", name, *head, *flags, "--out", out, plugin=plugin)
    said("predict", out, table, "-o", tmp_path / "answers.parquet", plugin=plugin)
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert answers["id"].tolist() == [f"c{row}" for row in range(30)]
    assert answers.notna().all(axis=None)


ENSEMBL = (
    "the genes are Ensembl ids (ENSG00000000100, ENSG00000000101, ENSG00000000102), and scGPT knows symbols: name the column "
    "of var that holds their symbols, --set reader.genes=COLUMN (data.reader.genes for train), or give a table of both as "
    "tokenizer.gene_map"
)


def test_a_table_of_ensembl_ids_still_gets_its_hint(tmp_path):
    name, _ = foreign("scgpt", tmp_path / "model")
    human = [f"ENSG{number:011d}" for number in range(100, 110)]
    with inline(plugin), pytest.raises(DataError) as refused:
        tl.embed(cells(human), name)
    assert str(refused.value) == ENSEMBL
    # Cells of a table of text are each on their own, so that only all of them together tell.
    tokenizer = scgpt_models.reader(tmp_path / "model")
    values, tally = [{"genes": human, "counts": [1] * 10}] * 3, tokenizer.tally()
    tally.count(values, [tokenizer.encode(value) for value in values])
    with pytest.raises(DataError) as refused:
        tally.lines("cell")
    assert str(refused.value) == ENSEMBL
    assert [tokenizer.perturbed(values[0], ["GENE1"], how).tokens for how in ("delete", "overexpress")] == [1, 2]


def test_a_vocabulary_of_ensembl_ids_is_not_said_to_hold_symbols(tmp_path):
    scgpt_models.other(tmp_path, genes=4)
    path = tmp_path / "vocab.json"
    path.write_text(path.read_text().replace("GENE", "ENSMUSG0000000000"))
    with pytest.raises(DataError) as refused:
        scgpt_models.reader(tmp_path).encode(scgpt_models.cell({"ENSG00000000100": 2}))
    assert str(refused.value).startswith(
        "the model knows none of the 1 genes: the table has 'ENSG00000000100', the model "
    )


def shuffled(folder):
    """Give the genes of a dictionary each other's ids."""
    path = folder / "token_dictionary.json"
    held = json.loads(path.read_text())
    genes = [name for name in held if not name.startswith("<")]
    turned = dict(zip(genes, [held[name] for name in genes[1:] + genes[:1]], strict=True))
    path.write_text(json.dumps(held | turned))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_adapter_knows_its_dictionary_from_another_of_its_size(version, tmp_path):
    known, given = (
        geneformer_models.Copy(version, tmp_path / "known"),
        geneformer_models.Copy(version, tmp_path / "other"),
    )
    shuffled(given.folder)
    genes = geneformer_models.inputs_of(version)["gene_columns"]
    cells(genes).write_h5ad(tmp_path / "cells.h5ad")
    recipe = {
        "data": {"path": str(tmp_path / "cells.h5ad")},
        "split": {"column": "split"},
        "backbone": f"geneformer:{known.folder}",
        "tokenizer": {"name": "", "min_kept": 0},
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": "probe",
        "training": {"epochs": 1},
    }
    words = [
        fingerprint_tokenizer(geneformer_models.reader(copy.folder), geneformer.PROBES)[:12] for copy in (known, given)
    ]
    with inline(plugin):
        exapt.train(recipe, tmp_path / "adapter")
        exapt.load(tmp_path / "adapter", backbone=f"geneformer:{known.folder}")
        with pytest.raises(AdapterError) as refused:
            exapt.load(tmp_path / "adapter", backbone=f"geneformer:{given.folder}")
    assert str(refused.value) == (
        f"'adapter' was learned on a tokenizer with fingerprint {words[0]}, but the tokenizer of 'geneformer:known' here has "
        f"{words[1]}"
    )


def test_dictionaries_from_elsewhere_are_told_of_by_name(tmp_path, caplog):
    name, genes = foreign("geneformer-v2", tmp_path / "models" / "model")
    elsewhere = tmp_path / "mine"
    for stem in geneformer_models.STEMS[:2]:
        held = geneformer_models.read_pickle(tmp_path / "models" / "model" / f"{stem}.pkl")
        geneformer_models.write(elsewhere, {stem: held}, "_gc95M", ".json")
    told = [
        f"'{elsewhere / stem}_gc95M.json' is read from outside of the checkpoint's folders: it fits in size, and nothing tells "
        "whether it is of the release of the weights"
        for stem in geneformer_models.STEMS[:2]
    ]
    cells(genes).write_h5ad(tmp_path / "cells.h5ad")
    words = ("embed", tmp_path / "cells.h5ad", "--backbone", name)
    named = ("--set", f"tokenizer.dictionaries={elsewhere}")
    _, heard = said(*words, *named, "-o", tmp_path / "told.npz", plugin=plugin)
    assert [line for line in heard if "checkpoint's folders" in line] == told
    own = ("--set", f"tokenizer.dictionaries={tmp_path / 'models' / 'model'}")
    for number, options in enumerate([(), own]):
        _, heard = said(*words, *options, "-o", tmp_path / f"{number}.npz", plugin=plugin)
        assert not any("checkpoint's folders" in line for line in heard)
    with inline(plugin):
        tl.embed(cells(genes), name, settings={"tokenizer": {"dictionaries": str(elsewhere)}})
    assert caplog.messages == [*told, "the model knows 40 of 40 genes of 'cell', 100.0% of the counts"]
