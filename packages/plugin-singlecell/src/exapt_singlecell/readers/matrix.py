"""Matrices of cells by genes, read a few cells at a time from wherever their entries lie.

What is handed on is safe to index: bounds, lengths and order are checked here, the values by ``table``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exapt import DataError

Array = npt.NDArray[Any]
Blocks = Iterator[tuple[Array, Array, Array]]
"""Cells, genes and values [entries], counted from 0, piece by piece and in any order."""

CELLS = 1024
ENTRIES = 1 << 22
"""Rows handed on at once end with whichever is reached first, so that dense tables are read in little memory too."""
BAND = 1 << 23
"""Entries held at once where they do not lie cell by cell: 0.2 GB while they are sorted."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Consecutive cells of a matrix, from cell ``first`` on, as in a compressed sparse row matrix.

    ``starts`` [cells + 1] are where each cell's entries begin in ``places`` and ``values`` [entries].
    """

    first: int
    starts: Array
    places: Array
    values: Array

    def row_of(self, entry: int) -> int:
        """Return the cell, counted in the whole matrix, that an entry belongs to."""
        return self.first + int(np.searchsorted(self.starts, entry, side="right")) - 1

    def only(self, wanted: Array) -> Rows:
        """Return the rows with some of their entries; ``wanted`` [entries] is True for those."""
        if wanted.all():
            return self
        before = np.concatenate(([0], np.cumsum(wanted)))
        return Rows(self.first, before[self.starts], self.places[wanted], self.values[wanted])

    def ordered(self) -> Rows:
        """Return the rows with the places of each cell rising; the same place twice stays twice."""
        if self._falls(self.places) is None:
            return self
        order = np.lexsort((self.places, np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))))
        return Rows(self.first, self.starts, self.places[order], self.values[order])

    def twice(self) -> int | None:
        """Return the first entry of ordered rows that has the place of the entry before it, or None."""
        return self._falls(self.places)

    def _falls(self, places: Array) -> int | None:
        rises = np.empty(len(places), dtype=bool)
        np.greater(places[1:], places[:-1], out=rises[1:])
        rises[self.starts[:-1][np.diff(self.starts) > 0]] = True
        return first_where(~rises)


class Matrix(Protocol):
    """A matrix of cells by genes."""

    def rows(self) -> Iterator[Rows]:
        """Yield all cells in their order; raises ``DataError`` for entries that lie outside of the matrix."""


@dataclass(frozen=True)
class ByCell:
    """Entries that lie cell by cell, in memory or on the disk: compressed sparse rows."""

    where: str
    data: Any
    indices: Any
    starts: Array
    genes: int

    def rows(self) -> Iterator[Rows]:
        """Yield the cells, of which only those at hand are read."""
        for first, last in cuts(self.starts, CELLS, ENTRIES):
            begin, end = int(self.starts[first]), int(self.starts[last])
            places = checked_places(self.indices[begin:end], self.genes, "gene", self.where)
            yield Rows(first, self.starts[first : last + 1] - begin, places, np.asarray(self.data[begin:end]))


@dataclass(frozen=True)
class Dense:
    """A value for each cell and gene, zeros included, in memory or on the disk."""

    values: Any
    shape: tuple[int, int]

    def rows(self) -> Iterator[Rows]:
        """Yield the cells, of which only those at hand are read."""
        cells, genes = self.shape
        step = max(1, min(CELLS, ENTRIES // genes))
        for first in range(0, cells, step):
            block = np.asarray(self.values[first : first + step])
            rows, places = np.nonzero(block)
            yield Rows(first, starts_of(rows, len(block)), places.astype(np.int32), block[rows, places])


@dataclass(frozen=True)
class Scattered:
    """Entries in any order, which ``blocks`` yields anew each time: compressed sparse columns, coordinates.

    A first pass counts the entries of each cell. If they lie cell by cell, a second reads them; otherwise there are as
    many as it takes to hold no more than ``BAND`` entries at a time.
    """

    where: str
    blocks: Callable[[], Blocks]
    shape: tuple[int, int]

    def rows(self) -> Iterator[Rows]:
        """Yield the cells, in memory that does not grow with the matrix."""
        counts = np.zeros(self.shape[0], dtype=np.int64)
        ordered, before = True, 0
        for cells, _, _ in self._blocks():
            counts += np.bincount(cells, minlength=len(counts))
            ordered = ordered and cells[0] >= before and bool((cells[1:] >= cells[:-1]).all())
            before = cells[-1]
        starts = np.concatenate(([0], np.cumsum(counts)))
        yield from self._in_order(starts) if ordered else self._in_bands(starts)

    def _blocks(self) -> Blocks:
        for cells, genes, values in self.blocks():
            if len(cells):
                yield (
                    checked_places(cells, self.shape[0], "cell", self.where),
                    checked_places(genes, self.shape[1], "gene", self.where),
                    values,
                )

    def _in_order(self, starts: Array) -> Iterator[Rows]:
        blocks = self._blocks()
        places, values = np.empty(0, dtype=np.int32), np.empty(0)
        for first, last in cuts(starts, CELLS, ENTRIES):
            count = int(starts[last] - starts[first])
            while len(places) < count:
                _, more, others = next(blocks)
                places, values = np.concatenate((places, more)), np.concatenate((values, others))
            yield Rows(first, starts[first : last + 1] - starts[first], places[:count], values[:count])
            places, values = places[count:], values[count:]

    def _in_bands(self, starts: Array) -> Iterator[Rows]:
        for low, high in cuts(starts, len(starts), BAND):
            band = self._band(low, high)
            inner = starts[low : high + 1] - starts[low]
            for first, last in cuts(inner, CELLS, ENTRIES):
                here = slice(int(inner[first]), int(inner[last]))
                yield Rows(low + first, inner[first : last + 1] - inner[first], band[0][here], band[1][here])

    def _band(self, low: int, high: int) -> tuple[Array, Array]:
        """Return genes and values of the cells from ``low`` to before ``high``, cell by cell."""
        kept: list[tuple[Array, ...]] = []
        for block in self._blocks():
            mine = (block[0] >= low) & (block[0] < high)
            kept.append(tuple(part[mine] for part in block))
        cells, genes, values = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        # Stable, so that genes which come in their order stay in it.
        order = np.argsort(cells, kind="stable")
        return genes[order], values[order]


def by_gene(where: str, data: Any, indices: Any, starts: Array, shape: tuple[int, int]) -> Scattered:
    """Return a matrix whose entries lie gene by gene: compressed sparse columns, in memory or on the disk.

    ``starts`` [genes + 1] are where each gene's begin in ``data`` and ``indices`` [entries], the cells.
    """
    every = np.arange(shape[1], dtype=np.int32)

    def blocks() -> Blocks:
        for begin in range(0, len(data), BLOCK):
            cells, values = np.asarray(indices[begin : begin + BLOCK]), np.asarray(data[begin : begin + BLOCK])
            # How many of the block's entries each gene has, and by that the gene of each entry.
            ends = np.clip(starts, begin, begin + len(cells))
            yield cells, np.repeat(every, np.diff(ends)), values

    return Scattered(where, blocks, shape)


def cuts(starts: Array, rows: int, entries: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most so many rows and, unless one row alone has more, so many entries."""
    first, count = 0, len(starts) - 1
    while first < count:
        full = int(np.searchsorted(starts, starts[first] + entries, side="right")) - 1
        last = min(max(full, first + 1), first + rows, count)
        yield first, last
        first = last


def starts_of(rows: Array, count: int) -> Array:
    """Return where each of ``count`` rows begins among entries whose ``rows`` do not fall."""
    return np.searchsorted(rows, np.arange(count + 1))


def checked_places(places: Any, size: int, of: str, where: str) -> Array:
    """Return positions as int32; raises ``DataError`` for one that is not in the matrix."""
    places = np.asarray(places)
    outside = first_where((places < 0) | (places >= size))
    if outside is not None:
        raise DataError(
            f"{where} is damaged: an entry belongs to {of} {int(places[outside]) + 1:,} of {size:,}. "
            "Fetch or write the file again."
        )
    held: Array = places.astype(np.int32, copy=False)
    return held


def first_where(condition: Array) -> int | None:
    """Return the first place where a condition holds, or None."""
    place = int(condition.argmax()) if len(condition) else 0
    return place if len(condition) and condition[place] else None
