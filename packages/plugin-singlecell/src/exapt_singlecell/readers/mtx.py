"""Matrix Market folders of genes by cells, as Cell Ranger and STARsolo write them."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from exapt import DataError
from exapt_singlecell.readers import MtxOptions
from exapt_singlecell.readers.matrix import Blocks, Scattered
from exapt_singlecell.readers.table import CellReader, CellTable
from exapt_singlecell.readers.tenx import Lists, table_of

_MATRIX = "matrix.mtx"
_FEATURES = ("features.tsv", "genes.tsv")
_COLUMNS = ("id", "name", "feature_type")
_AGAIN = "Fetch or write it again."
_KINDS = {"gene": pa.int64(), "cell": pa.int64(), "value": pa.float64()}
_NUMBER = rb"[-+]?(?:(?:\d{1,99}\.?\d{0,99}|\.\d{1,99})(?:e[-+]?\d{1,4})?|nan|inf(?:inity)?)"
_ENTRY = re.compile(rb"\s*(\d{1,18})\s+(\d{1,18})\s+(" + _NUMBER + rb")\s*", re.I)
# Bytes of lines that are taken apart together where blanks are not single.
_TOGETHER = 1 << 20


def reader(options: MtxOptions, path: Path) -> CellReader:
    """Return the cells of a folder, or of the matrix file in it that is named; some are held at a time."""
    return CellReader(partial(_opened, options, path))


def files(path: Path) -> tuple[Path, Path, Path]:
    """Return the matrix of a folder, or the one that is named, and its lists of barcodes and of features."""
    matrix, prefix = _found(path)
    return matrix, _beside(matrix, prefix, ("barcodes.tsv",)), _beside(matrix, prefix, _FEATURES)


@contextmanager
def _opened(options: MtxOptions, path: Path) -> Iterator[CellTable]:
    matrix, cells, genes = files(path)
    barcodes, features = _rows(cells, 1), _features(genes)
    body = _body(matrix)
    if (body.genes, body.cells) != (len(features), len(barcodes)):
        turned = (
            " It is cells x genes; turn it round." if (body.cells, body.genes) == (len(features), len(barcodes)) else ""
        )
        raise DataError(
            f"{matrix.name} is {body.genes:,} x {body.cells:,}, for {len(features):,} features and "
            f"{len(barcodes):,} barcodes.{turned or ' Take lists that belong to it.'}"
        )
    whole = Scattered(matrix.name, body.blocks, (body.cells, body.genes))
    yield table_of(Lists(matrix.name, [row[0] for row in barcodes], features), whole, matrix.name, options)


def _found(path: Path) -> tuple[Path, str]:
    """Return the matrix file, and what stands before the usual names of the files beside it."""
    if not path.is_dir():
        return path, path.name.partition(_MATRIX)[0] if _MATRIX in path.name else ""
    there = _either(path, _MATRIX)
    if there is not None:
        return there, ""
    others = sorted(file.name for file in path.iterdir() if ".mtx" in file.name)
    known = f" Name one of its files instead: {', '.join(others[:5])}." if others else ""
    raise DataError(f"the folder '{path}' has no {_MATRIX} or {_MATRIX}.gz.{known}")


def _either(folder: Path, name: str) -> Path | None:
    there = [folder / called for called in (name, f"{name}.gz") if (folder / called).is_file()]
    if len(there) > 1:
        raise DataError(f"'{folder}' has both {name} and {name}.gz. Remove the one that is not meant.")
    return there[0] if there else None


def _beside(matrix: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        there = _either(matrix.parent, prefix + name)
        if there is not None:
            return there
    said = " or ".join(prefix + name for name in names)
    raise DataError(
        f"there is no {said} (or with .gz) beside {matrix.name}, so that its rows and columns have no names."
    )


@contextmanager
def _text(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            f"{path.name} is cut off or damaged: its gzip data do not end as they should. {_AGAIN}"
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from None


def _rows(path: Path, most: int) -> list[list[str]]:
    """Return the tab-separated fields of each line, at most so many."""
    with _text(path) as stream:
        held = stream.read()
    try:
        lines = held.decode().removesuffix("\n").split("\n") if held else []
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8 text. {_AGAIN}") from None
    if lines:
        _check_end(path, "word")
    rows = [line.removesuffix("\r").split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if row == [""]:
            raise DataError(f"{path.name} line {number} is empty. {_AGAIN}")
        if not row[0] or len(row) > most or len(row) != len(rows[0]):
            raise DataError(f"{path.name} line {number} has {len(row)} fields, first '{row[0]}'. {_AGAIN}")
    return rows


def _features(path: Path) -> pd.DataFrame:
    rows = _rows(path, 6)
    columns: dict[str, list[str]] = {}
    for place, values in enumerate(zip(*rows, strict=True)):
        columns[_COLUMNS[place] if place < len(_COLUMNS) else f"column {place + 1}"] = list(values)
    return pd.DataFrame(columns, index=columns.get("id", []))


@dataclass(frozen=True)
class _Body:
    """The entries of a Matrix Market file, behind ``head`` lines."""

    path: Path
    head: int
    genes: int
    cells: int
    entries: int
    delimiter: str

    def blocks(self) -> Blocks:
        """Yield cells, genes and values, counted from 0; raises ``DataError`` if there are not as many as announced."""
        count = 0
        for genes, cells, values in self._entries():
            count += len(values)
            yield cells - 1, genes - 1, values
        if count != self.entries:
            state = "is cut off" if count < self.entries else "is damaged"
            raise DataError(
                f"{self.path.name} {state}: it announces {self.entries:,} entries, and has {count:,}. {_AGAIN}"
            )

    def _entries(self) -> Blocks:
        """Yield genes, cells and values, counted from 1."""
        done = 0
        try:
            for batch in self._batches():
                done += batch.num_rows
                yield batch.column(0).to_numpy(), batch.column(1).to_numpy(), batch.column(2).to_numpy()
        except pa.ArrowException:
            # Blanks at will and comments are allowed too. They take another way, several times as long.
            for block in self._loosely():
                known = min(done, len(block[0]))
                done -= known
                yield block[0][known:], block[1][known:], block[2][known:]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from csv.open_csv(
                pa.input_stream(str(self.path), compression=_compression(self.path)),
                csv.ReadOptions(skip_rows=self.head, column_names=list(_KINDS), block_size=1 << 23, use_threads=False),
                csv.ParseOptions(delimiter=self.delimiter, quote_char=False),
                csv.ConvertOptions(column_types=_KINDS, null_values=[], check_utf8=False),
            )
        except OSError:
            raise DataError(f"{self.path.name} is cut off or damaged: it cannot be read to its end. {_AGAIN}") from None

    def _loosely(self) -> Blocks:
        number = self.head
        with _text(self.path) as stream:
            deque(islice(stream, self.head), 0)
            while lines := stream.readlines(_TOGETHER):
                found = [self._entry(line, place) for place, line in enumerate(lines, number + 1)]
                number += len(lines)
                columns = np.array([entry for entry in found if entry], dtype=bytes).reshape(-1, 3).T
                yield columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2].astype(np.float64)

    def _entry(self, line: bytes, number: int) -> Sequence[bytes]:
        """Return the numbers of a line, none of a comment or an empty line. Raises ``DataError`` for anything else."""
        entry = _ENTRY.fullmatch(line)
        if entry is None and line.strip() and not line.startswith(b"%"):
            raise DataError(_no_numbers(self.path, number, line, "a gene, a cell and a value"))
        return entry.groups() if entry else ()


def _no_numbers(path: Path, number: int, line: bytes, of: str) -> str:
    said = line.decode("utf-8", "replace").strip()[:40]
    return f"{path.name} line {number} is '{said}', not the numbers of {of}. {_AGAIN}"


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        return "gzip" if file.read(2) == b"\x1f\x8b" else None


def _body(path: Path) -> _Body:
    with _text(path) as stream:
        banner = stream.readline(1024).decode("utf-8", "replace").lower().split()
        _check_banner(path.name, banner)
        for number, line in enumerate(islice(stream, 10_000), 2):
            if line.strip() and not line.startswith(b"%"):
                _check_end(path, "number")
                return _sized(path, number, line, next(stream, b""))
    raise DataError(f"{path.name} is cut off: it does not say its size. {_AGAIN}")


def _check_banner(name: str, banner: list[str]) -> None:
    if len(banner) != 5 or banner[:2] != ["%%matrixmarket", "matrix"]:
        raise DataError(f"{name} is no Matrix Market file: its first line is not '%%MatrixMarket matrix ...'.")
    layout, field, symmetry = banner[2:]
    if layout != "coordinate" or field not in ("integer", "real") or symmetry != "general":
        raise DataError(
            f"{name} is a matrix '{layout} {field} {symmetry}'; what can be read is 'coordinate integer general' and "
            "'coordinate real general'."
        )


def _check_end(path: Path, what: str) -> None:
    """Raise ``DataError`` if a file may end within a number or a word, of which gzip would tell by itself."""
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return
        file.seek(-1, os.SEEK_END)
        if file.read() not in (b"\n", b"\r"):
            raise DataError(
                f"the last line of {path.name} has no end, so that its last {what} may be cut off. Fetch it again; if it is "
                "whole, end it with a line break."
            )


def _sized(path: Path, number: int, line: bytes, first: bytes) -> _Body:
    fields = line.split()
    if len(fields) != 3 or not all(field.isdigit() and len(field) < 19 for field in fields):
        raise DataError(_no_numbers(path, number, line, "genes, cells and entries"))
    genes, cells, entries = (int(field) for field in fields)
    return _Body(path, number, genes, cells, entries, "\t" if b"\t" in first else " ")
