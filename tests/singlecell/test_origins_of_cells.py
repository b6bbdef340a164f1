"""What is told of cells that stand on both sides of a split, and what cannot be asked of cells."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import exapt as library
from exapt.cli import cli
from exapt.data.sharing import ORIGINS
from exapt.testing import inline
from singlecell import real_cells
from singlecell.answering_models import COUNTS, Plugin, cells, listed, refused, written

TRAIN = ("--backbone", "weighed", "--label", "kind", "--head", "sequence-classification", "--strategy", "probe")
TRAIN += ("--set", "data.reader.layer=counts", "--set", "training.epochs=1")
WRITTEN = (
    "orig_ident",
    "subject_id",
    "individual_id",
    "batch_id",
    "Batch",
    "library_id",
    "SampleID",
    "Participant ID",
    "Patient.ID",
    "specimen_name",
    "SAMPLE-IDS",
)
OTHERS = ("age", "batches seen", "id", "n_lanes", "donation", "sample_size", "tissue")


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


def table(folder, columns):
    """Return a table of 90 cells that has these columns of obs in place of donors."""
    adata = cells()
    del adata.obs["donor"]
    for name, values in columns.items():
        adata.obs[name] = values
    return written(folder, adata)


def spoken(*words):
    """Run ``exapt WORDS`` and return the lines on stderr."""
    with inline(Plugin):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stderr.splitlines()


def trained(folder, columns, *words):
    """Train on such a table and return what is said of values on both sides."""
    path = table(folder, columns)
    lines = spoken("train", "--data", path, *TRAIN, *words, "--out", folder / "out")
    return [line for line in lines if " keep" in line or " stands in train " in line]


def test_columns_of_origins_are_known_however_they_are_written(tmp_path):
    both = [f"v{row % 2}" for row in range(90)]
    said = trained(tmp_path, dict.fromkeys((*ORIGINS, *WRITTEN, *OTHERS), both), "--split", "split")
    assert said == [
        f"2 of 2 values of '{name}' in {part} stand in train too: 'v0', 'v1'; "
        f'split.group = "{name}" in place of split.column keeps them apart'
        for name in (*ORIGINS, *WRITTEN)
        for part in ("valid", "test")
    ]


def test_a_column_of_one_value_is_told_only_where_it_is_named(tmp_path):
    one = {"batch": "b1", "library": ["l1"] * 89 + [None]}
    assert trained(tmp_path, one, "--split", "split") == []
    named = ("--split", "split", "--set", "split.origins=['batch']")
    (tmp_path / "named").mkdir()
    assert trained(tmp_path / "named", one, *named) == [
        "'batch' has a single value, so that no split keeps its rows apart"
    ]


def test_what_is_advised_can_be_done(tmp_path):
    both = {"donor": [f"d{row % 9}" for row in range(90)]}
    (line,) = trained(tmp_path, both, "--set", "split.fractions=[0.8,0,0.2]")
    assert line.endswith("'d0', 'd1', 'd2', ...; split.group = \"donor\" keeps them apart")
    (tmp_path / "apart").mkdir()
    assert trained(tmp_path / "apart", both, "--set", "split.group=donor") == [
        "no value of 'donor' stands in train and in a later part (9 values)"
    ]
    path = table(tmp_path, both | {"part": ["train", "test"] * 45})
    said = spoken("split", path, *COUNTS, "--column", "part", "--name", "one")
    assert said[2].startswith("9 of 9 values of 'donor' in test stand in train too: 'd0', 'd1', ")
    assert said[2].endswith("; --group donor in place of --column keeps them apart")
    assert spoken("split", path, *COUNTS, "--group", "donor", "--name", "other")[1].startswith(
        "no value of 'donor' stands in train "
    )


def test_a_group_beside_a_column_of_parts_is_refused(tmp_path):
    path = table(tmp_path, {"donor": [f"d{row % 9}" for row in range(90)]})
    before = listed(tmp_path)
    words = ("train", "--data", path, *TRAIN, "--split", "split")
    assert refused(*words, "--set", "split.group=donor", "--out", tmp_path / "out") == (
        "recipe: 'split' is {'column': 'split', 'group': 'donor'}: column names each row's part, so that group has no say: "
        'leave one of them out; origins = ["donor"] tells which of its values stand on both sides'
    )
    assert listed(tmp_path) == before
    said = spoken(*words, "--set", "split.origins=['donor']", "--out", tmp_path / "out")
    assert any(line.startswith("9 of 9 values of 'donor' in test stand in train too: 'd0', 'd1', ") for line in said)


def test_an_adapter_that_was_made_with_both_still_answers(tmp_path):
    path = table(tmp_path, {"donor": [f"d{row % 9}" for row in range(90)]})
    spoken("train", "--data", path, *TRAIN, "--split", "split", "--out", tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "exapt.json").read_text())
    manifest["recipe"]["split"]["group"] = "donor"
    (tmp_path / "old" / "exapt.json").write_text(json.dumps(manifest))
    with inline(Plugin):
        assert library.load(tmp_path / "old").resolved.recipe.split.group == ""


@pytest.mark.parametrize("key", ["leakage=true", "homology=0.5"])
def test_cells_are_not_compared_as_sequences(key, tmp_path):
    words = ("train", "--data", table(tmp_path, {}), *TRAIN, "--set", f"split.{key}", "--out", tmp_path / "out")
    assert refused(*words) == (
        f"split.{key.partition('=')[0]} compares sequences of DNA or protein, but 'weighed' reads cell: leave it out; "
        "split.group keeps rows of one origin together, and split.origins names columns to tell of"
    )


@pytest.mark.parametrize("scorer", [(), ("--scorer", "masked-marginal")])
def test_models_of_cells_score_no_variants(scorer, tmp_path):
    path = table(tmp_path, {})
    asked = ("score", path, "--backbone", "geneformer-v2-104m", *scorer, "-o", tmp_path / "scores.csv")
    assert real_cells.refused(*asked) == (
        "'geneformer-v2-104m' reads cells, which have no variants to score: take a model of sequences, such as DNA or "
        "protein. For cells, exapt-singlecell has the commands annotate, perturb"
    )


def test_adapters_of_cells_score_no_variants(tmp_path):
    path = table(tmp_path, {})
    spoken("train", "--data", path, *TRAIN, "--split", "split", "--out", tmp_path / "adapter")
    assert refused("score", path, "--adapter", tmp_path / "adapter", "-o", tmp_path / "scores.csv") == (
        "'weighed' reads cells, which have no variants to score: take a model of sequences, such as DNA or protein"
    )


def test_the_table_that_was_learned_from_is_known(tmp_path):
    path = table(tmp_path, {"donor": [f"d{row % 9}" for row in range(90)]})
    copy = tmp_path / "other.h5ad"
    copy.write_bytes(path.read_bytes())
    spoken("train", "--data", path, *TRAIN, "--set", "split.group=donor", "--out", tmp_path / "grouped")
    spoken("train", "--data", path, *TRAIN, "--split", "split", "--out", tmp_path / "parted")
    rows = json.loads((tmp_path / "grouped" / "exapt.json").read_text())["data"]["rows"]["train"]
    assert warned(tmp_path / "grouped", copy) == [
        f"other.h5ad is the table that was learned from: {rows} of its 90 rows are training rows, which flatter; measure rows "
        "that were held out (--part test does after 'exapt split', or a file of their own)"
    ]
    assert warned(tmp_path / "parted", path) == [
        "cells.h5ad is the table that was learned from: 53 of its 90 rows are training rows, which flatter; measure rows "
        "that were held out (--part test does)"
    ]
    assert warned(tmp_path / "parted", path, "--part", "test") == []
    (tmp_path / "new").mkdir()
    assert warned(tmp_path / "parted", written(tmp_path / "new", cells(seed=3))) == []


def warned(adapter, path, *words):
    """Evaluate and return what is said of a table that was learned from."""
    return [line for line in spoken("evaluate", adapter, path, *words) if "learned from" in line]


def test_the_page_names_all_columns_of_origins():
    page = (Path(__file__).parents[2] / "docs/how-to/cells.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:body|sample|handling) \| (.*) \|$", page, re.M)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == sorted(ORIGINS)
