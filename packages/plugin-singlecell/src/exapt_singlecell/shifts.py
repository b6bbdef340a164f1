"""How far a cell moves in the space of a model when genes are deleted or over-expressed in what the model reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from exapt import Embedder, RecipeError
from exapt.cells import Cell
from exapt.parts import NO_UNIT, Array, Encoding

How = Literal["delete", "overexpress"]

_CELLS = 32
"""Cells of which the states of all genes are held at once."""
_PAIRS = 256
"""Perturbed cells that are embedded together."""


@runtime_checkable
class Perturbing(Protocol):
    """A tokenizer that can change the genes of a cell."""

    def perturbed(self, cell: Any, genes: Sequence[str], how: How) -> Encoding:
        """Encode a cell with some of its genes changed."""


@dataclass(frozen=True)
class _Pair:
    """A cell of a chunk, by ``row``, under one change, by ``change``: its encoding, and the units that both have."""

    row: int
    change: int
    encoding: Encoding
    units: Array


class Shifts:
    """The shift of cells under some ``changes``, each the names of genes that change together.

    The vectors compared are pooled over the same genes: those that the model reads before and after, without the ones
    that were changed. With the pooling ``cls`` they are the model's own. ``goal`` [width] is a place to move to, if any.
    Raises ``RecipeError`` for a model whose tokenizer cannot change genes.
    """

    def __init__(
        self, embedder: Embedder, changes: Sequence[Sequence[str]], how: How, goal: Array | None = None
    ) -> None:
        tokenizer = embedder.tokenizer
        if not isinstance(tokenizer, Perturbing):
            raise RecipeError(f"'{embedder.short_name}' cannot perturb cells: its tokenizer has no way to change genes")
        self._embedder, self._tokenizer = embedder, tokenizer
        self._changes, self._how, self._goal = changes, how, goal
        self._per_gene = replace(embedder, pooling="none")

    def check(self, cell: Cell) -> None:
        """Raise ``DataError`` for a gene that the model, or the table of the cell, does not know."""
        for genes in self._changes:
            self._tokenizer.perturbed(cell, genes, self._how)

    def of(self, cells: Sequence[Cell], encodings: Sequence[Encoding]) -> tuple[Array, Array]:
        """Return shifts and gains [changes, cells] of cells: cosine distances, and how much nearer to the goal in cosine.

        They are NaN for a cell in which nothing changes, because the model reads none of the genes or reads them as they
        would be over-expressed already, or of which nothing else is left; gains also where there is no goal.
        """
        found = np.full((2, len(self._changes), len(cells)), np.nan)
        for begin in range(0, len(cells), _CELLS):
            chunk = slice(begin, begin + _CELLS)
            self._measure(cells[chunk], encodings[chunk], found[:, :, chunk])
        return found[0], found[1]

    def _measure(self, cells: Sequence[Cell], encodings: Sequence[Encoding], found: Array) -> None:
        pairs = self._pairs(cells, encodings)
        states: list[Array] | None = None
        while some := list(islice(pairs, _PAIRS)):
            # Cells in which no gene changes are never run.
            states = self._states(encodings) if states is None else states
            before = np.stack([self._pooled(states[pair.row], pair.units) for pair in some]).astype(np.float64)
            after = self._embedder.vectors([pair.encoding for pair in some]).astype(np.float64)
            at = ([pair.change for pair in some], [pair.row for pair in some])
            # Vectors that are equal can be further than 0 apart by rounding, either way.
            found[0][at] = np.maximum(1 - cosine(before, after), 0)
            if self._goal is not None:
                found[1][at] = cosine(after, self._goal) - cosine(before, self._goal)

    def _states(self, encodings: Sequence[Encoding]) -> list[Array]:
        """Return the states [units, width] of each cell as it is, or its one vector [width] where that is the model's own."""
        embedder = self._embedder if self._embedder.pooling == "cls" else self._per_gene
        return list(embedder.vectors(encodings))

    def _pooled(self, states: Array, units: Array) -> Array:
        if self._embedder.pooling == "cls":
            return states
        return np.asarray(states[units].mean(0) if self._embedder.pooling == "mean" else states[units].max(0))

    def _pairs(self, cells: Sequence[Cell], encodings: Sequence[Encoding]) -> Iterator[_Pair]:
        for change, genes in enumerate(self._changes):
            for row, (cell, encoding) in enumerate(zip(cells, encodings, strict=True)):
                pair = self._pair(cell, encoding, genes)
                if pair is not None:
                    yield _Pair(row, change, *pair)

    def _pair(self, cell: Cell, encoding: Encoding, genes: Sequence[str]) -> tuple[Encoding, Array] | None:
        """Return the changed cell, of which only the units that stay count, and these; None if nothing changes or stays."""
        before = _units(encoding)
        # What is over-expressed can push another gene out; and the gene itself must count on neither side.
        changed = deleted = self._tokenizer.perturbed(cell, genes, "delete")
        if self._how != "delete":
            changed = self._tokenizer.perturbed(cell, genes, self._how)
        if _reads_alike(changed, encoding):
            return None
        units = np.intersect1d(before, np.intersect1d(_units(deleted), _units(changed)))
        if not len(units):
            return None
        if self._embedder.pooling == "cls":
            return changed, units
        stays = np.isin(changed.spans[:, :1], units)
        return replace(changed, spans=np.where(stays, changed.spans, NO_UNIT)), units


def _reads_alike(one: Encoding, other: Encoding) -> bool:
    return all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())


def _units(encoding: Encoding) -> Array:
    first = encoding.spans[:, 0]
    return np.asarray(first[first != NO_UNIT])


def cosine(vectors: Array, others: Array) -> Array:
    """Return the cosine similarity [rows] of vectors [rows, width] to others [rows, width] or to one [width]."""
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(others, axis=-1)
    return np.asarray((vectors * others).sum(-1) / np.maximum(lengths, np.finfo(np.float64).tiny))
