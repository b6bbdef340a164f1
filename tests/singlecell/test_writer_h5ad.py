"""Answers go back into AnnData files: where scanpy looks for them, with every bit of what was there as it was."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

import exapt as library
from exapt import DataError
from exapt.data.files import own_place
from exapt.testing import inline
from singlecell.answering_models import COUNTS, WIDTH, Plugin, cells, check_kept, exapt, listed, refused, slots, written
from singlecell.cell_tables import shared
from singlecell.own_answers import BACKBONE, embeddings, names_of, names_of_any, put, trained


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_embeddings_stand_in_obsm_and_every_bit_of_the_rest_is_as_it_was(tmp_path, compression):
    path, out = written(tmp_path, compression=compression), tmp_path / "out.h5ad"
    before = path.read_bytes()

    said = exapt("embed", path, *BACKBONE, *COUNTS, "-o", out)

    assert said.endswith(f"1 of 90 cells of 'cell' express no gene that the model knows\n90 rows in {out}\n")
    assert path.read_bytes() == before
    check_kept(slots(path), slots(out), obs=["exapt_weighed_empty"], others=["/obsm/X_exapt_weighed", "/uns/exapt"])
    adata = anndata.read_h5ad(out)
    exapt("embed", path, *BACKBONE, *COUNTS, "-o", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as arrays:
        np.testing.assert_array_equal(adata.obsm["X_exapt_weighed"], arrays["embeddings"])
        np.testing.assert_array_equal(adata.obs["exapt_weighed_empty"], arrays["empty"])
    assert adata.obsm["X_exapt_weighed"].dtype == np.float32
    assert np.flatnonzero(adata.obs["exapt_weighed_empty"]).tolist() == [4]
    assert not adata.obsm["X_exapt_weighed"][4].any()
    assert listed(tmp_path) == ["cells.h5ad", "e.npz", "out.h5ad"]


def test_where_embeddings_come_from_is_kept_as_json(tmp_path):
    path = written(tmp_path)
    with inline(Plugin):
        assert own_place(path) == path

    exapt("embed", path, *BACKBONE, *COUNTS)

    kept = json.loads(anndata.read_h5ad(path).uns["exapt"]["X_exapt_weighed"])
    assert (kept["backbone"], kept["pooling"], kept["reader"]) == ("weighed", "mean", {"layer": "counts"})
    assert kept["written"] == {"obs": ["exapt_weighed_empty"], "obsm": ["X_exapt_weighed"]}
    assert kept["written_by"]["exapt"] == library.__version__
    assert set(kept["written_by"]) == {"exapt", "exapt-singlecell"}
    assert len(kept["table"]) == len(kept["weights"]) == 64


def test_the_same_cells_give_the_same_bytes(tmp_path, adapter):
    path = written(tmp_path)
    for name in ("a", "b"):
        exapt("embed", path, *BACKBONE, *COUNTS, "-o", tmp_path / f"{name}.h5ad")
        exapt("predict", adapter("both"), tmp_path / f"{name}.h5ad")

    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


def test_classes_become_categories_in_the_heads_order_with_their_probability(tmp_path, adapter):
    path, told = written(tmp_path), tmp_path / "told.parquet"
    before = slots(path)
    exapt("predict", adapter("kind"), path, "-o", told)

    said = exapt("predict", adapter("kind"), path)

    assert said.endswith(f"90 rows in {path}\n")
    columns = ["exapt_kind", "exapt_kind_probability"]
    check_kept(before, slots(path), obs=columns, others=["/uns/exapt"])
    adata = anndata.read_h5ad(path)
    answers = pd.read_parquet(told)
    classes = [name.removeprefix("probability_") for name in answers if name.startswith("probability_")]
    assert adata.obs["exapt_kind"].cat.categories.tolist() == classes
    rest = np.arange(90) != 4
    assert adata.obs["exapt_kind"][rest].tolist() == answers["prediction"][rest].tolist()
    highest = answers[[f"probability_{name}" for name in classes]].max(axis=1).to_numpy()
    np.testing.assert_array_equal(adata.obs["exapt_kind_probability"][rest], highest[rest])
    # Of the empty cell nothing is said.
    assert adata.obs.iloc[4][columns].isna().all()
    assert (adata.obs["exapt_kind"] == adata.obs["kind"].astype(str)).mean() > 0.8
    kept = json.loads(adata.uns["exapt"]["exapt_kind"])
    assert kept["recipe"]["heads"]["head"]["label"] == "kind"
    assert kept["written"] == {"obs": columns, "obsm": []}


def test_numbers_are_numbers(tmp_path, adapter):
    path, told = written(tmp_path), tmp_path / "told.parquet"
    exapt("predict", adapter("size"), path, "-o", told)

    exapt("predict", adapter("size"), path)

    found = anndata.read_h5ad(path).obs["exapt_size"]
    wanted = pd.read_parquet(told)["prediction"].to_numpy()
    assert found.isna().tolist() == [row == 4 for row in range(90)]
    np.testing.assert_array_equal(found.dropna(), np.delete(wanted, 4))


def test_each_of_several_heads_has_columns_and_a_record_of_its_own(tmp_path, adapter):
    path = written(tmp_path)

    exapt("predict", adapter("both"), path)

    adata = anndata.read_h5ad(path)
    assert adata.obs.columns[-3:].tolist() == ["exapt_kind", "exapt_kind_probability", "exapt_kind_size"]
    written_by_task = {task: json.loads(text)["written"]["obs"] for task, text in adata.uns["exapt"].items()}
    assert written_by_task == {
        "exapt_kind": ["exapt_kind", "exapt_kind_probability"],
        "exapt_kind_size": ["exapt_kind_size"],
    }


def test_answers_of_several_models_stand_side_by_side(tmp_path, adapter):
    path = written(tmp_path)
    exapt("embed", path, *BACKBONE, *COUNTS)
    first = slots(path)

    exapt("predict", adapter("kind"), path)
    put(path, path, [embeddings(names_of(path), empty=np.arange(90) == 7)])

    check_kept(
        first,
        slots(path),
        obs=["exapt_kind", "exapt_kind_probability", "exapt_mine_empty"],
        others=["/uns/exapt/exapt_kind", "/uns/exapt/X_exapt_mine", "/obsm/X_exapt_mine"],
    )
    adata = anndata.read_h5ad(path)
    assert np.flatnonzero(adata.obs["exapt_weighed_empty"]).tolist() == [4]
    assert np.flatnonzero(adata.obs["exapt_mine_empty"]).tolist() == [7]


def by_share(low, high, lows_first):
    """Return cells of which 3 in 10 counts are of known genes, and others of which 9 in 10 are."""
    adata = cells(low + high, empty=())
    known = np.sort(np.repeat([3, 9], [low, high]))[:: 1 if lows_first else -1]
    counts = np.zeros((low + high, 22), np.float32)
    counts[:, 0], counts[:, 20] = known, 10 - known
    adata.layers["counts"] = sparse.csr_matrix(counts)
    return adata


@pytest.mark.parametrize("lows_first", [True, False])
def test_neither_order_nor_pieces_decide_whether_enough_is_known(tmp_path, adapter, lows_first):
    words = (("embed", "{}", *BACKBONE, *COUNTS), ("predict", adapter("kind"), "{}"))
    enough = written(tmp_path, by_share(1200, 1200, lows_first), "enough.h5ad")
    few = written(tmp_path, by_share(1800, 600, lows_first), "few.h5ad")
    before = few.read_bytes()
    for command in words:
        exapt(*(enough if word == "{}" else word for word in command))
        assert refused(*(few if word == "{}" else word for word in command)).startswith(
            "45.0% of the counts of 'cell' are of genes that the model knows, less than tokenizer.min_kept = 0.5 asks for"
        )
    assert few.read_bytes() == before
    assert listed(tmp_path) == ["enough.h5ad", "few.h5ad"]
    with inline(Plugin), pytest.raises(DataError, match=r"^45\.0% of the counts of 'cell' are of genes that "):
        library.train(
            {
                "data": {"path": str(few), "reader": {"layer": "counts"}},
                "split": {"column": "split"},
                "backbone": "weighed",
                "strategy": "probe",
                "head": {"name": "sequence-classification", "label": "kind"},
            },
            tmp_path / "learned",
        )
    assert listed(tmp_path) == ["enough.h5ad", "few.h5ad"]


def test_answers_come_batch_by_batch(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    ids = names_of(path)
    whole = embeddings(ids, empty=np.arange(90) % 40 == 3)

    put(path, out, [whole.slice(0, 1), whole.slice(1, 50), whole.slice(51)])
    put(path, tmp_path / "at_once.h5ad", [whole])

    adata = anndata.read_h5ad(out)
    np.testing.assert_array_equal(adata.obsm["X_exapt_mine"].ravel(), whole.column("embedding").flatten().to_numpy())
    assert np.flatnonzero(adata.obs["exapt_mine_empty"]).tolist() == [3, 43, 83]
    assert out.read_bytes() == (tmp_path / "at_once.h5ad").read_bytes()


def test_predictions_come_batch_by_batch_with_classes_that_have_no_probability(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    said = ["z", "a/b", "unknown"] * 30
    batch = pa.record_batch(
        {
            "id": names_of(path),
            "empty": [row == 89 for row in range(90)],
            "prediction": said,
            "probability_z": [0.7, 0.2, 0.5] * 30,
            "probability_a/b": [0.3, 0.8, 0.5] * 30,
            "distance": [1, 2, 3] * 30,
        }
    )

    put(path, out, [batch.slice(0, 2), batch.slice(2)], answers="prediction", names={"": "cell/type"})

    obs = anndata.read_h5ad(out).obs
    assert obs.columns[-3:].tolist() == ["exapt_cell_type", "exapt_cell_type_probability", "exapt_cell_type_distance"]
    assert obs["exapt_cell_type"].cat.categories.tolist() == ["z", "a/b", "unknown"]
    assert obs["exapt_cell_type"].tolist()[:89] == said[:89]
    np.testing.assert_array_equal(obs["exapt_cell_type_probability"][:3], [0.7, 0.8, np.nan])
    assert obs.iloc[89, -3:].isna().all()


@pytest.mark.parametrize("empty", [[False] * 90, [row == 1 for row in range(90)]])
def test_labels_that_a_cell_may_have_together_are_columns_of_their_own(tmp_path, empty):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    batch = pa.record_batch(
        {
            "id": names_of(path),
            "empty": empty,
            "prediction": pa.array([["CD4+"], [], ["CD4+", "CD8+"]] * 30, pa.list_(pa.string())),
            "probability_CD4+": [0.9, 0.1, 0.8] * 30,
            "probability_CD8+": [0.2, 0.3, 0.6] * 30,
        }
    )

    put(path, out, [batch.slice(0, 9), batch.slice(9)], answers="prediction", names={"": "markers"})

    obs = anndata.read_h5ad(out).obs
    assert obs["exapt_markers_CD8+"].isna().tolist() == empty
    assert obs["exapt_markers_CD4+"].dropna().tolist() == [
        told for told, gone in zip([True, False, True] * 30, empty, strict=True) if not gone
    ]
    assert obs["exapt_markers_CD4+_probability"][:1].tolist() == [0.9]


def test_several_targets_and_words_without_probabilities(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    said = {
        "a.prediction.age": [float(row) for row in range(90)],
        "a.prediction.mass": [None] * 90,
        "a.b.prediction": ["y", "x", None] * 30,
    }

    put(path, out, [pa.record_batch({"id": names_of(path), **said})], "prediction", {"a.": "body", "a.b.": "word"})

    obs = anndata.read_h5ad(out).obs
    assert obs["exapt_body_age"].tolist() == said["a.prediction.age"]
    assert obs["exapt_body_mass"].isna().all()
    assert obs["exapt_word"].cat.categories.tolist() == ["x", "y"]
    assert obs["exapt_word"].isna().sum() == 30


def test_real_cells_keep_every_bit(tmp_path):
    path = tmp_path / "cells.h5ad"
    shutil.copyfile(shared("sc_pbmc68k_700"), path)
    before, ids = slots(path), names_of_any(path)

    put(path, path, [embeddings(ids)])

    check_kept(before, slots(path), others=["/obsm/X_exapt_mine", "/uns/exapt"])
    assert anndata.read_h5ad(path).obsm["X_exapt_mine"].shape == (len(ids), WIDTH)
