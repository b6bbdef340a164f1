"""AnnData as a table of cells: a file read from the disk, or an object in memory or backed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from anndata import AnnData, OldFormatWarning
from anndata.io import read_elem

from exapt import DataError
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.readers.frames import genes_of, label_columns, obs_columns, text_of
from exapt_singlecell.readers.matrix import Matrix
from exapt_singlecell.readers.stored import hdf5, is_whole, matrix_of, reason_of
from exapt_singlecell.readers.table import CellReader, CellTable

_RAW, _OF_RAW = "raw", ".raw"


@dataclass(frozen=True)
class _Values:
    """One place where AnnData keeps values, fetched when asked for, and the genes that its columns are."""

    called: str
    fetch: Callable[[], Any]
    var: Callable[[], pd.DataFrame]
    of: str
    """What holds it, for messages."""

    @property
    def where(self) -> str:
        return f"{self.called} of {self.of}"

    @property
    def genes(self) -> str:
        return f"{'raw.' if self.called == _OF_RAW else ''}var of {self.of}"

    def matrix(self, cells: int) -> Matrix:
        return matrix_of(self.fetch(), (cells, len(self.var())), self.where)


def reader(options: H5adOptions, path: Path) -> CellReader:
    """Return the cells of an AnnData file, of any version since 0.6; of the matrix only some cells are held at a time."""
    return CellReader(partial(_opened, options, path))


def batches_of(adata: AnnData, options: H5adOptions | None = None) -> Iterator[pa.RecordBatch]:
    """Return what the reader gives of a file, for an AnnData in memory or backed, which stays as it is.

    A backed ``X`` or ``.raw`` is read from its file a few cells at a time; of a view of one, AnnData itself reads all.
    Raises ``DataError`` like the reader.
    """
    file = Path(str(adata.filename)).name if adata.isbacked else "adata"
    held = {"": _Values("X", lambda: adata.X, lambda: adata.var, file)} if _has_x(adata) else {}
    if adata.raw is not None:
        held[_RAW] = _Values(_OF_RAW, lambda: adata.raw.X, lambda: adata.raw.var, file)
    for name in adata.layers:
        layer = _Values(_called(name), partial(adata.layers.__getitem__, name), lambda: adata.var, file)
        held[_chosen_by(name, held)] = layer
    return _table(adata.obs, held, options or H5adOptions(), file).batches()


def _called(layer: str) -> str:
    return f"the layer '{layer}'"


def _chosen_by(layer: str, held: Mapping[str, _Values]) -> str:
    """Return what the option ``layer`` must be for a layer, whose name may mean another place."""
    return f"layers/{layer}" if layer in held else layer


def _has_x(adata: AnnData) -> bool:
    return "X" in adata.file if adata.isbacked else adata.X is not None


@contextmanager
def _opened(options: H5adOptions, path: Path) -> Iterator[CellTable]:
    with hdf5(path) as file:
        for needed in ("obs", "var"):
            if needed not in file:
                instead = " It looks like Cell Ranger's: name the format 10x-h5." if "matrix" in file else ""
                raise DataError(f"{path.name} is HDF5, but no AnnData: it has no '{needed}'.{instead}")
        yield _table(_frame(file, "obs", path.name), _held(file, path.name), options, path.name)


def _held(file: h5py.File, name: str) -> dict[str, _Values]:
    """Return all places that hold values, by the option ``layer`` that chooses them."""
    var = partial(_frame, file, "var", name)
    found = {"": _Values("X", lambda: file["X"], var, name)} if "X" in file else {}
    # Until 0.7 the parts of raw stood side by side.
    for values, genes in (("raw/X", "raw/var"), ("raw.X", "raw.var")):
        if values in file and genes in file:
            found[_RAW] = _Values(_OF_RAW, partial(file.__getitem__, values), partial(_frame, file, genes, name), name)
    for layer in file.get("layers", ()):
        place = partial(file.__getitem__, f"layers/{layer}")
        found[_chosen_by(layer, found)] = _Values(_called(layer), place, var, name)
    return found


def _table(obs: pd.DataFrame, held: Mapping[str, _Values], options: H5adOptions, file: str) -> CellTable:
    values = _chosen(held, options.layer, file)
    var = values.var()
    genes, unnamed = genes_of(var, options.genes, values.genes)
    known = obs_columns(obs, file)
    missing = (f"{file}: {unnamed:,} genes have no '{options.genes}', so that no model knows them",) if unnamed else ()
    return CellTable(
        where=values.where,
        ids=text_of(obs.index),
        obs=known.columns,
        genes=genes,
        matrix=values.matrix(len(obs)),
        counts=options.values == "counts",
        labels=label_columns(var, options.gene_labels, known.columns, values.genes),
        hint=partial(_hint, held, options, len(obs)),
        lines=(*missing, *known.lines(file)),
        metadata=known.metadata,
    )


def _chosen(held: Mapping[str, _Values], layer: str, file: str) -> _Values:
    if layer in held:
        return held[layer]
    lacking = {"": "X", _RAW: _OF_RAW}.get(layer, f"layer '{layer}'")
    others = [name for name in held if name]
    known = f"Choose with the option layer: {', '.join(others)}." if others else "It has no layers either."
    if "" in held:
        known = f"Its layers are: {', '.join(others) or 'none'}; leave the option layer empty for X."
    raise DataError(f"{file} has no {lacking}. {known}")


def _hint(held: Mapping[str, _Values], options: H5adOptions, cells: int, negative: bool) -> str:
    """Say which other place holds counts, as far as its first cells show, or that none does."""
    for layer, values in held.items():
        if layer != options.layer and _counts(values, cells):
            how = f'set layer = "{layer}"' if layer else "leave the option layer empty"
            return f"Counts are in {values.called}: {how}."
    if options.values == "normalised":
        return "Nor does another layer hold counts; take the values from before they were scaled."
    no_other = "No other layer holds counts; take a file that does"
    return f"{no_other}." if negative else f'{no_other}. scGPT reads such values too, with values = "normalised".'


def _counts(values: _Values, cells: int) -> bool:
    try:
        rows = next(values.matrix(cells).rows())
    except DataError:
        return False
    found = rows.values
    return bool(found.any() and np.isfinite(found).all() and (found >= 0).all() and (found == np.rint(found)).all())


def _frame(file: h5py.File, name: str, of: str) -> pd.DataFrame:
    """Return obs or var as AnnData reads it; raises ``DataError`` for what it cannot make a table of."""
    stored = file[name]
    _check_whole(file, stored, name, of)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OldFormatWarning)
            found = _old_frame(file, stored) if isinstance(stored, h5py.Dataset) else read_elem(stored)
    # Of a damaged group AnnData raises whatever comes of it, and an error of its own that has no public name. What it
    # says is of its own code.
    except Exception as error:
        raise DataError(
            f"{name} of {of} is damaged: its columns cannot be read, or do not fit each other{reason_of(error)}. "
            "Fetch or write the file again."
        ) from None
    if not isinstance(found, pd.DataFrame):
        raise DataError(f"{name} of {of} is {type(found).__name__}, no table. Fetch or write the file again.")
    return found


def _check_whole(file: h5py.File, stored: Any, name: str, of: str) -> None:
    """Raise ``DataError`` for names, or for a column, that are read as nothing because they were never written."""
    names = stored.attrs.get("_index")
    for key, part in _parts(file, stored).items():
        if not is_whole(part):
            what = "names are" if key == names else f"'{key}' is" if key else "rows are"
            raise DataError(
                f"{name} of {of} is damaged: its {what} not there as a whole. Fetch or write the file again."
            )


def _parts(file: h5py.File, stored: Any) -> dict[str, h5py.Dataset]:
    """Return all that a table is stored in: codes, words, values and masks of columns are datasets of their own."""
    if isinstance(stored, h5py.Dataset):
        words = {f"{name}_categories": file.get(f"uns/{name}_categories") for name in stored.dtype.names or ()}
        return {"": stored, **{key: held for key, held in words.items() if isinstance(held, h5py.Dataset)}}
    found: dict[str, h5py.Dataset] = {}
    stored.visititems(lambda key, held: found.update({key: held}) if isinstance(held, h5py.Dataset) else None)
    return found


def _old_frame(file: h5py.File, stored: h5py.Dataset) -> pd.DataFrame:
    """Return a table of AnnData before 0.7: one record for each row, and the words of categories in ``uns``."""
    index, *columns = stored.dtype.names
    found = {name: _words(stored[name]) for name in (index, *columns)}
    for name in columns:
        if f"uns/{name}_categories" in file:
            words = pd.Index(np.ravel(_words(file[f"uns/{name}_categories"][()])))
            found[name] = pd.Categorical.from_codes(found[name], words)
    return pd.DataFrame({name: found[name] for name in columns}, index=found[index])


def _words(values: Any) -> Any:
    held = np.asarray(values)
    if held.dtype.kind not in "SO":
        return held
    return np.array([word.decode() if isinstance(word, bytes) else word for word in held.ravel()], dtype=object)
