"""What cannot be written into AnnData files, and files that cannot be written to: said in a sentence, and nothing lost."""

import csv
import resource
import tracemalloc

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from exapt import DataError
from singlecell.answering_models import COUNTS, WIDTH, cells, check_kept, exapt, listed, refused, slots, written
from singlecell.own_answers import BACKBONE, embeddings, names_of, put, trained, unwilling


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adapters"))


def test_answers_about_genes_have_no_place(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"

    assert refused("embed", path, *BACKBONE, *COUNTS, "--per", "residue", "-o", out) == (
        "obsm has one vector for each cell, not one for each gene: write Parquet, npz or safetensors."
    )
    for values in ([[0.5, 1.5]] * 90, [["a", "b"]] * 90):
        batch = pa.record_batch({"id": names_of(path), "prediction": values})
        assert unwilling(path, out, [batch], answers="prediction") == (
            "h5ad holds one answer for each cell, and 'prediction' is a list: write Parquet or JSONL."
        )
    assert not out.exists()


def test_two_answers_in_one_column_are_refused(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    said = {"a.prediction": [0.5] * 90, "b.prediction": [1.5] * 90}

    assert (
        unwilling(
            path, out, [pa.record_batch({"id": names_of(path), **said})], "prediction", {"a.": "x/y", "b.": "x_y"}
        )
        == "two answers would stand in 'exapt_x_y' of obs: rename a task or a class, or write Parquet."
    )


def test_answers_must_be_of_all_cells_in_their_order(tmp_path):
    path, out = written(tmp_path), tmp_path / "out.h5ad"
    ids = names_of(path)
    swapped = [*ids[:40], ids[41], ids[40], *ids[42:]]

    assert unwilling(path, out, [embeddings(ids[:10]), embeddings(ids[10:20])]) == (
        "there are answers for 20 of the 90 cells of cells.h5ad only."
    )
    assert unwilling(path, out, [embeddings(ids), embeddings(["more"])]) == (
        "there are more answers than the 90 cells of cells.h5ad."
    )
    assert unwilling(path, out, [embeddings(swapped[:30]), embeddings(swapped[30:])]) == (
        "cell 41 of cells.h5ad is 'cell-40', but its answer is about 'cell-41'. Ids must be the names of obs."
    )
    assert listed(tmp_path) == ["cells.h5ad"]


def test_ids_from_another_column_are_not_the_names_of_obs(tmp_path):
    adata = cells()
    adata.obs["barcode"] = [f"b{row}" for row in range(90)]
    path = written(tmp_path, adata)

    assert refused("embed", path, *BACKBONE, *COUNTS, "--id", "barcode") == (
        "cell 1 of cells.h5ad is 'cell-0', but its answer is about 'b0'. Ids must be the names of obs."
    )


def test_only_anndata_can_be_added_to(tmp_path, adapter):
    table, out = tmp_path / "cells.csv", tmp_path / "out.h5ad"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "cell"], ["a", "b"]])
    tenx = tmp_path / "filtered.h5"
    with h5py.File(tenx, "w") as file:
        file.create_group("matrix")
    folder = tmp_path / "mtx"
    folder.mkdir()

    for source in (table, tenx, folder):
        assert unwilling(source, out, [embeddings(["a"])]) == (
            f"{source.name} is no AnnData file, so that answers cannot be added to it. Write Parquet, or make an .h5ad of "
            "it first."
        )
    assert refused("embed", table, *BACKBONE) == f"say with -o which file the embeddings of '{table}' go to"


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])

    for words in (("embed", path, *BACKBONE, *COUNTS), ("embed", path, *BACKBONE, "-o", tmp_path / "b.h5ad")):
        said = refused(*words)
        held = path.stat().st_size
        assert said == (
            f"cells.h5ad is cut off: it has {held:,} of {held + 500:,} bytes. Copy or download the file again."
        )
    path.write_bytes(b"")
    assert refused("embed", path, *BACKBONE) == "cells.h5ad is empty."


def test_files_of_long_ago_are_to_be_written_again_as_the_message_says(tmp_path):
    path, new = tmp_path / "old.h5ad", tmp_path / "new.h5ad"
    rows = np.array([(b"c1", 0, 1.5), (b"c2", 1, 2.5)], dtype=[("index", "S2"), ("kind", "i1"), ("size", "f8")])
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((2, 2), dtype=np.float32)
        file["obs"] = rows
        file["var"] = np.array([(b"G1",), (b"G2",)], dtype=[("index", "S2")])
        file["uns/kind_categories"] = np.array([b"B", b"T"])

    assert refused("embed", path, *BACKBONE) == (
        "old.h5ad is of AnnData before 0.7, to which nothing can be added. Write it again first: "
        "anndata.read_h5ad('old.h5ad').write_h5ad('new.h5ad')."
    )
    with pytest.warns(anndata.OldFormatWarning):
        anndata.read_h5ad(path).write_h5ad(new)
    exapt("embed", new, *BACKBONE)
    assert anndata.read_h5ad(new).obsm["X_exapt_weighed"].shape == (2, WIDTH)


def test_files_of_anndata_0_7_are_added_to(tmp_path):
    path = written(tmp_path, compression=None)
    with h5py.File(path, "r+") as file:
        # There, categories stood apart, and the other groups said nothing of themselves.
        obs = file["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        codes, words = obs["kind/codes"][()], obs["kind/categories"][()]
        del obs["kind"], obs["checked"]
        obs["__categories/kind"] = words
        obs["kind"] = codes
        obs["kind"].attrs["categories"] = obs["__categories/kind"].ref
        obs.attrs["column-order"] = ["kind", "size", "donor", "split"]
        for group in (file, file["obsm"], file["uns"]):
            for name in list(group.attrs):
                del group.attrs[name]
    before = slots(path)

    exapt("embed", path, *BACKBONE, *COUNTS)

    check_kept(before, slots(path), ["exapt_weighed_empty"], ["/obsm/X_exapt_weighed", "/uns/exapt"])
    with pytest.warns(anndata.OldFormatWarning):
        adata = anndata.read_h5ad(path)
    assert adata.obs["kind"].cat.categories.tolist() == ["T/NK", "mono", "B", "never"]
    assert adata.obs["exapt_weighed_empty"].sum() == 1


def test_a_file_with_obs_and_x_alone_gets_what_it_needs(tmp_path):
    path = written(tmp_path, anndata.AnnData(np.ones((3, 2), dtype=np.float32), var=pd.DataFrame(index=["G1", "G2"])))
    with h5py.File(path, "r+") as file:
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            del file[name]

    exapt("embed", path, *BACKBONE)

    adata = anndata.read_h5ad(path)
    assert (list(adata.obsm), list(adata.uns["exapt"])) == (["X_exapt_weighed"], ["X_exapt_weighed"])
    assert adata.obs.columns.tolist() == []


@pytest.mark.parametrize("room", [0, 10_000, 1_000_000, 4_300_000, 5_000_000])
@pytest.mark.parametrize("answers", ["embedding", "prediction"])
def test_a_full_disk_is_said_and_nothing_lost(tmp_path, room, answers):
    path = written(tmp_path)
    before, ids = path.read_bytes(), names_of(path)
    words = pa.record_batch({"id": ids, "prediction": [f"{row}" * 9000 for row in range(90)]})
    batch = embeddings(ids, 4000) if answers == "embedding" else words
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1 + room, hard))
    try:
        said = unwilling(path, path, [batch], answers=answers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert said == f"cannot write '{path}': File too large."
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]


def test_an_interruption_leaves_the_original(tmp_path):
    path = written(tmp_path)
    before, ids = path.read_bytes(), names_of(path)

    def batches():
        yield embeddings(ids[:50])
        assert path.read_bytes() == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(path, path, batches())

    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]


def test_memory_does_not_hold_the_embeddings(tmp_path):
    adata = anndata.AnnData(sparse.csr_matrix((20_000, 1), dtype=np.float32))
    path, out = written(tmp_path, adata), tmp_path / "out.h5ad"
    ids = names_of(path)
    numbers = embeddings(["a"] * 500, 1024).column("embedding")
    batches = (
        pa.record_batch({"id": ids[begin : begin + 500], "embedding": numbers}) for begin in range(0, 20_000, 500)
    )
    put(path, tmp_path / "warm.h5ad", [embeddings(ids, 1)])
    tracemalloc.start()
    try:
        put(path, out, batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert out.stat().st_size > 80_000_000
    assert peak < 12_000_000


def test_a_damaged_group_is_one_sentence(tmp_path):
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs"].attrs["_index"]

    assert unwilling(path, path, [], error=DataError).startswith("cells.h5ad is damaged: ")


def test_damage_that_shows_at_the_end_only_is_one_sentence_too(tmp_path):
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs"].attrs["column-order"]
    before, marked = path.read_bytes(), embeddings(names_of(path), empty=[True] * 90)

    said = unwilling(path, path, [marked], error=DataError)

    assert said.startswith("cells.h5ad is damaged: ")
    assert said.endswith(" Copy or download the file again.")
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]
