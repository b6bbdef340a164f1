"""Cell Ranger's HDF5 files: one matrix for each genome in version 2, one of all features since version 3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pandas as pd

from exapt import DataError
from exapt_singlecell.readers import CellOptions, TenxOptions
from exapt_singlecell.readers.frames import genes_of, label_columns, text_of
from exapt_singlecell.readers.matrix import Array, Matrix
from exapt_singlecell.readers.stored import compressed, hdf5, is_whole
from exapt_singlecell.readers.table import CellReader, CellTable

GENES = "Gene Expression"
_COLUMNS = ("feature_type", "genome", "name")
_Parts: TypeAlias = "tuple[h5py.Group, h5py.Dataset, dict[str, h5py.Dataset]]"


def reader(options: TenxOptions, path: Path) -> CellReader:
    """Return the cells of a Cell Ranger file, of which only some are held at a time."""
    return CellReader(partial(_opened, options, path))


@contextmanager
def _opened(options: TenxOptions, path: Path) -> Iterator[CellTable]:
    with hdf5(path) as file:
        group, ids, columns = _version_3(file, path.name) if "matrix" in file else _version_2(file, options, path.name)
        # Lists are read once they are known to be as long as they should: a damaged one may claim any length.
        _check_size(group, ids, path.name)
        features, barcodes = _features(columns, path.name), _ids(group["barcodes"], path.name)
        where = f"the matrix of {path.name}"
        matrix = compressed(group, "csr", (len(barcodes), len(features)), where)
        # In version 2 the genome was chosen with its matrix.
        genome = options.genome if "matrix" in file else ""
        yield table_of(Lists(path.name, barcodes, features, genome), matrix, where, options)


def _version_3(file: h5py.File, name: str) -> _Parts:
    group = file["matrix"]
    if not isinstance(group, h5py.Group) or "features" not in group:
        raise DataError(f"{name} has a matrix without features, so that it is none of Cell Ranger's.")
    stored = group["features"]
    ids = _list(stored, "id", name)
    own = {key: _list(stored, key, name) for key in _COLUMNS if key in stored}
    # Beside its lists of features Cell Ranger keeps groups, marks and lists of other things.
    others = {key: held for key, held in stored.items() if key not in ("id", *_COLUMNS) and not key.startswith("_")}
    return group, ids, {"id": ids, **own, **{key: held for key, held in others.items() if _is_list(held, ids.shape)}}


def _version_2(file: h5py.File, options: TenxOptions, name: str) -> _Parts:
    genomes = [key for key, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
    if not genomes:
        instead = " It looks like AnnData: name the format h5ad." if "obs" in file else ""
        raise DataError(f"{name} is HDF5, but none of Cell Ranger's: it has neither 'matrix' nor a genome.{instead}")
    if options.genome not in (*genomes, "") or (len(genomes) > 1 and not options.genome):
        wanted = f"no genome '{options.genome}'" if options.genome else "a matrix for each of several genomes"
        raise DataError(f"{name} has {wanted}; choose one with the option genome: {', '.join(genomes)}.")
    group = file[options.genome or genomes[0]]
    columns = {"id": _list(group, "genes", name)}
    if "gene_names" in group:
        columns["name"] = _list(group, "gene_names", name)
    return group, columns["id"], columns


def _list(group: h5py.Group, key: str, name: str) -> h5py.Dataset:
    stored = group.get(key)
    if not _is_list(stored):
        raise DataError(f"{name} has no text '{key}' in '{group.name}', where Cell Ranger has it. Fetch it again.")
    return stored


def _is_list(stored: Any, shape: tuple[int, ...] | None = None) -> bool:
    text = isinstance(stored, h5py.Dataset) and h5py.check_string_dtype(stored.dtype) is not None
    return text and (len(stored.shape or ()) == 1 if shape is None else stored.shape == shape)


def _check_size(group: h5py.Group, ids: h5py.Dataset, name: str) -> None:
    barcodes, shape = _list(group, "barcodes", name), group["shape"]
    size = (
        [int(length) for length in np.ravel(shape[()])] if isinstance(shape, h5py.Dataset) and shape.size == 2 else []
    )
    if size != [len(ids), len(barcodes)]:
        said = " x ".join(f"{length:,}" for length in size) or "of no size"
        raise DataError(
            f"{name} is damaged: its matrix is {said}, for {len(ids):,} features and {len(barcodes):,} barcodes. "
            "Fetch it again."
        )


def _texts(stored: h5py.Dataset, name: str) -> list[str]:
    folder, _, key = stored.name.rpartition("/")
    if not is_whole(stored):
        raise DataError(f"{name} is damaged: '{key}' in '{folder}' is not there as a whole. Fetch it again.")
    try:
        return [str(text) for text in stored.asstr()[()]]
    except UnicodeDecodeError:
        raise DataError(f"{name} is damaged: '{key}' in '{folder}' is not UTF-8. Fetch it again.") from None


def _ids(stored: h5py.Dataset, name: str) -> list[str]:
    ids = _texts(stored, name)
    if "" in ids:
        folder, _, key = stored.name.rpartition("/")
        raise DataError(
            f"{name} is damaged: number {ids.index('') + 1:,} of '{key}' in '{folder}' is empty. Fetch it again."
        )
    return ids


def _features(columns: Mapping[str, h5py.Dataset], name: str) -> pd.DataFrame:
    lengths = {key: len(stored) for key, stored in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count:,} of '{key}'" for key, count in lengths.items())
        raise DataError(f"{name} is damaged: its features are {said}. Fetch it again.")
    texts = {key: (_ids if key == "id" else _texts)(stored, name) for key, stored in columns.items()}
    return pd.DataFrame(texts, index=texts["id"])


@dataclass(frozen=True)
class Lists:
    """What stands beside a matrix in a ``file`` of Cell Ranger: its cells, and its features.

    ``features`` have the columns id, feature_type and genome, or fewer. Of them only one ``genome`` counts if it is named.
    """

    file: str
    barcodes: Sequence[str]
    features: pd.DataFrame
    genome: str = ""


def table_of(lists: Lists, matrix: Matrix, where: str, options: CellOptions) -> CellTable:
    """Return the table of the features that are genes, of a matrix called ``where``; says how many others there were."""
    file, features = lists.file, lists.features
    wanted = _wanted(features, lists.genome, file)
    var, of_var = features[wanted], f"the list of features of {file}"
    genes, unnamed = genes_of(var, options.genes, of_var, listed=True)
    places = np.where(wanted, np.cumsum(wanted) - 1, -1).astype(np.int32)
    missing = (f"{file}: {unnamed:,} genes have no '{options.genes}', so that no model knows them",)
    return CellTable(
        where=where,
        ids=text_of(lists.barcodes),
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
    if genome and "genome" not in features:
        raise DataError(f"{file} does not say of which genome its features are: leave the option genome empty.")
    for column, value in (("feature_type", GENES), ("genome", genome)):
        if value and column in features:
            matches = (features[column] == value).to_numpy()
            if not matches.any():
                known = ", ".join(said for said in map(str, features[column].unique()[:10]) if said)
                others = f", but: {known}" if known else f": it names no {column} at all"
                raise DataError(f"{file} has no feature whose {column} is '{value}'{others}.")
            wanted &= matches
    return wanted


def _left_out(features: pd.DataFrame, wanted: Array, file: str) -> list[str]:
    others = features[~wanted]
    if others.empty:
        return []
    kinds = [others[column] for column in ("feature_type", "genome") if column in others]
    counted = Counter(" of ".join(filter(None, map(str, kind))) or "of no kind" for kind in zip(*kinds, strict=True))
    said = ", ".join(f"{kind} ({count:,})" for kind, count in counted.most_common())
    return [f"{file}: {len(others):,} of {len(features):,} features are left out: {said}"]
