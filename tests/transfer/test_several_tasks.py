"""Several tasks over one backbone: labels that some rows lack, tables of their own, sampling and weights, gain and loss."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

import exapt
from exapt import DataError, RecipeError
from exapt.cli import cli
from exapt.data.batching import steps_of_tasks
from runs import listened
from transfer.modalities import MODALITIES, recipe, table

HEADS = {
    "kind": {"name": "sequence-classification", "label": "kind"},
    "size": {"name": "sequence-regression", "label": "size"},
}


def several(modality, path, strategy="probe", heads=HEADS, **changes):
    given = recipe(modality, path, strategy, **changes)
    del given["head"]
    return given | {"heads": heads}


def with_holes(path, out, every=3):
    """Write a table in which each row lacks the kind, the size, or nothing; and one row both."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for number, row in enumerate(rows):
        if number % every == 0 or number == 5:
            row["kind"] = ""
        if number % every == 1 or number == 5:
            row["size"] = ""
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return out


def test_rows_that_lack_a_label_teach_the_other_heads(tmp_path):
    path = with_holes(table("protein", tmp_path / "whole.csv"), tmp_path / "holes.csv")
    with pytest.raises(DataError, match=r"13 of 36 rows have no label in 'kind'"):
        exapt.train(several("protein", path))
    data = {"path": str(path), "input": "sequence", "missing_labels": "keep"}
    adapted, heard = listened(several("protein", path, data=data), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "exapt.json").read_text())
    # One row has no label at all, and is left out.
    assert sum(manifest["data"]["rows"].values()) == 35
    assert any("s5" in note for note in heard.of("note", "text")), heard.of("note", "text")
    assert manifest["recipe"]["heads"]["kind"]["classes"] == ["k0", "k1"]
    assert {"kind.accuracy", "size.spearman"} <= adapted.metrics["test"].keys()
    assert len(adapted.predict(["MKKR"]).to_pylist()) == 1


def test_a_label_that_is_missing_changes_nothing_of_its_head(tmp_path):
    whole = table("protein", tmp_path / "whole.csv")
    holes = with_holes(whole, tmp_path / "holes.csv")
    kept = [row for row in csv.DictReader(holes.read_text().splitlines()) if row["kind"]]
    data = {"path": str(holes), "input": "sequence", "missing_labels": "keep"}
    both = exapt.train(several("protein", holes, data=data))
    rows = both.predict([row["sequence"] for row in kept]).to_pydict()["kind.prediction"]
    test = [place for place, row in enumerate(kept) if row["split"] == "test"]
    right = [rows[place] == kept[place]["kind"] for place in test]
    # The metric is over the rows that have a label, and over no others.
    assert both.metrics["test"]["kind.accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_head_learns_from_a_table_of_its_own(modality, tmp_path):
    one, other = table(modality, tmp_path / "one.csv"), table(modality, tmp_path / "other.csv", rows=18, seed=3)
    heads = {
        "kind": HEADS["kind"],
        "size": {**HEADS["size"], "data": {"path": str(other)}},
    }
    adapted = exapt.train(several(modality, one, "lora", heads, training={"epochs": 1}), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "exapt.json").read_text())
    assert manifest["data"]["rows"] == {"train": 36, "valid": 9, "test": 9}
    assert [facts["file"] for facts in manifest["data"]["tables"].values()] == [one.name, other.name]
    assert manifest["recipe"]["heads"]["size"]["data"]["path"] == other.name
    assert {"kind.accuracy", "size.spearman"} <= adapted.metrics["valid"].keys()


def test_a_table_of_its_own_takes_over_what_it_does_not_say(tmp_path):
    path = table("protein", tmp_path / "one.csv")
    renamed = tmp_path / "other.csv"
    renamed.write_text(path.read_text().replace("id,sequence", "id,protein", 1))
    heads = {
        "kind": {**HEADS["kind"], "data": {"path": str(path)}},
        "size": {**HEADS["size"], "data": {"path": str(renamed), "input": "protein"}},
    }
    given = several("protein", path, heads=heads)
    del given["data"]
    _, heard = listened(given)
    told = "6 inputs of the test part of size stand in the training part of kind"
    # All rows are the same, so none of one's test part is in the other's training part.
    assert not any(told in note for note in heard.of("note", "text"))
    moved = tmp_path / "moved.csv"
    moved.write_text(
        renamed.read_text().replace(",train\n", ",x\n").replace(",test\n", ",train\n").replace(",x\n", ",test\n")
    )
    heads["size"]["data"]["path"] = str(moved)
    _, heard = listened(given)
    assert any(
        "inputs of the test part of size stand in the training part of kind" in n for n in heard.of("note", "text")
    )


def test_inputs_of_other_names_are_refused(tmp_path):
    path = table("protein", tmp_path / "one.csv")
    heads = {"kind": HEADS["kind"], "size": {**HEADS["size"], "data": {"path": str(path), "inputs": {"b": "sequence"}}}}
    with pytest.raises(DataError) as caught:
        exapt.train(several("protein", path, heads=heads))
    assert str(caught.value) == (
        "the table of size has the inputs b, and data sequence: all tasks of one recipe read the same inputs, each from "
        "columns of its own"
    )


def test_tasks_are_drawn_by_size_or_by_temperature():
    known = [np.arange(1000) < 900, np.arange(1000) >= 900]
    for temperature, share in ((1, 0.9), (2, 0.75), (1e9, 0.5)):
        steps = steps_of_tasks(known, temperature, 16, 0, 0)
        rows = np.concatenate(steps)
        assert len(rows) == 1000
        assert (rows < 900).mean() == pytest.approx(share, abs=0.002)
    assert [step.tolist() for step in steps] == [step.tolist() for step in steps_of_tasks(known, 1e9, 16, 0, 0)]
    assert steps[0].tolist() != steps_of_tasks(known, 1e9, 16, 0, 1)[0].tolist()


def test_a_noisy_task_comes_to_count_less(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=72)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    chance = np.random.default_rng(0)
    for row in rows:
        row["noise"] = chance.normal()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    heads = {"size": HEADS["size"], "noise": {"name": "sequence-regression", "label": "noise"}}
    training = {"epochs": 20, "batch_size": 8, "head_learning_rate": 1e-2, "patience": 0, "clip": 0}
    adapted = exapt.train(several("protein", path, ["probe", "uncertainty-weights"], heads, training=training))
    told = adapted.manifest["transfer"]["uncertainty-weights"]
    assert told["noise.weight"] < told["size.weight"]


def test_the_command_tells_what_each_task_gains(tmp_path):
    path = table("dna", tmp_path / "rows.csv")
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(several("dna", path, ["probe", "uncertainty-weights"], training={"epochs": 2, "sampling": "tasks"}))
    )
    done = CliRunner().invoke(cli, ["compare-tasks", str(plan), "--seeds", "0,1", "--json"])
    assert done.exit_code == 0, done.output
    told = {one["task"]: one for one in json.loads(done.stdout)}
    assert set(told) == {"kind", "size"}
    for one in told.values():
        assert one["gain"]["mean"] == pytest.approx(np.mean(one["together"]) - np.mean(one["alone"]))
    done = CliRunner().invoke(cli, ["compare-tasks", str(plan), "--seeds", "0"])
    assert "one seed cannot tell gain from luck" in done.stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"strategy": ["probe", "uncertainty-weights"], "heads": {"kind": HEADS["kind"]}},
            "strategy 'uncertainty-weights' weighs the losses of several heads, and the recipe has one, 'kind': leave it out, "
            "or ask more",
        ),
        (
            {"heads": {"kind": HEADS["kind"]}, "training": {"sampling": "tasks"}},
            'training.sampling = "tasks" draws several heads in turn, and the recipe has one: leave it out',
        ),
    ],
)
def test_what_is_of_several_tasks_is_refused_of_one(changes, said, tmp_path):
    with pytest.raises(RecipeError) as caught:
        exapt.train(several("protein", table("protein", tmp_path / "rows.csv"), **changes))
    assert str(caught.value) == said


def test_rows_for_heads_without_labels_are_drawn_and_empty_tasks_are_not():
    known = [np.arange(100) < 50, np.zeros(100, dtype=bool)]
    rows = np.concatenate(steps_of_tasks(known, 1e9, 16, 0, 0))
    assert len(rows) == 100
    assert (rows >= 50).mean() == pytest.approx(0.5, abs=0.02)


def test_tasks_of_one_table_are_compared_on_one_split(tmp_path):
    given = several("protein", table("protein", tmp_path / "rows.csv"), split={"fractions": [0.6, 0.2, 0.2]})
    with pytest.raises(RecipeError, match=r"write the parts with 'exapt split', and name their column as split.column"):
        exapt.compare_tasks(given, seeds=[0])


def test_relatives_of_several_tables_are_refused(tmp_path):
    one, other = table("protein", tmp_path / "one.csv"), table("protein", tmp_path / "other.csv", seed=3)
    heads = {"kind": HEADS["kind"], "size": {**HEADS["size"], "data": {"path": str(other)}}}
    with pytest.raises(RecipeError, match=r"split.homology compares the rows of one table, and the heads here have 2"):
        exapt.train(several("protein", one, heads=heads, split={"homology": 0.3}))


def test_a_comparison_needs_several_tasks(tmp_path):
    with pytest.raises(RecipeError, match="give a recipe with several heads that have labels"):
        exapt.compare_tasks(several("protein", table("protein", tmp_path / "rows.csv"), heads={"kind": HEADS["kind"]}))
