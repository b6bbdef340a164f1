"""``exapt split`` of cells: by donor or by any column, into the table itself, a copy of it or a table of parts."""

import json

import anndata
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import io, sparse

from exapt.cli import cli
from exapt.testing import inline
from singlecell.answering_models import COUNTS, Plugin, cells, check_kept, listed, slots, written

PARTS = ("train", "valid", "test")
BY_DONOR = ("--group", "donor", *COUNTS)


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture
def path(tmp_path):
    """Return a table of 90 cells of 9 donors, all of which express something, without a column of parts."""
    adata = cells(empty=())
    del adata.obs["split"]
    return written(tmp_path, adata)


def said(*words, code=0):
    """Run ``exapt WORDS`` and return the lines on stdout and those on stderr."""
    with inline(Plugin):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout.splitlines(), result.stderr.splitlines()


def refused(*words):
    """Return the one line with which ``exapt WORDS`` refuses."""
    out, (line,) = said(*words, code=2)
    assert not out
    return line.removeprefix("exapt: ")


def parts_of(path, column="split"):
    return anndata.read_h5ad(path).obs[column]


def donors(column):
    """Return the donors of each part."""
    obs = cells().obs
    return {part: set(obs["donor"][(column == part).to_numpy()]) for part in PARTS}


def test_donors_are_dealt_whole_and_the_parts_stand_in_the_table(path):
    before = slots(path)

    out, notes = said("split", path, *BY_DONOR)

    check_kept(before, slots(path), ["split"], ["/uns/exapt"])
    column = parts_of(path)
    assert column.dtype == "category"
    counts = column.value_counts()
    assert out == ["part   rows", *(f"{part:<5}  {counts[part]}" for part in PARTS)]
    assert sorted(map(len, donors(column).values())) == [1, 1, 7]
    assert len(set.union(*donors(column).values())) == 9
    assert notes == [
        "cells.h5ad: 90 rows",
        "no value of 'donor' stands in train and in a later part (9 values)",
        f"90 rows in {path}",
    ]


def test_where_parts_come_from_is_kept(path):
    said("split", path, *BY_DONOR, "--fractions", "0.6,0.2,0.2", "--seed", "3")
    record = json.loads(anndata.read_h5ad(path).uns["exapt"]["split"])
    assert record["made_by"] == "exapt split"
    assert (record["split"]["group"], record["split"]["fractions"], record["split"]["seed"]) == (
        "donor",
        [0.6, 0.2, 0.2],
        3,
    )
    assert record["reader"] == {"layer": "counts"}
    assert record["rows"] == parts_of(path).value_counts().to_dict()
    assert record["written"] == {"obs": ["split"], "obsm": []}


def test_what_is_learned_is_split_by_the_column(path, tmp_path):
    said("split", path, *BY_DONOR)
    words = ("train", "--data", path, "--label", "kind", "--backbone", "weighed", "--head", "sequence-classification")
    settings = ("data.reader.layer=counts", "split.column=split", "training.epochs=1")
    sets = [word for one in settings for word in ("--set", one)]
    out, notes = said(*words, "--strategy", "probe", *sets, "--out", tmp_path / "adapter")
    rows = json.loads((tmp_path / "adapter" / "exapt.json").read_text())["data"]["rows"]
    assert rows == parts_of(path).value_counts().to_dict()
    assert "no value of 'donor' stands in train and in a later part (9 values)" in notes
    assert out[0].split() == ["metric", "valid", "test"]


def test_a_copy_gets_the_parts_and_the_table_stays(path, tmp_path):
    before, copy = path.read_bytes(), tmp_path / "parts.h5ad"
    words = ("split", path, "--column", "donor", "--valid", "d1", "--test", "d2,d3", *COUNTS)
    said(*words, "--name", "part", "-o", copy)
    assert donors(parts_of(copy, "part")) == {
        "train": {"d0", "d4", "d5", "d6", "d7", "d8"},
        "valid": {"d1"},
        "test": {"d2", "d3"},
    }
    assert path.read_bytes() == before
    said(*words, "-o", tmp_path / "parts.csv")
    table = pd.read_csv(tmp_path / "parts.csv", index_col="id")
    assert table.columns.tolist() == ["kind", "size", "donor", "checked", "split"]
    assert (table["split"] == parts_of(copy, "part")).all()


def test_a_table_of_parts_stands_beside_the_cells(path, tmp_path):
    """What is written apart has the labels too, so that it can be the second table of a run."""
    parts = tmp_path / "parts.csv"
    said("split", path, *BY_DONOR, "-o", parts)
    words = ("train", "--data", path, "--label", "kind", "--backbone", "weighed", "--head", "sequence-classification")
    settings = (f"data.labels={parts}", "data.reader.layer=counts", "training.epochs=1")
    sets = [word for one in settings for word in ("--set", one)]
    said(*words, "--strategy", "probe", "--split", "split", *sets, "--out", tmp_path / "adapter")
    rows = json.loads((tmp_path / "adapter" / "exapt.json").read_text())["data"]["rows"]
    assert rows == pd.read_csv(parts)["split"].value_counts().to_dict()


def test_dealt_at_random_donors_stand_on_both_sides_and_that_is_told(path):
    _, notes = said("split", path, *COUNTS)
    torn = donors(parts_of(path))
    assert torn["train"] & torn["test"]
    assert notes[1:3] == [
        f"{len(torn[part] & torn['train'])} of {len(torn[part])} values of 'donor' in {part} stand in train too: "
        f"{', '.join(repr(one) for one in sorted(torn[part] & torn['train'])[:3])}, ...; --group donor keeps them apart"
        for part in PARTS[1:]
    ]


def test_a_column_that_is_there_is_replaced_only_if_asked_for(path):
    said("split", path, *BY_DONOR)
    before = path.read_bytes()
    assert refused("split", path, *BY_DONOR) == (
        "cells.h5ad has a column 'split' in obs already. --overwrite replaces it; --name calls the new one otherwise."
    )
    assert path.read_bytes() == before
    was = slots(path)
    said("split", path, "--column", "donor", "--test", "d5", *COUNTS, "--overwrite")
    assert donors(parts_of(path))["test"] == {"d5"}
    now = slots(path)
    changed = {place for place in was.keys() | now.keys() if now.get(place) != was.get(place)}
    assert {"/obs/split/codes", "/uns/exapt/split"} <= changed
    assert all(place.startswith(("/obs/split", "/uns/exapt/split")) for place in changed)


@pytest.mark.parametrize(
    "flags", [["--kind", "protein", "--homology", "0.4"], ["--homology", "0.4"], ["--kind", "dna"]]
)
def test_cells_have_no_homology(path, tmp_path, flags):
    before = path.read_bytes()
    assert refused("split", path, *flags, *COUNTS) == (
        "cells.h5ad holds cells, which have no homology: leave --kind, --homology and --leakage out; --group keeps the cells "
        "of a donor or a batch together"
    )
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--group", "patient"],
            "the table has no column 'patient'. Its columns are: id, kind, size, donor, checked, cell.",
        ),
        (["--column", "donor", "--test", "d9"], "the split column 'donor' has no 'd9'. Its values are: {donors}."),
        (["--name", "_index"], "'_index' is a name that AnnData needs for itself in obs: choose another."),
        (
            ["--name", "a/b"],
            "'a/b' cannot be the name of a column in an .h5ad, which takes no slash and no control character there: 'a_b' can.",
        ),
        (
            ["--name", "cell", "--overwrite"],
            "cells.h5ad has a column 'cell' already: call the new one otherwise with --name.",
        ),
        (["--set", "reader.layer=umi"], "cells.h5ad has no layer 'umi'. Its layers are: raw, counts; {empty}."),
    ],
)
def test_what_does_not_do_is_refused_and_the_table_stays(path, tmp_path, words, message):
    before = path.read_bytes()
    known = {"donors": ", ".join(f"d{number}" for number in range(9)), "empty": "leave the option layer empty for X"}
    assert refused("split", path, *COUNTS, *words) == message.format(**known)
    assert path.read_bytes() == before
    assert listed(tmp_path) == ["cells.h5ad"]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_names_of_the_cells_are_no_place_for_parts(path, more):
    adata = anndata.read_h5ad(path)
    adata.obs.index.name = "split"
    adata.write_h5ad(path)
    before = path.read_bytes()

    assert refused("split", path, *COUNTS, *more) == (
        "'split' is what obs of cells.h5ad calls the names of its cells, so that no answer can stand there. Call them "
        "otherwise: adata.obs.index.name = None."
    )
    assert path.read_bytes() == before


def test_a_folder_of_cell_ranger_is_split_into_a_table_of_parts(tmp_path):
    adata, folder = cells(), tmp_path / "filtered"
    folder.mkdir()
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(adata.layers["counts"].T.astype(int)))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (folder / "features.tsv").write_text("".join(f"{name}\t{name}\tGene Expression\n" for name in adata.var_names))
    assert refused("split", folder) == f"say with -o which file the parts of '{folder}' go to"
    assert refused("split", folder, "-o", tmp_path / "parts.h5ad") == (
        "filtered is no AnnData file, so that answers cannot be added to it. Write Parquet, or make an .h5ad of it first."
    )
    out, _ = said("split", folder, "--fractions", "0.6,0.2,0.2", "-o", tmp_path / "parts.csv")
    table = pd.read_csv(tmp_path / "parts.csv")
    assert table.columns.tolist() == ["id", "split"]
    assert table["id"].tolist() == adata.obs_names.tolist()
    counts = table["split"].value_counts()
    assert out[1:] == [f"{part:<5}  {counts[part]}" for part in PARTS]
    assert counts.to_dict() == {"train": 54, "valid": 18, "test": 18}
