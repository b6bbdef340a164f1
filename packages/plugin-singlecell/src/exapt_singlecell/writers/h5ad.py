"""Copies of AnnData files with answers in them, made so that HDF5, which does not survive it, never meets a full disk.

Embeddings are laid down by plain writes, where a dataset has taken its room before. What HDF5 itself writes goes to
where zeros have kept room for it.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from anndata.io import read_elem, write_elem

from exapt import OutputError
from exapt.parts import Array
from exapt_singlecell.readers.frames import text_of
from exapt_singlecell.readers.stored import hdf5, unreadable
from exapt_singlecell.writers import H5adAdditions
from exapt_singlecell.writers.answers import (
    RECORDS,
    Predictions,
    earlier_keys,
    embedding_key,
    empty_key,
    empty_of,
    key_of,
    record_of,
    task_key,
)

_ZEROS = bytes(1 << 20)
# What names, headers and groups may take beside the values that are added.
_ROOM = 4 << 20
_KINDS = {"obs": "a column", "obsm": "an array"}


class _Additions(ABC):
    """A copy of an AnnData file under way. Every slot that the file has stays as it is, bit by bit.

    Raises ``OutputError`` for a source that is no AnnData file, for one that has such answers already unless they may be
    replaced, and for answers that are not of its cells in their order.
    """

    def __init__(self, options: H5adAdditions, path: Path) -> None:
        self._options, self._path = options, path
        self._name = options.source.name
        _check_kind(options.source)
        with hdf5(options.source) as file:
            _check_layout(file, self._name)
            self._index = _text(file["obs"].attrs["_index"])
            self._ids = text_of(read_elem(file["obs"][self._index]))
            self._held = {kind: set(file.get(kind, ())) for kind in _KINDS}
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take in the answers for the next cells."""
        self._check_ids(batch.column("id"))
        self._take(batch)
        self._rows += batch.num_rows

    def close(self) -> None:
        """Put what is not there yet into the file."""
        if self._rows < len(self._ids):
            raise OutputError(
                f"there are answers for {self._rows:,} of the {len(self._ids):,} cells of {self._name} only."
            )
        self._finish()

    @abstractmethod
    def _take(self, batch: pa.RecordBatch) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _check_ids(self, ids: pa.Array) -> None:
        expected = self._ids.slice(self._rows, len(ids))
        if expected.equals(ids):
            return
        if len(expected) < len(ids):
            raise OutputError(f"there are more answers than the {len(self._ids):,} cells of {self._name}.")
        pairs = zip(expected.to_pylist(), ids.to_pylist(), strict=True)
        row, (cell, told) = next((row, pair) for row, pair in enumerate(pairs) if pair[0] != pair[1])
        raise OutputError(
            f"cell {self._rows + row + 1:,} of {self._name} is '{cell}', but its answer is about '{told}'. Ids must be "
            "the names of obs."
        )

    def _refuse_held(
        self, kind: str, keys: Iterable[str], instead: str = "-o FILE.parquet writes another file"
    ) -> None:
        for key in keys:
            if kind == "obs" and key == self._index:
                raise OutputError(_names_of_cells(key, self._name))
            if key in self._held[kind] and not self._options.replace:
                raise OutputError(
                    f"{self._name} has {_KINDS[kind]} '{key}' in {kind} already. --overwrite replaces it; {instead}."
                )

    @contextmanager
    def _opened(self, size: int) -> Iterator[h5py.File]:
        """Open the copy for ``size`` bytes more. Raises ``OSError`` if there is no room for them."""
        with self._path.open("ab") as file:
            for begin in range(0, size + _ROOM, len(_ZEROS)):
                file.write(_ZEROS[: size + _ROOM - begin])
        try:
            with h5py.File(self._path, "r+") as file:
                yield file
        # All that h5py raises for a link, a header or a heap that cannot be read.
        except (OSError, KeyError, RuntimeError) as error:
            raise unreadable(self._options.source, error) from None


class Embeddings(_Additions):
    """Adds an array to obsm and, where there are empty cells, a column to obs that marks them."""

    def __init__(self, options: H5adAdditions, path: Path) -> None:
        super().__init__(options, path)
        (name,) = options.names.values()
        self._slot = embedding_key(name)
        self._empty: list[Array] = []
        self._renewed = {"obsm": [self._slot], "obs": [empty_key(self._slot)]}
        for kind, keys in self._renewed.items():
            self._refuse_held(kind, keys)
        shutil.copyfile(options.source, path)

    def _take(self, batch: pa.RecordBatch) -> None:
        column = batch.column("embedding")
        if not pa.types.is_fixed_size_list(column.type):
            raise OutputError(
                "obsm has one vector for each cell, not one for each gene: write Parquet, npz or safetensors."
            )
        rows = column.flatten().to_numpy(zero_copy_only=False).astype("<f4").tobytes()
        if not self._rows:
            self._begin(column.type.list_size)
        with self._path.open("r+b") as file:
            file.seek(self._end)
            file.write(rows)
        self._end += len(rows)
        self._empty.append(empty_of(batch))

    def _begin(self, width: int) -> None:
        """Add the array [cells, width], and remember where in the file its numbers begin."""
        with self._opened(4 * width * len(self._ids)) as file:
            _forget(file, self._slot, self._renewed, self._name)
            array = _group(file, "obsm").create_dataset(self._slot, (len(self._ids), width), "<f4")
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            # The first number written takes the room for all of them.
            array[0, 0] = 0
            self._end: int = array.id.get_offset()

    def _finish(self) -> None:
        empty = np.concatenate(self._empty)
        columns = dict.fromkeys(self._renewed["obs"], empty) if empty.any() else {}
        record = record_of(self._options.facts, list(columns), self._renewed["obsm"])
        with self._opened(_size(columns) + len(record)) as file:
            _add_columns(file["obs"], columns)
            _add_record(file, self._slot, record)


class Answers(_Additions):
    """Adds columns to obs."""

    def __init__(self, options: H5adAdditions, path: Path) -> None:
        super().__init__(options, path)
        self._predictions = Predictions(options.names)
        self._refuse_held("obs", map(task_key, options.names.values()))
        shutil.copyfile(options.source, path)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._predictions.add(batch)
        for keys in self._predictions.keys.values():
            self._refuse_held("obs", keys)

    def _finish(self) -> None:
        columns = self._predictions.columns()
        records = {slot: record_of(self._options.facts, keys) for slot, keys in self._predictions.keys.items()}
        with self._opened(_size(columns) + sum(map(len, records.values()))) as file:
            for slot, record in records.items():
                _forget(file, slot, {"obs": self._predictions.keys[slot]}, self._name)
                _add_record(file, slot, record)
            _add_columns(file["obs"], columns)


class Column(_Additions):
    """Adds one column of words to obs, under its own name."""

    def __init__(self, options: H5adAdditions, path: Path) -> None:
        super().__init__(options, path)
        (self._column,) = options.names.values()
        self._key = key_of(self._column)
        if self._key != self._column:
            raise OutputError(
                f"{self._column!r} cannot be the name of a column in an .h5ad, which takes no slash and no control "
                f"character there: '{self._key}' can."
            )
        self._words: list[str] = []
        with hdf5(options.source) as file:
            columns = set(map(_text, file["obs"].attrs["column-order"]))
        if self._key == "_index" or self._key in self._held["obs"] - columns - {self._index}:
            raise OutputError(f"'{self._key}' is a name that AnnData needs for itself in obs: choose another.")
        self._refuse_held("obs", [self._key], "--name calls the new one otherwise")
        shutil.copyfile(options.source, path)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._words += batch.column(self._column).to_pylist()

    def _finish(self) -> None:
        columns = {self._key: pd.Categorical(self._words)}
        record = record_of(self._options.facts, [self._key])
        with self._opened(_size(columns) + len(record)) as file:
            _forget(file, self._key, {"obs": columns}, self._name)
            _add_columns(file["obs"], columns)
            _add_record(file, self._key, record)


def _check_kind(source: Path) -> None:
    # What is called .h5ad and is none is damaged, of which more is said where it is opened.
    if source.is_dir() or (source.suffix.lower() != ".h5ad" and not h5py.is_hdf5(source)):
        raise OutputError(_no_anndata(source.name))


def _no_anndata(name: str) -> str:
    return f"{name} is no AnnData file, so that answers cannot be added to it. Write Parquet, or make an .h5ad of it first."


def _check_layout(file: h5py.File, name: str) -> None:
    if any(isinstance(file.get(part), h5py.Dataset) for part in ("obs", "obsm")):
        raise OutputError(
            f"{name} is of AnnData before 0.7, to which nothing can be added. Write it again first: "
            f"anndata.read_h5ad('{name}').write_h5ad('new.h5ad')."
        )
    if "obs" not in file:
        raise OutputError(_no_anndata(name))
    if isinstance(file.get(f"uns/{RECORDS}"), h5py.Dataset):
        raise OutputError(f"{name} has an '{RECORDS}' in uns that is not of exapt. Rename it.")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _size(columns: Mapping[str, Any]) -> int:
    """Return the bytes that columns may take on the disk, with room to spare."""
    return 2 * sum(int(pd.Series(values).memory_usage(deep=True)) for values in columns.values())


def _group(file: h5py.File, name: str) -> h5py.Group:
    if name not in file:
        write_elem(file, name, {})
    return file[name]


def _names_of_cells(key: str, name: str) -> str:
    return (
        f"'{key}' is what obs of {name} calls the names of its cells, so that no answer can stand there. Call them "
        "otherwise: adata.obs.index.name = None."
    )


def _forget(file: h5py.File, slot: str, renewed: Mapping[str, Iterable[str]], name: str) -> None:
    """Delete what was written with an earlier answer of that slot, and what is about to be written anew.

    Raises ``OutputError`` if that would be the names of the cells.
    """
    records = file.get(f"uns/{RECORDS}", {})
    record = read_elem(records[slot]) if slot in records else ""
    for kind, keys in earlier_keys(record, slot).items():
        gone = {key for key in [*keys, *renewed.get(kind, ())] if key in file.get(kind, ())}
        if kind == "obs" and _text(file["obs"].attrs["_index"]) in gone:
            raise OutputError(_names_of_cells(_text(file["obs"].attrs["_index"]), name))
        if kind == "obs" and gone:
            order = file["obs"].attrs["column-order"]
            file["obs"].attrs["column-order"] = [column for column in map(_text, order) if column not in gone]
        for key in gone:
            del file[kind][key]


def _add_columns(obs: h5py.Group, columns: Mapping[str, Any]) -> None:
    for key, values in columns.items():
        write_elem(obs, key, values)
    if columns:
        obs.attrs["column-order"] = [*map(_text, obs.attrs["column-order"]), *columns]


def _add_record(file: h5py.File, slot: str, record: str) -> None:
    _group(file, "uns")
    records = _group(file, f"uns/{RECORDS}")
    if slot in records:
        del records[slot]
    write_elem(records, slot, record)
