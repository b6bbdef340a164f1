"""Earlier answers in AnnData files: they stay, or go as a whole, and nothing that is not of exapt goes."""

import json

import anndata
import h5py
import numpy as np
import pyarrow as pa
import pytest

from singlecell.answering_models import COUNTS, cells, exapt, listed, refused, slots, written
from singlecell.own_answers import BACKBONE, embeddings, names_of, put, trained, unwilling


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adapters"))


def test_an_earlier_answer_stays_unless_it_may_go(tmp_path, adapter):
    path = written(tmp_path)
    exapt("embed", path, *BACKBONE, *COUNTS)
    exapt("predict", adapter("kind"), path)
    before = path.read_bytes()
    instead = "--overwrite replaces it; -o FILE.parquet writes another file."

    for words, slot in (
        (("embed", path, *BACKBONE, *COUNTS), "an array 'X_exapt_weighed' in obsm"),
        (("embed", path, *BACKBONE, *COUNTS, "-o", tmp_path / "b.h5ad"), "an array 'X_exapt_weighed' in obsm"),
        (("predict", adapter("kind"), path), "a column 'exapt_kind' in obs"),
    ):
        assert refused(*words) == f"cells.h5ad has {slot} already. {instead}"
        assert path.read_bytes() == before
        assert listed(tmp_path) == ["cells.h5ad"]


def test_replaced_answers_leave_nothing_of_the_earlier_ones_and_take_no_more_room(tmp_path, adapter):
    path = written(tmp_path, cells(900, empty=(4,)))
    ids = names_of(path)
    put(path, path, [embeddings(ids, 64, empty=np.arange(900) == 2)])
    exapt("predict", adapter("kind"), path)
    size, columns = path.stat().st_size, anndata.read_h5ad(path).obs.columns
    assert "exapt_mine_empty" in columns
    before = slots(path)

    for seed in range(4):
        put(path, path, [embeddings(ids, 64, seed=seed)], replace=True)
        exapt("predict", adapter("kind"), path, "--overwrite")

    adata, after = anndata.read_h5ad(path), slots(path)
    np.testing.assert_array_equal(
        adata.obsm["X_exapt_mine"].ravel(), embeddings(ids, 64, seed=3).column("embedding").flatten().to_numpy()
    )
    assert adata.obs.columns.tolist() == [name for name in columns if name != "exapt_mine_empty"]
    others = [place for place in before if "exapt" not in place and place != "/obs"]
    assert {place: after[place] for place in others} == {place: before[place] for place in others}
    assert path.stat().st_size < size + 64 * 1024


def test_replacing_deletes_no_slot_of_another_name_whatever_the_record_says(tmp_path):
    path = written(tmp_path)
    ids = names_of(path)
    put(path, path, [embeddings(ids)])
    with h5py.File(path, "r+") as file:
        record = json.loads(file["uns/exapt/X_exapt_mine"].asstr()[()])
        record["written"] = {"obs": ["kind", "exapt_min"], "obsm": ["X_pca"]}
        file["uns/exapt/X_exapt_mine"][()] = json.dumps(record)

    put(path, path, [embeddings(ids, seed=2)], replace=True)

    adata = anndata.read_h5ad(path)
    assert "kind" in adata.obs
    assert set(adata.obsm) == {"X_pca", "frame", "X_exapt_mine"}


@pytest.mark.parametrize("answers", ["embedding", "prediction"])
def test_the_names_of_the_cells_are_never_deleted_whatever_they_are_called(tmp_path, answers):
    adata = cells()
    key = "exapt_mine_empty" if answers == "embedding" else "exapt_task"
    adata.obs.index.name = key
    path = written(tmp_path, adata)
    ids, before = list(adata.obs_names), path.read_bytes()
    batch = embeddings(ids) if answers == "embedding" else pa.record_batch({"id": ids, "prediction": [1.0] * 90})

    for replace in (True, False):
        assert unwilling(path, path, [batch], answers=answers, replace=replace) == (
            f"'{key}' is what obs of cells.h5ad calls the names of its cells, so that no answer can stand there. Call them "
            "otherwise: adata.obs.index.name = None."
        )
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]


def test_the_names_of_the_cells_are_not_deleted_for_a_record_that_names_them(tmp_path):
    adata = cells()
    adata.obs.index.name = "exapt_mine_names"
    record = {"written": {"obs": ["exapt_mine_names"], "obsm": []}}
    adata.uns["exapt"] = {"X_exapt_mine": json.dumps(record)}
    path = written(tmp_path, adata)
    before = path.read_bytes()

    assert unwilling(path, path, [embeddings(list(adata.obs_names))], replace=True).startswith(
        "'exapt_mine_names' is what obs of cells.h5ad calls the names of its cells, so that "
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("record", ['{"written": {"obs": "abc", "obsm": 3}}', "{}", "[1]", np.arange(3)])
def test_a_record_of_another_shape_is_replaced(tmp_path, record):
    adata = cells()
    adata.uns["exapt"] = {"X_exapt_mine": record}
    path = written(tmp_path, adata)

    put(path, path, [embeddings(list(adata.obs_names))], replace=True)

    kept = anndata.read_h5ad(path)
    assert json.loads(kept.uns["exapt"]["X_exapt_mine"])["written"] == {"obs": [], "obsm": ["X_exapt_mine"]}
    assert list(kept.obs) == list(adata.obs)


def test_a_column_of_the_users_own_is_not_written_over(tmp_path):
    adata = cells()
    adata.obs["exapt_task_probability"] = 1.0
    path = written(tmp_path, adata)
    said = {"id": list(adata.obs_names), "prediction": ["a"] * 90, "probability_a": [1.0] * 90}

    assert unwilling(path, path, [pa.record_batch(said)], answers="prediction") == (
        "cells.h5ad has a column 'exapt_task_probability' in obs already. --overwrite replaces it; "
        "-o FILE.parquet writes another file."
    )


def test_what_uns_calls_exapt_already_is_not_touched(tmp_path):
    adata = cells()
    adata.uns["exapt"] = "my own note"
    path = written(tmp_path, adata)

    assert refused("embed", path, *BACKBONE, *COUNTS) == (
        "cells.h5ad has an 'exapt' in uns that is not of exapt. Rename it."
    )
