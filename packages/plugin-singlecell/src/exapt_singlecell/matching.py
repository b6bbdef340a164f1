"""Which genes of a table a model knows: looked up once for a table, and reported of all its cells together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from exapt import DataError, TableError
from exapt.cells import Cell, Genes
from exapt.parts import Array, Encoding, Tally

UNKNOWN = -1
"""The token of a gene that the model does not know."""
HOW = "--set reader.genes=COLUMN (data.reader.genes for train)"
"""How the column is named that holds what a model knows genes by."""

_NAMED = 3
_COLUMNS = 10
# Cells that are counted together: one by one most of the time would go into the calls, and more no longer fit the cache.
_TOGETHER = 64


@dataclass(frozen=True, eq=False)
class Match:
    """What a model knows of some genes.

    ``tokens`` [genes] are ids, ``UNKNOWN`` where there is none. ``unmatched`` names the genes that the model does not
    know, ``ambiguous`` those whose name could be several of its genes, so that they are not used either, ``recased`` those
    that it knows in other upper and lower case only.
    """

    tokens: Array
    matched: int
    unmatched: tuple[str, ...]
    ambiguous: tuple[str, ...]
    recased: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], candidates: Iterable[Collection[int]]) -> Self:
        """Return the match of ``names``, each with the ids of all tokens that it could be."""
        tokens = np.full(len(names), UNKNOWN, dtype=np.int64)
        unmatched: list[str] = []
        ambiguous: list[str] = []
        for place, found in enumerate(candidates):
            if len(found) == 1:
                (tokens[place],) = found
            else:
                (ambiguous if found else unmatched).append(names[place])
        return cls(tokens, int((tokens != UNKNOWN).sum()), tuple(unmatched), tuple(ambiguous))


class Matcher:
    """Looks up the genes of tables in a model's vocabulary, once for each table.

    ``find`` does so for any names; ``known`` are genes of the model, of which an error shows the first. ``hint`` says of
    names that the model does not know what they are, and what to do; nothing where it cannot tell.
    """

    def __init__(
        self,
        find: Callable[[Sequence[str]], Match],
        known: Iterable[str] = (),
        hint: Callable[[Sequence[str]], str] = lambda names: "",
    ) -> None:
        self._find = find
        self._known = tuple(islice(known, _NAMED))
        self.hint = hint
        self._kept: WeakKeyDictionary[Genes, Match] = WeakKeyDictionary()

    def of(self, genes: Genes, needed: bool = True) -> Match:
        """Return the match of a table's genes; raises ``TableError`` if there is none though it is ``needed``."""
        match = self._kept.get(genes)
        if match is None:
            match = self._kept[genes] = self._find(genes.names)
        if needed and len(genes) and not match.matched:
            raise TableError(self.hint(genes.names) or self._nothing(genes, match))
        return match

    def _nothing(self, genes: Genes, match: Match) -> str:
        theirs = f", the model {_some(self._known, len(self._known))}" if self._known else ""
        several = f" ({len(match.ambiguous):,} could be several)" if match.ambiguous else ""
        return (
            f"the model knows none of the {len(genes):,} genes{several}: the table has {_some(genes.names)}{theirs}; "
            f"name the column of var that holds their Ensembl ids or symbols, {HOW}{_columns(genes)}"
        )


def _columns(genes: Genes) -> str:
    return f"; var has the columns {_listing(genes.columns, _COLUMNS)}" if genes.columns else ""


def _some(names: Collection[str], count: int = _NAMED) -> str:
    return ", ".join(f"'{name}'" for name in islice(names, count))


class MatchTally(Tally):
    """Counts which genes of the tables a model knows, which share of the counts they make up, and the empty cells.

    ``notes`` is what there is to tell of any table. The share is judged of all cells together, so that neither their
    order nor the pieces that they come in decide.
    """

    def __init__(self, matcher: Matcher, min_kept: float, notes: Sequence[str] = ()) -> None:
        self._matcher = matcher
        self._min_kept = min_kept
        self._notes = tuple(notes)
        self._seen: WeakSet[Genes] = WeakSet()
        self._genes: set[str] = set()
        # Dictionaries without values are sets in the order of the table.
        self._unmatched: dict[str, None] = {}
        self._ambiguous: dict[str, None] = {}
        self._recased: dict[str, None] = {}
        self._tokens: dict[str, int] = {}
        self._kept = self._total = 0.0
        self._cells = self._empty = 0

    def count(self, values: Sequence[Any], encodings: Sequence[Encoding]) -> None:
        """Take in some cells."""
        for genes, cells in groupby(map(Cell.of, values), lambda cell: cell.genes):
            match = self._matcher.of(genes, needed=False)
            self._take(genes, match)
            for some in _together(cells):
                self._add(match.tokens != UNKNOWN, some)

    def _add(self, known: Array, cells: Sequence[Cell]) -> None:
        ends = np.cumsum([len(cell.places) for cell in cells])
        inside = known[np.concatenate([cell.places for cell in cells])]
        values = np.concatenate([cell.values for cell in cells])
        self._total += float(values.sum(dtype=np.float64))
        self._kept += float(values[inside].sum(dtype=np.float64))
        self._cells += len(cells)
        # How many known genes were met before each cell ends.
        met = inside.nonzero()[0].searchsorted(ends)
        self._empty += int(np.count_nonzero(np.diff(met, prepend=0) == 0))

    def _take(self, genes: Genes, match: Match) -> None:
        if genes not in self._seen:
            self._seen.add(genes)
            self._genes.update(genes.names)
            self._unmatched.update(dict.fromkeys(match.unmatched))
            self._ambiguous.update(dict.fromkeys(match.ambiguous))
            self._recased.update(dict.fromkeys(match.recased))
            known = zip(genes.names, match.tokens.tolist(), strict=True)
            self._tokens.update((name, token) for name, token in known if token != UNKNOWN)

    @property
    def _share(self) -> float:
        return self._kept / self._total

    def _too_little(self, name: str) -> str:
        hint = "" if self._kept else self._matcher.hint([*self._unmatched])
        return hint or (
            f"{self._share:.1%} of the counts of '{name}' are of genes that the model knows, less than "
            f"tokenizer.min_kept = {self._min_kept:g} asks for; it does not know "
            f"{_some([*self._unmatched, *self._ambiguous])}: name the column of var that holds their Ensembl ids or "
            f"symbols, {HOW}, or lower min_kept"
        )

    def lines(self, name: str) -> list[str]:
        """Return how many genes of ``name`` are known, with which share of the counts, and how many cells are empty.

        Raises ``DataError`` if that share is below ``min_kept``.
        """
        if self._total and self._share < self._min_kept:
            raise DataError(self._too_little(name))
        share = f", {self._share:.1%} of the counts" if self._total else ""
        known = (
            f"the model knows {len(self._tokens):,} of {len(self._genes):,} genes of '{name}'{share}{self._others()}"
        )
        lines = [*self._notes, known]
        if self._recased:
            lines.append(
                f"{len(self._recased):,} genes of '{name}' match in other upper and lower case only: "
                f"{_listing(self._recased)}; so do genes of another species"
            )
        if self._empty:
            lines.append(f"{self._empty:,} of {self._cells:,} cells of '{name}' express no gene that the model knows")
        return lines

    def _others(self) -> str:
        times = Counter(self._tokens.values())
        shared = [name for name, token in self._tokens.items() if times[token] > 1]
        genes = sum(count > 1 for count in times.values())
        groups = (
            (self._unmatched, "unknown"),
            (self._ambiguous, "could be several, and not used"),
            (shared, f"read as {genes:,} gene{'s' if genes > 1 else ''}"),
        )
        return "".join(f"; {len(names):,} {what}: {_listing(names)}" for names, what in groups if names)


def _together(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    while some := list(islice(cells, _TOGETHER)):
        yield some


def _listing(names: Collection[str], shown: int = _NAMED) -> str:
    return ", ".join(islice(names, shown)) + (", ..." if len(names) > shown else "")
