"""``exapt predict`` and ``exapt evaluate``: answers in the order of the input, in every format, with the right columns."""

import csv
import gzip
import io
import json

import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Adapters that the tests of this module share, by name."""
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture
def adapter(exapt, flags, made):
    if not (made / "peptides").exists():
        exapt("train", *flags(), "--out", made / "peptides")
    return made / "peptides"


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def sequences(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_line_an_input_in_its_order(exapt, adapter, data, tmp_path):
    rows = sequences(data / "peptides.csv")[::-1]
    table = tmp_path / "named.csv"
    table.write_text("id,sequence\n" + "".join(f"p{n},{row['sequence']}\n" for n, row in enumerate(rows)))
    done = exapt("predict", adapter, table)
    answers = rows_of(done.stdout)
    assert done.stderr == ""
    assert list(answers[0]) == ["id", "prediction", "probability_0", "probability_1"]
    assert [row["id"] for row in answers] == [f"p{n}" for n in range(120)]
    straight = rows_of(exapt("predict", adapter, data / "peptides.csv").stdout)[::-1]
    for one, other in zip(answers, straight, strict=True):
        assert float(one["probability_1"]) == pytest.approx(float(other["probability_1"]), abs=1e-6)
        assert one["prediction"] == str(int(float(one["probability_1"]) > 0.5))


def test_every_format_holds_the_same_answers(exapt, adapter, data, tmp_path):
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"answers.{suffix}"
        assert exapt("predict", adapter, data / "peptides.csv", "-o", out).stderr == f"120 rows in {out}\n"
    table = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    cells = rows_of((tmp_path / "answers.csv").read_text())
    assert table == lines
    assert [{**row, **{key: float(row[key]) for key in row if key.startswith("prob")}} for row in cells] == table
    assert (tmp_path / "answers.csv").read_text() == exapt("predict", adapter, data / "peptides.csv").stdout


def test_the_format_can_be_named_and_a_file_replaced(exapt, refused, adapter, data, tmp_path):
    out = tmp_path / "answers.txt"
    exapt("predict", adapter, data / "peptides.csv", "-o", out, "--format", "jsonl")
    assert json.loads(out.read_text().splitlines()[0])["id"] == "1"
    again = ["predict", adapter, data / "peptides.csv", "-o", out, "--format", "csv"]
    assert refused(*again) == f"'{out}' exists already. Remove it, or name another file."
    exapt(*again, "--overwrite")
    assert out.read_text().startswith("id,prediction,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.txt"]


def test_gzip_and_fasta_and_another_column(exapt, adapter, data, tmp_path):
    rows = sequences(data / "peptides.csv")[:5]
    (tmp_path / "a.csv.gz").write_bytes(
        gzip.compress("".join(["id,peptide\n", *(f"p{n},{row['sequence']}\n" for n, row in enumerate(rows))]).encode())
    )
    (tmp_path / "a.fasta").write_text("".join(f">p{n} note\n{row['sequence']}\n" for n, row in enumerate(rows)))
    packed = exapt("predict", adapter, tmp_path / "a.csv.gz", "--input", "peptide").stdout
    assert packed == exapt("predict", adapter, tmp_path / "a.fasta").stdout
    named = exapt("predict", adapter, tmp_path / "a.csv.gz", "--input", "peptide", "--id", "peptide").stdout
    assert [row["id"] for row in rows_of(named)] == [row["sequence"] for row in rows]


def test_several_heads_and_several_targets_name_their_columns(exapt, data, esm2, tmp_path):
    rows = sequences(data / "peptides.csv")
    table = tmp_path / "many.csv"
    table.write_text(
        "sequence,label,split,length,charge\n"
        + "".join(
            f"{r['sequence']},{r['label']},{r['split']},{len(r['sequence'])},{r['sequence'].count('K')}\n" for r in rows
        )
    )
    recipe = {
        "data": {"path": str(table)},
        "split": {"column": "split"},
        "backbone": esm2,
        "heads": {
            "kind": {"name": "sequence-classification", "label": "label"},
            "sizes": {"name": "sequence-regression", "label": ["length", "charge"]},
        },
        "strategy": "probe",
        "training": {"epochs": 1},
    }
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    exapt("train", tmp_path / "r.json", "--out", tmp_path / "both")
    answers = rows_of(exapt("predict", tmp_path / "both", table).stdout)
    assert list(answers[0]) == [
        "id", "kind.prediction", "kind.probability_0", "kind.probability_1",
        "sizes.prediction.length", "sizes.prediction.charge",
    ]  # fmt: skip
    sizes = ["--data", table, "--label", "length,charge", "--split", "split", "--backbone", esm2]
    exapt("train", *sizes, "--head", "sequence-regression", "--strategy", "probe", "--set", "training.epochs=1",
          "--out", tmp_path / "sizes")  # fmt: skip
    answers = rows_of(exapt("predict", tmp_path / "sizes", table).stdout)
    assert list(answers[0]) == ["id", "prediction.length", "prediction.charge"]
    one = [*sizes[:3], "length", *sizes[4:], "--head", "sequence-regression", "--strategy", "probe"]
    exapt("train", *one, "--set", "training.epochs=1", "--out", tmp_path / "one")
    assert list(rows_of(exapt("predict", tmp_path / "one", table).stdout)[0]) == ["id", "prediction"]


def test_answers_per_position_are_lists(exapt, data, esm2, tmp_path):
    out, table = tmp_path / "adapter", data / "disorder.csv"
    exapt("train", "--data", table, "--label", "labels", "--split", "split", "--backbone", esm2, "--strategy", "probe",
          "--head", "position-classification", "--set", "training.epochs=1", "--out", out)  # fmt: skip
    exapt("predict", out, table, "-o", tmp_path / "answers.parquet")
    lengths = [len(row["sequence"]) for row in sequences(table)]
    answers = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [len(row["prediction"]) for row in answers] == lengths
    assert [len(row["probability_1"]) for row in answers] == lengths
    assert set(answers[0]["prediction"]) <= {"0", "1"}
    cells = rows_of(exapt("predict", out, table).stdout)
    assert [json.loads(row["prediction"]) for row in cells] == [row["prediction"] for row in answers]


def test_evaluate_agrees_with_what_training_measured(exapt, adapter, data):
    said = json.loads(exapt("evaluate", adapter, data / "peptides.csv", "--part", "test", "--json").stdout)
    measured = json.loads((adapter / "exapt.json").read_text())["metrics"]["test"]
    assert said == {"all": {"rows": 20.0, **{name: pytest.approx(value, abs=1e-5) for name, value in measured.items()}}}


def test_evaluate_by_a_column(exapt, adapter, data):
    words = ["evaluate", adapter, data / "peptides.csv", "--by", "split"]
    done = exapt(*words)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["metric", "all", "split=test", "split=train", "split=valid"]
    assert lines[1].split() == ["rows", "120", "20", "80", "20"]
    assert done.stderr == (
        "peptides.csv: 120 rows\n"
        "peptides.csv is the table that was learned from: 80 of its 120 rows are training rows, which flatter; measure rows "
        "that were held out (--part test does)\n"
    )
    said = json.loads(exapt(*words, "--json").stdout)
    parts = [said[f"split={part}"] for part in ("test", "train", "valid")]
    assert sum(part["accuracy"] * part["rows"] for part in parts) == pytest.approx(said["all"]["accuracy"] * 120)


def test_unknown_letters_and_repeated_ids_are_told(exapt, adapter, tmp_path):
    table = tmp_path / "t.dat"
    table.write_text(f"id,sequence,label\na,{'MKTAY' * 5}J,0\nb,ACD,1\nb,ACD,1\n")
    told = (
        "t.dat: 1 row with the id and inputs of an earlier row, kept\n1 unknown letter in 1 of 3 values of 'sequence'\n"
    )
    done = exapt("predict", adapter, table, "--reader", "csv")
    assert done.stderr == told
    assert [row["id"] for row in rows_of(done.stdout)] == ["a", "b", "b"]
    assert exapt("evaluate", adapter, table, "--reader", "csv").stderr == f"t.dat: 3 rows\n{told}"


def test_evaluate_with_labels_in_a_table_of_their_own(exapt, refused, adapter, data, tmp_path):
    rows = sequences(data / "peptides.csv")
    inputs, labels = tmp_path / "inputs.csv", tmp_path / "labels.csv"
    inputs.write_text("id,sequence\n" + "".join(f"p{n},{row['sequence']}\n" for n, row in enumerate(rows)))
    labels.write_text("id,label\n" + "".join(f"p{n},{row['label']}\n" for n, row in list(enumerate(rows))[::-1]))
    apart = exapt("evaluate", adapter, inputs, "--labels", labels, "--json").stdout
    assert json.loads(apart) == json.loads(exapt("evaluate", adapter, data / "peptides.csv", "--json").stdout)
    assert refused("evaluate", adapter, inputs) == "inputs.csv has no column 'label'. Its columns are: id, sequence."


def test_what_evaluate_cannot_find(refused, adapter, data, tmp_path):
    table = data / "peptides.csv"
    assert refused("evaluate", adapter, table, "--by", "clster") == (
        "there is no column 'clster'. The columns are: sequence, label, cluster, split."
    )
    assert refused("evaluate", adapter, table, "--part", "tset") == (
        "unknown part 'tset'; parts are train, valid and test"
    )
    (tmp_path / "bare.csv").write_text("sequence\nMKT\n")
    assert refused("evaluate", adapter, tmp_path / "bare.csv") == (
        "bare.csv has no column 'label'. Its columns are: sequence."
    )
