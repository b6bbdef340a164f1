"""``exapt split``: a table with a column of parts, and what leaks between them."""

import csv
import json
import random

import pytest

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture
def table(tmp_path):
    """Twenty families of four proteins of 60 residues that differ in a tenth of them, each family on one chromosome."""
    dice = random.Random(0)
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "chrom"])
        for family in range(20):
            founder = "".join(dice.choices(RESIDUES, k=60))
            for member in range(4):
                text = list(founder)
                for place in dice.sample(range(60), 6):
                    text[place] = dice.choice(RESIDUES)
                writer.writerow([f"f{family}m{member}", "".join(text), f"chr{family % 5}"])
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_families_stand_in_one_part_each_and_nothing_is_left(exapt, table, tmp_path):
    out = tmp_path / "out.csv"
    done = exapt("split", table, "--kind", "protein", "--homology", "0.4", "--engine", "pyopal", "-o", out)
    assert done.stdout.splitlines() == [
        "part   rows",
        "train  64",
        "valid  8",
        "test   8",
        "identity to train  valid  test",
        "0-0.3              8      8",
        "0.3-0.5            0      0",
        "0.5-0.7            0      0",
        "0.7-0.9            0      0",
        "0.9-1              0      0",
    ]
    assert "80 rows are of 20 families at identity 0.4 and coverage 0.5, the largest of 4 rows (pyopal" in done.stderr
    parts = {}
    for row in rows_of(out):
        parts.setdefault(row["id"].partition("m")[0], set()).add(row["split"])
    assert all(len(found) == 1 for found in parts.values())
    assert [row["id"] for row in rows_of(out)] == [row["id"] for row in rows_of(table)]


def test_a_random_split_leaks_and_that_is_shown(exapt, table, tmp_path):
    done = exapt("split", table, "--kind", "protein", "--engine", "pyopal", "-o", tmp_path / "out.csv", "--json")
    said = json.loads(done.stdout)
    assert said["rows"] == {"train": 64, "valid": 8, "test": 8}
    assert said["families"] is None
    assert said["identity"]["test"]["0-0.3"] == 0


def test_values_of_a_column_are_held_out(exapt, table, tmp_path):
    out = tmp_path / "out.csv"
    done = exapt(
        "split", table, "--column", "chrom", "--valid", "chr1", "--test", "chr2,chr3", "--name", "part", "-o", out
    )
    assert done.stdout.splitlines() == ["part   rows", "train  32", "valid  16", "test   32"]
    assert {(row["chrom"], row["part"]) for row in rows_of(out)} == {
        ("chr0", "train"),
        ("chr1", "valid"),
        ("chr2", "test"),
        ("chr3", "test"),
        ("chr4", "train"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--homology", "0.4"],
            "exapt: --homology compares sequences: say with --kind whether they are dna or protein\n",
        ),
        (
            ["--name", "chrom"],
            "exapt: table.csv has a column 'chrom' already: call the new one otherwise with --name.\n",
        ),
        (
            ["--column", "chrom", "--test", "chrX"],
            "exapt: the split column 'chrom' has no 'chrX'. Its values are: chr0, chr1, chr2, chr3, chr4.\n",
        ),
        (
            ["--kind", "dna"],
            "exapt: these are no DNA sequences: most of their letters are not A, C, G, T or N.\n",
        ),
    ],
)
def test_what_does_not_do_is_refused_and_nothing_is_written(exapt, table, tmp_path, words, message):
    out = tmp_path / "out.csv"
    done = exapt("split", table, *words, "-o", out, code=2)
    assert done.stderr == message
    assert not out.exists()
