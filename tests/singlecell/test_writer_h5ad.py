"""Answers go back into AnnData files: where scanpy looks for them, with every bit of what was there as it was."""

import csv
import json
import resource
import shutil
import tracemalloc

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

import exapt as library
from exapt import DataError, OutputError
from exapt.data.files import open_writer, own_place
from exapt.testing import inline
from singlecell.answering_models import COUNTS, WIDTH, Plugin, cells, check_kept, exapt, listed, refused, slots, written
from singlecell.cell_tables import shared

BACKBONE = ("--backbone", "weighed")


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Return a function that trains heads on the tiny model, once each, and gives the adapter's folder."""
    folder = tmp_path_factory.mktemp("adapters")
    table = written(folder)
    heads = {
        "kind": {"head": {"name": "sequence-classification", "label": "kind"}},
        "size": {"head": {"name": "sequence-regression", "label": "size"}},
        "both": {
            "heads": {
                "kind": {"name": "sequence-classification", "label": "kind"},
                "kind_size": {"name": "sequence-regression", "label": "size"},
            }
        },
    }

    def train(name):
        if not (folder / name).exists():
            with inline(Plugin):
                library.train(
                    {
                        "data": {"path": str(table), "reader": {"layer": "counts"}},
                        "split": {"column": "split"},
                        "backbone": "weighed",
                        "strategy": "probe",
                        "training": {"epochs": 20, "batch_size": 16, "head_learning_rate": 0.05},
                        **heads[name],
                    },
                    folder / name,
                )
        return folder / name

    return train


def embeddings(ids, width=WIDTH, empty=None, seed=1):
    """Return one batch of embeddings."""
    numbers = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), width)
    marks = np.zeros(len(ids), dtype=bool) if empty is None else np.asarray(empty)
    return pa.record_batch({"id": pa.array(ids), "empty": pa.array(marks), "embedding": column})


def put(source, out, batches, answers="embedding", names=None, replace=False, facts=None):
    """Write answers of one's own with the writer that the suffix of ``out`` asks for."""
    names = names or {"": "mine" if answers == "embedding" else "task"}
    about = {"source": source, "answers": answers, "names": names, "facts": facts or {"by": "hand"}}
    with inline(Plugin), open_writer(out, overwrite=replace, about=about) as writer:
        for batch in batches:
            writer.write(batch)


def unwilling(*arguments, error=OutputError, **named):
    """Return the sentence with which the writer refuses."""
    with pytest.raises(error) as caught:
        put(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_of(path):
    with h5py.File(path) as file:
        return file["obs/_index"].asstr()[()].tolist()


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


def test_a_column_of_the_users_own_is_not_written_over(tmp_path):
    adata = cells()
    adata.obs["exapt_task_probability"] = 1.0
    path = written(tmp_path, adata)
    said = {"id": list(adata.obs_names), "prediction": ["a"] * 90, "probability_a": [1.0] * 90}

    assert unwilling(path, path, [pa.record_batch(said)], answers="prediction") == (
        "cells.h5ad has a column 'exapt_task_probability' in obs already. --overwrite replaces it; "
        "-o FILE.parquet writes another file."
    )


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
        assert said.startswith("cells.h5ad is cut off: ")
        assert said.endswith(" Fetch or write the file again.")
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


def test_what_uns_calls_exapt_already_is_not_touched(tmp_path):
    adata = cells()
    adata.uns["exapt"] = "my own note"
    path = written(tmp_path, adata)

    assert refused("embed", path, *BACKBONE, *COUNTS) == (
        "cells.h5ad has an 'exapt' in uns that is not of exapt. Rename it."
    )


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


def test_real_cells_keep_every_bit(tmp_path):
    path = tmp_path / "cells.h5ad"
    shutil.copyfile(shared("sc_pbmc68k_700"), path)
    before, ids = slots(path), names_of_any(path)

    put(path, path, [embeddings(ids)])

    check_kept(before, slots(path), others=["/obsm/X_exapt_mine", "/uns/exapt"])
    assert anndata.read_h5ad(path).obsm["X_exapt_mine"].shape == (len(ids), WIDTH)


def names_of_any(path):
    return list(anndata.read_h5ad(path, backed="r").obs_names)


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
    assert said.endswith(" Fetch or write the file again.")
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]
