"""What a file claims to hold and never wrote, which HDF5 reads as zeros, is refused; a file without entries is not."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from exapt import DataError
from exapt_singlecell.readers.h5ad import batches_of
from singlecell.cell_tables import cells_by_genes, counts, dense, read, refusal

AGAIN = "Fetch or write the file again."


def unwritten(file, key, chunks=None, kept=0):
    """Put a dataset of the same shape in the place of one, of which only ``kept`` values from the first on are written."""
    held, attributes = file[key][()], dict(file[key].attrs)
    shape, kind = file[key].shape, file[key].dtype
    del file[key]
    made = file.create_dataset(key, shape, kind, chunks=chunks)
    made.attrs.update(attributes)
    if kept:
        made[:kept] = held[:kept]


def table(path, layout=sparse.csr_matrix):
    """Write a table of 7 cells and 5 genes, 11 entries, with a column of each kind."""
    adata = cells_by_genes(layout(counts()), layers={"other": layout(counts())})
    adata.obs["type"] = pd.Categorical(["B", "T", "B", "T", "B", "T", "B"])
    adata.obs["age"] = np.arange(1.0, 8.0)
    adata.obs["passed"] = pd.array([True, None, False, True, True, True, True], dtype="boolean")
    adata.var["ensembl"] = pd.Categorical([f"ENSG{number}" for number in range(5)])
    adata.raw = adata.copy()
    adata.write_h5ad(path)
    return path


def cell_ranger(path, values):
    held = sparse.csr_matrix(values.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(held, part)
        group["shape"] = np.array(held.shape[::-1])
        group["barcodes"] = np.array([f"AAAC{number}-1".encode() for number in range(held.shape[0])])
        group["features/id"] = np.array([f"ENSG{number}".encode() for number in range(held.shape[1])])
    return path


# The whole of a contiguous dataset, the whole of one in chunks, and the second of two chunks.
HOLES = [{}, {"chunks": (6,)}, {"chunks": (6,), "kept": 6}]


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize(
    ("layout", "place", "option", "named"),
    [
        (sparse.csr_matrix, "X", "", "X"),
        (sparse.csc_matrix, "X", "", "X"),
        (sparse.csr_matrix, "layers/other", "other", "the layer 'other'"),
        (sparse.csr_matrix, "raw/X", "raw", ".raw"),
    ],
)
def test_entries_of_a_sparse_matrix(tmp_path, layout, place, option, named, part, hole):
    path = table(tmp_path / "cells.h5ad", layout)
    with h5py.File(path, "a") as file:
        unwritten(file, f"{place}/{part}", **hole)

    message = f"{named} of cells.h5ad is damaged: its '{part}' is not there as a whole. {AGAIN}"
    assert refusal(path, layer=option) == message


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("hole", HOLES)
def test_entries_of_a_matrix_of_cell_ranger(tmp_path, part, hole):
    path = cell_ranger(tmp_path / "cells.h5", counts())
    with h5py.File(path, "a") as file:
        unwritten(file, f"matrix/{part}", **hole)

    message = f"the matrix of cells.h5 is damaged: its '{part}' is not there as a whole. {AGAIN}"
    assert refusal(path, "10x-h5") == message


def test_where_cells_begin(tmp_path):
    values = np.zeros((7, 5))
    values[3:] = 1
    starts = np.concatenate(([0], np.cumsum(values.sum(axis=1))))
    assert not starts[:4].any()
    for name, path in (
        ("X of cells.h5ad", table(tmp_path / "cells.h5ad", lambda _: sparse.csr_matrix(values))),
        ("the matrix of cells.h5", cell_ranger(tmp_path / "cells.h5", values)),
    ):
        group = "X" if path.suffix == ".h5ad" else "matrix"
        with h5py.File(path, "a") as file:
            unwritten(file, f"{group}/indptr", (4,))
            file[f"{group}/indptr"][4:] = starts[4:]

        said = refusal(path, "h5ad" if group == "X" else "10x-h5")

        assert said == f"{name} is damaged: its 'indptr' is not there as a whole. {AGAIN}"


@pytest.mark.parametrize("hole", [{}, {"chunks": (3, 2)}, {"chunks": (3, 2), "kept": 6}])
@pytest.mark.parametrize(("place", "option", "named"), [("X", "", "X"), ("layers/other", "other", "the layer 'other'")])
def test_values_of_a_dense_matrix(tmp_path, place, option, named, hole):
    path = table(tmp_path / "cells.h5ad", np.asarray)
    with h5py.File(path, "a") as file:
        unwritten(file, place, **hole)

    message = f"{named} of cells.h5ad is damaged: its values are not there as a whole. {AGAIN}"
    assert refusal(path, layer=option) == message
    with pytest.raises(DataError) as raised:
        list(batches_of(anndata.read_h5ad(path, backed="r"))) if place == "X" else read(path, layer=option)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("obs/type/codes", "'type/codes' is"),
        ("obs/type/categories", "'type/categories' is"),
        ("obs/age", "'age' is"),
        ("obs/passed/values", "'passed/values' is"),
        ("obs/passed/mask", "'passed/mask' is"),
        ("obs/_index", "names are"),
        ("var/_index", "names are"),
        ("var/ensembl/codes", "'ensembl/codes' is"),
    ],
)
@pytest.mark.parametrize("chunks", [None, (2,)])
def test_columns_and_names(tmp_path, key, said, chunks):
    path = table(tmp_path / "cells.h5ad")
    with h5py.File(path, "a") as file:
        unwritten(file, key, chunks)

    frame = key.partition("/")[0]
    assert refusal(path) == f"{frame} of cells.h5ad is damaged: its {said} not there as a whole. {AGAIN}"


def test_rows_and_words_of_tables_before_anndata_0_7(tmp_path):
    path = tmp_path / "cells.h5ad"
    rows = np.array([(f"c{row}".encode(), row % 2) for row in range(7)], dtype=[("index", "S8"), ("type", "i1")])
    genes = np.array([(f"G{gene}".encode(),) for gene in range(5)], dtype=[("index", "S8")])
    with h5py.File(path, "w") as file:
        file["X"], file["obs"], file["var"] = counts(), rows, genes
        file["uns/type_categories"] = np.array([b"B", b"T"])
    np.testing.assert_array_equal(dense(read(path)), counts())

    for key, said in (("uns/type_categories", "'type_categories' is"), ("obs", "rows are")):
        with h5py.File(path, "a") as file:
            unwritten(file, key)
        assert refusal(path) == f"obs of cells.h5ad is damaged: its {said} not there as a whole. {AGAIN}"


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_zeros_that_were_written_are_zeros(tmp_path, layout, compression):
    path = tmp_path / "cells.h5ad"
    adata = cells_by_genes(layout(np.zeros((7, 5), dtype=np.float32)))
    adata.obs["age"] = 0.0
    adata.write_h5ad(path, compression=compression)
    with h5py.File(path, "a") as file:
        file["obs"]["note"], file["obs"]["none"] = 1, h5py.Empty("f4")

    np.testing.assert_array_equal(dense(read(path)), np.zeros((7, 5)))
    assert read(path)["age"].to_pylist() == [0.0] * 7


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_matrix_of_cell_ranger_without_entries(tmp_path, compression):
    path = cell_ranger(tmp_path / "cells.h5", np.zeros((7, 5)))
    with h5py.File(path, "a") as file:
        for part in ("data", "indices"):
            del file[f"matrix/{part}"]
            file.create_dataset(f"matrix/{part}", (0,), "i4", chunks=(100,), maxshape=(None,), compression=compression)

    np.testing.assert_array_equal(dense(read(path, "10x-h5")), np.zeros((7, 5)))


def test_a_table_in_more_chunks_than_its_last_ones_fill(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells_by_genes(counts(70, 50)).write_h5ad(path)
    with h5py.File(path, "a") as file:
        held = file["X"][()]
        unwritten(file, "X", (64, 48), kept=70)

    np.testing.assert_array_equal(dense(read(path)), held)
    with h5py.File(path, "a") as file:
        unwritten(file, "X", (64, 48), kept=64)
    # Two chunks of four hold room for all the values.
    assert refusal(path) == f"X of cells.h5ad is damaged: its values are not there as a whole. {AGAIN}"
