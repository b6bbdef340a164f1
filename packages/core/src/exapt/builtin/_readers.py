"""How the built-in readers read: in pieces of a few thousand rows, with every fault named by file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from exapt.builtin._pieces import ROWS, pieces
from exapt.data.text import check_head, lines, zipped
from exapt.errors import DataError

# The longest protein alone is longer than what csv takes for a field.
csv.field_size_limit(2**31 - 1)

_CSV_FAULTS = {
    "unexpected end of data": "a quote opens here and is never closed",
    "new-line character": "lines end in a bare carriage return; save the file with ordinary line ends",
}


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for place, column in enumerate(columns):
        if column in columns[:place]:
            raise DataError(f"{path.name} has the column '{column}' twice.")


@dataclass(frozen=True)
class Delimited:
    """A text table with a header. Every column is text, and no text means a missing value: 'NA' is a peptide."""

    path: Path
    delimiter: str

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        rows = self._rows()
        header = next(rows, None)
        if header is None:
            raise DataError(f"{self.path.name} is empty.")
        _check_columns(self.path, header)
        piece: list[list[str]] = []
        for piece in pieces(rows, lambda row: sum(map(len, row))):
            yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*piece, strict=True)], names=header)
        if not piece:
            raise DataError(f"{self.path.name} has a header but no rows.")

    def _rows(self) -> Iterator[list[str]]:
        """Yield the header and the rows, all of one length; blank lines are no rows."""
        width = 0
        for number, row in self._records():
            width = width or len(row)
            if len(row) != width:
                fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
                raise DataError(f"{self.path.name} line {number} has {fields}; its header has {width}.")
            yield row

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        number = 1
        with closing(lines(self.path)) as text:
            reader = csv.reader(text, delimiter=self.delimiter, strict=True)
            try:
                for row in reader:
                    if row:
                        yield number, row
                    number = reader.line_num + 1
            except csv.Error as error:
                fault = next((said for text, said in _CSV_FAULTS.items() if text in str(error)), str(error))
                raise DataError(f"{self.path.name} line {number}: {fault}.") from None


@dataclass(frozen=True)
class Parquet:
    """A Parquet file, read by its row groups, with its own types."""

    path: Path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self._check()
        try:
            with pq.ParquetFile(self.path) as file:
                _check_columns(self.path, file.schema_arrow.names)
                if not file.metadata.num_rows:
                    raise DataError(f"{self.path.name} has columns but no rows.")
                yield from (batch for batch in file.iter_batches(ROWS) if batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.path.name} is not Parquet, or is damaged: {reason}") from None

    def _check(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(4096)
        if zipped(head):
            raise DataError(f"{self.path.name} is Parquet inside gzip, or no Parquet at all. Unpack it with gunzip.")
        if not head.startswith(b"PAR1"):
            check_head(self.path, head)


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line. A first pass finds the type of each column, so that all pieces agree; a second reads."""

    path: Path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        types = self._types()
        if not types:
            raise DataError(f"{self.path.name} has no rows.")
        schema = pa.schema(types.items())
        for piece in self._read():
            columns = [self._column(name, piece, kind) for name, kind in types.items()]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _types(self) -> dict[str, pa.DataType]:
        types: dict[str, pa.DataType] = {}
        for piece in self._read():
            for name in dict.fromkeys(name for _, row in piece for name in row):
                types[name] = self._merged(name, piece, types.get(name, pa.null()))
        return types

    def _merged(self, name: str, piece: Sequence[tuple[int, dict[str, Any]]], known: pa.DataType) -> pa.DataType:
        try:
            return _unified(known, pa.array([row.get(name) for _, row in piece]).type)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            raise self._misfit(name, piece, known) from None

    def _misfit(self, name: str, piece: Sequence[tuple[int, dict[str, Any]]], known: pa.DataType) -> DataError:
        """Find the first value that does not go with those before it."""
        for number, row in piece:
            try:
                known = _unified(known, pa.array([row.get(name)]).type)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError):
                value = json.dumps(row[name])[:40]
                before = "" if pa.types.is_null(known) else f" among values of type {known}"
                return DataError(f"{self.path.name} line {number}: '{name}' cannot be {value}{before}.")
        return DataError(f"{self.path.name}: the values of '{name}' are not of one type.")

    def _column(self, name: str, piece: Sequence[tuple[int, dict[str, Any]]], kind: pa.DataType) -> pa.Array:
        try:
            return pa.array([row.get(name) for _, row in piece], kind)
        except pa.ArrowException as error:
            first, last = piece[0][0], piece[-1][0]
            raise DataError(
                f"{self.path.name} lines {first} to {last}: '{name}' does not fit {kind}: {error}"
            ) from None

    def _read(self) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            with closing(lines(self.path)) as text:
                yield from ((number, self._row(number, line)) for number, line in enumerate(text, 1) if line.strip())

        return pieces(rows(), lambda row: sum(len(v) for v in row[1].values() if isinstance(v, (str, list))))

    def _row(self, number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.path.name} line {number} is not JSON: {error.msg} at character {error.pos + 1}."
            ) from None
        except RecursionError:
            raise DataError(f"{self.path.name} line {number} is nested too deeply to be a row.") from None
        except ValueError as error:
            raise DataError(f"{self.path.name} line {number} cannot be read: {error}.") from None
        except KeyError as error:
            raise DataError(f"{self.path.name} line {number} has the key {error} twice.") from None
        if not isinstance(row, dict):
            raise DataError(f'{self.path.name} line {number} is not a JSON object such as {{"sequence": "MKT"}}.')
        return row


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("", one)]), pa.schema([("", other)])]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return row
