"""Labels and masks as FASTA beside the sequences: which units count, in learning, in measuring and in answering."""

import csv
import gzip
import hashlib
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import exapt
from exapt.errors import DataError, RecipeError
from runs import MODEL, Heard

DISORDER = Path(__file__).parents[1] / "data" / "disorder.csv"


def fasta(path, records, width=0):
    """Write records as FASTA, in lines of ``width`` letters where it is given."""
    lines = []
    for name, letters in records.items():
        step = width or len(letters)
        lines += [f">{name}", *(letters[at : at + step] for at in range(0, len(letters), step))]
    Path(path).write_text("\n".join(lines) + "\n")
    return Path(path)


@pytest.fixture
def command(request):
    """Run ``exapt ARGUMENTS``, under another name than that of the package."""
    return request.getfixturevalue("exapt")


@pytest.fixture
def proteins(tmp_path):
    """Twelve sequences whose label is D where a residue is acid, B where it is basic, else ``.``; in FASTA, with parts."""
    dice = random.Random(0)
    parts = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
    sequences = {f"p{row}": "".join(dice.choices("DEKRAGLS", k=dice.randrange(9, 20))) for row in range(12)}
    named = {f"{name} split={part}": text for (name, text), part in zip(sequences.items(), parts, strict=True)}
    fasta(tmp_path / "sequences.fasta", named)
    labels = {name: text.translate(str.maketrans("DEKRAGLS", "DDBB....")) for name, text in sequences.items()}
    return sequences, labels


def recipe(folder, **data):
    return {
        "data": {"path": str(folder / "sequences.fasta"), **{key: str(value) for key, value in data.items()}},
        "split": {"column": "split"},
        "backbone": f"esm2:{MODEL}",
        "head": {"name": "position-classification"},
        "strategy": "probe",
        "training": {"epochs": 3, "batch_size": 4},
    }


def heads_of(folder):
    return (folder / "heads.safetensors").read_bytes()


def learned(tmp_path, name, **data):
    """Train, and return the metrics and the bytes of the head."""
    adapted = exapt.train(recipe(tmp_path, **data), tmp_path / name)
    return adapted.metrics, heads_of(tmp_path / name)


# Labels


def test_labels_of_a_fasta_are_those_of_a_table(tmp_path, proteins):
    _, labels = proteins
    turned = dict(reversed(labels.items()))
    fasta(tmp_path / "labels.fasta", turned, width=7)
    with gzip.open(tmp_path / "labels.fa.gz", "wt") as file:
        file.write((tmp_path / "labels.fasta").read_text())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *labels.items()])
    found = [
        learned(tmp_path, f"out{at}", labels=tmp_path / name)
        for at, name in enumerate(("labels.csv", "labels.fasta", "labels.fa.gz"))
    ]
    assert found[0] == found[1] == found[2]


def test_letters_of_any_kind_are_labels_and_the_sequences_stay(tmp_path, proteins):
    sequences, labels = proteins
    fasta(
        tmp_path / "labels.fasta", {name: text.translate(str.maketrans("DB.", "7-*")) for name, text in labels.items()}
    )
    adapted = exapt.train(recipe(tmp_path, labels=tmp_path / "labels.fasta"))
    assert adapted.resolved.heads["head"].options.classes == ("*", "-", "7")
    said = adapted.predict(list(sequences.values()))
    assert [len(answer) for answer in said["prediction"].to_pylist()] == [len(text) for text in sequences.values()]


def test_a_label_in_the_header_wins_over_letters(tmp_path, proteins):
    sequences, _ = proteins
    kinds = {f"{name} label={'ab'[row % 2]}": text for row, (name, text) in enumerate(sequences.items())}
    fasta(tmp_path / "labels.fasta", kinds)
    given = recipe(tmp_path, labels=tmp_path / "labels.fasta") | {"head": {"name": "sequence-classification"}}
    assert exapt.train(given).resolved.heads["head"].options.classes == ("a", "b")


def test_labels_of_another_length_name_both(tmp_path, proteins):
    _, labels = proteins
    fasta(tmp_path / "labels.fasta", labels | {"p3": labels["p3"][:-1]})
    units = len(labels["p3"])
    with pytest.raises(DataError) as error:
        exapt.train(recipe(tmp_path, labels=tmp_path / "labels.fasta"))
    assert str(error.value) == f"'p3', label 'label': has {units - 1} labels for {units} units"


def test_a_column_of_another_name_is_not_found_in_letters(tmp_path, proteins):
    _, labels = proteins
    fasta(tmp_path / "labels.fasta", labels)
    given = recipe(tmp_path, labels=tmp_path / "labels.fasta")
    given["head"]["label"] = "structure"
    with pytest.raises(DataError) as error:
        exapt.train(given)
    assert str(error.value) == "labels.fasta has no column 'structure'. Its columns are: id, description, label."


# Masks


def masks_of(labels, hidden="B"):
    """Return masks of 0 where a label is one of the hidden."""
    return {name: "".join("01"[letter not in hidden] for letter in text) for name, text in labels.items()}


@pytest.fixture
def masked(tmp_path, proteins):
    """Labels of which those of basic residues are masked, and masks, as FASTA."""
    _, labels = proteins
    fasta(tmp_path / "labels.fasta", labels)
    fasta(tmp_path / "masks.fasta", masks_of(labels))
    return {"labels": tmp_path / "labels.fasta", "masks": tmp_path / "masks.fasta"}


def test_masked_labels_teach_nothing_and_are_not_measured(tmp_path, proteins, masked):
    _, labels = proteins
    first = learned(tmp_path, "first", **masked)
    dice = random.Random(1)
    others = {name: "".join(dice.choice("DQ.") if one == "B" else one for one in text) for name, text in labels.items()}
    fasta(tmp_path / "labels.fasta", others)
    assert learned(tmp_path, "second", **masked) == first
    holes = [[None if one == "B" else one for one in text] for text in labels.values()]
    rows = [json.dumps({"id": name, "label": hole}) for name, hole in zip(labels, holes, strict=True)]
    (tmp_path / "labels.jsonl").write_text("\n".join(rows))
    assert learned(tmp_path, "third", labels=tmp_path / "labels.jsonl") == first


def test_masks_of_any_kind_of_table_are_the_same(tmp_path, proteins, masked):
    _, labels = proteins
    first = learned(tmp_path, "first", **masked)
    masks = masks_of(labels)
    (tmp_path / "masks.jsonl").write_text(
        "\n".join(json.dumps({"id": name, "seen": [one == "1" for one in text]}) for name, text in masks.items())
    )
    both = [(name, labels[name], ",".join(masks[name])) for name in labels]
    with (tmp_path / "both.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label", "seen"), *both])
    jsonl = {"labels": masked["labels"], "masks": tmp_path / "masks.jsonl", "mask": "seen"}
    assert learned(tmp_path, "second", **jsonl) == first
    assert learned(tmp_path, "third", labels=tmp_path / "both.csv", mask="seen") == first


def test_classes_of_masked_units_are_none_and_answers_stay(tmp_path, proteins, masked):
    sequences, labels = proteins
    heard = Heard()
    adapted = exapt.train(recipe(tmp_path, **masked), tmp_path / "out", listeners=[heard])
    assert adapted.resolved.heads["head"].options.classes == (".", "D")
    hidden = sum(text.count("B") for text in labels.values())
    assert f"label 'label': {hidden} values of units that are masked are left out" in heard.of("note", "text")
    said = exapt.load(tmp_path / "out").predict(list(sequences.values()))["prediction"].to_pylist()
    assert [len(answer) for answer in said] == [len(text) for text in sequences.values()]
    assert all(one is not None for answer in said for one in answer)


def test_the_adapter_remembers_which_masks(tmp_path, masked):
    exapt.train(recipe(tmp_path, **masked), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "exapt.json").read_text())
    assert manifest["recipe"]["data"]["masks"] == "masks.fasta"
    assert manifest["data"]["masks_file"] == "masks.fasta"
    assert manifest["data"]["masks_sha256"] == hashlib.sha256(masked["masks"].read_bytes()).hexdigest()


def test_evaluate_leaves_masked_units_out(tmp_path, masked, command):
    learned(tmp_path, "out", **masked)
    words = ["evaluate", tmp_path / "out", tmp_path / "sequences.fasta", "--part", "test", "--json"]
    words += ["--labels", masked["labels"]]
    done = command(*words, "--masks", masked["masks"])
    metrics = json.loads((tmp_path / "out" / "exapt.json").read_text())["metrics"]["test"]
    assert json.loads(done.stdout)["all"]["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    # Without masks, a class is met that was never learned.
    done = command(*words, code=2)
    assert done.stderr == "exapt: 'p10', label 'label': is 'B', which is none of the classes ., D.\n"


def test_the_command_line_takes_labels_and_masks(tmp_path, masked, command):
    flags = ["--data", tmp_path / "sequences.fasta", "--labels", masked["labels"], "--masks", masked["masks"]]
    flags += ["--backbone", f"esm2:{MODEL}", "--head", "position-classification", "--strategy", "probe"]
    flags += ["--split", "split", "--set", "training.epochs=3", "--set", "training.batch_size=4"]
    command("train", *flags, "--out", tmp_path / "flags")
    learned(tmp_path, "recipe", **masked)
    assert heads_of(tmp_path / "flags") == heads_of(tmp_path / "recipe")


def test_a_resolved_recipe_runs_again_with_its_masks(tmp_path, masked, monkeypatch):
    exapt.train(recipe(tmp_path, **masked), tmp_path / "out")
    again = json.loads((tmp_path / "out" / "exapt.json").read_text())["recipe"]
    again["backbone"] = f"esm2:{MODEL}"
    monkeypatch.chdir(tmp_path)
    exapt.train(again, tmp_path / "again")
    assert heads_of(tmp_path / "again") == heads_of(tmp_path / "out")


def test_masks_without_an_input_are_counted(tmp_path, proteins, masked):
    _, labels = proteins
    fasta(masked["masks"], masks_of(labels) | {"stranger": "101"})
    heard = Heard()
    exapt.train(recipe(tmp_path, **masked), listeners=[heard])
    assert "masks.fasta: 1 row without an input, first id 'stranger'" in heard.of("note", "text")


def without(masks, name):
    return {who: text for who, text in masks.items() if who != name}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda masks: masks | {"p2": masks["p2"] + "1"}, "'p2': its mask has {long} values for {units} units"),
        (
            lambda masks: masks | {"p2": "1x" + masks["p2"][2:]},
            "masks.fasta: the mask of 'p2' has 'x' at position 2; a mask is 1 where a unit counts, else 0",
        ),
        (lambda masks: without(masks, "p2"), "masks.fasta has no mask for 'p2'."),
        (lambda masks: {"p0": masks["p0"]}, "masks.fasta has no mask for 'p1' (11 rows have none)."),
        (
            lambda masks: masks | {"p2": "0" * len(masks["p2"])},
            "masks.fasta: 1 of 12 masks leaves no unit that counts, first of row 3 (id 'p2'). Leave such rows out with "
            'data.missing_labels = "drop".',
        ),
        (
            lambda masks: {name: "0" * len(text) for name, text in masks.items()},
            "masks.fasta: no mask leaves a unit that counts: there is nothing to learn from.",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, proteins, masked, change, line):
    sequences, labels = proteins
    units = len(sequences["p2"])
    fasta(masked["masks"], change(masks_of(labels)))
    with pytest.raises(DataError) as error:
        exapt.train(recipe(tmp_path, **masked))
    assert str(error.value) == line.format(units=units, long=units + 1)


def test_a_mask_that_does_not_fit_names_the_table_in_which_it_stands(tmp_path, proteins):
    sequences, labels = proteins
    marks = {name: "1" * len(text) for name, text in sequences.items()} | {
        "p2": "1x" + "1" * (len(sequences["p2"]) - 2)
    }
    (tmp_path / "inputs.csv").write_text(
        "id,sequence,split,resolved\n"
        + "".join(f"{name},{text},train,{marks[name]}\n" for name, text in sequences.items())
    )
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{name},{text}\n" for name, text in labels.items()))
    changes = {"path": str(tmp_path / "inputs.csv"), "labels": str(tmp_path / "labels.csv"), "mask": "resolved"}
    with pytest.raises(DataError) as error:
        exapt.train(recipe(tmp_path, **changes))
    assert str(error.value) == (
        "inputs.csv: the mask of 'p2' has 'x' at position 2; a mask is 1 where a unit counts, else 0"
    )


def test_two_masks_of_one_id_are_refused(tmp_path, proteins, masked):
    _, labels = proteins
    masked["masks"].write_text(masked["masks"].read_text() + ">p1\n" + "1" * len(labels["p1"]) + "\n")
    with pytest.raises(DataError) as error:
        exapt.train(recipe(tmp_path, **masked))
    assert str(error.value) == "masks.fasta: id 'p1' has two different masks, in rows 2 and 13."


def test_rows_whose_units_are_all_masked_are_dropped_where_asked(tmp_path, proteins, masked):
    _, labels = proteins
    fasta(masked["masks"], masks_of(labels) | {"p2": "0" * len(labels["p2"])})
    given = recipe(tmp_path, **masked, missing_labels="drop")
    heard = Heard()
    adapted = exapt.train(given, listeners=[heard])
    assert adapted.manifest["data"]["rows"] == {"train": 7, "valid": 2, "test": 2}
    assert "sequences.fasta: 1 row dropped for want of a label, first id 'p2'" in heard.of("note", "text")


def test_a_table_of_masks_without_their_column_is_refused(tmp_path, proteins, masked):
    rows = [("id", "resolved"), *masks_of(proteins[1]).items()]
    with (tmp_path / "masks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    masked["masks"] = tmp_path / "masks.csv"
    with pytest.raises(DataError) as error:
        exapt.train(recipe(tmp_path, **masked))
    assert str(error.value) == "masks.csv has no column 'mask'. Its columns are: id, resolved."


@pytest.mark.parametrize("key", ["masks", "mask"])
def test_masks_without_a_head_of_units_are_refused(tmp_path, proteins, key):
    given = recipe(tmp_path, **{key: "seen"}) | {"head": {"name": "sequence-classification"}}
    with pytest.raises(RecipeError) as error:
        exapt.train(given)
    assert str(error.value) == (
        f"data.{key} says which units count, and no head learns from labels of units: leave it out, or ask with a head "
        "such as position-classification"
    )


# Real labels


def test_disorder_is_learned_from_fasta_pairs_with_masks(tmp_path, command):
    with DISORDER.open(newline="") as file:
        rows = list(csv.DictReader(file))
    fasta(tmp_path / "sequences.fasta", {f"{row['id']} split=train": row["sequence"] for row in rows}, width=60)
    fasta(tmp_path / "labels.fasta", {row["id"]: row["labels"] for row in rows}, width=60)
    # Ends are often cut off in a crystal: here they count as not resolved.
    masks = {row["id"]: "0" * 5 + "1" * (len(row["labels"]) - 10) + "0" * 5 for row in rows}
    fasta(tmp_path / "masks.fasta", masks, width=60)
    given = recipe(tmp_path, labels=tmp_path / "labels.fasta", masks=tmp_path / "masks.fasta")
    given |= {"training": {"epochs": 20, "batch_size": 4, "head_learning_rate": 0.01}}
    given["head"] |= {"hidden": 32}
    exapt.train(given, tmp_path / "out")
    table, tables = tmp_path / "sequences.fasta", [f"--{key}={tmp_path / key}.fasta" for key in ("labels", "masks")]
    done = command("evaluate", tmp_path / "out", table, *tables, "--json")
    # These very proteins were learned: those of other clusters are too few here to tell anything.
    assert json.loads(done.stdout)["all"]["auroc"] > 0.65
    command("predict", tmp_path / "out", table, "-o", tmp_path / "answers.parquet")
    said = pq.read_table(tmp_path / "answers.parquet")
    assert said["id"].to_pylist() == [row["id"] for row in rows]
    assert [len(one) for one in said["prediction"].to_pylist()] == [len(row["labels"]) for row in rows]
