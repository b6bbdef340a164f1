"""Cell Ranger's HDF5 files: one matrix for each genome in version 2, one of all features since version 3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from exapt import DataError
from exapt_singlecell.readers import CellOptions, TenxOptions
from exapt_singlecell.readers.frames import genes_of, label_columns, text_of
from exapt_singlecell.readers.matrix import Array, Matrix
from exapt_singlecell.readers.stored import compressed, hdf5
from exapt_singlecell.readers.table import CellReader, CellTable

GENES = "Gene Expression"


def reader(options: TenxOptions, path: Path) -> CellReader:
    """Return the cells of a Cell Ranger file, of which only some are held at a time."""
    return CellReader(partial(_opened, options, path))


@contextmanager
def _opened(options: TenxOptions, path: Path) -> Iterator[CellTable]:
    with hdf5(path) as file:
        group, features = _version_3(file, path.name) if "matrix" in file else _version_2(file, options, path.name)
        barcodes = _texts(group, "barcodes", path.name)
        size = [int(length) for length in np.ravel(group["shape"][()])]
        if size != [len(features), len(barcodes)]:
            said = " x ".join(f"{length:,}" for length in size)
            raise DataError(
                f"{path.name} is damaged: its matrix is {said}, for {len(features):,} features and "
                f"{len(barcodes):,} barcodes. Fetch it again."
            )
        where = f"the matrix of {path.name}"
        matrix = compressed(group, "csr", (len(barcodes), len(features)), where)
        yield table_of((path.name, where), barcodes, features, matrix, options, genome=options.genome)


def _version_3(file: h5py.File, name: str) -> tuple[h5py.Group, pd.DataFrame]:
    group = file["matrix"]
    if not isinstance(group, h5py.Group) or "features" not in group:
        raise DataError(f"{name} has a matrix without features, so that it is none of Cell Ranger's.")
    stored = group["features"]
    names = [key for key in stored if not key.startswith("_")]
    columns = {key: _texts(stored, key, name) for key in ("id", *(key for key in names if key != "id"))}
    return group, _features(columns, name)


def _version_2(file: h5py.File, options: TenxOptions, name: str) -> tuple[h5py.Group, pd.DataFrame]:
    genomes = [key for key, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
    if not genomes:
        instead = " It looks like AnnData: name the format h5ad." if "obs" in file else ""
        raise DataError(f"{name} is HDF5, but none of Cell Ranger's: it has neither 'matrix' nor a genome.{instead}")
    if options.genome not in (*genomes, "") or (len(genomes) > 1 and not options.genome):
        wanted = f"no genome '{options.genome}'" if options.genome else "a matrix for each of several genomes"
        raise DataError(f"{name} has {wanted}; choose one with the option genome: {', '.join(genomes)}.")
    group = file[options.genome or genomes[0]]
    columns = {"id": _texts(group, "genes", name)}
    if "gene_names" in group:
        columns["name"] = _texts(group, "gene_names", name)
    # The group was chosen by its genome already: this column lets the choice hold for its genes too.
    columns["genome"] = [options.genome or genomes[0]] * len(columns["id"])
    return group, _features(columns, name)


def _texts(group: h5py.Group, key: str, name: str) -> list[str]:
    stored = group.get(key)
    if not isinstance(stored, h5py.Dataset) or h5py.check_string_dtype(stored.dtype) is None:
        raise DataError(f"{name} has no text '{key}' in '{group.name}', where Cell Ranger has it. Fetch it again.")
    try:
        return [str(text) for text in np.ravel(stored.asstr()[()])]
    except UnicodeDecodeError:
        raise DataError(f"{name} is damaged: '{key}' in '{group.name}' is not UTF-8. Fetch it again.") from None


def _features(columns: dict[str, list[str]], name: str) -> pd.DataFrame:
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count:,} of '{key}'" for key, count in lengths.items())
        raise DataError(f"{name} is damaged: its features are {said}. Fetch it again.")
    return pd.DataFrame(columns, index=columns["id"])


def table_of(
    names: tuple[str, str],
    barcodes: Sequence[str],
    features: pd.DataFrame,
    matrix: Matrix,
    options: CellOptions,
    *,
    genome: str = "",
) -> CellTable:
    """Return the table of the features that are genes, of one genome if one is named; says how many others there were.

    ``names`` are those of the file and of its matrix, ``features`` have the columns id, feature_type and genome, or fewer.
    """
    file, where = names
    wanted = _wanted(features, genome, file)
    var, of_var = features[wanted], f"the list of features of {file}"
    genes, unnamed = genes_of(var, options.genes, of_var)
    places = np.where(wanted, np.cumsum(wanted) - 1, -1).astype(np.int32)
    missing = (f"{file}: {unnamed:,} genes have no '{options.genes}', so that no model knows them",)
    return CellTable(
        where=where,
        ids=text_of(barcodes),
        obs={},
        genes=genes,
        matrix=matrix,
        counts=options.values == "counts",
        labels=label_columns(var, options.gene_labels, (), of_var),
        places=None if wanted.all() else places,
        lines=(*_left_out(features, wanted, file), *(missing if unnamed else ())),
    )


def _wanted(features: pd.DataFrame, genome: str, file: str) -> Array:
    wanted = np.ones(len(features), dtype=bool)
    for column, value in (("feature_type", GENES), ("genome", genome)):
        if value and column in features:
            matches = (features[column] == value).to_numpy()
            if not matches.any():
                known = ", ".join(map(str, features[column].unique()[:10]))
                raise DataError(f"{file} has no feature whose {column} is '{value}', but: {known}.")
            wanted &= matches
    return wanted


def _left_out(features: pd.DataFrame, wanted: Array, file: str) -> list[str]:
    others = features[~wanted]
    if others.empty:
        return []
    kinds = [others[column] for column in ("feature_type", "genome") if column in others]
    counted = Counter(" of ".join(map(str, kind)) for kind in zip(*kinds, strict=True))
    said = ", ".join(f"{kind} ({count:,})" for kind, count in counted.most_common())
    return [f"{file}: {len(others):,} of {len(features):,} features are left out: {said}"]
