"""Which sequences belong together, by alignment: families, and the nearest of some sequences to each of others.

Two sequences belong together if they are the same, if one holds the other, or if their best local alignment is
significant, covers enough of the shorter one, and has at least the asked identity: equal letters over columns, gaps
counted. DNA is compared on both strands. Families are the connected components of that relation (single linkage): no two
parts of a split that deals families whole share a related pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from exapt.data.alphabets import UNKNOWN, bare, reverse_complement
from exapt.data.groups import Joined
from exapt.errors import DataError

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SHORT = 50
"""Letters below which a sequence may be related by its equal letters alone: its alignment score cannot get far."""


@dataclass(frozen=True)
class Rule:
    """What makes two sequences related: ``identity`` and ``coverage`` are shares, ``evalue`` a number of chance hits."""

    kind: str
    identity: float = 0.0
    coverage: float = 0.5
    evalue: float = 1e-3
    engine: str = "auto"


@dataclass(frozen=True)
class Alignment:
    """One local alignment, in letters; ``evalue`` is by its score, as its engine reckons."""

    matches: int
    columns: int
    gapless: bool
    covered: float
    """Share of the shorter sequence that it spans."""
    shorter: int
    evalue: float

    @property
    def identity(self) -> float:
        """Equal letters over columns."""
        return self.matches / self.columns


class Engine(Protocol):
    """Compares sequences by their numbers."""

    name: str

    def links(self) -> Iterator[tuple[int, int]]:
        """Yield related pairs, enough of them to connect every family."""

    def hits(self, queries: Rows, targets: Rows) -> Iterator[tuple[int, int, float]]:
        """Yield query, target and identity of significant pairs, whatever their identity."""


class Judge:
    """Says which alignments count, among the sequences that are compared."""

    def __init__(self, sequences: Sequence[str], rule: Rule) -> None:
        self.rule = rule
        self.letters = sum(map(len, sequences))
        counts = np.bincount(np.frombuffer("".join(sequences).encode(), np.uint8), minlength=128)
        # Chance that two letters, drawn as often as they occur, are equal.
        self._equal = float(((counts / max(1, self.letters)) ** 2).sum())

    def significant(self, found: Alignment) -> bool:
        """Return whether an alignment is no chance hit, and covers enough."""
        if found.covered < self.rule.coverage:
            return False
        return found.evalue <= self.rule.evalue or self._by_letters(found) <= self.rule.evalue

    def related(self, found: Alignment) -> bool:
        """Return whether an alignment makes two sequences belong together."""
        return found.identity >= self.rule.identity and self.significant(found)

    def beyond_chance(self, equal: int) -> bool:
        """Return whether so many letters in a row, all equal, are more than chance would give a sequence of that length."""
        return equal > 0 and bool(self._equal**equal * equal * self.letters <= self.rule.evalue)

    def _by_letters(self, found: Alignment) -> float:
        """Return how many gapless pairings of so many equal letters chance would give a short sequence.

        Local scores of short peptides stay low even if all letters are equal; the binomial tail of the equal letters,
        times all places where such a pairing could begin, bounds the chance from above.
        """
        if not found.gapless or found.shorter >= SHORT:
            return np.inf
        missed = found.columns - found.matches
        tail = float(betainc(found.matches, missed + 1, self._equal))
        return tail * found.shorter * self.letters


class Homology:
    """Sequences made ready to be compared under a rule; equal ones, on either strand of DNA, are compared once.

    Raises ``DataError`` if they are not of the rule's kind, or if there is no program to compare them with.
    """

    def __init__(self, sequences: Sequence[str], rule: Rule) -> None:
        self.rule = rule
        plain = [bare(sequence, rule.kind) for sequence in sequences]
        _refuse_mistaken(sequences, rule.kind)
        self.unknown = sum(text.count(UNKNOWN[rule.kind]) for text in plain)
        """Letters that are compared as unknown ones."""
        known = [min(text, reverse_complement(text)) if rule.kind == "dna" else text for text in plain]
        self._distinct = sorted(set(known))
        number = {text: place for place, text in enumerate(self._distinct)}
        self._number = np.array([number[text] for text in known], np.int64)
        judge = Judge(self._distinct, rule)
        self._engine = engine_of(self._distinct, judge)
        self._judge = judge

    @property
    def engine(self) -> str:
        """Name and version of the program that compares."""
        return self._engine.name

    @cached_property
    def _contained(self) -> list[tuple[int, int]]:
        from exapt.data.contained import contained

        return list(contained(self._distinct, self._judge))

    @cached_property
    def families(self) -> Rows:
        """The family [sequences] of each, numbered in the order in which they first occur."""
        joined = Joined(len(self._distinct))
        for one, other in chain(self._contained, self._engine.links()):
            joined.join(one, other)
        roots = joined.roots()[self._number]
        _, first, numbers = np.unique(roots, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(first))[numbers], np.int64)

    def nearest(self, queries: Rows, targets: Rows) -> tuple[Rows, Floats]:
        """Return the row of the target nearest to each query [queries], -1 where none is significant, and its identity.

        Of equally near targets it is the first.
        """
        row_of: dict[int, int] = {}
        for row in targets.tolist():
            row_of.setdefault(int(self._number[row]), row)
        asked = self._number[queries]
        best = {number: (1.0, row_of[number]) for number in asked.tolist() if number in row_of}
        left = set(asked.tolist()) - best.keys()
        held = ((*pair, 1.0) for both in self._contained for pair in (both, both[::-1]) if pair[0] in left)
        hits = self._engine.hits(np.array(sorted(left), np.int64), np.array(sorted(row_of), np.int64))
        for query, target, identity in chain((one for one in held if one[1] in row_of), hits):
            found = best.get(query, (0.0, -1))
            if (identity, -row_of[target]) > (found[0], -found[1]):
                best[query] = (identity, row_of[target])
        pairs = [best.get(number, (0.0, -1)) for number in asked.tolist()]
        return np.array([row for _, row in pairs], np.int64), np.array([identity for identity, _ in pairs], np.float64)


def engine_of(sequences: Sequence[str], judge: Judge) -> Engine:
    """Return the program that compares. Raises ``DataError`` if it is not installed."""
    from exapt.data import mmseqs, opal

    asked = judge.rule.engine
    if asked == "mmseqs" or (asked == "auto" and mmseqs.installed()):
        return mmseqs.Mmseqs(sequences, judge)
    if opal.installed():
        return opal.Opal(sequences, judge)
    raise DataError(
        "sequences are compared by pyopal or by MMseqs2, and neither is installed: pip install 'exapt[homology]'."
    )


def _refuse_mistaken(sequences: Sequence[str], kind: str) -> None:
    letters = "".join(sequences).upper()
    bases = sum(letters.count(base) for base in "ACGTUN")
    if kind == "dna" and bases < len(letters) / 2:
        raise DataError("these are no DNA sequences: most of their letters are not A, C, G, T or N.")
    if kind == "protein" and bases == len(letters) and any(len(set(text)) > 1 for text in sequences):
        raise DataError("these are no protein sequences: all of their letters are A, C, G, T, U or N.")
