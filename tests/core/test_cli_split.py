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
        "split", table, "--column", "chrom", "--valid", "chr1", "--test", "chr2, chr3", "--name", "part", "-o", out
    )
    assert done.stdout.splitlines() == ["part   rows", "train  32", "valid  16", "test   32"]
    assert {(row["chrom"], row["part"]) for row in rows_of(out)} == {
        ("chr0", "train"),
        ("chr1", "valid"),
        ("chr2", "test"),
        ("chr3", "test"),
        ("chr4", "train"),
    }


def test_the_nearest_rows_of_train_go_to_a_file(exapt, table, tmp_path):
    out, near = tmp_path / "out.csv", tmp_path / "near.csv"
    exapt("split", table, "--kind", "protein", "--engine", "pyopal", "-o", out, "--leakage", near)
    part = {row["id"]: row["split"] for row in rows_of(out)}
    found = rows_of(near)
    assert [row["id"] for row in found] == [
        *(name for name in part if part[name] == "valid"),
        *(name for name in part if part[name] == "test"),
    ]
    for row in found:
        assert list(row) == ["id", "part", "nearest", "identity"]
        assert row["part"] == part[row["id"]]
        assert part[row["nearest"]] == "train"
        assert row["nearest"].partition("m")[0] == row["id"].partition("m")[0]
        assert 0.7 < float(row["identity"]) < 1


def test_options_of_0_are_honoured(exapt, table, tmp_path):
    words = ("split", table, "--kind", "protein", "--engine", "pyopal", "--json")
    plain = json.loads(exapt(*words, "-o", tmp_path / "plain.csv").stdout)
    unlooked = json.loads(exapt(*words, "--homology", "0", "-o", tmp_path / "unlooked.csv").stdout)
    assert unlooked == plain
    assert unlooked["families"] is None
    ends = tmp_path / "ends.csv"
    shared = rows_of(table)[0]["sequence"][:30]
    rest = [row["sequence"] for row in rows_of(table)[8::8]]
    ends.write_text("\n".join(["sequence", shared + rest[0], rest[1] + shared, *rest[2:], ""]))
    words = ("split", ends, "--kind", "protein", "--homology", "0.9", "--engine", "pyopal", "--json")
    assert json.loads(exapt(*words, "-o", tmp_path / "half.csv").stdout)["families"] == 9
    anything = exapt(*words, "--coverage", "0", "-o", tmp_path / "anything.csv")
    assert json.loads(anything.stdout)["families"] == 8


def test_ambiguous_letters_are_told(exapt, table, tmp_path):
    unclear = tmp_path / "unclear.csv"
    unclear.write_text(table.read_text().replace("W", "X", 3))
    done = exapt("split", unclear, "--kind", "protein", "--engine", "pyopal", "-o", tmp_path / "out.csv")
    assert done.stderr.splitlines()[1] == "3 ambiguous letters were compared as unknown (X)"


def test_the_table_itself_is_not_written_over(exapt, table, tmp_path):
    before = table.read_bytes()
    words = ("split", table, "--kind", "protein", "--engine", "pyopal", "--overwrite")
    for places in (("-o", table), ("-o", tmp_path / "out.csv", "--leakage", table)):
        assert exapt(*words, *places, code=2).stderr == (
            f"exapt: '{table}' is the table that is to be split: write to another file\n"
        )
    both = tmp_path / "both.csv"
    assert exapt(*words, "-o", both, "--leakage", both, code=2).stderr == (
        f"exapt: both -o and --leakage name '{both}': write to two files\n"
    )
    assert table.read_bytes() == before
    assert not both.exists()


def test_what_stands_on_both_sides_is_told_of_named_columns(exapt, table, tmp_path):
    words = ("split", table, "--fractions", "0.5,0.25,0.25", "--origins", "chrom")
    assert exapt(*words, "-o", tmp_path / "torn.csv").stderr.splitlines()[1:] == [
        "5 of 5 values of 'chrom' in valid stand in train too: 'chr0', 'chr1', 'chr2', ...; --group chrom keeps them apart",
        "5 of 5 values of 'chrom' in test stand in train too: 'chr0', 'chr1', 'chr2', ...; --group chrom keeps them apart",
        f"80 rows in {tmp_path / 'torn.csv'}",
    ]
    told = exapt(*words, "--group", "chrom", "-o", tmp_path / "whole.csv").stderr.splitlines()
    assert "no value of 'chrom' stands in train and in a later part (5 values)" in told


def test_a_table_to_which_no_column_can_be_added_needs_a_place(exapt, table):
    before = table.read_bytes()
    assert exapt("split", table, code=2).stderr == f"exapt: say with -o which file the parts of '{table}' go to\n"
    assert exapt("split", table, "--set", "layer=raw", "-o", "out.csv", code=2).stderr == (
        "exapt: there are options of the reader here, not of 'layer': --set reader.KEY=VALUE\n"
    )
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--leakage", "near.csv"],
            "exapt: --leakage compares sequences: say with --kind whether they are dna or protein\n",
        ),
        (
            ["--kind", "protein", "--homology", "0.4", "--evalue", "0"],
            "exapt: split: 'evalue' is 0.0: input should be greater than 0\n",
        ),
        (
            ["--column", "chrom", "--valid", ""],
            "exapt: split: 'valid' is ['']: an empty text is no value of a column\n",
        ),
        (
            ["--fractions", "0.5,0.5"],
            "exapt: split: 'fractions' is ['0.5', '0.5']: three shares are needed: of train, of valid and of test\n",
        ),
        (
            ["--column", "chrom", "--test", "chr1", "--group", "chrom"],
            "exapt: --column says each row's part, so that --group has no say: give one of them\n",
        ),
        (
            ["--column", "chrom"],
            "exapt: the split column 'chrom' holds 'chr0' at id 'f0m0'; write train, valid or test, or say with valid and "
            "test which values are held out.\n",
        ),
        (["--name", ""], "exapt: --name is empty: the new column needs a name\n"),
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
