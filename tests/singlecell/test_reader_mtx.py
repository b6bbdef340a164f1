"""Matrix Market folders become tables of cells, in whatever order their entries lie."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from scipy import io, sparse

from exapt import DataError
from exapt.data.files import table_sha256
from exapt.data.tables import open_table
from exapt.testing import inline
from exapt_singlecell.readers import matrix, mtx
from singlecell.cell_tables import PLUGINS, Readers, counts, dense, genes, read, refusal

CELLS = [f"AAAC{number}-1" for number in range(7)]
IDS = ["ENSG1", "ENSG2", "ENSG3", "ENSG4", "ENSG5"]
HEAD = "%%MatrixMarket matrix coordinate integer general\n%metadata_json: {}\n"


def text(values, order="cells"):
    """Return the text of a matrix of cells by genes as Cell Ranger writes it, entries by cell, or else by gene."""
    places = np.argwhere(values) if order == "cells" else np.argwhere(values.T)[:, ::-1]
    rows = [f"{gene + 1} {cell + 1} {values[cell, gene]:g}\n" for cell, gene in places]
    return f"{HEAD}{values.shape[1]} {values.shape[0]} {len(rows)}\n{''.join(rows)}"


def folder_of(folder, body, features=None, names=("matrix.mtx", "barcodes.tsv", "features.tsv"), zipped=False):
    features = features or [f"{gene}\tS{gene}\tGene Expression" for gene in IDS]
    for name, held in zip(names, (body, "\n".join(CELLS) + "\n", "\n".join(features) + "\n"), strict=True):
        path = folder / f"{name}{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(held.encode()) if zipped else held.encode())
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("features", ["features.tsv", "genes.tsv"])
def test_a_folder(tmp_path, zipped, features):
    names = ("matrix.mtx", "barcodes.tsv", features)
    columns = None if features == "features.tsv" else [f"{gene}\tS{gene}" for gene in IDS]
    folder_of(tmp_path, text(counts()), columns, names, zipped)

    table = pa.Table.from_batches(list(open_table(tmp_path, plugins=PLUGINS)))

    assert table.column_names == ["id", "cell"]
    assert table["id"].to_pylist() == CELLS
    assert genes(table) == IDS
    np.testing.assert_array_equal(dense(table), counts())
    assert genes(read(tmp_path, "mtx", genes="name")) == [f"S{gene}" for gene in IDS]


def test_its_matrix_is_named_also_with_a_prefix(tmp_path):
    folder_of(
        tmp_path, text(counts()), names=("GSM1_matrix.mtx", "GSM1_barcodes.tsv", "GSM1_features.tsv"), zipped=True
    )
    path = tmp_path / "GSM1_matrix.mtx.gz"

    table = pa.Table.from_batches(list(open_table(path, plugins=PLUGINS)))

    np.testing.assert_array_equal(dense(table), counts())
    assert refusal(tmp_path, "mtx") == (
        f"the folder '{tmp_path}' has no matrix.mtx or matrix.mtx.gz. "
        "Name one of its files instead: GSM1_matrix.mtx.gz."
    )


@pytest.mark.parametrize("order", ["cells", "genes"])
def test_entries_in_any_order_and_pieces_of_any_size_make_the_same_table(tmp_path, monkeypatch, order):
    folder = folder_of(tmp_path, text(counts(), order))
    for cells, entries, band in ((1, 1, 1), (2, 100, 5), (1024, 3, 1000)):
        monkeypatch.setattr(matrix, "CELLS", cells)
        monkeypatch.setattr(matrix, "ENTRIES", entries)
        monkeypatch.setattr(matrix, "BAND", band)

        np.testing.assert_array_equal(dense(read(folder, "mtx")), counts())


@pytest.mark.parametrize("field", ["integer", "real"])
@pytest.mark.parametrize("layout", [sparse.csc_matrix, sparse.csr_matrix, sparse.coo_matrix])
def test_what_scipy_writes_is_read_as_scipy_reads_it(tmp_path, field, layout):
    folder = folder_of(tmp_path, "")
    kind = np.int64 if field == "integer" else np.float64
    io.mmwrite(tmp_path / "matrix.mtx", layout(counts().T.astype(kind)), field=field)

    found = dense(read(folder, "mtx"))

    np.testing.assert_array_equal(found, io.mmread(tmp_path / "matrix.mtx").toarray().T)
    np.testing.assert_array_equal(found, counts())


def test_tabs_blank_ends_and_windows_lines(tmp_path):
    folder = folder_of(tmp_path, (text(counts()).replace(" ", "\t") + "\n\n").replace("\n", "\r\n"))
    body = (tmp_path / "matrix.mtx").read_text().split("\r\n")
    (tmp_path / "matrix.mtx").write_text("\r\n".join([line.replace("\t", " ") for line in body[:2]] + body[2:]))

    np.testing.assert_array_equal(dense(read(folder, "mtx")), counts())


def test_no_entries_at_all_are_empty_cells(tmp_path):
    table = read(folder_of(tmp_path, f"{HEAD}5 7 0\n"), "mtx")

    np.testing.assert_array_equal(dense(table), np.zeros((7, 5)))


def test_features_that_are_no_genes_are_left_out_and_told(tmp_path):
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression", "Gene Expression", "Antibody Capture"]
    features = [f"{gene}\tS\t{kind}" for gene, kind in zip(IDS, kinds, strict=True)]
    reader = open_table(folder_of(tmp_path, text(counts()), features), plugins=PLUGINS)

    table = pa.Table.from_batches(list(reader))

    assert genes(table) == ["ENSG1", "ENSG3", "ENSG4"]
    np.testing.assert_array_equal(dense(table), counts()[:, [0, 2, 3]])
    assert reader.lines() == ["matrix.mtx: 2 of 5 features are left out: Antibody Capture (2)"]


def test_missing_and_surplus_files(tmp_path):
    folder_of(tmp_path, text(counts()))
    (tmp_path / "features.tsv").rename(tmp_path / "kept")
    assert refusal(tmp_path, "mtx") == (
        "there is no features.tsv or genes.tsv (or with .gz) beside matrix.mtx, so that its rows and columns have no names."
    )
    (tmp_path / "kept").rename(tmp_path / "features.tsv")
    (tmp_path / "matrix.mtx.gz").write_bytes(b"")
    assert refusal(tmp_path, "mtx") == (
        f"'{tmp_path}' has both matrix.mtx and matrix.mtx.gz. Remove the one that is not meant."
    )


NINE = "".join(f"{1 + place % 5} {1 + place // 5} 1\n" for place in range(9))
AGAIN = "Fetch or write it again."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "matrix.mtx is no Matrix Market file: its first line is not '%%MatrixMarket matrix ...'."),
        (
            "%%MatrixMarket matrix array real general\n5 7\n",
            "matrix.mtx is a matrix 'array real general'; what can be read is 'coordinate integer general' and "
            "'coordinate real general'.",
        ),
        (
            "%%MatrixMarket matrix coordinate pattern general\n5 7 1\n1 1\n",
            "matrix.mtx is a matrix 'coordinate pattern general'; what can be read is 'coordinate integer general' and "
            "'coordinate real general'.",
        ),
        (HEAD, f"matrix.mtx is cut off: it does not say its size. {AGAIN}"),
        (
            f"{HEAD}5 7\n",
            f"matrix.mtx line 3 is '5 7', not the numbers of genes, cells and entries. {AGAIN}",
        ),
        (
            f"{HEAD}5 8 9\n{NINE}",
            "matrix.mtx is 5 x 8, for 5 features and 7 barcodes. Take lists that belong to it.",
        ),
        (
            f"{HEAD}7 5 9\n{NINE}",
            "matrix.mtx is 7 x 5, for 5 features and 7 barcodes. It is cells x genes; turn it round.",
        ),
        (f"{HEAD}5 7 10\n{NINE}", f"matrix.mtx is cut off: it announces 10 entries, and has 9. {AGAIN}"),
        (f"{HEAD}5 7 8\n{NINE}", f"matrix.mtx is damaged: it announces 8 entries, and has 9. {AGAIN}"),
        (f"{HEAD}5 7 0\n{NINE}", f"matrix.mtx is damaged: it announces 0 entries, and has 9. {AGAIN}"),
        (f"{HEAD}5 7 4\n", f"matrix.mtx is cut off: it announces 4 entries, and has 0. {AGAIN}"),
        (
            f"{HEAD}5 7 10\n{NINE}6 7 1\n",
            "matrix.mtx is damaged: an entry belongs to gene 6 of 5. Fetch or write the file again.",
        ),
        (
            f"{HEAD}5 7 10\n{NINE}1 0 1\n",
            "matrix.mtx is damaged: an entry belongs to cell 0 of 7. Fetch or write the file again.",
        ),
        (
            f"{HEAD}5 7 10\n{NINE}5 1 2\n",
            "matrix.mtx has the gene 'ENSG5' in the cell 'AAAC0-1' twice. Fetch or write the file again.",
        ),
        (
            f"{HEAD}5 7 10\n{NINE}5 2 -2\n",
            "matrix.mtx has -2 for the gene 'ENSG5' in the cell 'AAAC1-1': expression is never negative. Read counts.",
        ),
        (
            f"{HEAD}5 7 10\n{NINE}5 2 0.5\n",
            "matrix.mtx has no counts, but 0.5 for the gene 'ENSG5' in the cell 'AAAC1-1'. "
            'Read counts; scGPT reads these too, with values = "normalised".',
        ),
        (
            f"{HEAD}5 7 10\n{NINE}5 2 nan\n",
            "matrix.mtx has nan for the gene 'ENSG5' in the cell 'AAAC1-1'. Fetch or write the file again.",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damage(tmp_path, body, message, zipped):
    folder = folder_of(tmp_path, body, zipped=zipped)

    assert refusal(folder, "mtx") == message.replace("matrix.mtx", "matrix.mtx.gz" if zipped else "matrix.mtx")


@pytest.mark.parametrize(
    "last", ["5 2", "5 2 1 1", "5 2 x", "5 2 NA", "5 2 1_0", "5 2 0x1", "5.5 2 1", "5 2 99999999999999999999x"]
)
def test_entries_that_are_none(tmp_path, last):
    said = refusal(folder_of(tmp_path, f"{HEAD}5 7 10\n{NINE}{last}\n"), "mtx")

    assert said == f"matrix.mtx line 13 is '{last}', not the numbers of a gene, a cell and a value. {AGAIN}"


def test_blanks_at_will_and_comments_anywhere(tmp_path, monkeypatch):
    plain = text(counts()).splitlines()
    padded = [*plain[:2], *(" ".join(f"{word:>9}" for word in line.split()) for line in plain[2:])]
    trailing = [*plain[:5], *(f"{line} " for line in plain[5:8]), *(f"{line}\t " for line in plain[8:])]
    said = [*plain[:3], "% a comment", *plain[3:7], "", "%", "%another one", *plain[7:]]
    for together in (1, 1 << 20):
        monkeypatch.setattr(mtx, "_TOGETHER", together)
        for lines in (padded, trailing, said):
            for zipped in (False, True):
                folder = tmp_path / f"{together}{lines is padded}{lines is said}{zipped}"
                folder.mkdir()
                folder_of(folder, "\n".join(lines) + "\n", zipped=zipped)

                np.testing.assert_array_equal(dense(read(folder, "mtx")), counts())


def test_numbers_in_any_writing(tmp_path):
    body = f"{HEAD}5 7 4\n1 1  +3\n2 1 4.0\n3 1 .2e1\n4 1 1E3\n"

    np.testing.assert_array_equal(dense(read(folder_of(tmp_path, body), "mtx"))[0], [3, 4, 2, 1000, 0])


@pytest.mark.parametrize("body", [f"{HEAD}5 7 1\n1 1 12", f"{HEAD}5 7 2\n1 1 12\n1 2", f"{HEAD}5 7 0"])
def test_a_last_number_that_may_be_cut_off(tmp_path, body):
    folder = folder_of(tmp_path, body)

    assert refusal(folder, "mtx") == (
        "the last line of matrix.mtx has no end, so that its last number may be cut off. Fetch it again; if it is whole, "
        "end it with a line break."
    )


@pytest.mark.parametrize("name", ["barcodes.tsv", "features.tsv"])
def test_lists_whose_last_word_may_be_cut_off(tmp_path, name):
    folder = folder_of(tmp_path, text(counts()))
    whole = (folder / name).read_bytes()
    for missing in (1, 3):
        (folder / name).write_bytes(whole[:-missing])

        assert refusal(folder, "mtx") == (
            f"the last line of {name} has no end, so that its last word may be cut off. Fetch it again; if it is whole, end "
            "it with a line break."
        )
    (folder / name).unlink()
    (folder / f"{name}.gz").write_bytes(gzip.compress(whole[:-1]))
    np.testing.assert_array_equal(dense(read(folder, "mtx")), counts())


def test_genes_that_stand_twice_in_a_list(tmp_path):
    folder = folder_of(tmp_path, text(counts()), [f"{gene}\tS\tGene Expression" for gene in IDS])
    assert refusal(folder, "mtx", genes="name") == (
        "the list of features of matrix.mtx has 'S' 5 times in its column 'name'. "
        "Leave the option genes empty: the ids are unique."
    )
    folder_of(folder, text(counts()), [f"E\t{gene}\tGene Expression" for gene in IDS])
    assert refusal(folder, "mtx") == (
        "the list of features of matrix.mtx has 'E' 5 times in its ids. Set genes = \"name\", a column without repeats."
    )
    folder_of(folder, text(counts()), ["E\tS\tGene Expression"] * 5)
    assert refusal(folder, "mtx") == (
        "the list of features of matrix.mtx has 'E' 5 times in its ids. Name a column without repeats in the option genes."
    )


def test_a_size_beyond_all_numbers(tmp_path):
    said = refusal(folder_of(tmp_path, f"{HEAD}5 7 {'9' * 9999}\n"), "mtx")

    assert said == f"matrix.mtx line 3 is '5 7 {'9' * 36}', not the numbers of genes, cells and entries. {AGAIN}"


def test_lines_of_lists_end_at_line_feeds_alone(tmp_path):
    names = ["S\u2028a", "S\x85b", "S\x0bc", "S\x1cd", "Se"]
    features = [f"{gene}\t{name}\tGene Expression\r" for gene, name in zip(IDS, names, strict=True)]
    folder = folder_of(tmp_path, text(counts()), features)

    assert genes(read(folder, "mtx", genes="name")) == names


def test_the_hash_of_a_matrix_that_is_named_is_that_of_its_folder_and_of_its_lists(tmp_path):
    folder = folder_of(tmp_path, text(counts()))
    (tmp_path / "notes.txt").write_text("no part of the table")
    with inline(Readers):
        before = table_sha256(folder / "matrix.mtx")
        assert table_sha256(folder) == before
        for name in ("matrix.mtx", "barcodes.tsv", "features.tsv"):
            path = folder / name
            held = path.read_bytes()
            path.write_bytes(held.replace(b"1", b"3"))
            assert table_sha256(folder / "matrix.mtx") != before
            path.write_bytes(held)
        (tmp_path / "notes.txt").write_text("still none")
        assert table_sha256(folder / "matrix.mtx") == before
        (folder / "barcodes.tsv").unlink()
        with pytest.raises(DataError, match=r"^there is no barcodes\.tsv \(or with \.gz\) beside matrix\.mtx, so that"):
            table_sha256(folder / "matrix.mtx")


def test_gzip_that_is_cut_off(tmp_path):
    values = np.random.default_rng(0).poisson(2, (7, 5))
    folder = folder_of(tmp_path, text(values), zipped=True)
    for name in ("barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz"):
        path = folder / name
        whole = path.read_bytes()
        for kept in (len(whole) - 1, len(whole) // 2, 5):
            path.write_bytes(whole[:kept])

            assert refusal(folder, "mtx").startswith(f"{name} is cut off or damaged: ")
        path.write_bytes(whole[:-8] + b"\0" * 4 + whole[-4:])
        assert refusal(folder, "mtx").startswith(f"{name} is cut off or damaged: ")
        path.write_bytes(whole)


def test_lists_that_do_not_fit(tmp_path):
    folder_of(tmp_path, text(counts()))
    path = tmp_path / "barcodes.tsv"
    path.write_text("x\n" + "\n".join(CELLS) + "\n")
    assert refusal(tmp_path, "mtx") == (
        "matrix.mtx is 5 x 7, for 5 features and 8 barcodes. Take lists that belong to it."
    )
    path.write_text("\n".join([*CELLS[:3], "", *CELLS[4:]]) + "\n")
    assert refusal(tmp_path, "mtx") == f"barcodes.tsv line 4 is empty. {AGAIN}"
    path.write_text("\n".join(CELLS) + "\r\n\r\n")
    assert refusal(tmp_path, "mtx") == f"barcodes.tsv line 8 is empty. {AGAIN}"
    path.write_text("\n".join([*CELLS[:6], "a\tb"]) + "\n")
    assert refusal(tmp_path, "mtx") == f"barcodes.tsv line 7 has 2 fields, first 'a'. {AGAIN}"
    path.write_bytes(b"\xff\xfe")
    assert refusal(tmp_path, "mtx") == f"barcodes.tsv is not UTF-8 text. {AGAIN}"
    path.write_text("")
    (tmp_path / "matrix.mtx").write_text(f"{HEAD}5 0 0\n")
    assert refusal(tmp_path, "mtx") == "matrix.mtx has no cells."
