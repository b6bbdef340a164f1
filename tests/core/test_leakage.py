"""How near test rows stand to training rows: the report of a run, and of an adapter against a table."""

import csv
import json
import random

import numpy as np
import pytest

import runs
from exapt import DataError, load
from exapt.data.leakage import band_of, bands
from exapt.prediction import evaluate_file

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Thirty families of four proteins; each family has a label drawn by lot, which nothing but kinship tells."""
    dice = random.Random(1)
    path = tmp_path_factory.mktemp("leakage") / "families.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "split"])
        for family in range(30):
            founder, label = "".join(dice.choices(RESIDUES, k=50)), ("a", "b")[family % 2]
            for member in range(4):
                text = list(founder)
                for place in dice.sample(range(50), 4):
                    text[place] = dice.choice(RESIDUES)
                part = "train" if member < 2 and family < 24 else "valid" if member == 2 else "test"
                writer.writerow([f"f{family}m{member}", "".join(text), label, part])
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def kin(name):
    return name.partition("m")[0]


def by_neighbour(given, rows):
    """Return how often the label of the nearest training row is right: what a model that only remembers can do."""
    label = {row["id"]: row["kind"] for row in rows}
    return np.mean([label.get(row["nearest"]) == label[row["id"]] for row in given])


def test_bands_hold_their_lower_edge_and_the_last_its_upper_one():
    given = np.array([0, 0.29, 0.3, 0.5, 0.69, 0.7, 0.9, 1.0])
    assert band_of(given).tolist() == [
        *["0-0.3"] * 2, "0.3-0.5", *["0.5-0.7"] * 2, "0.7-0.9", *["0.9-1"] * 2,
    ]  # fmt: skip
    assert {name: rows.tolist() for name, rows in bands(given[:3]).items()} == {
        "identity=0-0.3": [0, 1],
        "identity=0.3-0.5": [2],
    }


def test_a_run_reports_its_leaks_and_keeps_none_of_the_rows(table, tmp_path):
    out = tmp_path / "adapter"
    given = runs.recipe(table, split={"column": "split", "leakage": True, "engine": "pyopal"})
    adapted, heard = runs.listened(given, out)
    report = rows_of(tmp_path / "adapter.run" / "leakage.csv")
    tested = [row for row in rows_of(table) if row["split"] == "test"]
    assert [row["id"] for row in report] == [row["id"] for row in tested]
    for row in report:
        known = int(kin(row["id"])[1:]) < 24
        assert (kin(row["nearest"]) == kin(row["id"])) if known else (row["nearest"], float(row["identity"])) == ("", 0)
    assert by_neighbour([row for row in report if row["nearest"]], rows_of(table)) == 1.0
    banded = [name for name in adapted.metrics if name.startswith("test identity=")]
    assert banded[0] == "test identity=0-0.3"
    assert len(banded) > 1
    assert all("accuracy" in adapted.metrics[name] for name in banded)
    assert any("significant relative in train" in text for text in heard.of("note", "text"))
    written = (out / "exapt.json").read_text()
    assert "f0m3" not in written
    assert tested[0]["sequence"] not in written
    assert load(out).metrics == json.loads(written)["metrics"]


def test_a_homology_split_has_not_the_leak_that_a_random_split_has(table, tmp_path):
    found = {}
    for name, options in {"random": {"leakage": True}, "families": {"homology": 0.4}}.items():
        given = runs.recipe(table, split={"engine": "pyopal", "fractions": [0.7, 0.1, 0.2], **options})
        runs.listened(given, tmp_path / name)
        found[name] = by_neighbour(rows_of(tmp_path / f"{name}.run" / "leakage.csv"), rows_of(table))
    assert found["random"] > 0.9
    assert found["families"] == 0.0


def test_an_adapter_is_measured_against_a_table(exapt, table, tmp_path):
    runs.listened(runs.recipe(table), tmp_path / "adapter")
    assert not (tmp_path / "adapter.run" / "leakage.csv").exists()
    train = tmp_path / "train.csv"
    lines = table.read_text().splitlines()
    train.write_text("\n".join([lines[0], *(line for line in lines if line.endswith(",train"))]) + "\n")
    words = ("--part", "test", "--against", train, "--leakage", tmp_path / "near.csv", "--json")
    done = exapt("evaluate", tmp_path / "adapter", table, *words)
    report = json.loads(done.stdout)
    assert next(iter(report)) == "all"
    assert report["identity=0-0.3"]["rows"] == 18
    assert sum(values["rows"] for name, values in report.items() if name != "all") == report["all"]["rows"] == 42
    near = rows_of(tmp_path / "near.csv")
    assert len(near) == 42
    assert sum(kin(row["nearest"]) == kin(row["id"]) for row in near) == 24
    adapted = load(tmp_path / "adapter")
    for wrong, message in (
        ({"leakage": tmp_path / "x.csv"}, "--leakage needs --against"),
        ({"by": "kind", "against": train}, "give --by or --against, not both"),
    ):
        with pytest.raises(DataError) as caught:
            evaluate_file(adapted, table, **wrong)
        assert str(caught.value) == message


def test_a_part_by_values_is_evaluated_where_some_values_do_not_occur(exapt, table, tmp_path):
    rows = table.read_text().splitlines()
    named = tmp_path / "named.csv"
    # The same parts under names that are values of any column.
    changed = [row.replace(",train", ",chr1").replace(",valid", ",chr8").replace(",test", ",chr9") for row in rows]
    named.write_text("\n".join(changed) + "\n")
    given = runs.recipe(named, split={"column": "split", "valid": ["chr8"], "test": ["chr9"]})
    adapted, _ = runs.listened(given, tmp_path / "adapter")
    only = tmp_path / "only.csv"
    only.write_text("\n".join([changed[0], *(row for row in changed if row.endswith("chr9"))]) + "\n")
    done = exapt("evaluate", tmp_path / "adapter", only, "--part", "test", "--json")
    assert json.loads(done.stdout)["all"]["rows"] == 42
    assert json.loads(done.stdout)["all"]["accuracy"] == pytest.approx(adapted.metrics["test"]["accuracy"])
