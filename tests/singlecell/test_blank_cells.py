"""Cells of which a model knows no gene: they teach nothing, have no answer and are not measured. Each is counted."""

import csv
import json

import anndata
import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import exapt as library
from exapt import DataError
from exapt.cli import cli
from exapt.testing import inline
from singlecell.answering_models import COUNTS, Plugin, cells, refused, written

# Two of train, one of valid, one of test.
BLANK = (4, 6, 10, 13)
TYPE, SIZE = {"name": "sequence-classification", "label": "kind"}, {"name": "sequence-regression", "label": "size"}
MARKS = {"name": "sequence-multilabel", "label": "kind"}


@pytest.fixture(autouse=True, scope="module")
def _alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blank")


@pytest.fixture(scope="module")
def path(folder):
    return written(folder, cells(empty=BLANK))


def recipe(path, head=TYPE, **changes):
    return {
        "data": {"path": str(path), "reader": {"layer": "counts"}},
        "split": {"column": "split"},
        "backbone": "weighed",
        "strategy": "probe",
        "head": head,
        "training": {"epochs": 5, "batch_size": 16, "head_learning_rate": 0.05},
        **changes,
    }


def trained(path, out=None, head=TYPE, **changes):
    """Train and return the adapted model, with the notes on the way."""
    notes = []
    with inline(Plugin):
        adapted = library.train(
            recipe(path, head, **changes), out, listeners=[lambda run, event: notes.append(event.facts.get("text"))]
        )
    return adapted, notes


def said(*words):
    """Run ``exapt WORDS`` and return what it says on stdout and the lines on stderr."""
    with inline(Plugin):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, result.stderr.splitlines()


@pytest.fixture(scope="module")
def sizes(path, folder):
    """Return the adapter of a model of sizes."""
    trained(path, folder / "sizes", SIZE)
    return folder / "sizes"


@pytest.mark.parametrize("strategy", ["probe", "full"])
def test_blank_cells_teach_nothing(strategy, path, folder):
    adapted, notes = trained(path, head=SIZE, strategy=strategy)
    assert "4 of 90 cells of 'cell' express no gene that the model knows" in notes
    assert "4 rows of which the model sees nothing are left out of all parts" in notes
    assert adapted.manifest["data"]["rows"] == {"train": 52, "valid": 17, "test": 17}
    rest = cells(empty=BLANK)
    rest = rest[~np.isin(np.arange(90), BLANK)].copy()
    rest.obs["size"] = rest.obs["size"].astype(float)
    without, told = trained(written(folder, rest, f"rest-{strategy}.h5ad"), head=SIZE, strategy=strategy)
    assert not any("left out" in (note or "") for note in told)
    assert adapted.metrics == without.metrics
    assert adapted.manifest["tensors"] == without.manifest["tensors"]


def test_nothing_is_learned_where_all_of_train_is_blank(folder):
    adata = cells()
    counts = adata.layers["counts"].tolil()
    counts[np.flatnonzero(adata.obs["split"] == "train")] = 0
    adata.layers["counts"] = counts.tocsr()
    with pytest.raises(DataError) as caught:
        trained(written(folder, adata, "untaught.h5ad"))
    left = (adata.obs["split"] == "train").sum()
    assert str(caught.value) == (
        f"the train part is empty: there is nothing to learn from. {left} rows of which the model sees nothing are left "
        "out of all parts"
    )


def test_a_part_that_is_all_blank_is_empty(folder):
    at = written(folder, cells(empty=[row for row in range(90) if row // 3 % 5 == 4]), "untested.h5ad")
    adapted, notes = trained(at)
    assert adapted.manifest["data"]["rows"] == {"train": 54, "valid": 18, "test": 0}
    assert notes.index("18 rows of which the model sees nothing are left out of all parts") + 1 == notes.index(
        "the test part is empty: there is no score on unseen rows"
    )


def test_blank_cells_are_not_measured(path, sizes, folder):
    out, notes = said("evaluate", sizes, path, "--json")
    assert "4 rows of which the model sees nothing are left out of the metrics" in notes
    rest = cells(empty=BLANK)
    kept = written(folder, rest[~np.isin(np.arange(90), BLANK)].copy(), "kept.h5ad")
    assert json.loads(out) == json.loads(said("evaluate", sizes, kept, "--json")[0])
    by_donor = json.loads(said("evaluate", sizes, path, "--by", "donor", "--json")[0])
    assert [by_donor[f"donor=d{number}"]["rows"] for number in range(3)] == [8, 8, 10]
    only = rest[np.isin(np.arange(90), BLANK)].copy()
    only.layers["counts"] = only.layers["counts"] * 0
    assert refused("evaluate", sizes, written(folder, only, "only.h5ad")) == (
        "of no row does the model see anything: there is nothing to measure."
    )


def test_a_blank_cell_has_no_answer_in_python(sizes):
    with inline(Plugin):
        adapted = library.load(sizes)
        blank = adapted.predict([{"genes": ["G1", "X1"], "counts": [0, 2]}], tallies=adapted.tallies())
    assert blank.to_pylist() == [{"id": "1", "empty": True, "prediction": None}]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_blank_cell_has_no_answer_in_any_table(suffix, path, sizes, folder):
    out = folder / f"sizes.{suffix}"
    _, notes = said("predict", sizes, path, "-o", out)
    assert "4 of 90 cells of 'cell' express no gene that the model knows" in notes
    if suffix == "csv":
        with out.open() as file:
            rows = [dict(row, prediction=row["prediction"] or None) for row in csv.DictReader(file)]
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [place for place, row in enumerate(rows) if row["prediction"] is None] == list(BLANK)
    assert [place for place, row in enumerate(rows) if row["empty"] in (True, "True")] == list(BLANK)


@pytest.mark.parametrize("head", [TYPE, SIZE, MARKS], ids=["type", "size", "marks"])
def test_columns_keep_their_types_where_a_whole_chunk_has_no_answer(head, path, folder):
    many = cells(rows=1050, empty=range(1024))
    counts = many.layers["counts"].tolil()
    counts[:1024] = 0
    many.layers["counts"] = counts.tocsr()
    at = written(folder, many, f"many-{head['name']}.h5ad")
    adapter, out = folder / f"whole-{head['name']}", folder / f"many-{head['name']}.parquet"
    trained(path, adapter, head)
    said("predict", adapter, at, "-o", out)
    told = pyarrow.parquet.read_table(out)["prediction"].to_pylist()
    assert told[:1024] == [None] * 1024
    assert None not in told[1024:]


def test_classes_and_marks_of_blank_cells_are_missing_in_anndata(path, folder):
    adata = anndata.read_h5ad(path)
    adata.obs["kind"] = [f"{kind};cell" for kind in adata.obs["kind"]]
    at = written(folder, adata, "marked.h5ad")
    marked = folder / "marks"
    trained(at, marked, MARKS)
    said("predict", marked, at)
    obs = anndata.read_h5ad(at).obs
    answers = [column for column in obs if column.startswith("exapt_")]
    assert "exapt_kind_cell" in answers
    for column in answers:
        assert obs[column].isna().to_numpy().nonzero()[0].tolist() == list(BLANK), column
    out = folder / "marks.jsonl"
    said("predict", marked, at, "-o", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [place for place, row in enumerate(rows) if row["prediction"] is None] == list(BLANK)


def test_all_contenders_have_the_same_rows(path, folder):
    """What stands in a blank cell changes none of them: the linear model could read genes that the other cannot."""
    flags = ("--backbone", "weighed", "--strategy", "probe", "--head", "sequence-classification", "--label", "kind")
    flags += ("--split", "split", "--set", "data.reader.layer=counts", "--set", "training.epochs=2", "--seeds", "0,1")
    found = []
    for factor in (1, 50):
        adata = cells(empty=BLANK)
        counts = adata.layers["counts"].tolil()
        # Genes that the model does not know.
        counts[list(BLANK), 20] = factor
        adata.layers["counts"] = counts.tocsr()
        at = written(folder, adata, f"compared-{factor}.h5ad")
        told = json.loads(said("compare", "--data", at, *flags, "--json")[0])
        found.append([(one["name"], one["values"]) for one in told["contenders"]])
    assert found[0] == found[1]
    assert [name for name, _ in found[0]][1:] == ["scratch", "log counts, linear"]


READ = [
    ((), "counts"),
    (COUNTS, "counts"),
    (("--set", "reader.layer=twice"), "twice"),
    (("--set", "reader.layer="), ""),
]


@pytest.mark.parametrize(("words", "layer"), READ, ids=["learned", "same", "other", "x"])
def test_the_layer_that_was_predicted_from_is_recorded(words, layer, sizes, folder):
    adata = cells(empty=BLANK)
    adata.layers["twice"] = adata.layers["counts"] * 2
    adata.X = adata.layers["counts"].copy()
    out = folder / f"record-{layer}-{len(words)}.h5ad"
    said("predict", sizes, written(folder, adata, f"layers-{layer}-{len(words)}.h5ad"), *words, "-o", out)
    record = json.loads(anndata.read_h5ad(out).uns["exapt"]["exapt_size"])
    assert record["reader"] == {"layer": layer}
    assert record["recipe"]["data"]["reader"] == {"layer": "counts"}


def test_sizes_are_drawn_of_cells_of_which_something_is_known(path):
    whole, _ = trained(path, head=SIZE)
    known = whole.manifest["data"]["rows"]
    split = {"column": "split", "train_size": known["train"], "valid_size": known["valid"]}
    drawn, notes = trained(path, head=SIZE, split=split)
    assert drawn.manifest["data"]["rows"] == known
    assert not [note for note in notes if note and "have an input that also stands in" in note]
