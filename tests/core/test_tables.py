import csv
import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exapt import DataError, ReaderSpec, hookimpl
from exapt.data.files import open_table, table_sha256
from exapt.data.tables import read_examples, stream_examples
from exapt.plugins import Plugins, using
from exapt.recipe import DataOptions

DATA = Path(__file__).parents[1] / "data"
PEPTIDES = DATA / "peptides.csv"
GERMLINE = DATA / "germline.fasta"
GERMLINE_LABELS = DATA / "germline_labels.csv"


@pytest.fixture(autouse=True)
def builtins_only():
    with using(Plugins([])) as plugins:
        yield plugins


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_of(*args):
    return pa.Table.from_batches(list(open_table(*args)))


def write_as(form, path):
    """Write the peptides in another format, plain or gzip."""
    rows = rows_of(PEPTIDES)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
        return
    text = {
        "csv": lambda: PEPTIDES.read_text(),
        "tsv": lambda: PEPTIDES.read_text().replace(",", "\t"),
        "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
    }[form]().encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("csv", "p.csv"),
        ("csv", "P.CSV"),
        ("csv", "p.csv.gz"),
        ("tsv", "p.tsv"),
        ("tsv", "p.tab.gz"),
        ("parquet", "p.parquet"),
        ("jsonl", "p.jsonl"),
        ("jsonl", "p.ndjson.gz"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, form, name):
    write_as(form, tmp_path / name)
    assert table_of(tmp_path / name).to_pylist() == rows_of(PEPTIDES)


def test_fasta_gives_a_column_for_each_key_of_its_headers():
    table = table_of(GERMLINE)
    assert table.column_names == ["id", "description", "sequence", "organism", "chain", "split"]
    assert table.num_rows == 36
    assert table.slice(0, 1).to_pylist() == [
        {
            "id": "TRAV1-1*01",
            "description": "organism=human chain=A split=train",
            "sequence": "GQSLEQPSEVTAVEGAIVQINCTYQTSGFYGLSWYQQHDGGAPTFLSYNALDGLEETGRFSSFLSRSDSYGYLLLQELQMKDSASYFCAVR",
            "organism": "human",
            "chain": "A",
            "split": "train",
        }
    ]


@pytest.mark.parametrize("suffix", ["fasta", "fa", "faa", "fna", "fas", "fasta.gz"])
def test_fasta_by_any_suffix(tmp_path, suffix):
    path = tmp_path / f"germline.{suffix}"
    text = GERMLINE.read_bytes()
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert table_of(path) == table_of(GERMLINE)


def test_fasta_headers_of_uniprot_and_ncbi_keep_values_of_several_words(tmp_path):
    path = tmp_path / "mixed.fasta"
    path.write_text(
        ">sp|P02144|MYG_HUMAN Myoglobin OS=Homo sapiens OX=9606 PE=1\nMGLSDG\n"
        ">AB1.1 [organism=Mus musculus] [strain=C57BL/6] myoglobin\nMGLSDG\n"
        ">plain id=7 label=\nMGLSDG\n"
    )
    assert table_of(path).drop_columns(["sequence", "description"]).to_pylist() == [
        {"id": "sp|P02144|MYG_HUMAN", "OS": "Homo sapiens", "OX": "9606", "PE": "1"}
        | dict.fromkeys(("organism", "strain", "label")),
        {"id": "AB1.1", "organism": "Mus musculus", "strain": "C57BL/6"} | dict.fromkeys(("OS", "OX", "PE", "label")),
        {"id": "plain", "label": ""} | dict.fromkeys(("OS", "OX", "PE", "organism", "strain")),
    ]


def test_fasta_key_that_first_comes_late_is_a_column_all_the_same(tmp_path):
    path = tmp_path / "late.fasta"
    path.write_text("".join(f">r{n}\nMKT\n" for n in range(5000)) + ">last label=1\nMKT\n")
    batches = list(open_table(path))
    assert [batch.num_rows for batch in batches] == [4096, 905]
    assert all(batch.schema.names == ["id", "description", "sequence", "label"] for batch in batches)
    assert batches[-1].column("label").to_pylist()[-2:] == [None, "1"]


def test_fasta_lines_are_joined_and_blank_or_windows_ones_read(tmp_path):
    path = tmp_path / "windows.fa"
    path.write_bytes(b"\xef\xbb\xbf>a first\r\nMKT\r\nAYI\r\n\r\n>b\r\nMKV")
    assert table_of(path).column("sequence").to_pylist() == ["MKTAYI", "MKV"]


def test_gzip_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    (tmp_path / "squeezed.csv").write_bytes(gzip.compress(PEPTIDES.read_bytes()))
    (tmp_path / "plain.csv.gz").write_bytes(PEPTIDES.read_bytes())
    assert table_of(tmp_path / "squeezed.csv") == table_of(tmp_path / "plain.csv.gz") == table_of(PEPTIDES)


def test_bom_crlf_quotes_and_blank_lines_are_simply_read(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes(b'\xef\xbb\xbfid,sequence,note\r\n1,MKT,"a, ""b"""\r\n\r\n2,MKV,"two\r\nlines"\r\n\r\n')
    assert table_of(path).to_pylist() == [
        {"id": "1", "sequence": "MKT", "note": 'a, "b"'},
        {"id": "2", "sequence": "MKV", "note": "two\r\nlines"},
    ]


def test_csv_is_text_throughout_so_that_the_peptide_NA_survives(tmp_path):
    path = tmp_path / "na.csv"
    path.write_text("sequence,label\nNA,007\nNAN,1e5\n,null\n")
    assert table_of(path).to_pylist() == [
        {"sequence": "NA", "label": "007"},
        {"sequence": "NAN", "label": "1e5"},
        {"sequence": "", "label": "null"},
    ]


def test_a_field_may_be_longer_than_any_protein(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"sequence\n{'M' * 1_000_000}\n")
    assert len(table_of(path).column("sequence")[0].as_py()) == 1_000_000


def test_pieces_stay_small_in_rows_and_in_characters(tmp_path):
    many, large = tmp_path / "many.csv", tmp_path / "large.csv"
    many.write_text("sequence\n" + "MKT\n" * 10_000)
    large.write_text("sequence\n" + ("ACGT" * 1_500_000 + "\n") * 7)
    assert [batch.num_rows for batch in open_table(many)] == [4096, 4096, 1808]
    assert [batch.num_rows for batch in open_table(large)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("name", "record"),
    [("t.csv", "MKT,{}\n"), ("t.fasta", ">r{} y=1\nMKT\n"), ("t.jsonl", '{{"s": "MKT", "y": {}}}\n')],
)
def test_memory_does_not_grow_with_the_rows(tmp_path, name, record):
    def peak(rows):
        path = tmp_path / name
        path.write_text(("s,y\n" if name == "t.csv" else "") + "".join(map(record.format, range(rows))))
        tracemalloc.start()
        assert sum(batch.num_rows for batch in open_table(path)) == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    # The rows of the larger file alone would take 2 MB and more.
    assert peak(16_000) < peak(9_000) + 300_000


def test_a_reader_can_be_read_twice():
    reader = open_table(PEPTIDES)
    assert list(reader) == list(reader)


def test_jsonl_keeps_types_and_agrees_with_itself_over_pieces(tmp_path):
    path = tmp_path / "typed.jsonl"
    rows = [{"sequence": "MKT", "y": 1, "units": []} for _ in range(4096)]
    rows += [{"y": 0.5, "sequence": "MK", "units": [1, 0], "late": True}]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = open_table(path)
    assert first.schema == second.schema
    assert [str(field.type) for field in first.schema] == ["string", "double", "list<item: int64>", "bool"]
    assert second.to_pylist() == [{"sequence": "MK", "y": 0.5, "units": [1, 0], "late": True}]


def test_parquet_keeps_types(tmp_path):
    path = tmp_path / "typed.parquet"
    table = pa.table({"sequence": ["MKT", "MKV"], "y": pa.array([1, None], pa.int8()), "units": [[0.5], [1.5]]})
    pq.write_table(table, path)
    assert table_of(path) == table


def test_the_format_may_be_named_and_so_may_its_distribution(tmp_path):
    path = tmp_path / "peptides.txt"
    path.write_bytes(PEPTIDES.read_bytes())
    assert table_of(path, "csv") == table_of(path, "exapt:csv") == table_of(PEPTIDES)


def reading(suffix, name="pieces"):
    """Return a plugin with one reader, whose rows say which suffix it was asked for."""

    class Plugin:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_readers():
            def build(_options, path):
                return [pa.record_batch({"sequence": [f"{suffix} of {path.name}"]})]

            yield ReaderSpec(name=name, summary="A format for tests.", suffixes=(suffix,), build=build)

    return Plugin


@pytest.mark.parametrize(("suffix", "name"), [(".rna.csv", "x.rna.csv"), (".csv.gz", "x.csv.gz"), (".pdb", "X.PDB.gz")])
def test_the_longest_suffix_wins(tmp_path, suffix, name):
    path = tmp_path / name
    path.write_text("sequence\nMKT\n")
    (batch,) = open_table(path, plugins=Plugins([], [reading(suffix)]))
    assert batch.to_pylist() == [{"sequence": f"{suffix} of {name}"}]


def test_the_hash_is_that_of_the_file():
    assert table_sha256(PEPTIDES) == hashlib.sha256(PEPTIDES.read_bytes()).hexdigest()


def test_examples_of_a_table_without_ids_are_known_by_row():
    examples, report = read_examples(DataOptions(path=str(PEPTIDES)), {"head": "label"})
    assert len(examples) == 120
    assert examples.ids[:2] == ["1", "2"]
    assert examples.inputs["sequence"][0] == "GLWSKIKEVGKEAAKAAAKAAGKAALGAVSEAV"
    assert examples.labels == {"head": ["1"] * 60 + ["0"] * 60}
    assert examples.table.column_names == ["sequence", "label", "cluster", "split"]
    assert report.lines() == ["peptides.csv: 120 rows"]


def test_examples_with_several_inputs_heads_and_targets(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"name": 7, "a": "MKT", "b": "MKV", "x": 1, "y": 0.5}\n{"name": 8, "a": "M", "b": "K", "x": 2, "y": 2}'
    )
    options = DataOptions(path=str(path), inputs={"wild": "a", "mutant": "b"}, id="name")
    examples, _ = read_examples(options, {"one": "x", "both": ("x", "y")})
    assert examples.ids == ["7", "8"]
    assert examples.inputs == {"wild": ["MKT", "M"], "mutant": ["MKV", "K"]}
    assert examples.labels == {"one": [1, 2], "both": [(1, 0.5), (2, 2.0)]}


def test_labels_from_a_second_table_come_by_id_with_its_other_columns():
    options = DataOptions(path=str(GERMLINE), labels=str(GERMLINE_LABELS))
    examples, report = read_examples(options, {"head": "organism"})
    assert examples.labels["head"] == table_of(GERMLINE).column("organism").to_pylist()
    assert examples.table.column_names == ["id", "description", "sequence", "chain", "split", "organism", "family"]
    assert examples.table.column("family")[0].as_py() == "TRAV1"
    assert report.lines() == ["germline.fasta: 36 rows"]


def test_labels_from_a_fasta_header_key():
    examples, _ = read_examples(DataOptions(path=str(GERMLINE)), {"head": "organism"})
    assert sorted(set(examples.labels["head"])) == ["human", "mouse", "rhesus"]


def test_what_does_not_join_is_counted_and_said(tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [row for row in rows_of(GERMLINE_LABELS) if row["organism"] != "mouse"]
    lines = [f"{row['id']},{row['organism']}" for row in rows]
    labels.write_text("\n".join(["id,organism", *lines, "IGHV1*01,human", "IGHV2*01,human"]))
    options = DataOptions(path=str(GERMLINE), labels=str(labels), missing_labels="drop")
    examples, report = read_examples(options, {"head": "organism"})
    assert (len(examples), report.rows, report.kept) == (24, 36, 24)
    assert report.unused == ("IGHV1*01", "IGHV2*01")
    assert report.lines() == [
        "germline.fasta: 36 rows",
        "germline.fasta: 12 rows dropped for want of a label, first id 'TRAV1*01'",
        "labels.csv: 2 rows without an input, first id 'IGHV1*01'",
    ]


@pytest.mark.parametrize("missing", ["", " ", "NA", "NaN", "nan", "null", "None"])
def test_rows_without_a_label_are_dropped_when_asked(tmp_path, missing):
    path = tmp_path / "gaps.csv"
    path.write_text(f"id,sequence,label,other\na,MKT,1,x\nb,MKV,{missing},x\nc,MKL,0,{missing}\nd,MKI,1,y\n")
    options = DataOptions(path=str(path), missing_labels="drop")
    examples, report = read_examples(options, {"head": "label", "other": "other"})
    assert examples.ids == ["a", "d"]
    assert examples.inputs == {"sequence": ["MKT", "MKI"]}
    assert examples.labels == {"head": ["1", "1"], "other": ["x", "y"]}
    assert examples.table.num_rows == 2
    assert report.dropped == ("b", "c")


def test_typed_missing_labels_are_missing_too(tmp_path):
    path = tmp_path / "gaps.parquet"
    pq.write_table(
        pa.table({"sequence": ["M", "K", "L", "I"], "y": [1.5, None, float("nan"), 0.0], "u": [[1], [], None, [0]]}),
        path,
    )
    options = DataOptions(path=str(path), missing_labels="drop")
    assert read_examples(options, {"head": "y"})[1].dropped == ("2", "3")
    # An empty list is an answer: of several labels, none.
    assert read_examples(options, {"head": "u"})[0].labels == {"head": [[1], [], [0]]}


def test_unlabelled_rows_are_read_where_labels_are_not_wanted():
    examples, report = read_examples(DataOptions(path=str(PEPTIDES)), {"head": "no such"}, keep_labels=False)
    assert examples.labels == {}
    assert report.lines() == ["peptides.csv: 120 rows"]


def test_one_id_with_one_content_may_come_twice_and_is_counted(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("id,sequence,label\na,MKT,1\nb,MKV,0\na,MKT,1\n")
    examples, report = read_examples(DataOptions(path=str(path)), {"head": "label"})
    assert examples.ids == ["a", "b", "a"]
    assert report.lines() == ["twice.csv: 3 rows", "twice.csv: 1 row with the id and inputs of an earlier row, kept"]


def test_streamed_examples_are_those_of_the_whole_table():
    whole, _ = read_examples(DataOptions(path=str(GERMLINE)), {}, keep_labels=False)
    pieces = list(stream_examples(GERMLINE, DataOptions(path="elsewhere.csv"), chunk=10))
    assert [len(piece) for piece in pieces] == [10, 10, 10, 6]
    assert [known_as for piece in pieces for known_as in piece.ids] == whole.ids
    assert [value for piece in pieces for value in piece.inputs["sequence"]] == whole.inputs["sequence"]
    assert pa.concat_tables([piece.table for piece in pieces]) == whole.table


def test_streamed_rows_without_ids_are_numbered_through():
    pieces = stream_examples(PEPTIDES, DataOptions(path=""), chunk=50)
    assert [piece.ids[0] for piece in pieces] == ["1", "51", "101"]


def test_streamed_examples_see_an_id_with_two_contents_across_pieces(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("id,sequence\n" + "".join(f"r{n},MKT\n" for n in range(10)) + "r1,MKV\n")
    with pytest.raises(DataError) as caught:
        list(stream_examples(path, DataOptions(path=""), chunk=4))
    assert str(caught.value) == "twice.csv: id 'r1' has two different inputs, in rows 2 and 11."
