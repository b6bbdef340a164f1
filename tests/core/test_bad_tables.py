import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exapt import ComponentError, DataError, ReaderSpec, hookimpl
from exapt.data.files import open_table, table_sha256
from exapt.data.tables import read_examples, stream_examples
from exapt.plugins import Plugins, using
from exapt.recipe import DataOptions

DATA = Path(__file__).parents[1] / "data"
PEPTIDES = DATA / "peptides.csv"

CUT_OFF = "bad{} is cut off: its gzip data end too early. Fetch it again."


@pytest.fixture(autouse=True)
def builtins_only():
    with using(Plugins([])) as plugins:
        yield plugins


def refusal(call, *args, kind=DataError, **kwargs):
    """Return the message, one line, with which a call is refused."""
    with pytest.raises(kind) as caught:
        list(call(*args, **kwargs))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


TABLES = {
    "empty": (".csv", b"", "bad.csv is empty."),
    "empty-gzip": (".csv.gz", gzip.compress(b""), "bad.csv.gz is empty."),
    "only-bom": (".csv", b"\xef\xbb\xbf", "bad.csv is empty."),
    "only-blank-lines": (".tsv", b"\r\n\r\n", "bad.tsv is empty."),
    "header-only": (".csv", b"sequence,label\n", "bad.csv has a header but no rows."),
    "header-only-tsv": (".tsv", b"sequence\tlabel", "bad.tsv has a header but no rows."),
    "html": (".csv", b"<!DOCTYPE html>\n<html>", "bad.csv is an HTML page, not data. Fetch the file itself."),
    "html-bare": (".tsv", b"\n <HTML><body>404", "bad.tsv is an HTML page, not data. Fetch the file itself."),
    "html-fasta": (".fasta", b"<html>", "bad.fasta is an HTML page, not data. Fetch the file itself."),
    "html-jsonl": (".jsonl", b"<html>", "bad.jsonl is an HTML page, not data. Fetch the file itself."),
    "html-parquet": (".parquet", b"<html>", "bad.parquet is an HTML page, not data. Fetch the file itself."),
    "html-xml": (
        ".csv",
        b'<?xml version="1.0"?><!-- a\nb --><!DOCTYPE html>',
        "bad.csv is an HTML page, not data. Fetch the file itself.",
    ),
    "html-gzip": (
        ".csv.gz",
        gzip.compress(b"<html>"),
        "bad.csv.gz is an HTML page, not data. Fetch the file itself.",
    ),
    "nul": (".csv", b"sequence\nMKT\nM\0KT\n", "bad.csv is binary, not text: line 3, byte 2 is NUL."),
    "nul-fasta": (".fa", b">a\nMK\0\n", "bad.fa is binary, not text: line 2, byte 3 is NUL."),
    "nul-jsonl": (".jsonl", b'{"a": "\0"}', "bad.jsonl is binary, not text: line 1, byte 8 is NUL."),
    "utf-16": (".csv", "sequence\nMKT\n".encode("utf-16"), "bad.csv is UTF-16 text. Save it as UTF-8."),
    "utf-16-no-bom": (".csv", "sequence\nMKT\n".encode("utf-16-le"), "bad.csv is UTF-16 text. Save it as UTF-8."),
    "utf-16-big": (".fasta", ">a\nMKT\n".encode("utf-16-be"), "bad.fasta is UTF-16 text. Save it as UTF-8."),
    "latin-1": (
        ".csv",
        "sequence,note\nMKT,x\nMKV,caf\xe9\n".encode("latin-1"),
        "bad.csv is not UTF-8: line 3, byte 8 is 0xe9. Save it as UTF-8.",
    ),
    "latin-1-fasta": (
        ".fasta",
        b">a\nMK\n>caf\xe9\nMK\n",
        "bad.fasta is not UTF-8: line 3, byte 5 is 0xe9. Save it as UTF-8.",
    ),
    "excel": (".csv", b"PK\x03\x04\x14\0", "bad.csv is a zip archive or an Excel workbook, not text."),
    "hdf5": (".csv", b"\x89HDF\r\n", "bad.csv is HDF5, not text."),
    "parquet-as-csv": (".csv", b"PAR1\x15\x04", "bad.csv is Parquet, not text."),
    "gzip-damaged": (
        ".csv.gz",
        gzip.compress(PEPTIDES.read_bytes())[:-8] + b"\0" * 8,
        "bad.csv.gz is damaged: its gzip data do not fit their checksum. Fetch it again.",
    ),
    "ragged-short": (".csv", b"a,b\n1,2\n\n3\n", "bad.csv line 4 has 1 field; its header has 2."),
    "ragged-long": (".tsv", b"a\tb\n1\t2\t3\n", "bad.tsv line 2 has 3 fields; its header has 2."),
    "ragged-after-quotes": (".csv", b'a,b\n"1\n1",2\n3\n', "bad.csv line 4 has 1 field; its header has 2."),
    "open-quote": (".csv", b'a,b\n1,2\n"3,4\n5,6\n', "bad.csv line 3: a quote opens here and is never closed."),
    "stray-quote": (".csv", b'a,b\n"1"1,2\n', "bad.csv line 2: ',' expected after '\"'."),
    "carriage-returns": (
        ".csv",
        b"a,b\r1,2\r3,4\r",
        "bad.csv line 1: lines end in a bare carriage return; save the file with ordinary line ends.",
    ),
    "duplicate-column": (".csv", b"sequence,label,label\nMKT,1,1\n", "bad.csv has the column 'label' twice."),
    "jsonl-broken": (
        ".jsonl",
        b'{"a": 1}\n\n{"a": nope}\n',
        "bad.jsonl line 3 is not JSON: Expecting value at character 7.",
    ),
    "jsonl-array": (".jsonl", b"[1]", 'bad.jsonl line 1 is not a JSON object such as {"sequence": "MKT"}.'),
    "jsonl-blank": (".jsonl", b"\n\n", "bad.jsonl has no rows."),
    "jsonl-no-keys": (".jsonl", b"{}\n{}\n", "bad.jsonl has no rows."),
    "jsonl-duplicate-key": (".jsonl", b'{"a": 1}\n{"a": 1, "a": 2}', "bad.jsonl line 2 has the key 'a' twice."),
    "jsonl-mixed": (
        ".jsonl",
        b'{"a": 1}\n{"a": 2.5}\n{"a": "x"}',
        "bad.jsonl line 3: 'a' cannot be \"x\" among values of type double.",
    ),
    "jsonl-mixed-late": (
        ".jsonl",
        b'{"a": "x"}\n' * 5000 + b'{"a": [1]}',
        "bad.jsonl line 5001: 'a' cannot be [1] among values of type string.",
    ),
    "jsonl-huge-number": (
        ".jsonl",
        b'{"a": 123456789012345678901}',
        "bad.jsonl line 1: 'a' cannot be 123456789012345678901.",
    ),
    "jsonl-inexact": (
        ".jsonl",
        b'{"a": 9007199254740993}\n' * 4096 + b'{"a": 0.5}',
        "bad.jsonl lines 1 to 4096: 'a' does not fit double: Integer value 9007199254740993 is outside of the range "
        "exactly representable by a IEEE 754 double precision value",
    ),
    "fasta-header-only": (".fasta", b">a organism=human\n", "bad.fasta: record 'a' has no sequence."),
    "fasta-hole": (".fasta", b">a\nMKT\n>b\n>c\nMKV\n", "bad.fasta: record 'b' has no sequence."),
    "fasta-nameless": (".fasta", b">a\nMKT\n> b\nMKV\n", "bad.fasta: record 2 has no name."),
    "fasta-none": (".fasta", b"# nothing\n\n", "bad.fasta has no records."),
    "fasta-plain-text": (
        ".fasta",
        b"\nMKTAYIAK\n",
        "bad.fasta line 2 is not FASTA: the first record must begin with '>'.",
    ),
    "fasta-not-ascii": (
        ".fasta",
        ">a\nMKT\n>caf\xe9\nMKT\n".encode(),
        "bad.fasta line 3: 'é' is no ASCII character; FASTA is ASCII.",
    ),
    "parquet-gzip": (
        ".parquet",
        gzip.compress(b"PAR1"),
        "bad.parquet is Parquet inside gzip, or no Parquet at all. Unpack it with gunzip.",
    ),
    "parquet-empty": (".parquet", b"", "bad.parquet is empty."),
    "parquet-short": (
        ".parquet",
        b"PAR1",
        "bad.parquet is not Parquet, or is damaged: Parquet file size is 4 bytes, smaller than the minimum file "
        "footer (8 bytes)",
    ),
    "parquet-cut": (
        ".parquet",
        b"PAR1" + b"\x15" * 100,
        "bad.parquet is not Parquet, or is damaged: Parquet magic bytes not found in footer. Either the file is "
        "corrupted or this is not a parquet file.",
    ),
}


@pytest.mark.parametrize(("suffix", "content", "message"), TABLES.values(), ids=TABLES)
def test_a_bad_file_is_refused_in_one_line(tmp_path, suffix, content, message):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    assert refusal(open_table, path) == message


@pytest.mark.parametrize("suffix", [".csv.gz", ".fasta.gz", ".jsonl.gz", ".csv"])
def test_gzip_cut_off_anywhere_is_refused(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    whole = gzip.compress(
        b'{"sequence": "MKT"}\n' if "json" in suffix else b">a\nMKT\n" if "fa" in suffix else b"s\nMKT\n"
    )
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(open_table, path) == CUT_OFF.format(suffix)


def test_gzip_cut_off_in_mid_stream_is_refused_after_whole_rows(tmp_path):
    path = tmp_path / "bad.csv.gz"
    text = "sequence,n\n" + "".join(f"MKT,{n * n * n}\n" for n in range(50_000))
    whole = gzip.compress(text.encode())
    path.write_bytes(whole[: len(whole) // 2])
    rows = []
    reader = (rows.extend(batch.to_pylist()) for batch in open_table(path))
    assert refusal(lambda: reader) == CUT_OFF.format(".csv.gz")
    assert rows == [{"sequence": "MKT", "n": str(n * n * n)} for n in range(len(rows))]
    assert len(rows) > 4096


def test_parquet_without_rows_and_with_a_column_twice(tmp_path):
    pq.write_table(pa.table({"sequence": pa.array([], pa.string())}), tmp_path / "none.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["M"])] * 2, ["s", "s"]), tmp_path / "twice.parquet")
    assert refusal(open_table, tmp_path / "none.parquet") == "none.parquet has columns but no rows."
    assert refusal(open_table, tmp_path / "twice.parquet") == "twice.parquet has the column 's' twice."


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    missing = tmp_path / "none.csv"
    for call in (open_table, table_sha256):
        assert refusal(call, missing) == f"there is no file '{missing}'."
        assert refusal(call, tmp_path) == f"'{tmp_path}' is a folder, not a file."
        assert refusal(call, PEPTIDES / "x.csv") == f"'{PEPTIDES / 'x.csv'}' cannot be read: Not a directory."
    assert refusal(stream_examples, missing, DataOptions(path="")) == f"there is no file '{missing}'."


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_file_that_fails_while_it_is_read():
    assert refusal(open_table, "/proc/self/mem", "csv") == "'/proc/self/mem' cannot be read: Input/output error."


def test_a_reader_that_gives_no_rows():
    class Plugin:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_readers():
            yield ReaderSpec(name="none", summary="Nothing.", suffixes=(".none",), build=lambda options, path: [])

    with using(Plugins([], [Plugin])):
        message = refusal(read_examples, DataOptions(path=str(PEPTIDES), format="none"), {"head": "label"})
    assert message == "peptides.csv has no rows."


def test_an_unknown_suffix_lists_those_that_are_read(tmp_path):
    path = tmp_path / "genes.xlsx"
    path.write_bytes(b"PK")
    assert refusal(open_table, path) == (
        "no installed reader reads 'genes.xlsx': its name must end in .csv, .fa, .faa, .fas, .fasta, .fna, .jsonl, "
        ".ndjson, .parquet, .tab, .tsv, .vcf (or one of these and .gz), or the format be named. See 'exapt list readers'."
    )


def test_an_unknown_format_names_the_nearest():
    assert refusal(open_table, PEPTIDES, "cvs", kind=ComponentError) == (
        "unknown reader 'cvs'. Did you mean 'csv'? Installed: csv, fasta, jsonl, parquet, tsv, vcf."
    )


def test_two_readers_for_a_suffix_are_refused_by_name_of_both(tmp_path):
    class Plugin:
        exapt_api = 1

        @staticmethod
        @hookimpl
        def exapt_readers():
            yield ReaderSpec(name="fast", summary="Another CSV.", suffixes=(".csv",), build=lambda options, path: [])

    plugins = Plugins([], [Plugin])
    message = "peptides.csv suits the readers 'exapt:csv' and 'inline:fast'; name one of them as the format."
    assert refusal(open_table, PEPTIDES, plugins=plugins, kind=ComponentError) == message
    assert list(open_table(PEPTIDES, "fast", plugins)) == []


def refused_examples(tmp_path, text, name="t.csv", labels="label", **options):
    path = tmp_path / name
    path.write_text(text)
    return refusal(read_examples, DataOptions(path=str(path), **options), {"head": labels})


EXAMPLES = {
    "input-column": ("seq,label\nMKT,1\n", {}, "t.csv has no column 'sequence'. Its columns are: seq, label."),
    "label-column": ("sequence,y\nMKT,1\n", {}, "t.csv has no column 'label'. Its columns are: sequence, y."),
    "target-column": (
        "sequence,label\nMKT,1\n",
        {"labels": ("label", "y")},
        "t.csv has no column 'y'. Its columns are: sequence, label.",
    ),
    "id-column": (
        "id,sequence,label\na,MKT,1\n",
        {"id": "name"},
        "t.csv has no column 'name'. Its columns are: id, sequence, label.",
    ),
    "empty-id": ("id,sequence,label\na,MKT,1\n,MKV,1\n", {}, "t.csv row 2 has no id in 'id'."),
    "empty-input": ("id,sequence,label\na,MKT,1\nb,,1\n", {}, "t.csv row 2 (id 'b') has no 'sequence'."),
    "empty-input-no-id": ("sequence,label\nMKT,1\n,1\n", {}, "t.csv row 2 has no 'sequence'."),
    "two-contents": (
        "id,sequence,label\na,MKT,1\nb,MKV,1\na,MKL,1\n",
        {},
        "t.csv: id 'a' has two different inputs, in rows 1 and 3.",
    ),
    "missing-labels": (
        "id,sequence,label\na,MKT,1\nb,MKV,NA\nc,MKL,\n",
        {},
        "t.csv: 2 of 3 rows have no label in 'label', first row 2 (id 'b'). "
        'Fill in, or leave out with data.missing_labels = "drop".',
    ),
    "missing-label": (
        "sequence,label\nMKT,nan\nMKV,1\n",
        {},
        "t.csv: 1 of 2 rows has no label in 'label', first row 1. "
        'Fill in, or leave out with data.missing_labels = "drop".',
    ),
    "missing-target": (
        "sequence,label,y\nMKT,1,null\nMKV,1,1\n",
        {"labels": ("label", "y")},
        "t.csv: 1 of 2 rows has no label in 'y', first row 1. Fill in, or leave out with data.missing_labels = \"drop\".",
    ),
    "no-label-at-all": (
        "sequence,label\nMKT,\nMKV,NA\n",
        {"missing_labels": "drop"},
        "t.csv: no row has a label in 'label'.",
    ),
    "never-both-labels": (
        "sequence,label,y\nMKT,,1\nMKV,1,\n",
        {"labels": ("label", "y"), "missing_labels": "drop"},
        "t.csv: no row has all of its labels.",
    ),
}


@pytest.mark.parametrize(("text", "options", "message"), EXAMPLES.values(), ids=EXAMPLES)
def test_rows_that_cannot_be_examples_are_refused(tmp_path, text, options, message):
    assert refused_examples(tmp_path, text, **options) == message


def test_a_list_of_labels_may_have_no_hole(tmp_path):
    text = '{"sequence": "MKT", "label": [1, 0, 1]}\n{"sequence": "MKV", "label": [1, null, 0]}\n'
    for missing_labels in ("error", "drop"):
        message = refused_examples(tmp_path, text, "t.jsonl", missing_labels=missing_labels)
        assert message == "t.jsonl row 2: 'label' has no value at position 2."


def test_ids_are_text_or_whole_numbers(tmp_path):
    message = refused_examples(tmp_path, '{"id": 1.5, "sequence": "MKT", "label": 1}', "t.jsonl")
    assert message == "t.jsonl row 1 has the id 1.5 in 'id'; ids are text or whole numbers."


JOINS = {
    "no-id-there": (
        "id,sequence\na,MKT\n",
        "name,label\na,1\n",
        "labels.csv has no column 'id'. Its columns are: name, label.",
    ),
    "no-id-here": ("sequence\nMKT\n", "id,label\na,1\n", "t.csv has no column 'id'. Its columns are: sequence."),
    "no-label": ("id,sequence\na,MKT\n", "id,y\na,1\n", "labels.csv has no column 'label'. Its columns are: id, y."),
    "two-labels": (
        "id,sequence\na,MKT\n",
        "id,label\na,1\na,1\na,0\n",
        "labels.csv: id 'a' has two different labels, in rows 1 and 3.",
    ),
    "nothing-joins": (
        "id,sequence\nsp|P1,MKT\n",
        "id,label\nP1,1\n",
        "labels.csv has labels for none of the ids of t.csv, such as 'sp|P1' and 'P1'.",
    ),
    "unlabelled": (
        "id,sequence\na,MKT\nb,MKV\n",
        "id,label\na,1\n",
        "t.csv: 1 of 2 rows has no label in 'label' of labels.csv, first row 2 (id 'b'). "
        'Fill in, or leave out with data.missing_labels = "drop".',
    ),
    "label-twice": ("id,sequence\na,MKT\n", "id,label,label\na,1,1\n", "labels.csv has the column 'label' twice."),
}


@pytest.mark.parametrize(("inputs", "labels", "message"), JOINS.values(), ids=JOINS)
def test_labels_that_do_not_join_are_refused(tmp_path, inputs, labels, message):
    path, second = tmp_path / "t.csv", tmp_path / "labels.csv"
    path.write_text(inputs)
    second.write_text(labels)
    assert refusal(read_examples, DataOptions(path=str(path), labels=str(second)), {"head": "label"}) == message


def test_streamed_examples_refuse_like_whole_tables(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,seq\na,MKT\nb,\n")
    named = DataOptions(path="", inputs={"sequence": "seq"})
    assert refusal(stream_examples, path, DataOptions(path="")) == (
        "t.csv has no column 'sequence'. Its columns are: id, seq."
    )
    assert refusal(stream_examples, path, named, chunk=1) == "t.csv row 2 (id 'b') has no 'seq'."


def test_one_id_with_two_labels_is_refused(tmp_path):
    (tmp_path / "two.csv").write_text("id,sequence,label\np1,MKT,a\np2,MKV,b\np1,MKT,b\n")
    with pytest.raises(DataError) as caught:
        read_examples(DataOptions(path=str(tmp_path / "two.csv")), {"head": "label"})
    assert str(caught.value) == "two.csv: id 'p1' has two different labels, in rows 1 and 3."
