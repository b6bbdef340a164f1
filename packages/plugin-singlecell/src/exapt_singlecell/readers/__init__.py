"""Cells from AnnData, from Cell Ranger's HDF5 and from Matrix Market folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt import Options, ReaderSpec

if TYPE_CHECKING:
    from exapt_singlecell.readers.table import CellReader


class CellOptions(Options):
    """What the values of a table of cells are, and how its genes are called."""

    genes: str = Field(
        "",
        description="Column of var with the ids or symbols of the genes; empty for the names of var itself, which are "
        "Ensembl ids in what Cell Ranger writes (there, 'name' is the column of symbols).",
    )
    values: Literal["counts", "normalised"] = Field(
        "counts",
        description="What the values must be: counts of molecules, or anything that is not negative, taken as "
        "normalised before.",
    )
    gene_labels: tuple[str, ...] = Field(
        (),
        description="Columns of var to read as labels of genes: each gives a column var:NAME with a list for each "
        "cell, one entry for each gene that it expresses.",
    )


class H5adOptions(CellOptions):
    """How a table of cells is read from an AnnData file or object."""

    layer: str = Field(
        "",
        description="Where the values are: empty for X, 'raw' for .raw, else the name of a layer; 'layers/raw' for a layer "
        "called raw beside .raw.",
    )


class TenxOptions(CellOptions):
    """How a table of cells is read from an HDF5 file of Cell Ranger."""

    genome: str = Field("", description="Genome whose genes are read, where the file holds several; empty for all.")


class MtxOptions(CellOptions):
    """How a table of cells is read from a Matrix Market file and the two lists beside it."""


def build_h5ad(options: H5adOptions, path: Path) -> CellReader:
    """Return the cells of an AnnData file, read from the disk as they are asked for."""
    from exapt_singlecell.readers.h5ad import reader

    return reader(options, path)


def build_tenx(options: TenxOptions, path: Path) -> CellReader:
    """Return the cells of a Cell Ranger file, read from the disk as they are asked for."""
    from exapt_singlecell.readers.tenx import reader

    return reader(options, path)


def build_mtx(options: MtxOptions, path: Path) -> CellReader:
    """Return the cells of a Matrix Market folder, read from the disk as they are asked for."""
    from exapt_singlecell.readers.mtx import reader

    return reader(options, path)


def files_of_mtx(path: Path) -> Iterable[Path]:
    """Return the matrix file of a folder, or the one that is named, and the lists beside it."""
    from exapt_singlecell.readers.mtx import files

    return files(path)


READERS = (
    ReaderSpec(
        name="h5ad",
        summary="AnnData: columns id and cell, and one for each column of obs.",
        options=H5adOptions,
        suffixes=(".h5ad",),
        build=build_h5ad,
    ),
    ReaderSpec(
        name="10x-h5",
        summary="Cell Ranger's HDF5, versions 2 and 3: columns id and cell; gene expression only.",
        options=TenxOptions,
        suffixes=(".h5",),
        build=build_tenx,
    ),
    ReaderSpec(
        name="mtx",
        summary="A folder with matrix.mtx, barcodes.tsv and features.tsv or genes.tsv, each also with gzip: columns id "
        "and cell; gene expression only.",
        options=MtxOptions,
        suffixes=(".mtx",),
        members=("matrix.mtx", "matrix.mtx.gz"),
        files=files_of_mtx,
        build=build_mtx,
    ),
)
