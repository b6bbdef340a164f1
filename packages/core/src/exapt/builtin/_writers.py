"""How the built-in writers write tables: batch by batch, closed again after each, so that nothing is left open."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from exapt.errors import OutputError


class Csv:
    """Comma-separated text with a header; a list is JSON inside its cell, a missing value an empty cell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows, below the header."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            if not self._begun:
                table.writerow(batch.schema.names)
                self._begun = True
            table.writerows(csv_rows(batch))

    def close(self) -> None:
        """Each batch is on the disk already."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, batch: pa.RecordBatch) -> None:
        """Append one line a row."""
        names = batch.schema.names
        columns = [_plain(column) for column in batch.columns]
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{_json(dict(zip(names, row, strict=True)))}\n" for row in zip(*columns, strict=True))

    def close(self) -> None:
        """Each batch is on the disk already."""


class Parquet:
    """A Parquet file with the types of its batches, one row group each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a row group."""
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, batch.schema)
        self._file.write_batch(batch)

    def close(self) -> None:
        """Write the footer, without which it is no Parquet file."""
        if self._file is not None:
            self._file.close()


def csv_rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a batch as the csv module takes them."""
    cells = [[_cell(value) for value in _plain(column)] for column in batch.columns]
    return zip(*cells, strict=True)


def _plain(column: pa.Array) -> list[Any]:
    """Return Python values; single-precision numbers with the few digits that tell them apart, not as doubles."""
    kind = column.type
    if pa.types.is_float32(kind):
        return [None if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _cut(_plain(column.flatten()), column.value_lengths().to_pylist())
    return list(column.to_pylist())


def _cut(values: list[Any], lengths: Iterable[int | None]) -> list[list[Any] | None]:
    lists: list[list[Any] | None] = []
    begin = 0
    for length in lengths:
        lists.append(None if length is None else values[begin : begin + length])
        begin += length or 0
    return lists


def _cell(value: Any) -> Any:
    return _json(value) if isinstance(value, (list, dict)) else value


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise OutputError(f"JSON cannot hold NaN or infinity: {str(value)[:80]}") from None
