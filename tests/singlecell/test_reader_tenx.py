"""Cell Ranger's HDF5 files of versions 2 and 3 become tables of cells, of which only gene expression is read."""

import h5py
import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from exapt.data.tables import open_table
from singlecell.cell_tables import PLUGINS, counts, dense, genes, read, refusal

CELLS = [f"AAAC{number}-1" for number in range(7)]
IDS = ["ENSG1", "ENSG2", "ENSG3", "ENSG4", "ENSG5"]
SYMBOLS = ["A", "B", "A", "C", "D"]
EXPRESSION = ["Gene Expression"] * 5


def text(words, width=256):
    return np.array([word.encode() for word in words], dtype=f"S{width}")


def put(group, values, barcodes=CELLS):
    """Write cells by features as Cell Ranger does: a compressed sparse column for each barcode."""
    held = sparse.csr_matrix(values.astype(np.int32))
    group["data"], group["indices"] = held.data, held.indices.astype(np.int64)
    group["indptr"], group["shape"] = held.indptr.astype(np.int64), np.array(held.shape[::-1], dtype=np.int32)
    group["barcodes"] = text(barcodes, 18)


def version_3(path, values=None, kinds=EXPRESSION, genomes=("GRCh38",) * 5, ids=IDS, symbols=SYMBOLS):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        put(group, counts() if values is None else values)
        features = group.create_group("features")
        features["_all_tag_keys"] = text(["genome"])
        for key, words in {"id": ids, "name": symbols, "feature_type": kinds, "genome": genomes}.items():
            features[key] = text(words)
    return path


def version_2(path, **genomes):
    with h5py.File(path, "w") as file:
        for genome, values in genomes.items():
            put(file.create_group(genome), values)
            file[genome]["genes"], file[genome]["gene_names"] = text(IDS), text(SYMBOLS)
    return path


def test_version_3(tmp_path):
    table = read(version_3(tmp_path / "filtered_feature_bc_matrix.h5"), "10x-h5")

    assert table.column_names == ["id", "cell"]
    assert table["id"].to_pylist() == CELLS
    assert genes(table) == IDS
    np.testing.assert_array_equal(dense(table), counts())


def test_version_2(tmp_path):
    table = read(version_2(tmp_path / "filtered_gene_bc_matrices_h5.h5", GRCh38=counts()), "10x-h5")

    assert table["id"].to_pylist() == CELLS
    assert genes(table) == IDS
    np.testing.assert_array_equal(dense(table), counts())


def test_it_is_found_by_its_suffix(tmp_path):
    (batch,) = open_table(version_3(tmp_path / "cells.h5"), plugins=PLUGINS)

    np.testing.assert_array_equal(dense(pa.Table.from_batches([batch])), counts())


def test_features_that_are_no_genes_are_left_out_and_told(tmp_path):
    kinds = ["Antibody Capture", "Gene Expression", "CRISPR Guide Capture", "Gene Expression", "Antibody Capture"]
    reader = open_table(version_3(tmp_path / "cells.h5", kinds=kinds), plugins=PLUGINS)

    table = pa.Table.from_batches(list(reader))

    assert genes(table) == ["ENSG2", "ENSG4"]
    np.testing.assert_array_equal(dense(table), counts()[:, [1, 3]])
    assert reader.lines() == [
        "cells.h5: 3 of 5 features are left out: Antibody Capture of GRCh38 (2), CRISPR Guide Capture of GRCh38 (1)"
    ]


def test_features_without_a_genome_or_a_type(tmp_path):
    kinds = ["Antibody Capture", "Antibody Capture", "", "Gene Expression", "Gene Expression"]
    path = version_3(tmp_path / "cells.h5", kinds=kinds, genomes=["", "", "", "GRCh38", "GRCh38"])
    unnamed = version_3(tmp_path / "unnamed.h5", genomes=[""] * 5)
    reader = open_table(path, plugins=PLUGINS)

    table = pa.Table.from_batches(list(reader))

    assert genes(table) == ["ENSG4", "ENSG5"]
    assert reader.lines() == ["cells.h5: 3 of 5 features are left out: Antibody Capture (2), of no kind (1)"]
    assert refusal(path, "10x-h5", genome="mm10") == "cells.h5 has no feature whose genome is 'mm10', but: GRCh38."
    assert refusal(unnamed, "10x-h5", genome="mm10") == (
        "unnamed.h5 has no feature whose genome is 'mm10': it names no genome at all."
    )


def test_one_genome_of_several_is_chosen(tmp_path):
    both = version_2(tmp_path / "two.h5", hg19=counts(), mm10=counts()[::-1])
    mixed = version_3(tmp_path / "mixed.h5", genomes=("hg19", "hg19", "mm10", "mm10", "mm10"))

    np.testing.assert_array_equal(dense(read(both, "10x-h5", genome="mm10")), counts()[::-1])
    np.testing.assert_array_equal(dense(read(mixed, "10x-h5", genome="mm10")), counts()[:, 2:])
    assert genes(read(mixed, "10x-h5")) == IDS
    assert refusal(both, "10x-h5") == (
        "two.h5 has a matrix for each of several genomes; choose one with the option genome: hg19, mm10."
    )
    assert refusal(both, "10x-h5", genome="hg38") == (
        "two.h5 has no genome 'hg38'; choose one with the option genome: hg19, mm10."
    )
    assert refusal(mixed, "10x-h5", genome="hg38") == "mixed.h5 has no feature whose genome is 'hg38', but: hg19, mm10."


def test_a_genome_that_the_file_does_not_tell(tmp_path):
    path = version_3(tmp_path / "cells.h5")
    with h5py.File(path, "a") as file:
        del file["matrix/features/genome"]

    assert genes(read(path, "10x-h5")) == IDS
    assert refusal(path, "10x-h5", genome="GRCh38") == (
        "cells.h5 does not say of which genome its features are: leave the option genome empty."
    )


def test_what_else_stands_beside_the_features_is_passed_over_or_a_column(tmp_path):
    path = version_3(tmp_path / "probes.h5")
    with h5py.File(path, "a") as file:
        features = file["matrix/features"]
        features.create_group("target_sets")["Visium"] = np.arange(3)
        features["filtered_probes"] = np.ones(5, dtype=bool)
        features["pattern"], features["probe_region"] = text(["a", "b"]), text(["spliced"] * 5)
        features["gene_name"] = text(["A", "B", "E", "C", "D"])
        file["matrix/filtered_barcodes"] = np.ones(7, dtype=bool)

    np.testing.assert_array_equal(dense(read(path, "10x-h5")), counts())
    assert genes(read(path, "10x-h5", genes="gene_name")) == ["A", "B", "E", "C", "D"]
    assert refusal(path, "10x-h5", genes="pattern") == (
        "the list of features of probes.h5 has no column 'pattern'. Its columns are: id, feature_type, genome, name, "
        "gene_name, probe_region."
    )


def test_genes_go_by_symbol_where_each_stands_once(tmp_path):
    path = version_3(tmp_path / "cells.h5")
    unique = version_3(tmp_path / "unique.h5", symbols=["A", "B", "E", "C", "D"])

    assert genes(read(unique, "10x-h5", genes="name")) == ["A", "B", "E", "C", "D"]
    assert refusal(path, "10x-h5", genes="name") == (
        "the list of features of cells.h5 has 'A' twice in its column 'name'. "
        "Leave the option genes empty: the ids are unique."
    )
    assert refusal(path, "10x-h5", genes="symbol") == (
        "the list of features of cells.h5 has no column 'symbol'. Its columns are: id, feature_type, genome, name."
    )


def test_no_gene_expression_at_all(tmp_path):
    path = version_3(tmp_path / "adt.h5", kinds=["Antibody Capture"] * 5)

    assert refusal(path, "10x-h5") == (
        "adt.h5 has no feature whose feature_type is 'Gene Expression', but: Antibody Capture."
    )


def test_another_kind_of_hdf5(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["table"] = np.arange(3)
    with h5py.File(tmp_path / "anndata.h5", "w") as file:
        file.create_group("obs")

    assert refusal(tmp_path / "other.h5", "10x-h5") == (
        "other.h5 is HDF5, but none of Cell Ranger's: it has neither 'matrix' nor a genome."
    )
    assert refusal(tmp_path / "anndata.h5", "10x-h5") == (
        "anndata.h5 is HDF5, but none of Cell Ranger's: it has neither 'matrix' nor a genome. "
        "It looks like AnnData: name the format h5ad."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda group: replace(group, "barcodes", text(CELLS[:6])),
            "cells.h5 is damaged: its matrix is 5 x 7, for 5 features and 6 barcodes. Fetch it again.",
        ),
        (
            lambda group: replace(group["features"], "name", text(SYMBOLS[:4])),
            "cells.h5 is damaged: its features are 5 of 'id', 5 of 'feature_type', 5 of 'genome', 4 of 'name'. "
            "Fetch it again.",
        ),
        (
            lambda group: replace(group, "barcodes", np.arange(7)),
            "cells.h5 has no text 'barcodes' in '/matrix', where Cell Ranger has it. Fetch it again.",
        ),
        (
            lambda group: replace(group["features"], "id", np.array([b"\xff\xfe"] * 5)),
            "cells.h5 is damaged: 'id' in '/matrix/features' is not UTF-8. Fetch it again.",
        ),
        (
            lambda group: replace(group, "barcodes", text([*CELLS[:6], ""])),
            "cells.h5 is damaged: number 7 of 'barcodes' in '/matrix' is empty. Fetch it again.",
        ),
        (
            lambda group: replace(group["features"], "id", text(["", *IDS[1:]])),
            "cells.h5 is damaged: number 1 of 'id' in '/matrix/features' is empty. Fetch it again.",
        ),
        (
            lambda group: claim(group, "barcodes"),
            "cells.h5 is damaged: its matrix is 5 x 7, for 5 features and 10,000,000,000,000 barcodes. Fetch it again.",
        ),
        (
            lambda group: (claim(group, "barcodes"), replace(group, "shape", np.array([5, 10**13]))),
            "cells.h5 is damaged: 'barcodes' in '/matrix' is not there as a whole. Fetch it again.",
        ),
        (
            lambda group: replace(group, "shape", np.arange(3)),
            "cells.h5 is damaged: its matrix is of no size, for 5 features and 7 barcodes. Fetch it again.",
        ),
        (
            lambda group: group["features"].pop("id"),
            "cells.h5 has no text 'id' in '/matrix/features', where Cell Ranger has it. Fetch it again.",
        ),
        (
            lambda group: group.pop("features"),
            "cells.h5 has a matrix without features, so that it is none of Cell Ranger's.",
        ),
        (
            lambda group: group.pop("indptr"),
            "the matrix of cells.h5 has no 'indptr', so that it is no sparse matrix. Fetch or write the file again.",
        ),
        (
            lambda group: replace(group, "indices", group["indices"][:] + 3),
            "the matrix of cells.h5 is damaged: an entry belongs to gene 6 of 5. Fetch or write the file again.",
        ),
    ],
)
def test_damage(tmp_path, change, message):
    path = version_3(tmp_path / "cells.h5")
    with h5py.File(path, "a") as file:
        change(file["matrix"])

    assert refusal(path, "10x-h5") == message


def claim(group, key):
    del group[key]
    group.create_dataset(key, (10**13,), "S16", chunks=(1000,))


def replace(group, key, values):
    del group[key]
    group[key] = values


def test_values_that_are_no_counts(tmp_path):
    path = version_3(tmp_path / "cells.h5")
    with h5py.File(path, "a") as file:
        replace(file["matrix"], "data", np.log1p(file["matrix/data"][:]))

    assert refusal(path, "10x-h5").startswith("the matrix of cells.h5 has no counts, but ")
    np.testing.assert_allclose(dense(read(path, "10x-h5", values="normalised")), np.log1p(counts()), rtol=1e-6)
