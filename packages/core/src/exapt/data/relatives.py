"""Rows of a table that are related by any of their sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from exapt.data.alphabets import UNKNOWN, foreign
from exapt.data.groups import united
from exapt.data.homology import Floats, Homology, Rows, Rule
from exapt.errors import DataError
from exapt.structures import Structure

if TYPE_CHECKING:
    from exapt.recipe import SplitOptions


_NAMES = {"dna": "DNA", "protein": "proteins"}


def rule_of(options: SplitOptions, kind: str) -> Rule:
    """Return what makes sequences of a kind, ``dna`` or ``protein``, related under the options of a split."""
    return Rule(kind, options.homology, options.coverage, options.evalue, options.engine)


class Relatives:
    """Rows, each with one sequence for each input; two are as near as the nearest of their sequences, whatever the inputs.

    A structure is compared by its sequence.

    Raises ``DataError`` for an input that is no text, for characters that are no letters, and like ``Homology``.
    """

    def __init__(self, inputs: Mapping[str, Sequence[Any]], ids: Sequence[str], rule: Rule) -> None:
        self.rule, self.ids = rule, ids
        inputs = {name: [_text(value) for value in values] for name, values in inputs.items()}
        for name, values in inputs.items():
            for row, value in enumerate(values):
                if not isinstance(value, str):
                    raise DataError(f"the input '{name}' of id '{ids[row]}' is no sequence, and cannot be compared.")
                _refuse_foreign(value, rule.kind, f"the input '{name}' of id '{ids[row]}'")
        self._inputs = len(inputs)
        self._homology = _compared(tuple(value for values in inputs.values() for value in values), rule)

    @property
    def engine(self) -> str:
        """Name and version of the program that compares."""
        return self._homology.engine

    def families(self) -> Rows:
        """Return the family [rows] of each row."""
        return united(*self._homology.families.reshape(self._inputs, len(self.ids)).tolist())

    def nearest(self, rows: Rows, targets: Rows) -> tuple[Rows, Floats]:
        """Return the nearest target [rows] of each row, -1 where none is significant, and its identity [rows]."""
        count = len(self.ids)
        items, identities = self._homology.nearest(self._items(rows), self._items(targets))
        identities = identities.reshape(self._inputs, len(rows))
        best = identities.argmax(axis=0)
        found = items.reshape(self._inputs, len(rows))[best, np.arange(len(rows))]
        return np.where(found < 0, -1, found % count), identities[best, np.arange(len(rows))]

    def noted(self, families: Rows) -> str:
        """Say how many families there are, and how they were found."""
        sizes = np.bincount(np.unique(families, return_inverse=True)[1])
        return (
            f"{len(families):,} rows are of {len(sizes):,} families at identity {self.rule.identity:g} and coverage "
            f"{self.rule.coverage:g}, the largest of {sizes.max():,} rows ({self.engine})"
        )

    def ambiguous(self) -> list[str]:
        """Say, if there are any, how many letters stand for no single base or residue."""
        count, letter = self._homology.unknown, UNKNOWN[self.rule.kind]
        said = "1 ambiguous letter was" if count == 1 else f"{count:,} ambiguous letters were"
        return [f"{said} compared as unknown ({letter})"] if count else []

    def _items(self, rows: Rows) -> Rows:
        return np.concatenate([rows + place * len(self.ids) for place in range(self._inputs)])


def _text(value: Any) -> Any:
    return value.text if isinstance(value, Structure) else value


def _refuse_foreign(value: str, kind: str, whose: str) -> None:
    found = foreign(value, kind)
    if found:
        place, letter = found
        raise DataError(
            f"{whose} has {letter!r} at position {place}, which is no letter of {_NAMES[kind]}: take it out."
        )


@lru_cache(maxsize=1)
def _compared(sequences: tuple[str, ...], rule: Rule) -> Homology:
    # Runs that are compared with one another split the same table again and again.
    return Homology(sequences, rule)
