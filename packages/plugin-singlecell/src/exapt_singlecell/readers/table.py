"""A table of cells on its way to record batches: every value checked, every fault named by cell and gene."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from exapt import DataError
from exapt.cells import CellType, Genes, cell_column
from exapt_singlecell.readers.matrix import Array, Matrix, Rows, first_where

_DAMAGED = "Fetch or write the file again."


def no_hint(negative: bool) -> str:
    """Say what to do about values that are no counts, where they stand in one place only."""
    return "Read counts." if negative else 'Read counts; scGPT reads these too, with values = "normalised".'


@dataclass(frozen=True)
class CellTable:
    """Cells with their ids and what else is known of them; ``where`` is where their values stand, for messages.

    ``places`` [features of the matrix] are each feature's place among the genes, -1 for one that is none.
    ``hint`` is the sentence on what to do about values that cannot be counts, or even are negative, ``metadata`` what
    batches tell of columns that they lack.
    """

    where: str
    ids: pa.Array
    obs: Mapping[str, pa.Array]
    genes: Genes
    matrix: Matrix
    counts: bool = True
    labels: Mapping[str, pa.Array] | None = None
    places: Array | None = None
    hint: Callable[[bool], str] = no_hint
    lines: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for what, count in (("cells", len(self.ids)), ("genes", len(self.genes))):
            if not count:
                raise DataError(f"{self.where} has no {what}.")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the columns id, cell, those of obs and those of the labels, for some cells at a time.

        Raises ``DataError`` for values that are negative, infinite or no numbers and, unless they may be, no counts.
        """
        for rows in self.matrix.rows():
            yield self._batch(self._checked(rows))

    @cached_property
    def _kind(self) -> CellType:
        return CellType(self.genes, raw=self.counts)

    def _batch(self, rows: Rows) -> pa.RecordBatch:
        count = len(rows.starts) - 1
        columns = {"id": self.ids.slice(rows.first, count)}
        for name, column in self.obs.items():
            piece = column.slice(rows.first, count)
            columns[name] = piece.dictionary_decode() if pa.types.is_dictionary(piece.type) else piece
        for name, labels in (self.labels or {}).items():
            columns[name] = pa.ListArray.from_arrays(rows.starts.astype(np.int32), labels.take(pa.array(rows.places)))
        columns["cell"] = cell_column(self._kind, rows.starts, rows.places, rows.values)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns), metadata=self.metadata)

    def _checked(self, rows: Rows) -> Rows:
        if self.places is not None:
            places = self.places[rows.places]
            rows = Rows(rows.first, rows.starts, places, rows.values).only(places >= 0)
        rows = rows.ordered()
        twice = rows.twice()
        if twice is not None:
            raise DataError(f"{self.where} has {self._named(rows, twice)} twice. {_DAMAGED}")
        rows = Rows(rows.first, rows.starts, rows.places, self._values(rows))
        return rows.only(rows.values != 0)

    def _values(self, rows: Rows) -> Array:
        """Return the values as float32, in which counts are exact up to 16,777,216."""
        values = rows.values
        with np.errstate(over="ignore", invalid="ignore"):
            held = values.astype(np.float32)
            whole = (held == values) & (held == np.rint(held))
        self._refuse(rows, ~np.isfinite(held), "{value} for {named}. " + _DAMAGED)
        self._refuse(rows, held < 0, "{value} for {named}: expression is never negative. {hint}")
        if self.counts:
            self._refuse(rows, ~whole & (held < 2**24), "no counts, but {value} for {named}. {hint}")
            self._refuse(rows, ~whole, "{value} for {named}, more than can be a count. " + _DAMAGED)
        return held

    def _refuse(self, rows: Rows, wrong: Array, said: str) -> None:
        entry = first_where(wrong)
        if entry is not None:
            hint = self.hint(bool(rows.values[entry] < 0)) if "{hint}" in said else ""
            what = said.format(value=f"{rows.values[entry]:g}", named=self._named(rows, entry), hint=hint)
            raise DataError(f"{self.where} has {what}")

    def _named(self, rows: Rows, entry: int) -> str:
        gene, cell = self.genes.names[rows.places[entry]], self.ids[rows.row_of(entry)]
        return f"the gene '{gene}' in the cell '{cell}'"


class CellReader:
    """The cells of a file, which is opened each time they are asked for. ``open_table`` raises ``DataError``."""

    def __init__(self, open_table: Callable[[], AbstractContextManager[CellTable]]) -> None:
        self._open_table = open_table
        self._lines: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with self._open_table() as table:
            self._lines = table.lines
            yield from table.batches()

    def lines(self) -> list[str]:
        """Say what of the file is no part of the cells, once it was opened; one sentence a line."""
        return list(self._lines)
