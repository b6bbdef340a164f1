"""Answers unit by unit: units without a label, units that a model does not see, and what units are called.

Sequences are read in threes, so that one or two letters at the end may be left over; cells in the first three known genes
that they express.
"""

import csv
import itertools
import json
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from torch import nn

import exapt
from exapt import AugmentationSpec, BackboneSpec, DataError, TokenizerSpec, hookimpl
from exapt.cells import Cell
from exapt.cli import cli
from exapt.parts import Augmentation, Backbone, Changed, Encoding, Tokenizer, unit_spans
from exapt.testing import inline

GENES = ("G1", "G2", "stranger", "G3", "G4", "G5")
CLASSIFICATION, REGRESSION = "position-classification", "position-regression"
WORDS = {CLASSIFICATION: ("helix", "strand"), REGRESSION: (1.5, -0.5)}


class Threes(Tokenizer):
    vocabulary: ClassVar = {letter: number for number, letter in enumerate("ACGT", 1)}

    def encode(self, value):
        whole = len(value) // 3
        ids = np.array(
            [sum(map(self.vocabulary.get, value[3 * at : 3 * at + 3])) for at in range(whole)], dtype=np.int64
        )
        spans = np.array([(3 * at, 3 * at + 2) for at in range(whole)], dtype=np.int64).reshape(-1, 2)
        return Encoding({"ids": ids}, {"ids": 0}, spans, len(value))


class FirstKnown(Tokenizer):
    vocabulary: ClassVar = {f"G{number}": number for number in range(1, 6)}

    def unit_names(self, value):
        return Cell.of(value).names

    def encode(self, value):
        cell = Cell.of(value)
        known = [unit for unit, name in enumerate(cell.names) if name in self.vocabulary]
        units = np.array(known[:3], dtype=np.int64)
        ids = np.array([self.vocabulary[cell.names[unit]] for unit in units], dtype=np.int64)
        spans = unit_spans(len(cell.places))[units]
        return Encoding({"ids": ids}, {"ids": 0}, spans, len(cell.places), len(cell.places) - len(known))


class Table(Backbone):
    width = 6

    def __init__(self):
        super().__init__()
        self.states = nn.Embedding(16, self.width)

    def forward(self, batch):
        # Each token also sees how many there are, so that inputs differ in more than their letters.
        return batch.features(self.states(batch["ids"]) + 0.1 * batch.present.sum(1)[:, None, None])


class Backwards(Augmentation):
    """Reads from the other end: always in training where it ``trains``, else as a view."""

    def __init__(self, trains):
        self.trains = trains

    def change(self, value, rng):
        return Changed(value[::-1], np.arange(len(value))[::-1]) if self.trains else Changed(value)

    def views(self, value):
        return () if self.trains else (Changed(value[::-1], np.arange(len(value))[::-1]),)


def built(_options, _weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Table()


class Plugin:
    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_tokenizers():
        yield TokenizerSpec(name="threes", summary="Three letters a token.", build=lambda options: Threes())
        yield TokenizerSpec(name="first-known", summary="Three genes a cell.", build=lambda options: FirstKnown())

    @staticmethod
    @hookimpl
    def exapt_backbones():
        of = {"summary": "A table of states.", "build": built}
        probe = {"genes": ["G1", "stranger", "G4"], "counts": [1, 2, 1]}
        yield BackboneSpec(name="threes", tokenizer="threes", modality="dna", probes=("ACGTA",), **of)
        yield BackboneSpec(
            name="genes", tokenizer="first-known", modality="cell", accepts="cell", probes=(probe,), **of
        )

    @staticmethod
    @hookimpl
    def exapt_augmentations():
        yield AugmentationSpec(name="backwards", summary="Backwards.", build=lambda options: Backwards(trains=True))
        yield AugmentationSpec(name="both-ways", summary="A view.", build=lambda options: Backwards(trains=False))


@pytest.fixture(autouse=True)
def _plugin():
    with inline(Plugin):
        yield


def letters_seen(value):
    return [place < len(value) // 3 * 3 for place in range(len(value))]


def genes_seen(value):
    names = [name for name, count in zip(value["genes"], value["counts"], strict=True) if count]
    known = [unit for unit, name in enumerate(names) if name != "stranger"]
    return [unit in known[:3] for unit in range(len(names))]


class Sequences:
    """Sequences, whose letters tell their labels."""

    backbone, column, seen = "threes", "sequence", staticmethod(letters_seen)

    @staticmethod
    def values(dice, rows):
        return ["".join(dice.choice(list("ACGT"), dice.integers(4, 12))) for _ in range(rows)]

    @staticmethod
    def kinds(value):
        return [letter in "AC" for letter in value]


class Cells:
    """Cells, whose genes tell their labels; one expresses nothing, and one nothing that the model knows."""

    backbone, column, seen = "genes", "cell", staticmethod(genes_seen)

    @staticmethod
    def values(dice, rows):
        counts = dice.poisson(1.2, (rows, len(GENES))).tolist()
        counts[4], counts[5] = [0] * len(GENES), [0, 0, 2, 0, 0, 0]
        return [{"genes": list(GENES), "counts": row} for row in counts]

    @staticmethod
    def kinds(value):
        expressed = [name for name, count in zip(value["genes"], value["counts"], strict=True) if count]
        return [name in ("G1", "G4") for name in expressed]


both = pytest.mark.parametrize("kind", [Sequences, Cells])
heads = pytest.mark.parametrize("head", [CLASSIFICATION, REGRESSION])


def rows_of(kind, head, unseen=None, rows=40):
    """Return rows with holes in their labels; ``unseen`` is put on every unit that the model does not see."""
    dice = np.random.default_rng(3)
    made = []
    for row, value in enumerate(kind.values(dice, rows)):
        labels = [WORDS[head][int(one)] for one in kind.kinds(value)]
        if head == REGRESSION:
            labels = [label + place / 7 for place, label in enumerate(labels)]
        for place, seen in enumerate(kind.seen(value)):
            if not seen and unseen is not None:
                labels[place] = unseen
        # The first of many units keeps its label, so that no row is without any.
        labels = [None if place and (row + place) % 4 == 0 else label for place, label in enumerate(labels)]
        part = ("train", "train", "valid", "test")[row % 4]
        made.append({"id": f"r{row}", kind.column: value, "y": labels, "split": part})
    return made


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def recipe(path, kind, head, **changes):
    return {
        "data": {"path": str(path), "input": kind.column},
        "split": {"column": "split"},
        "backbone": kind.backbone,
        "head": {"label": "y", **({"name": head} if isinstance(head, str) else head)},
        "strategy": "probe",
        "training": {"epochs": 3, "batch_size": 8, "head_learning_rate": 0.05, "patience": 0},
        **changes,
    }


def run(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def trained(path, kind, head, out=None, **changes):
    notes = []
    given = recipe(path, kind, head, **changes)
    adapted = exapt.train(given, out, listeners=[lambda run, event: notes.append(event.facts.get("text"))])
    return adapted, notes


def counted(kind, rows):
    """Return the units of rows that are labelled and seen: row, place and label."""
    return [
        (row, place, label)
        for row in rows
        for place, (label, seen) in enumerate(zip(row["y"], kind.seen(row[kind.column]), strict=True))
        if label is not None and seen
    ]


@both
def test_metrics_are_of_units_that_are_labelled_and_seen(kind, tmp_path):
    rows = rows_of(kind, CLASSIFICATION, unseen="turn")
    path = written(tmp_path / "t.jsonl", rows)
    learned, notes = trained(path, kind, CLASSIFICATION, tmp_path / "out")
    assert learned.manifest["recipe"]["heads"]["head"]["classes"] == ["helix", "strand"]
    left_out = sum(row["y"].count("turn") for row in rows if any(kind.seen(row[kind.column])))
    assert left_out > 10
    said = f"label 'y': {left_out} values of units that the model does not see are left out"
    assert said in notes
    told = run("evaluate", tmp_path / "out", path, "--json", "--by", "split")
    assert said in told.stderr.splitlines()
    report = json.loads(told.stdout)
    answers = learned.predict([row[kind.column] for row in rows], [row["id"] for row in rows]).to_pylist()
    of = {answer["id"]: answer for answer in answers}
    for part, found in (("all", report["all"]), ("test", report["split=test"]), ("test", learned.metrics["test"])):
        units = counted(kind, [row for row in rows if part in ("all", row["split"])])
        right = [of[row["id"]]["prediction"][place] == label for row, place, label in units]
        assert found["accuracy"] == pytest.approx(np.mean(right))
        assert 0 < found["accuracy"] < 1 or part == "test"
        surprise = [-np.log(of[row["id"]][f"probability_{label}"][place]) for row, place, label in units]
        assert found["loss"] == pytest.approx(np.mean(surprise), rel=1e-5)


@both
def test_errors_are_of_units_that_are_labelled_and_seen(kind, tmp_path):
    rows = rows_of(kind, REGRESSION, unseen=1e6)
    learned, _ = trained(written(tmp_path / "t.jsonl", rows), kind, REGRESSION)
    known = [label for _, _, label in counted(kind, [row for row in rows if row["split"] == "train"])]
    head = learned.manifest["recipe"]["heads"]["head"]
    assert (head["mean"], head["scale"]) == (pytest.approx([np.mean(known)]), pytest.approx([np.std(known)]))
    test = [row for row in rows if row["split"] == "test"]
    told = learned.predict([row[kind.column] for row in test], [row["id"] for row in test]).to_pylist()
    of = {answer["id"]: answer["prediction"] for answer in told}
    misses = [of[row["id"]][place] - label for row, place, label in counted(kind, test)]
    assert learned.metrics["test"]["mae"] == pytest.approx(np.mean(np.abs(misses)), rel=1e-5)
    assert learned.metrics["test"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(misses))), rel=1e-5)


@both
@heads
def test_a_label_of_what_is_not_seen_changes_nothing(kind, head, tmp_path):
    made = []
    for number, unseen in enumerate((None, WORDS[head][0], "turn" if head == CLASSIFICATION else -77.0)):
        out = tmp_path / str(number)
        training = {"epochs": 3, "batch_size": 4, "head_learning_rate": 0.05, "learning_rate": 0.01, "patience": 0}
        path = written(tmp_path / "t.jsonl", rows_of(kind, head, unseen))
        learned, _ = trained(path, kind, head, out, strategy="full", training=training)
        steps = [json.loads(line) for line in (tmp_path / f"{number}.run" / "metrics.jsonl").read_text().splitlines()]
        losses = [step["loss"] for step in steps if "loss" in step]
        made.append((learned.metrics, (out / "heads.safetensors").read_bytes(), losses))
    assert made[0][2]
    assert made[0] == made[1] == made[2]


@heads
def test_transfer_and_the_linear_model_are_measured_on_the_same_units(head, tmp_path):
    said = []
    for unseen in (None, "turn" if head == CLASSIFICATION else 1e6):
        path = written(tmp_path / "t.jsonl", rows_of(Sequences, head, unseen))
        metric = "accuracy" if head == CLASSIFICATION else "mae"
        given = recipe(path, Sequences, head, training={"epochs": 1, "metric": metric})
        found = exapt.compare(given, seeds=(0, 1), scratch={"epochs": 1})
        said.append({one.name: one.values for one in found.contenders})
    assert list(said[0]) == ["probe (threes)", "scratch", "k-mers, linear"]
    assert said[0] == said[1]


@both
def test_what_is_not_seen_has_no_answer(kind, tmp_path):
    rows = rows_of(kind, CLASSIFICATION)
    path, out = written(tmp_path / "t.jsonl", rows), tmp_path / "out"
    trained(path, kind, CLASSIFICATION, out)
    run("predict", out, path, "-o", tmp_path / "a.parquet")
    run("predict", out, path, "-o", tmp_path / "a.jsonl")
    run("predict", out, path, "-o", tmp_path / "a.csv")
    told = pq.read_table(tmp_path / "a.parquet").to_pylist()
    for name in ("prediction", "probability_helix", "probability_strand"):
        there = [[one is not None for one in row[name]] for row in told]
        assert there == [kind.seen(row[kind.column]) for row in rows]
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == told
    with (tmp_path / "a.csv").open() as file:
        assert [json.loads(row["prediction"]) for row in csv.DictReader(file)] == [row["prediction"] for row in told]


def test_genes_are_told_by_name_beside_their_answers(tmp_path):
    rows = rows_of(Cells, REGRESSION)
    path, out = written(tmp_path / "t.jsonl", rows), tmp_path / "out"
    learned, _ = trained(path, Cells, REGRESSION, out)
    run("predict", out, path, "-o", tmp_path / "a.parquet")
    told = pq.read_table(tmp_path / "a.parquet")
    assert told.column_names == ["id", "empty", "units", "prediction"]
    names = [[gene for gene, n in zip(GENES, row["cell"]["counts"], strict=True) if n] for row in rows]
    assert told["units"].to_pylist() == names
    assert list(map(len, told["prediction"].to_pylist())) == list(map(len, names))
    # Without any unit the columns are what they are with some.
    nothing = {"genes": list(GENES), "counts": [0] * len(GENES)}
    alone = learned.predict([nothing, nothing])
    assert alone.schema == told.schema
    assert alone.to_pylist()[1] == {"id": "2", "empty": True, "units": [], "prediction": []}
    strange = learned.predict([nothing | {"counts": [0, 0, 1, 0, 0, 0]}])
    assert strange.schema == told.schema
    assert strange.to_pylist() == [{"id": "1", "empty": True, "units": ["stranger"], "prediction": [None]}]


def test_letters_have_no_names(tmp_path):
    path = written(tmp_path / "t.jsonl", rows_of(Sequences, CLASSIFICATION))
    learned, _ = trained(path, Sequences, CLASSIFICATION)
    columns = ["id", "prediction", "probability_helix", "probability_strand"]
    assert learned.predict(["ACGT"]).column_names == columns
    assert learned.predict(["AC"]).to_pylist()[0]["prediction"] == [None, None]


def test_several_heads_for_the_same_units_have_one_column_of_names(tmp_path):
    rows = [row | {"z": [float(place) for place in range(len(row["y"]))]} for row in rows_of(Cells, CLASSIFICATION)]
    asked = {"kind": {"name": CLASSIFICATION, "label": "y"}, "size": {"name": REGRESSION, "label": "z"}}
    given = recipe(written(tmp_path / "t.jsonl", rows), Cells, CLASSIFICATION) | {"heads": asked}
    del given["head"]
    told = exapt.train(given).predict([rows[0]["cell"]])
    assert told.column_names == [
        "id",
        "empty",
        "units",
        "kind.prediction",
        "kind.probability_helix",
        "kind.probability_strand",
        "size.prediction",
    ]


def test_a_view_says_nothing_of_units_that_it_does_not_show(tmp_path):
    path = written(tmp_path / "t.jsonl", rows_of(Sequences, REGRESSION))
    once, twice = (
        trained(path, Sequences, REGRESSION, augmentations=augmentations, training={"epochs": 1})[0]
        .predict(["ACCAGTG"])["prediction"]
        .to_pylist()[0]
        for augmentations in ([], ["both-ways"])
    )
    # Backwards, the first of seven letters is the one left over.
    assert once[6] is twice[6] is None
    assert twice[0] == once[0]
    assert twice[5] != once[5]


def test_nothing_is_learned_of_units_that_a_change_hides(tmp_path):
    made = []
    for number, flipped in enumerate(((), range(1, 12, 3), range(12))):
        rows = rows_of(Sequences, CLASSIFICATION)
        for row in (row for row in rows if row["split"] == "train" and len(row["sequence"]) in flipped):
            row["y"][0] = {"helix": "strand", "strand": "helix"}[row["y"][0]]
        out = tmp_path / str(number)
        training = {"epochs": 1, "batch_size": 8, "head_learning_rate": 0.05}
        path = written(tmp_path / "t.jsonl", rows)
        trained(path, Sequences, CLASSIFICATION, out, augmentations=["backwards"], training=training)
        made.append((out / "heads.safetensors").read_bytes())
    # Backwards, the first letter is left over where their number is one more than a multiple of three.
    assert made[0] == made[1] != made[2]


@heads
def test_training_goes_on_where_a_whole_batch_has_no_unit(head, tmp_path):
    rows = rows_of(Cells, head)
    for row in rows[8:24]:
        row["cell"], row["y"] = {"genes": list(GENES), "counts": [0] * len(GENES)}, []
    path, out = written(tmp_path / "t.jsonl", rows), tmp_path / "out"
    training = {"epochs": 2, "batch_size": 1, "learning_rate": 0.01, "head_learning_rate": 0.05}
    learned, _ = trained(path, Cells, head, out, strategy="full", training=training)
    assert np.isfinite(learned.metrics["test"]["loss"])
    empty = written(tmp_path / "empty.jsonl", rows[8:12])
    run("predict", out, empty, "-o", tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["prediction"].to_pylist() == [[]] * 4
    some = written(tmp_path / "some.jsonl", rows[8:28])
    assert json.loads(run("evaluate", out, some, "--json").stdout)["all"]["loss"] > 0


HOLES = {
    "null": ["helix", None, "strand"],
    "words": ["helix", "NA", "strand"],
    "text": '["helix", null, "strand"]',
    "commas": "helix,NA,strand",
    "nothing between": "helix;;strand",
    "blanks": "helix NA strand",
}


@pytest.mark.parametrize("label", HOLES.values(), ids=HOLES)
def test_a_hole_is_a_unit_without_a_label(label, tmp_path):
    parts = ("train", "train", "valid", "test")
    rows = [{"sequence": "ACG", "y": label, "split": part} for part in parts]
    learned, _ = trained(written(tmp_path / "t.jsonl", rows), Sequences, CLASSIFICATION)
    assert learned.manifest["recipe"]["heads"]["head"]["classes"] == ["helix", "strand"]
    known = counted(Sequences, [rows[3] | {"y": ["helix", None, "strand"]}])
    (answer,) = learned.predict(["ACG"]).to_pylist()
    right = [answer["prediction"][place] == said for _, place, said in known]
    assert learned.metrics["test"]["accuracy"] == np.mean(right)


def test_a_class_may_be_called_what_elsewhere_is_no_label(tmp_path):
    parts = ("train", "train", "valid", "test")
    rows = [{"sequence": "ACG", "y": ["helix", "None", "strand"], "split": part} for part in parts]
    path = written(tmp_path / "t.jsonl", rows)
    learned, _ = trained(path, Sequences, {"name": CLASSIFICATION, "classes": ["helix", "None", "strand"]})
    (answer,) = learned.predict(["ACG"]).to_pylist()
    right = [one == two for one, two in zip(answer["prediction"], rows[0]["y"], strict=True)]
    assert learned.metrics["test"]["accuracy"] == np.mean(right)


def digits(path, kind):
    """Write labels as one digit a letter, of which the last stands on a letter that no token covers."""
    rows = [
        {"sequence": 2 * letter * 3 + "A", "y": kind(2 * digit * 3 + "3"), "split": part}
        for part in ("train", "train", "valid", "test")
        for letter, digit in (("A", "1"), ("C", "2"))
    ]
    return written(path, rows)


def test_digits_are_labels_whether_written_as_text_or_as_a_number(tmp_path):
    as_text, _ = trained(digits(tmp_path / "text.jsonl", str), Sequences, CLASSIFICATION)
    as_numbers, notes = trained(digits(tmp_path / "numbers.jsonl", int), Sequences, CLASSIFICATION)
    assert as_text.manifest["recipe"]["heads"]["head"]["classes"] == ["1", "2"]
    assert as_numbers.manifest["recipe"]["heads"]["head"]["classes"] == ["1", "2"]
    assert as_numbers.metrics == as_text.metrics
    assert "label 'y': 8 values of units that the model does not see are left out" in notes


@pytest.mark.parametrize("kind", [int, str])
def test_digits_without_anything_between_are_one_number(kind, tmp_path):
    with pytest.raises(DataError) as caught:
        trained(digits(tmp_path / "t.jsonl", kind), Sequences, REGRESSION)
    assert str(caught.value) == "'1', label 'y': has 1 labels for 7 units"


def test_many_strange_classes_are_one_line(tmp_path):
    rows = [{"sequence": "ACG", "y": ["helix", "strand", "helix"], "split": "train"} for _ in range(4)]
    rows += [{"sequence": "ACG", "y": [f"c{row:03}", "helix", "helix"], "split": "test"} for row in range(300)]
    with pytest.raises(DataError) as caught:
        trained(written(tmp_path / "t.jsonl", rows), Sequences, CLASSIFICATION)
    assert str(caught.value) == (
        "label 'y': no row of train has the classes 'c000' (1 row of test, first id '5'), 'c001' (1 row of test, first id "
        "'6'), 'c002' (1 row of test, first id '7') and 297 more, so that they cannot be learned: split so that train has "
        "some, leave these rows out, or name all classes in the head's option 'classes', and these count as wrong"
    )


def test_holes_weigh_nothing(tmp_path):
    rows = [{"sequence": "ACG", "y": ["helix", None, "strand"], "split": "train"} for _ in range(3)]
    rows.append({"sequence": "ACG", "y": ["helix", "helix", None], "split": "train"})
    given = recipe(written(tmp_path / "t.jsonl", rows), Sequences, CLASSIFICATION)
    given["head"] |= {"class_weights": "balanced"}
    learned = exapt.train(given)
    # Five units are helix and three strand.
    assert learned.manifest["recipe"]["heads"]["head"]["class_weights"] == [8 / (2 * 5), 8 / (2 * 3)]


@heads
def test_a_row_that_labels_no_unit_has_no_label(head, tmp_path):
    rows = rows_of(Sequences, head, rows=12)
    rows[5]["y"] = [None] * len(rows[5]["y"])
    path = written(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError) as caught:
        trained(path, Sequences, head)
    assert str(caught.value) == (
        "t.jsonl: 1 of 12 rows has no label in 'y', first row 6 (id 'r5'). "
        'Fill in, or leave out with data.missing_labels = "drop".'
    )
    given = {"path": str(path), "input": "sequence", "missing_labels": "drop"}
    learned, notes = trained(path, Sequences, head, data=given)
    assert "t.jsonl: 1 row dropped for want of a label, first id 'r5'" in notes
    assert sum(learned.manifest["data"]["rows"].values()) == 11


def test_a_list_for_a_whole_input_may_have_no_hole(tmp_path):
    rows = rows_of(Sequences, REGRESSION, rows=12)
    given = recipe(written(tmp_path / "t.jsonl", rows), Sequences, "sequence-regression")
    with pytest.raises(DataError) as caught:
        exapt.train(given)
    assert str(caught.value) == "t.jsonl row 1 (id 'r0'): 'y' has no value at position 5."


def test_a_list_of_another_length_is_refused_as_ever(tmp_path):
    rows = rows_of(Sequences, CLASSIFICATION)
    rows[1]["sequence"] += "ACGTA"
    with pytest.raises(DataError) as caught:
        trained(written(tmp_path / "t.jsonl", rows), Sequences, CLASSIFICATION)
    length = len(rows[1]["sequence"])
    assert str(caught.value) == f"'r1', label 'y': has {length - 5} labels for {length} units"


def names_in(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["units"].tolist(), file["offsets"].tolist()
    with safe_open(path, "numpy") as file:
        letters, ends = file.get_tensor("units").tobytes(), file.get_tensor("units_offsets").tolist()
        names = [letters[begin:end].decode() for begin, end in itertools.pairwise(ends)]
        return names, file.get_tensor("offsets").tolist()


def test_embeddings_of_genes_have_their_names(tmp_path):
    rows = rows_of(Cells, CLASSIFICATION)
    path = written(tmp_path / "t.jsonl", rows)
    names = [[gene for gene, n in zip(GENES, row["cell"]["counts"], strict=True) if n] for row in rows]
    words = ("embed", path, "--backbone", "genes", "--input", "cell", "--per", "residue", "-o")
    run(*words, tmp_path / "e.parquet")
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["id", "empty", "units", "embedding"]
    assert table["units"].to_pylist() == names
    for name in ("e.npz", "e.safetensors"):
        run(*words, tmp_path / name)
        found, offsets = names_in(tmp_path / name)
        assert found == [gene for some in names for gene in some]
        assert offsets == np.cumsum([0, *map(len, names)]).tolist()
    run("embed", path, "--backbone", "genes", "--input", "cell", "-o", tmp_path / "whole.parquet")
    assert pq.read_table(tmp_path / "whole.parquet").column_names == ["id", "empty", "embedding"]
