"""``exapt_singlecell.tl``: AnnData in memory gets what the command line would write into its file."""

import json
import logging
import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import exapt as library
from exapt import DataError, RecipeError
from exapt.testing import LETTERS, TINY, inline
from exapt_singlecell import plugin, tl
from singlecell import geneformer_models, scgpt_models
from singlecell.answering_models import COUNTS, WIDTH, Counted, Plugin, cells, exapt, written


class Sequences:
    """A model that reads no cells."""

    exapt_api = 1

    @staticmethod
    @library.hookimpl
    def exapt_tokenizers():
        yield LETTERS

    @staticmethod
    @library.hookimpl
    def exapt_backbones():
        yield TINY


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
    with inline(Plugin, Sequences):
        yield


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Return the folder of an adapter with two heads, which learned from the layer of counts."""
    folder = tmp_path_factory.mktemp("adapter")
    recipe = {
        "data": {"path": str(written(folder)), "reader": {"layer": "counts"}},
        "split": {"column": "split"},
        "backbone": "weighed",
        "heads": {
            "kind": {"name": "sequence-classification", "label": "kind"},
            "size": {"name": "sequence-regression", "label": "size"},
        },
        "strategy": "probe",
        "training": {"epochs": 2, "batch_size": 16},
    }
    with inline(Plugin):
        library.train(recipe, folder / "both")
    return folder / "both"


def unchanged(adata, before):
    """Check that two tables hold the same."""
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm)
    assert list(adata.uns) == list(before.uns)


def test_embeddings_are_those_of_the_command_line(tmp_path):
    adata = cells(1500, empty=(4, 1300))
    path = written(tmp_path, adata)
    exapt("embed", path, "--backbone", "weighed", *COUNTS)
    wanted = anndata.read_h5ad(path)

    assert tl.embed(adata, "weighed", layer="counts") is None

    np.testing.assert_array_equal(adata.obsm["X_exapt_weighed"], wanted.obsm["X_exapt_weighed"])
    assert adata.obsm["X_exapt_weighed"].dtype == np.float32
    np.testing.assert_array_equal(adata.obs["exapt_weighed_empty"], wanted.obs["exapt_weighed_empty"])
    ours, theirs = (json.loads(table.uns["exapt"]["X_exapt_weighed"]) for table in (adata, wanted))
    same = ("backbone", "weights", "tokenizer", "pooling", "layer", "precision", "written", "written_by")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours["reader"]["layer"] == "counts"


GENES = {
    "geneformer": list(geneformer_models.inputs_of("v2")["gene_columns"]),
    "scgpt": scgpt_models.genes_of(60),
}
MODELS = {"geneformer": geneformer_models.GIVEN["v2"] / "model", "scgpt": scgpt_models.MODEL}


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_published_models_embed_the_same_cells_alike_from_memory_and_from_a_file(tmp_path, family):
    genes, backbone = GENES[family], f"{family}:{MODELS[family]}"
    counts = np.random.default_rng(0).poisson(0.6, (40, len(genes))).astype(np.float32)
    counts[5] = 0
    adata = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=genes))
    path = written(tmp_path, adata)
    exapt("embed", path, "--backbone", backbone, plugins=(plugin,))

    with inline(plugin):
        tl.embed(adata, backbone)

    slot, wanted = f"X_exapt_{family}", anndata.read_h5ad(path)
    np.testing.assert_array_equal(adata.obsm[slot], wanted.obsm[slot])
    assert adata.obsm[slot].any(axis=1).tolist() == [row != 5 for row in range(40)]
    assert np.flatnonzero(adata.obs[f"exapt_{family}_empty"]).tolist() == [5]


def test_predictions_are_those_of_the_command_line(tmp_path, adapter):
    adata = cells(1500, empty=(4, 1300), seed=5)
    path = written(tmp_path, adata)
    exapt("predict", adapter, path)
    wanted = anndata.read_h5ad(path)

    assert tl.predict(adata, adapter) is None

    columns = ["exapt_kind", "exapt_kind_probability", "exapt_size"]
    assert adata.obs.columns[-3:].tolist() == columns
    pd.testing.assert_frame_equal(adata.obs[columns], wanted.obs[columns])
    assert adata.obs["exapt_kind"].isna().sum() == 2
    ours, theirs = (json.loads(table.uns["exapt"]["exapt_size"]) for table in (adata, wanted))
    assert ours == theirs | {"reader": {"layer": "counts", "genes": "", "values": "counts", "gene_labels": []}}


def test_what_was_added_survives_a_file(tmp_path, adapter):
    adata = cells()
    tl.embed(adata, "weighed", layer="counts")
    tl.predict(adata, adapter)

    back = anndata.read_h5ad(written(tmp_path, adata))

    np.testing.assert_array_equal(back.obsm["X_exapt_weighed"], adata.obsm["X_exapt_weighed"])
    pd.testing.assert_series_equal(back.obs["exapt_kind"], adata.obs["exapt_kind"])
    assert dict(back.uns["exapt"]) == adata.uns["exapt"]


@pytest.mark.parametrize("where", ["embed", "predict"])
def test_a_loaded_adapter_or_a_copy(adapter, where):
    adata, before = cells(), cells()
    call = {
        "embed": lambda **how: tl.embed(adata, "weighed", layer="counts", **how),
        "predict": lambda **how: tl.predict(adata, library.load(adapter), **how),
    }[where]

    copy = call(copy=True)

    unchanged(adata, before)
    call()
    pd.testing.assert_frame_equal(copy.obs, adata.obs)
    assert copy.uns["exapt"] == adata.uns["exapt"]


@pytest.mark.parametrize("call", ["embed", "predict"])
def test_a_view_becomes_a_table_of_its_own_and_its_parent_stays(adapter, call):
    parent, before = cells(), cells()
    tl.embed(parent, "weighed", layer="counts", key_added="X_first")
    tl.embed(before, "weighed", layer="counts", key_added="X_first")
    view = parent[10:40]

    if call == "embed":
        tl.embed(view, "weighed", layer="counts")
        np.testing.assert_allclose(view.obsm["X_exapt_weighed"], parent.obsm["X_first"][10:40], atol=1e-6)
    else:
        tl.predict(view, adapter)
        assert view.obs["exapt_kind"].notna().all()

    assert (view.is_view, view.n_obs, len(view.uns["exapt"])) == (False, 30, 2 + (call == "predict"))
    unchanged(parent, before)
    assert parent.uns["exapt"] == before.uns["exapt"]


def test_a_backed_table_gets_answers_in_memory_and_its_file_stays(tmp_path, adapter):
    path = written(tmp_path)
    before = path.read_bytes()
    backed = anndata.read_h5ad(path, backed="r")
    wanted = cells()
    tl.embed(wanted, "weighed", layer="counts")

    tl.embed(backed, "weighed", layer="counts")
    tl.predict(backed, adapter)
    copy = tl.embed(backed, "weighed", layer="counts", key_added="X_other", copy=True)

    np.testing.assert_array_equal(backed.obsm["X_exapt_weighed"], wanted.obsm["X_exapt_weighed"])
    assert backed.obs["exapt_size"].isna().sum() == 1
    assert (copy.isbacked, "X_other" in copy.obsm, "X_other" in backed.obsm) == (False, True, False)
    backed.file.close()
    assert path.read_bytes() == before


def test_a_part_of_a_backed_table_is_refused_unless_copied(tmp_path):
    backed = anndata.read_h5ad(written(tmp_path), backed="r")
    part = backed[:20]

    with pytest.raises(DataError) as caught:
        tl.embed(part, "weighed", layer="counts")
    assert str(caught.value) == ("adata is a view of a file, which cannot hold answers: call adata.to_memory() first")
    assert tl.embed(part, "weighed", layer="counts", copy=True).obsm["X_exapt_weighed"].shape == (20, WIDTH)


def test_a_name_of_ones_own_and_other_options(caplog):
    adata = cells()
    adata.var["ids"] = [f"unknown-{n}" if n == 0 else name for n, name in enumerate(adata.var_names)]

    tl.embed(adata, "weighed", layer="counts", genes="ids", pooling="max", key_added="X_mine")

    assert "X_exapt_weighed" not in adata.obsm
    assert adata.obs["mine_empty"].sum() == 1
    kept = json.loads(adata.uns["exapt"]["X_mine"])
    assert (kept["pooling"], kept["reader"]["genes"]) == ("max", "ids")
    assert "3 unknown: unknown-0, X1, X2" in caplog.text


def test_normalised_values_only_where_they_are_meant():
    adata = cells()
    with pytest.raises(DataError) as caught:
        tl.embed(adata, "weighed")
    assert str(caught.value).endswith("Counts are in the layer 'counts': set layer = \"counts\".")
    assert "X_exapt_weighed" not in adata.obsm

    tl.embed(adata, "weighed", values="normalised")
    assert "X_exapt_weighed" in adata.obsm


def test_what_of_the_genes_is_known_is_logged_once(caplog, adapter):
    adata = cells()
    with caplog.at_level(logging.WARNING):
        tl.embed(adata, "weighed", layer="counts")
    said = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"the model knows 20 of 22 genes of 'cell', 9\d\.\d% of the counts; 2 unknown: X1, X2", said[0])
    assert said[1:] == ["1 of 90 cells of 'cell' express no gene that the model knows"]
    assert {record.name for record in caplog.records} == {"exapt_singlecell"}

    caplog.clear()
    tl.predict(adata, adapter)
    assert [record.getMessage() for record in caplog.records] == said


def test_each_cell_is_encoded_once(adapter, monkeypatch):
    adapted, encoded, encode = library.load(adapter), [], Counted.encode
    monkeypatch.setattr(Counted, "encode", lambda self, value: encoded.append(value) or encode(self, value))
    tl.predict(cells(), adapted)
    assert len(encoded) == 90


def test_a_table_that_the_command_line_accepts_is_accepted(adapter, tmp_path):
    # Of the last cells, which are read as a piece of their own, 3 in 10 counts are of known genes.
    adata = cells(1224, empty=())
    counts = np.zeros((1224, 22), np.float32)
    counts[:, 0], counts[:, 20] = 9, 1
    counts[1024:, 0], counts[1024:, 20] = 3, 7
    adata.layers["counts"] = sparse.csr_matrix(counts)
    path = written(tmp_path, adata)
    exapt("predict", adapter, path)

    tl.predict(adata, adapter)

    wanted = anndata.read_h5ad(path).obs
    for column in ("exapt_kind", "exapt_kind_probability", "exapt_size"):
        np.testing.assert_array_equal(adata.obs[column], wanted[column])


def test_too_few_known_genes_are_refused_and_nothing_added(adapter):
    adata, before = cells(), cells()
    for table in (adata, before):
        table.var["ids"] = [name if n < 4 else f"other-{n}" for n, name in enumerate(table.var_names)]

    for call in (
        lambda: tl.embed(adata, "weighed", layer="counts", genes="ids"),
        lambda: tl.predict(adata, adapter, genes="ids"),
    ):
        with pytest.raises(DataError, match=r"of the counts of 'cell' are of genes that the model knows, less than"):
            call()
    unchanged(adata, before)


def test_a_second_call_takes_the_place_of_the_first():
    adata = cells()
    tl.embed(adata, "weighed", layer="counts")
    part = adata[[row for row in range(90) if row != 4]].copy()

    tl.embed(part, "weighed", layer="counts", pooling="max")

    assert "exapt_weighed_empty" not in part.obs
    assert json.loads(part.uns["exapt"]["X_exapt_weighed"])["pooling"] == "max"
    wanted = cells()[part.obs_names].copy()
    tl.embed(wanted, "weighed", layer="counts", pooling="max")
    np.testing.assert_array_equal(part.obsm["X_exapt_weighed"], wanted.obsm["X_exapt_weighed"])


def test_the_mark_of_empty_cells_goes_with_the_vectors_that_it_was_of():
    adata = cells()
    tl.embed(adata, "weighed", layer="counts")
    del adata.uns["exapt"]
    adata.layers["counts"] = cells(empty=()).layers["counts"]

    tl.embed(adata, "weighed", layer="counts")

    assert [column for column in adata.obs if "exapt" in column] == []


def test_a_column_of_ones_own_stays_where_no_cell_is_empty():
    adata = cells(empty=())
    adata.obs["qc_empty"] = wanted = [f"note {row}" for row in range(90)]

    tl.embed(adata, "weighed", layer="counts", key_added="X_qc")

    assert adata.obsm["X_qc"].shape == (90, WIDTH)
    assert adata.obs["qc_empty"].tolist() == wanted


def test_a_column_of_ones_own_is_no_place_for_the_mark_of_empty_cells():
    adata = cells()
    adata.obs["qc_empty"] = wanted = [f"note {row}" for row in range(90)]

    with pytest.raises(DataError) as refused:
        tl.embed(adata, "weighed", layer="counts", key_added="X_qc")

    assert str(refused.value) == (
        "adata has a column 'qc_empty' in obs that is not of exapt, where empty cells would be marked: rename it, or choose "
        "another key_added"
    )
    assert adata.obs["qc_empty"].tolist() == wanted
    assert ("X_qc" in adata.obsm, "exapt" in adata.uns) == (False, False)


def test_the_mark_under_a_name_of_ones_own_is_renewed_as_its_record_tells():
    adata = cells()
    for empty in ((4,), (7,), ()):
        adata.layers["counts"] = cells(empty=empty).layers["counts"]
        tl.embed(adata, "weighed", layer="counts", key_added="X_mine")

        marked = np.flatnonzero(adata.obs["mine_empty"]).tolist() if "mine_empty" in adata.obs else []
        assert marked == list(empty)


@pytest.mark.parametrize(
    "record",
    [5, "{}", "[]", "[" * 10**5, '{"written": {"obs": "donor", "obsm": 3}}', '{"written": {"obs": [["donor"]]}}'],
)
def test_a_record_of_another_shape_is_none(record):
    adata = cells()
    adata.uns["exapt"] = {"X_exapt_weighed": record}

    tl.embed(adata, "weighed", layer="counts")

    assert list(adata.obs) == [*cells().obs, "exapt_weighed_empty"]
    assert json.loads(adata.uns["exapt"]["X_exapt_weighed"])["backbone"] == "weighed"


def test_what_cannot_be_done_is_said(adapter):
    adata = cells()
    for call, said in (
        (lambda: tl.embed(adata, "tiny", layer="counts"), "'tiny' reads a sequence, not cells"),
        (
            lambda: tl.embed(adata, "weighed", layer="counts", pooling="none"),
            "obsm has one vector for each cell: pooling is mean, max or cls",
        ),
    ):
        with pytest.raises(RecipeError) as caught:
            call()
        assert str(caught.value) == said
    adata.uns["exapt"] = "a note"
    with pytest.raises(DataError) as refused:
        tl.embed(adata, "weighed", layer="counts")
    assert str(refused.value) == "adata has an 'exapt' in uns that is not of exapt: rename it"
    assert adata.uns["exapt"] == "a note"


def test_names_that_stand_twice_are_no_matter():
    adata = cells()
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]

    tl.embed(adata, "weighed", layer="counts")

    assert adata.obsm["X_exapt_weighed"].shape == (90, WIDTH)
    assert adata.obs["exapt_weighed_empty"].sum() == 1


def test_the_tools_are_there_when_first_asked_for():
    code = (
        "import sys, exapt_singlecell; assert 'anndata' not in sys.modules and 'torch' not in sys.modules; "
        "exapt_singlecell.tl.embed; assert 'anndata' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
