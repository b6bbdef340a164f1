"""What a row of variants says that changes, checked against the sequence that it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from exapt.data.reference import Letters
from exapt.errors import DataError

# Up to 18 digits: more are no place in any sequence, and beyond what files and arrays hold.
_SUBSTITUTION = re.compile(r"([A-Za-z])([0-9]{1,18})([A-Za-z*])")
_POSITION = re.compile(r"(-?[0-9]{1,18})(\.0+)?")
WILD_TYPE = re.compile(r"_?wt", re.I)
"""How a table of mutations calls the wild type itself."""
_LETTERS = re.compile(r"[A-Za-z]+")
# A deletion by another variant, no alternative, a named one such as <DEL>, breakends with and without a mate: none of
# them spells a sequence.
_SYMBOLIC = re.compile(r"\*|\.|<[^>]*>|.*[\[\]].*|\.[A-Za-z]+|[A-Za-z]+\.")


class UnscorableError(DataError):
    """A row that cannot have a score, though others of its table can; ``reason`` is what many such rows share."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason

    def at(self, where: str) -> UnscorableError:
        """Return the same, told of a row."""
        return type(self)(f"{where}: {self}", self.reason)


class MismatchError(UnscorableError):
    """The sequence is another than the table says."""


class IncomparableError(UnscorableError):
    """The model, or the scorer, cannot compare the mutant with the wild type."""


@dataclass(frozen=True)
class Edit:
    """One change: ``ref``, which begins at the letter ``start`` (from 0), becomes ``alt``."""

    start: int
    ref: str
    alt: str

    @property
    def stop(self) -> int:
        """The letter after ``ref``."""
        return self.start + len(self.ref)

    @property
    def silent(self) -> bool:
        """Whether nothing changes."""
        return self.ref.upper() == self.alt.upper()


def text_of(value: Any, what: str) -> str:
    """Return a cell as text. Raises ``DataError`` if it holds nothing."""
    if value in (None, ""):
        raise DataError(f"there is no '{what}'")
    return str(value)


def placed(facts: Mapping[str, Any]) -> Edit:
    """Return the change of a row that tells ``position``, ``ref`` and ``alt``."""
    text = text_of(facts["position"], "position")
    found = _POSITION.fullmatch(text)
    if not found:
        raise DataError(f"position '{text}' is no whole number")
    return Edit(int(found[1]) - 1, text_of(facts["ref"], "ref"), text_of(facts["alt"], "alt"))


def named(value: Any) -> tuple[Edit, ...]:
    """Return the substitutions that a text such as ``A23G:K41R`` names, by position; none for the wild type, ``WT``."""
    text = text_of(value, "mutation")
    if WILD_TYPE.fullmatch(text.strip()):
        return ()
    edits = []
    for word in text.split(":"):
        found = _SUBSTITUTION.fullmatch(word.strip())
        if not found:
            raise DataError(f"'{word}' is no substitution such as A23G; several are joined with colons, A23G:K41R")
        edits.append(Edit(int(found[2]) - 1, found[1], found[3]))
    edits.sort(key=lambda edit: edit.start)
    for one, other in pairwise(edits):
        if one.start == other.start:
            raise DataError(f"position {one.start + 1} changes twice")
    return tuple(edits)


def symbolic(edits: tuple[Edit, ...]) -> str:
    """Return the first allele that spells no sequence, or nothing."""
    alleles = (allele for edit in edits for allele in (edit.ref, edit.alt))
    return next((allele for allele in alleles if _SYMBOLIC.fullmatch(allele)), "")


def check(edit: Edit, letters: Letters) -> None:
    """Raise ``DataError`` for what is no change of letters, ``MismatchError`` for one of another sequence."""
    for what, allele in (("ref", edit.ref), ("alt", edit.alt)):
        if not _LETTERS.fullmatch(allele):
            raise DataError(f"{what} '{allele}' is not made of letters; write an insertion with the letter before it")
    if edit.start < 0:
        raise DataError(f"there is no position {edit.start + 1}: positions count from 1")
    if edit.stop > len(letters):
        raise MismatchError(
            f"position {edit.stop} lies beyond the end: there are {len(letters):,} letters",
            "positions beyond the end of the sequence",
        )
    found = letters.cut(edit.start, edit.stop)
    # A soft-masked reference is written in lower case; its letters are the same.
    if found.upper() != edit.ref.upper():
        whose = (
            f"the sequence has '{found}' at position {edit.start + 1}"
            if letters.whole
            else f"the reference has '{found}'"
        )
        raise MismatchError(f"{whose} where the table says '{edit.ref}'", "letters that are others in the sequence")


def between(letters: Letters, value: Any) -> tuple[Edit, ...]:
    """Return the change from a sequence to a mutant that is written out; none if they are the same."""
    wild, mutant = letters.cut(0, len(letters)), text_of(value, "mutant")
    if wild.upper() == mutant.upper():
        return ()
    start = _alike(wild, mutant)
    rest = min(len(wild), len(mutant)) - start
    tail = _alike(wild[::-1][:rest], mutant[::-1][:rest])
    return (Edit(start, wild[start : len(wild) - tail], mutant[start : len(mutant) - tail]),)


def _alike(one: str, other: str) -> int:
    """Return how many letters two texts begin with alike."""
    short = min(len(one), len(other))
    return next((place for place in range(short) if one[place] != other[place]), short)
