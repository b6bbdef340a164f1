"""Matrix Market folders of genes by cells, as Cell Ranger and STARsolo write them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, cast

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from exapt import DataError
from exapt_singlecell.readers import MtxOptions
from exapt_singlecell.readers.matrix import Blocks, Scattered
from exapt_singlecell.readers.table import CellReader, CellTable
from exapt_singlecell.readers.tenx import table_of

_MATRIX = "matrix.mtx"
_FEATURES = ("features.tsv", "genes.tsv")
_COLUMNS = ("id", "name", "feature_type")
_AGAIN = "Fetch or write it again."


def reader(options: MtxOptions, path: Path) -> CellReader:
    """Return the cells of a folder, or of the matrix file in it that is named; some are held at a time."""
    return CellReader(partial(_opened, options, path))


@contextmanager
def _opened(options: MtxOptions, path: Path) -> Iterator[CellTable]:
    matrix, prefix = _found(path)
    barcodes = _rows(_beside(matrix, prefix, ("barcodes.tsv",)), 1)
    features = _features(_beside(matrix, prefix, _FEATURES))
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
    yield table_of((matrix.name, matrix.name), [row[0] for row in barcodes], features, whole, options)


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
        rows = [line.split("\t") for line in held.decode().splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8 text. {_AGAIN}") from None
    for number, row in enumerate(rows, 1):
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
        for batch in self._batches():
            genes, cells, values = (batch.column(place).to_numpy() for place in range(3))
            count += len(values)
            yield cells - 1, genes - 1, values
        if count != self.entries:
            state = "is cut off" if count < self.entries else "is damaged"
            raise DataError(
                f"{self.path.name} {state}: it announces {self.entries:,} entries, and has {count:,}. {_AGAIN}"
            )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        kinds = {"gene": pa.int64(), "cell": pa.int64(), "value": pa.float64()}
        try:
            yield from csv.open_csv(
                pa.input_stream(str(self.path), compression=_compression(self.path)),
                csv.ReadOptions(skip_rows=self.head, column_names=list(kinds), block_size=1 << 23, use_threads=False),
                csv.ParseOptions(delimiter=self.delimiter, quote_char=False),
                csv.ConvertOptions(column_types=kinds, null_values=[], check_utf8=False),
            )
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.path.name} is cut off or damaged: {reason}. {_AGAIN}") from None


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        return "gzip" if file.read(2) == b"\x1f\x8b" else None


def _body(path: Path) -> _Body:
    with _text(path) as stream:
        banner = stream.readline(1024).decode("utf-8", "replace").lower().split()
        _check_banner(path.name, banner)
        for number, line in enumerate(islice(stream, 10_000), 2):
            if line.strip() and not line.startswith(b"%"):
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


def _sized(path: Path, number: int, line: bytes, first: bytes) -> _Body:
    fields = line.split()
    if len(fields) != 3 or not all(field.isdigit() for field in fields):
        said = line.decode("utf-8", "replace").strip()[:40]
        raise DataError(f"{path.name} line {number} is '{said}', not the numbers of genes, cells and entries. {_AGAIN}")
    genes, cells, entries = (int(field) for field in fields)
    return _Body(path, number, genes, cells, entries, "\t" if b"\t" in first else " ")
