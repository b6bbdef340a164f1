"""HDF5 files, and matrices in them and in memory, each checked before anything is read by it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from exapt import DataError
from exapt_singlecell.readers.matrix import Array, ByCell, Dense, Matrix, by_gene

_MAGIC = {b"\x1f\x8b": "is inside gzip. Unpack it with gunzip.", b"PK\x03\x04": "is a zip archive. Unpack it."}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WHOLE = re.compile(r"truncated file: .*stored_eof = (\d+)")
_REASON = re.compile(r"\(([^()=]+)\)")
_AGAIN = "Copy or download the file again."
_PARTS = ("data", "indices", "indptr")
_WORDS = {"S": "text", "O": "text", "b": "truths", "f": "fractions", "c": "complex numbers", "V": "records"}
_FORMATS = {"csr": "csr", "csr_matrix": "csr", "csc": "csc", "csc_matrix": "csc"}


@contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; raises ``DataError`` if it is none, is cut off, or turns out to be damaged on the way."""
    _check_head(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except MemoryError:
        raise DataError(
            f"{path.name} is too large for the memory of this machine, or is damaged and says so. {_AGAIN}"
        ) from None
    # All that h5py raises for a link, a header, a type or a chunk that cannot be read.
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> DataError:
    """Return what to say of a file that HDF5 cannot go on with."""
    said, held = " ".join(str(error).split()), path.stat().st_size
    if "unable to lock file" in said:
        return DataError(f"{path.name} is open in another program, which may be writing it. Close it there.")
    whole = _WHOLE.search(said)
    if whole:
        return DataError(f"{path.name} is cut off: it has {held:,} of {int(whole[1]):,} bytes. {_AGAIN}")
    told = reason_of(error)
    return DataError(f"{path.name} is damaged: not all of its {held:,} bytes can be read as HDF5{told}. {_AGAIN}")


def reason_of(error: Exception) -> str:
    """Return the reason that HDF5 gives, in brackets, or nothing."""
    # It gives it in brackets itself or, with '=', addresses and numbers that tell a user nothing.
    reason = (
        _REASON.search(" ".join(str(error).split())) if isinstance(error, (OSError, KeyError, RuntimeError)) else None
    )
    return f" ({reason[1]})" if reason else ""


def is_whole(stored: h5py.Dataset) -> bool:
    """Whether a dataset holds as much as it claims to: what was never written is read as zeros or nothing, at any length."""
    if stored.is_virtual or not stored.size:
        return True
    if stored.chunks:
        needed = math.prod(-(-length // width) for length, width in zip(stored.shape, stored.chunks, strict=True))
        return bool(stored.id.get_num_chunks() >= needed)
    return bool(stored.id.get_storage_size() >= stored.nbytes)


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from None
    if not head:
        raise DataError(f"{path.name} is empty.")
    for magic, said in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path.name} {said}")
    if not head.startswith(_SIGNATURE) and not h5py.is_hdf5(path):
        raise DataError(f"{path.name} is no HDF5 file, whatever its name says.")


def matrix_of(source: Any, shape: tuple[int, int], where: str) -> Matrix:
    """Return the matrix that a group or a dataset of a file, a backed or a loaded matrix holds, cells by genes.

    Raises ``DataError`` for another ``shape``, for parts that do not fit each other, and for what is no matrix.
    """
    if isinstance(source, (CSRDataset, CSCDataset)):
        source = source.group
    if isinstance(source, h5py.Group):
        return _group(source, shape, where)
    if sparse.issparse(source):
        return _loaded(source, shape, where)
    if not isinstance(source, (h5py.Dataset, np.ndarray)):
        raise DataError(
            f"{where} is {type(source).__name__}, no matrix that can be read. Make it a NumPy or SciPy one."
        )
    _check_shape(tuple(source.shape), shape, where)
    _check_kind(source, "biuf", "numbers", where)
    if isinstance(source, h5py.Dataset):
        _check_whole(source, "values are", where)
    return Dense(source, shape)


def _group(group: h5py.Group, shape: tuple[int, int], where: str) -> Matrix:
    # Files of AnnData before 0.7 use the names of h5sparse.
    stated = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", b""))
    layout = _FORMATS.get(stated.decode() if isinstance(stated, bytes) else str(stated))
    if layout is None:
        raise DataError(f"{where} is stored as '{stated}'; only dense, csr_matrix and csc_matrix can be read.")
    size = np.ravel(group.attrs.get("shape", group.attrs.get("h5sparse_shape", ())))
    if size.dtype.kind not in "iuf" or not len(size):
        raise DataError(f"{where} does not say its shape. Write the file again.")
    _check_shape(tuple(size.tolist()), shape, where)
    return compressed(group, layout, shape, where)


def compressed(group: h5py.Group, layout: str, shape: tuple[int, int], where: str) -> Matrix:
    """Return the matrix of the datasets ``data``, ``indices`` and ``indptr``, cell by cell (csr) or gene by gene (csc)."""
    for part in _PARTS:
        if not isinstance(group.get(part), h5py.Dataset):
            raise DataError(f"{where} has no '{part}', so that it is no sparse matrix. Fetch or write the file again.")
    data, indices, starts = (group[part] for part in _PARTS)
    matrix = _compressed((data, indices, starts), layout, shape, where)
    for part in _PARTS:
        _check_whole(group[part], f"'{part}' is", where)
    return matrix


def _loaded(matrix: Any, shape: tuple[int, int], where: str) -> Matrix:
    _check_shape(tuple(matrix.shape), shape, where)
    # A matrix of another format becomes rows; duplicates are then added up, as they mean there.
    held = matrix if matrix.format in _FORMATS else matrix.tocsr()
    end = int(held.indptr[-1])
    return _compressed((held.data[:end], held.indices[:end], held.indptr), held.format, shape, where)


def _compressed(parts: tuple[Any, Any, Any], layout: str, shape: tuple[int, int], where: str) -> Matrix:
    data, indices, starts = parts
    _check_kind(data, "biuf", "numbers", where)
    for part in (indices, starts):
        _check_kind(part, "iu", "positions", where)
    if any(len(part.shape) != 1 for part in parts) or len(indices) != len(data):
        raise DataError(
            f"{where} is damaged: it has {data.size:,} values at {indices.size:,} places. Fetch or write the file again."
        )
    known = _starts(starts, shape if layout == "csr" else shape[::-1], len(data), where)
    if layout == "csr":
        return ByCell(where, data, indices, known, shape[1])
    return by_gene(where, data, indices, known, shape)


def _starts(source: Any, shape: tuple[int, int], entries: int, where: str) -> Array:
    rows, columns = shape
    if len(source) != rows + 1:
        raise _unfit(f"{len(source):,} entries for {rows:,} rows", where)
    starts = np.asarray(source[:]).astype(np.int64)
    if starts[0] != 0 or (np.diff(starts) < 0).any():
        raise _unfit("entries that do not rise from 0", where)
    if starts[-1] != entries:
        raise _unfit(f"{int(starts[-1]):,} as its last entry, for {entries:,} values", where)
    # No more is read at once than a row can hold, whatever a damaged file claims.
    most = int(np.diff(starts).max(initial=0))
    if most > columns:
        raise _unfit(f"{most:,} entries in a row of {columns:,}", where)
    return starts


def _unfit(fault: str, where: str) -> DataError:
    return DataError(f"{where} is damaged: its 'indptr' has {fault}. Fetch or write the file again.")


def _check_shape(found: tuple[int, ...], shape: tuple[int, int], where: str) -> None:
    if found != shape:
        said = " x ".join(f"{size:,}" for size in found)
        raise DataError(
            f"{where} is {said}, for {shape[0]:,} cells and {shape[1]:,} genes. Fetch or write the file again."
        )


def _check_whole(stored: h5py.Dataset, what: str, where: str) -> None:
    if not is_whole(stored):
        raise DataError(f"{where} is damaged: its {what} not there as a whole. Fetch or write the file again.")


def _check_kind(part: Any, kinds: str, what: str, where: str) -> None:
    if part.dtype.kind not in kinds:
        held = _WORDS.get(part.dtype.kind, "something else")
        raise DataError(f"{where} holds {held}, where there should be {what}. Fetch or write the file again.")
