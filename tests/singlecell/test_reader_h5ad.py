"""AnnData files and objects become tables of cells, whatever way their values and their columns are stored."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from exapt import DataError
from exapt.cells import cells_of
from exapt.data.tables import open_table
from exapt.recipe import DataOptions
from exapt_singlecell.readers import H5adOptions, matrix
from exapt_singlecell.readers.h5ad import batches_of
from singlecell.cell_tables import PLUGINS, cells_by_genes, counts, dense, genes, read, refusal, shared


def written(folder, adata):
    path = folder / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "uint16", "int64"])
def test_every_layout_and_type_of_counts_gives_the_same_cells(tmp_path, layout, kind):
    path = written(tmp_path, cells_by_genes(layout(counts().astype(kind))))

    table = read(path)

    np.testing.assert_array_equal(dense(table), counts())
    assert table["id"].to_pylist() == ["c1", "c2", "c3", "c4", "c5", "c6", "c7"]
    assert genes(table) == ["G1", "G2", "G3", "G4", "G5"]
    assert all(cell.raw for cell in cells_of(table["cell"]))


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_pieces_of_any_size_make_the_same_table(tmp_path, monkeypatch, layout):
    values = np.random.default_rng(1).poisson(0.4, (61, 17)).astype(np.float32)
    path = written(tmp_path, cells_by_genes(layout(values)))
    for cells, entries, band, block in ((1, 1, 1, 1), (3, 40, 25, 7), (10, 10**6, 100, 13), (7, 3, 10**6, 10**6)):
        monkeypatch.setattr(matrix, "CELLS", cells)
        monkeypatch.setattr(matrix, "ENTRIES", entries)
        monkeypatch.setattr(matrix, "BAND", band)
        monkeypatch.setattr(matrix, "BLOCK", block)

        np.testing.assert_array_equal(dense(read(path)), values)


def test_a_batch_ends_after_a_thousand_cells_and_all_have_one_schema(tmp_path):
    path = written(tmp_path, cells_by_genes(sparse.csr_matrix(counts(2500))))

    batches = list(open_table(path, plugins=PLUGINS))

    assert [batch.num_rows for batch in batches] == [1024, 1024, 452]
    assert all(batch.schema.equals(batches[0].schema) for batch in batches)


@pytest.mark.parametrize("backed", [None, "r"])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_an_object_gives_what_its_file_gives(tmp_path, layout, backed):
    adata = cells_by_genes(layout(counts()), layers={"spliced": sparse.csr_matrix(counts()[::-1])})
    adata.obs["donor"] = pd.Categorical(["a", "b", None, "a", "a", "b", "b"])
    adata.raw = adata.copy()
    path = written(tmp_path, adata)
    opened = anndata.read_h5ad(path, backed=backed)
    for layer in ("", "raw", "spliced"):
        options = H5adOptions(layer=layer)

        table = pa.Table.from_batches(list(batches_of(opened, options)))

        np.testing.assert_array_equal(dense(table), counts()[::-1] if layer == "spliced" else counts())
        assert table.drop_columns("cell").equals(read(path, layer=layer).drop_columns("cell"))
    if backed:
        opened.file.close()


@pytest.mark.parametrize("backed", [None, "r"])
def test_a_view_of_an_object_gives_its_own_cells_and_genes(tmp_path, backed):
    adata = cells_by_genes()
    adata.raw = adata.copy()
    opened = anndata.read_h5ad(written(tmp_path, adata), backed=backed)

    view = opened[[5, 0, 3]][:, ["G4", "G2"]] if backed is None else opened[[0, 3, 5], 1:4]
    table = pa.Table.from_batches(list(batches_of(view)))

    rows, columns = ([5, 0, 3], [3, 1]) if backed is None else ([0, 3, 5], [1, 2, 3])
    np.testing.assert_array_equal(dense(table), counts()[rows][:, columns])
    assert table["id"].to_pylist() == list(view.obs_names)
    assert genes(table) == list(view.var_names)
    opened.file.close()


def test_an_object_stays_as_it_is():
    adata = cells_by_genes(sparse.csc_matrix(counts()))
    before = adata.copy()

    list(batches_of(adata))

    assert (adata.X != before.X).nnz == 0
    assert isinstance(adata.X, sparse.csc_matrix)
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_every_column_of_obs_comes_with_its_type_and_what_is_missing(tmp_path):
    adata = cells_by_genes(counts()[:4])
    adata.obs["type"] = pd.Categorical(["T", None, "B", "T"])
    adata.obs["cluster"] = pd.Categorical([1, 2, 1, 2])
    adata.obs["doublet"] = [True, False, False, True]
    adata.obs["genes"] = [3, 4, 0, 5]
    adata.obs["share"] = [0.5, np.nan, 0.25, 1.0]
    adata.obs["note"] = ["x", "y", "", "z"]
    adata.obs["passed"] = pd.array([True, None, False, True], dtype="boolean")
    adata.obs["id"] = ["p", "q", "r", "s"]
    adata.obs["cell"] = ["t", "u", "v", "w"]

    table = read(written(tmp_path, adata))

    assert table.drop_columns("cell").to_pydict() == {
        "id": ["c1", "c2", "c3", "c4"],
        "type": ["T", None, "B", "T"],
        "cluster": ["1", "2", "1", "2"],
        "doublet": [True, False, False, True],
        "genes": [3, 4, 0, 5],
        "share": [0.5, None, 0.25, 1.0],
        "note": ["x", "y", "", "z"],
        "passed": [True, None, False, True],
        "obs:id": ["p", "q", "r", "s"],
        "obs:cell": ["t", "u", "v", "w"],
    }
    assert {str(kind) for kind in table.drop_columns("cell").schema.types} == {"string", "bool", "int64", "double"}


def test_a_layer_called_raw_beside_raw_and_without_it(tmp_path):
    adata = cells_by_genes(np.log1p(counts()), layers={"raw": counts()})
    alone = written(tmp_path, adata)
    np.testing.assert_array_equal(dense(read(alone, layer="raw")), counts())
    assert refusal(alone).endswith("Counts are in the layer 'raw': set layer = \"raw\".")
    adata.layers["raw"] = np.log1p(counts())
    assert "the layer 'raw' of adata has no counts" in unwilling(adata, layer="raw")

    adata.raw = cells_by_genes(counts() * 2)[:, :4].copy()
    adata.layers["raw"] = counts() * 3
    both = written(tmp_path, adata)
    opened = anndata.read_h5ad(both)
    for layer, wanted in (("raw", counts()[:, :4] * 2), ("layers/raw", counts() * 3)):
        np.testing.assert_array_equal(dense(read(both, layer=layer)), wanted)
        table = pa.Table.from_batches(list(batches_of(opened, H5adOptions(layer=layer))))
        np.testing.assert_array_equal(dense(table), wanted)
    assert refusal(both).endswith('Counts are in .raw: set layer = "raw".')
    adata.raw = cells_by_genes(np.log1p(counts()))
    assert unwilling(adata).endswith("Counts are in the layer 'raw': set layer = \"layers/raw\".")
    assert unwilling(adata, layer="other") == (
        "adata has no layer 'other'. Its layers are: raw, layers/raw; leave the option layer empty for X."
    )


def unwilling(adata, **options):
    with pytest.raises(DataError) as raised:
        list(batches_of(adata, H5adOptions(**options)))
    return str(raised.value)


def test_raw_has_its_own_genes(tmp_path):
    adata = cells_by_genes()
    adata.raw = adata.copy()
    adata = adata[:, ["G2", "G5"]].copy()
    adata.X = sparse.csr_matrix(np.log1p(counts()[:, [1, 4]]))
    path = written(tmp_path, adata)

    table = read(path, layer="raw")

    assert genes(table) == ["G1", "G2", "G3", "G4", "G5"]
    np.testing.assert_array_equal(dense(table), counts())


def test_genes_go_by_a_column_of_var_and_those_without_a_name_are_told(tmp_path):
    adata = cells_by_genes()
    adata.var["ensembl"] = pd.Categorical(["ENSG1", None, "ENSG3", "ENSG4", None])
    path = written(tmp_path, adata)
    options = {"genes": "ensembl"}
    reader = open_table(path, plugins=PLUGINS, options=options)

    table = pa.Table.from_batches(list(reader))

    assert genes(table) == ["ENSG1", "no ensembl: G2", "ENSG3", "ENSG4", "no ensembl: G5"]
    assert reader.lines() == ["cells.h5ad: 2 genes have no 'ensembl', so that no model knows them"]


def test_labels_of_genes_follow_the_expressed_genes_of_each_cell(tmp_path):
    adata = cells_by_genes(np.array([[0, 2, 1], [0, 0, 0], [4, 0, 0]], dtype=np.float32))
    adata.var["dosage"] = pd.Categorical(["sensitive", None, "insensitive"])
    adata.var["length"] = [10, 20, 30]

    table = read(written(tmp_path, adata), gene_labels=("dosage", "length"))

    assert table["var:dosage"].to_pylist() == [[None, "insensitive"], [], ["sensitive"]]
    assert table["var:length"].to_pylist() == [[20, 30], [], [10]]


def test_disorder_and_explicit_zeros_are_put_right_and_empty_cells_stay(tmp_path):
    loose = sparse.csr_matrix(([5.0, 1.0, 0.0, 2.0], [3, 0, 1, 2], [0, 3, 3, 4]), shape=(3, 4), dtype=np.float32)
    path = written(tmp_path, cells_by_genes(loose))

    first, second, third = cells_of(read(path)["cell"])

    assert (first.places.tolist(), first.values.tolist()) == ([0, 3], [1.0, 5.0])
    assert (second.places.tolist(), second.total) == ([], 0.0)
    assert third.names == ["G3"]


def test_normalised_values_are_read_where_they_are_asked_for_and_are_marked(tmp_path):
    values = np.log1p(counts())
    path = written(tmp_path, cells_by_genes(values))

    cells = cells_of(read(path, values="normalised")["cell"])

    assert not any(cell.raw for cell in cells)
    np.testing.assert_array_equal(cells[0].values, values[0][values[0] > 0])


def test_files_of_anndata_0_7_and_before_are_read(tmp_path):
    path = tmp_path / "old.h5ad"
    held = sparse.csr_matrix(counts())
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csr", held.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(held, part)
        cells = [(f"c{number}".encode(), number % 2, number / 2) for number in range(7)]
        file["obs"] = np.array(cells, dtype=[("index", "S2"), ("type", "i1"), ("share", "f4")])
        file["var"] = np.array([(f"G{number}".encode(),) for number in range(5)], dtype=[("index", "S2")])
        file["uns/type_categories"] = np.array([b"B", b"T"])
        file["raw.X"], file["raw.var"] = counts()[:, :2] * 2, file["var"][:2]

    table = read(path)

    np.testing.assert_array_equal(dense(table), counts())
    assert table["id"].to_pylist() == ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]
    assert table["type"].to_pylist() == ["B", "T", "B", "T", "B", "T", "B"]
    np.testing.assert_array_equal(dense(read(path, layer="raw")), counts()[:, :2] * 2)
    assert genes(read(path, layer="raw")) == ["G0", "G1"]


def test_the_tables_of_anndata_0_7_are_read(tmp_path):
    path = written(tmp_path, cells_by_genes())
    with h5py.File(path, "a") as file:
        del file["obs"]
        obs = file.create_group("obs")
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
        obs.attrs["column-order"] = np.array(["type"], dtype=h5py.string_dtype())
        obs.create_dataset("index", data=np.array(list("abcdefg"), dtype=object), dtype=h5py.string_dtype())
        obs["type"] = np.array([0, 1, -1, 0, 0, 1, 1], dtype="i1")
        words = obs.create_group("__categories").create_dataset("type", data=["B", "T"], dtype=h5py.string_dtype())
        obs["type"].attrs["categories"] = words.ref

    table = read(path)

    assert table["id"].to_pylist() == list("abcdefg")
    assert table["type"].to_pylist() == ["B", "T", None, "B", "B", "T", "T"]


def test_cells_of_one_name_are_left_for_the_table_to_judge(tmp_path):
    same = cells_by_genes(counts()[[0, 0, 1]])
    same.obs_names = ["a", "a", "b"]

    assert read(written(tmp_path, same))["id"].to_pylist() == ["a", "a", "b"]


@pytest.mark.parametrize("name", ["sc_scmark2k", "sc_celltypist_559_unlabelled"])
def test_real_counts_are_read_as_anndata_reads_them(name):
    path = shared(name)
    adata = anndata.read_h5ad(path)

    table = read(path)

    np.testing.assert_array_equal(dense(table), adata.X.toarray())
    assert table["id"].to_pylist() == list(adata.obs_names)
    assert genes(table) == list(adata.var_names)
    for column in adata.obs:
        assert table[column].to_pylist() == adata.obs[column].tolist()


def test_real_normalised_values_are_refused_and_read_where_asked_for():
    path = shared("sc_pbmc68k_700")

    assert refusal(path) == (
        "X of sc_pbmc68k_700.h5ad has no counts, but 1.591 for the gene 'PARK7' in the cell 'AAAGCCTGGCTAAC-1'. "
        'No other layer holds counts; take a file that does. scGPT reads such values too, with values = "normalised".'
    )
    np.testing.assert_array_equal(dense(read(path, values="normalised")), anndata.read_h5ad(path).X.toarray())


def test_a_recipe_chooses_the_layer(tmp_path):
    path = written(tmp_path, cells_by_genes(np.log1p(counts()), layers={"counts": counts()}))
    data = DataOptions(path=str(path), inputs={"cell": "cell"}, reader={"layer": "counts"})

    (batch,) = open_table(data.path, data.format, PLUGINS, data.reader)

    np.testing.assert_array_equal(dense(pa.Table.from_batches([batch])), counts())
