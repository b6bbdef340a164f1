"""A corrupt AnnData file is refused in one sentence, never half-read; so are values that no model can take."""

import shutil
import subprocess
import sys
from subprocess import PIPE

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from exapt import DataError
from exapt.data.columns import check_column
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.readers.h5ad import batches_of
from exapt_singlecell.sources import Source
from singlecell.cell_tables import SPECS, cells_by_genes, counts, dense, read, refusal, shared

AGAIN = "Fetch or write the file again."
COPY = "Copy or download the file again."


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of one table as rows, as columns and dense."""
    folder = tmp_path_factory.mktemp("whole")
    for name, layout in (("csr", sparse.csr_matrix), ("csc", sparse.csc_matrix), ("dense", np.asarray)):
        adata = cells_by_genes(layout(counts()), layers={"other": layout(counts())})
        adata.obs["type"] = pd.Categorical(["B", "T", "B", "T", "B", "T", "B"])
        adata.write_h5ad(folder / f"{name}.h5ad", compression="gzip")
    return folder


@pytest.fixture
def cells(whole, tmp_path):
    """Return a function that copies one of the files and lets surgery be done on it."""

    def copy(layout, surgery):
        path = tmp_path / "cells.h5ad"
        shutil.copyfile(whole / f"{layout}.h5ad", path)
        with h5py.File(path, "a") as file:
            surgery(file)
        return path

    return copy


def put(file, key, values):
    attributes = dict(file[key].attrs)
    del file[key]
    file[key] = values
    file[key].attrs.update(attributes)


def changed(key, place, value):
    """Return surgery that changes one number."""

    def surgery(file):
        values = file[key][:]
        values[place] = value
        put(file, key, values)

    return surgery


HUGE = 10**13


def unwritten(file, key, kind):
    """Claim more values than any disk holds, of which none is stored."""
    attributes = dict(file[key].attrs)
    del file[key]
    file.create_dataset(key, (HUGE,), kind, chunks=(1000,)).attrs.update(attributes)


def claimed(file, key):
    unwritten(file, f"{key}/data", "f4")
    unwritten(file, f"{key}/indices", "i4")
    put(file, f"{key}/indptr", np.array([0, *[HUGE] * 7]))


def shortened(key):
    return lambda file: put(file, key, file[key][:-1])


def without(key):
    return lambda file: file.pop(key)


@pytest.mark.parametrize(
    ("layout", "surgery", "message"),
    [
        ("csr", changed("X/indices", 3, 5), f"X of cells.h5ad is damaged: an entry belongs to gene 6 of 5. {AGAIN}"),
        ("csr", changed("X/indices", 3, -1), f"X of cells.h5ad is damaged: an entry belongs to gene 0 of 5. {AGAIN}"),
        ("csc", changed("X/indices", 3, 7), f"X of cells.h5ad is damaged: an entry belongs to cell 8 of 7. {AGAIN}"),
        (
            "csr",
            changed("X/indptr", 2, 99),
            f"X of cells.h5ad is damaged: its 'indptr' has entries that do not rise from 0. {AGAIN}",
        ),
        (
            "csc",
            changed("X/indptr", 0, 1),
            f"X of cells.h5ad is damaged: its 'indptr' has entries that do not rise from 0. {AGAIN}",
        ),
        (
            "csr",
            changed("X/indptr", 7, 99),
            f"X of cells.h5ad is damaged: its 'indptr' has 99 as its last entry, for 11 values. {AGAIN}",
        ),
        (
            "csr",
            shortened("X/indptr"),
            f"X of cells.h5ad is damaged: its 'indptr' has 7 entries for 7 rows. {AGAIN}",
        ),
        ("csr", shortened("X/data"), f"X of cells.h5ad is damaged: it has 10 values at 11 places. {AGAIN}"),
        ("csc", shortened("X/indices"), f"X of cells.h5ad is damaged: it has 11 values at 10 places. {AGAIN}"),
        ("csr", without("X/indices"), f"X of cells.h5ad has no 'indices', so that it is no sparse matrix. {AGAIN}"),
        (
            "csr",
            lambda file: put(file, "X/indptr", file["X/indptr"][:] / 1),
            f"X of cells.h5ad holds fractions, where there should be positions. {AGAIN}",
        ),
        (
            "dense",
            lambda file: put(file, "X", np.full((7, 5), b"1")),
            f"X of cells.h5ad holds text, where there should be numbers. {AGAIN}",
        ),
        (
            "csr",
            lambda file: file["X"].attrs.create("shape", "hello"),
            "X of cells.h5ad does not say its shape. Write the file again.",
        ),
        (
            "csr",
            lambda file: claimed(file, "X"),
            f"X of cells.h5ad is damaged: its 'indptr' has 10,000,000,000,000 entries in a row of 5. {AGAIN}",
        ),
        (
            "csr",
            lambda file: unwritten(file, "obs/_index", h5py.string_dtype()),
            f"obs of cells.h5ad is damaged: its names are not there as a whole. {AGAIN}",
        ),
        (
            "csr",
            lambda file: file["X"].attrs.modify("shape", [5, 7]),
            f"X of cells.h5ad is 5 x 7, for 7 cells and 5 genes. {AGAIN}",
        ),
        (
            "dense",
            lambda file: put(file, "X", counts()[:-1]),
            f"X of cells.h5ad is 6 x 5, for 7 cells and 5 genes. {AGAIN}",
        ),
        (
            "dense",
            lambda file: put(file, "X", counts().ravel()),
            f"X of cells.h5ad is 35, for 7 cells and 5 genes. {AGAIN}",
        ),
        (
            "csr",
            lambda file: file["X"].attrs.pop("shape"),
            "X of cells.h5ad does not say its shape. Write the file again.",
        ),
        (
            "csr",
            lambda file: file["X"].attrs.modify("encoding-type", "coo_matrix"),
            "X of cells.h5ad is stored as 'coo_matrix'; only dense, csr_matrix and csc_matrix can be read.",
        ),
        ("csr", without("obs"), "cells.h5ad is HDF5, but no AnnData: it has no 'obs'."),
        ("csr", without("X"), "cells.h5ad has no X. Choose with the option layer: other."),
    ],
)
def test_parts_that_do_not_fit_each_other(cells, layout, surgery, message):
    assert refusal(cells(layout, surgery)) == message


def test_the_same_gene_twice_in_a_cell(cells):
    rows = cells("csr", lambda file: put(file, "X/indices", np.zeros(11, dtype=np.int32)))
    assert refusal(rows) == f"X of cells.h5ad has the gene 'G1' in the cell 'c2' twice. {AGAIN}"
    columns = cells("csc", lambda file: put(file, "X/indices", np.zeros(11, dtype=np.int32)))
    assert refusal(columns) == f"X of cells.h5ad has the gene 'G1' in the cell 'c1' twice. {AGAIN}"


@pytest.mark.parametrize(("key", "name"), [("obs/type/codes", "obs"), ("obs/_index", "obs"), ("var/_index", "var")])
def test_tables_of_cells_and_genes_that_do_not_fit(cells, key, name):
    said = refusal(cells("csr", shortened(key)))

    assert said.startswith((f"{name} of cells.h5ad is damaged: ", "X of cells.h5ad is 7 x 5, for "))
    assert said.endswith(AGAIN)


def test_a_category_without_a_word(cells):
    said = refusal(cells("csr", changed("obs/type/codes", 0, 9)))

    assert said == (f"obs of cells.h5ad is damaged: its columns cannot be read, or do not fit each other. {AGAIN}")


def test_a_table_that_is_none(cells):
    def surgery(file):
        del file["obs"]
        file.create_group("obs").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})

    assert refusal(cells("csr", surgery)) == f"obs of cells.h5ad is dict, no table. {AGAIN}"


def test_a_file_that_is_cut_off_anywhere(whole, tmp_path):
    path = tmp_path / "cells.h5ad"
    held = (whole / "csr.h5ad").read_bytes()
    for kept in range(1, len(held), len(held) // 40):
        path.write_bytes(held[:kept])

        said = refusal(path)

        whole = f"cells.h5ad is cut off: it has {kept:,} of {len(held):,} bytes. {COPY}"
        assert said == whole if kept > 600 else said.startswith("cells.h5ad is ")


def test_a_file_that_another_program_writes(cells):
    path = cells("csr", lambda file: None)
    code = f"import h5py; file = h5py.File({str(path)!r}, 'a'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        assert refusal(path) == "cells.h5ad is open in another program, which may be writing it. Close it there."
        other.communicate("\n")


def test_real_cells_that_are_cut_off(tmp_path):
    path = tmp_path / "cells.h5ad"
    held = shared("sc_scmark2k").read_bytes()
    path.write_bytes(held[: len(held) // 2])

    assert refusal(path) == f"cells.h5ad is cut off: it has {len(held) // 2:,} of {len(held):,} bytes. {COPY}"


def test_packed_values_that_were_overwritten(cells):
    path = cells("csr", lambda file: None)
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\0" * chunk.size)

    said, size = refusal(path), path.stat().st_size

    assert said.startswith(f"cells.h5ad is damaged: not all of its {size:,} bytes can be read as HDF5")
    assert said.endswith(f". {COPY}")
    assert "=" not in said


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("compression", ["gzip", None])
def test_a_byte_changed_anywhere_in_the_matrix_is_refused_or_changes_values_only(tmp_path, layout, compression):
    path = tmp_path / "cells.h5ad"
    cells_by_genes(getattr(sparse, f"{layout}_matrix")(counts())).write_h5ad(path, compression=compression)
    with h5py.File(path) as file:
        chunks = [file[f"X/{part}"].id.get_chunk_info(0) for part in ("data", "indices", "indptr")]
    held = path.read_bytes()
    outcomes = []
    for chunk in chunks:
        for place in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 3):
            path.write_bytes(held[:place] + bytes([held[place] ^ 0x55]) + held[place + 1 :])
            outcomes.append(outcome(path))
    refused = [said for said in outcomes if said != "read"]
    assert refused
    assert all(said.startswith(("X of cells.h5ad ", "cells.h5ad is damaged: ")) for said in refused)


def outcome(path):
    try:
        table = read(path)
    except DataError as error:
        return str(error)
    assert dense(table).shape == (7, 5)
    return "read"


def test_other_files_under_its_name(tmp_path):
    path = tmp_path / "cells.h5ad"
    for held, message in (
        (b"", "cells.h5ad is empty."),
        (b"id,label\n", "cells.h5ad is no HDF5 file, whatever its name says."),
        (b"\x1f\x8b\x08\0", "cells.h5ad is inside gzip. Unpack it with gunzip."),
        (b"PK\x03\x04zarr", "cells.h5ad is a zip archive. Unpack it."),
    ):
        path.write_bytes(held)
        assert refusal(path) == message
    path.unlink()
    assert refusal(path) == f"'{path}' cannot be read: No such file or directory."
    with h5py.File(path, "w") as file:
        file.create_group("matrix")
    assert refusal(path) == (
        "cells.h5ad is HDF5, but no AnnData: it has no 'obs'. It looks like Cell Ranger's: name the format 10x-h5."
    )


def with_value(value):
    values = counts().astype(np.float64)
    values[4, 3] = value
    return values


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "no counts, but 0.5 for {named}. {hint}"),
        (-1, "-1 for {named}: expression is never negative. {hint}"),
        (np.nan, "nan for {named}. {again}"),
        (np.inf, "inf for {named}. {again}"),
        (1e300, "1e+300 for {named}. {again}"),
        (2**24 + 1, "1.67772e+07 for {named}, more than can be a count. {again}"),
    ],
)
def test_values_that_are_no_counts(layout, value, said):
    hint = "No other layer holds counts; take a file that does."
    if value == 0.5:
        hint += ' scGPT reads such values too, with values = "normalised".'

    with pytest.raises(DataError) as raised:
        list(batches_of(cells_by_genes(layout(with_value(value)))))

    named = "the gene 'G4' in the cell 'c5'"
    assert str(raised.value) == f"X of adata has {said.format(named=named, hint=hint, again=AGAIN)}"


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_some_values_are_refused_even_as_normalised(value):
    with pytest.raises(DataError, match=r"^X of adata has (-1|nan|inf) for the gene 'G4' in the cell 'c5'"):
        list(batches_of(cells_by_genes(with_value(value)), H5adOptions(values="normalised")))


def test_the_place_that_holds_counts_is_named(tmp_path):
    path = tmp_path / "cells.h5ad"
    scaled = counts() - 1
    adata = cells_by_genes(np.log1p(counts()), layers={"scaled": scaled, "umis": sparse.csc_matrix(counts())})
    adata.write_h5ad(path)
    assert refusal(path).endswith("in the cell 'c1'. Counts are in the layer 'umis': set layer = \"umis\".")
    said = refusal(path, layer="scaled", values="normalised")
    assert said.startswith("the layer 'scaled' of cells.h5ad has -1 for the gene 'G")
    assert said.endswith("expression is never negative. Counts are in the layer 'umis': set layer = \"umis\".")

    adata.raw = cells_by_genes(counts())
    del adata.layers["umis"]
    adata.write_h5ad(path)
    assert refusal(path).endswith("in the cell 'c1'. Counts are in .raw: set layer = \"raw\".")

    adata.X, adata.raw = counts(), cells_by_genes(np.log1p(counts()))
    adata.write_h5ad(path)
    assert refusal(path, layer="raw").endswith("in the cell 'c1'. Counts are in X: leave the option layer empty.")
    adata.X, adata.raw = scaled, None
    adata.write_h5ad(path)
    assert refusal(path, values="normalised").endswith(
        "Nor does another layer hold counts; take the values from before they were scaled."
    )


def test_a_layer_that_is_not_there(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells_by_genes().write_h5ad(path)
    assert refusal(path, layer="counts") == (
        "cells.h5ad has no layer 'counts'. Its layers are: none; leave the option layer empty for X."
    )
    adata = cells_by_genes(layers={"spliced": counts(), "umis": counts()})
    adata.write_h5ad(path)
    assert refusal(path, layer="raw") == (
        "cells.h5ad has no .raw. Its layers are: spliced, umis; leave the option layer empty for X."
    )
    anndata.AnnData(obs=adata.obs, var=adata.var).write_h5ad(path)
    assert refusal(path) == "cells.h5ad has no X. It has no layers either."
    with pytest.raises(DataError) as raised:
        list(batches_of(anndata.AnnData(obs=adata.obs, var=adata.var)))
    assert str(raised.value) == "adata has no X. It has no layers either."


def test_genes_that_stand_twice(tmp_path):
    path = tmp_path / "cells.h5ad"
    adata = cells_by_genes()
    adata.var["symbol"] = ["A", "B", "A", "B", "A"]
    adata.write_h5ad(path)
    assert refusal(path, genes="symbol") == (
        "var of cells.h5ad has 'A' 3 times in its column 'symbol', and 1 more genes do. "
        "Leave the option genes empty: the names of var are unique."
    )
    assert refusal(path, genes="ensembl") == "var of cells.h5ad has no column 'ensembl'. Its columns are: symbol."
    assert refusal(path, gene_labels=("dosage",)) == (
        "var of cells.h5ad has no column 'dosage'. Its columns are: symbol."
    )

    adata.var_names = ["A", "B", "A", "C", "D"]
    adata.write_h5ad(path)
    assert refusal(path) == (
        "var of cells.h5ad has 'A' twice in its names. "
        "Call var_names_make_unique(), or name a column without repeats in the option genes."
    )
    adata.var["gene_ids"] = ["E1", "E2", "E3", "E4", "E5"]
    adata.write_h5ad(path)
    assert refusal(path) == (
        "var of cells.h5ad has 'A' twice in its names. "
        'Call var_names_make_unique(), or set genes = "gene_ids", a column without repeats.'
    )


def test_columns_that_clash(tmp_path):
    path = tmp_path / "cells.h5ad"
    adata = cells_by_genes()
    adata.obs["id"] = adata.obs["obs:id"] = "x"
    adata.write_h5ad(path)
    assert refusal(path) == (
        "cells.h5ad has the columns 'id' and 'obs:id' in obs: a table of cells has 'id' itself, so that both would be called "
        "'obs:id'. Rename one of them."
    )
    adata = cells_by_genes()
    adata.obs = pd.concat([adata.obs.assign(donor="x"), adata.obs.assign(donor="y")], axis=1)
    with pytest.raises(DataError, match=r"^adata has the column 'donor' twice in obs\. Rename one of them\.$"):
        list(batches_of(adata))

    adata = cells_by_genes()
    adata.obs["var:length"], adata.var["length"] = 1, 2
    adata.write_h5ad(path)
    assert refusal(path, gene_labels=("length",)) == (
        "obs has a column 'var:length', the name that 'length' of var of cells.h5ad needs. Rename one."
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a", None, 2, 3, 4, 5], "values of several types in 'odd': int, str"),
        ([1j] * 7, "values of a type that cannot be read in 'odd': complex128"),
        (
            pd.arrays.SparseArray([0, 1, 0, 0, 0, 0, 0]),
            "values of a type that cannot be read in 'odd': Sparse[int64, 0]",
        ),
        ([2**70] * 7, "values of a type that cannot be read in 'odd': int"),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_to_those_alone_who_ask_for_it(values, said):
    adata = cells_by_genes()
    adata.obs["odd"], adata.obs["fine"] = values, "x"
    source = Source.of(adata, H5adOptions(), "adata")

    table = pa.Table.from_batches(list(batches_of(adata)))

    assert table.column_names == ["id", "fine", "cell"]
    np.testing.assert_array_equal(dense(table), counts())
    for ask in (lambda: check_column(table, "odd", "adata"), lambda: next(iter(source)).labels("odd")):
        with pytest.raises(DataError) as raised:
            ask()
        assert str(raised.value) == f"obs of adata has {said}. Make them text."
    with pytest.raises(DataError, match=r"^adata has no column 'other'\. Its columns are: id, fine, cell\.$"):
        check_column(table, "other", "adata")


def test_columns_that_were_left_out_are_told(tmp_path):
    path = tmp_path / "cells.h5ad"
    adata = cells_by_genes()
    adata.obs["odd"] = np.array([1j] * 7)
    adata.write_h5ad(path)
    reader = SPECS["h5ad"].build(H5adOptions(), path)

    assert pa.Table.from_batches(list(reader)).column_names == ["id", "cell"]
    assert reader.lines() == ["cells.h5ad: columns of obs that cannot be read are left out: 'odd'"]


def test_no_cells_and_no_genes():
    with pytest.raises(DataError, match=r"^X of adata has no cells\.$"):
        list(batches_of(cells_by_genes(np.zeros((0, 5)))))
    with pytest.raises(DataError, match=r"^X of adata has no genes\.$"):
        list(batches_of(cells_by_genes(np.zeros((7, 0)))))
