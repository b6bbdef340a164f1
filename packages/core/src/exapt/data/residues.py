"""What a row of variants of a structure says that changes, checked against the structure that it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from exapt.data.changes import WILD_TYPE, IncomparableError, MismatchError, text_of
from exapt.errors import DataError
from exapt.structures import ABSENT, Structure

Numbering = Literal["file", "index"]
"""What a position is: the residue number of the file, or the place in the chain, counted from 1."""
UNLIKE = "insertions and deletions, which have no place on a structure"
_SUBSTITUTION = re.compile(r"([A-Za-z])(-?[0-9]{1,9}[A-Za-z]?)([A-Za-z*])(?:/(.+))?")
_NUMBER = re.compile(r"(-?[0-9]{1,9})(?:\.0+)?([A-Za-z]?)")
_LETTERS = re.compile(r"[A-Za-z]+")
_MISSING = "residues that the structure does not have"
_HINTS = {
    "index": "; counted from 1 along the chain it would match: --numbering index",
    "file": "; by the residue numbers of the file it would match: --numbering file",
}


@dataclass(frozen=True)
class Substitution:
    """Residues ``ref``, from the one that is called ``number`` on, become ``alt``; ``chain`` is empty for the only one."""

    chain: str
    number: str
    ref: str
    alt: str


def named(value: Any, chain: str) -> list[Substitution]:
    """Return the substitutions that a text such as ``A23G:K41R`` or ``A23G/B:K41R/C`` names; none for ``WT``.

    Those that name no chain are of ``chain``. Raises ``DataError`` for anything else.
    """
    text = text_of(value, "mutation").strip()
    if WILD_TYPE.fullmatch(text):
        return []
    return [_named(word.strip(), chain) for word in text.split(":")]


def _named(word: str, chain: str) -> Substitution:
    found = _SUBSTITUTION.fullmatch(word)
    if not found:
        raise DataError(
            f"'{word}' is no substitution such as A23G, or A23G/B in chain B; several are joined with colons, A23G:K41R"
        )
    ref, number, alt, own = found.groups()
    if own and chain and own != chain:
        raise DataError(f"'{word}' is in chain '{own}', and the column 'chain' says '{chain}'")
    return Substitution(own or chain, _plain(number), ref, alt)


def placed(facts: Mapping[str, Any], chain: str) -> Substitution:
    """Return the substitution of a row that tells ``position``, ``ref`` and ``alt``."""
    text = text_of(facts["position"], "position")
    if not _NUMBER.fullmatch(text):
        raise DataError(f"position '{text}' is no residue number such as 52 or 52A")
    return Substitution(chain, _plain(text), text_of(facts["ref"], "ref"), text_of(facts["alt"], "alt"))


def _plain(number: str) -> str:
    digits, code = _NUMBER.fullmatch(number).groups()  # type: ignore[union-attr]  # it has matched before
    return f"{int(digits)}{code}"


def chain_named(structure: Structure, name: str) -> int:
    """Return the number of a chain: of that name or, without one, of the only one that there is."""
    there = ", ".join(structure.chains)
    if not name and len(structure.chains) > 1:
        raise DataError(f"the structure has the chains {there}: name one in a column 'chain', or as in A23G/{there[0]}")
    if name and name not in structure.chains:
        raise MismatchError(f"the structure has no chain '{name}'; its chains are {there}", "chains that are not there")
    return structure.chains.index(name) if name else 0


def checked(structure: Structure, one: Substitution, numbering: Numbering) -> int:
    """Return the unit where a substitution begins.

    Raises ``DataError`` for what is no substitution, ``IncomparableError`` for an insertion or a deletion,
    ``MismatchError`` for one of residues that are not there, or others.
    """
    for what, letters in (("ref", one.ref), ("alt", one.alt)):
        if not _LETTERS.fullmatch(letters):
            raise DataError(f"{what} '{letters}' is not made of letters")
    if len(one.ref) != len(one.alt):
        raise IncomparableError(f"'{one.ref}' does not become '{one.alt}' on a structure: it keeps its length", UNLIKE)
    chain = chain_named(structure, one.chain)
    unit = _found(structure, chain, one, numbering)
    have = _letters(structure, chain, unit, len(one.ref))
    if have != one.ref.upper():
        raise MismatchError(
            f"chain {structure.chains[chain]} has '{have}' at {_called(numbering)} {one.number} where the table says "
            f"'{one.ref}'{_hint(structure, chain, one, numbering)}",
            "letters that are others in the structure",
        )
    return unit


def _letters(structure: Structure, chain: int, unit: int, count: int) -> str:
    """Return ``count`` letters from a unit on, or as many as the chain has."""
    return structure.letters[unit : min(unit + count, int(structure.starts[chain + 1]))]


def _found(structure: Structure, chain: int, one: Substitution, numbering: Numbering) -> int:
    unit = unit_of(structure, chain, one.number, numbering)
    if unit is None or structure.letters[unit] == ABSENT:
        said = _nowhere(structure, chain, one.number, numbering) if unit is None else _unseen(structure, chain, unit)
        raise MismatchError(said + _hint(structure, chain, one, numbering), _MISSING)
    return unit


def unit_of(structure: Structure, chain: int, number: str, numbering: Numbering) -> int | None:
    """Return the unit of a chain that is called ``number``, or None. Raises ``DataError`` for what is no place at all."""
    start, stop = (int(end) for end in structure.starts[chain : chain + 2])
    if numbering == "file":
        numbers = structure.numbers[start:stop]
        return start + numbers.index(number) if number in numbers else None
    if not number.lstrip("-").isdigit():
        raise DataError(f"position {number} is a residue number of the file: it is read with --numbering file")
    if int(number) < 1:
        raise DataError(f"there is no position {number}: positions count from 1")
    return start + int(number) - 1 if int(number) <= stop - start else None


def _nowhere(structure: Structure, chain: int, number: str, numbering: Numbering) -> str:
    start, stop = structure.starts[chain : chain + 2]
    name = structure.chains[chain]
    if numbering == "index":
        return f"position {number} lies beyond the end: chain {name} has {stop - start:,} positions"
    first, last = structure.numbers[start], structure.numbers[stop - 1]
    return f"chain {name} has no residue {number}; its residues are {first} to {last}"


def _unseen(structure: Structure, chain: int, unit: int) -> str:
    start, stop = (int(end) for end in structure.starts[chain : chain + 2])
    seen = [at for at in range(start, stop) if structure.letters[at] != ABSENT]
    before, after = max(at for at in seen if at < unit), min(at for at in seen if at > unit)
    return (
        f"residue {structure.numbers[unit]} of chain {structure.chains[chain]} is missing from the structure, which has "
        f"none between {structure.numbers[before]} and {structure.numbers[after]}"
    )


def _called(numbering: Numbering) -> str:
    return "residue" if numbering == "file" else "position"


def _hint(structure: Structure, chain: int, one: Substitution, numbering: Numbering) -> str:
    other: Numbering = "index" if numbering == "file" else "file"
    try:
        unit = unit_of(structure, chain, one.number, other)
    except DataError:
        return ""
    fits = unit is not None and _letters(structure, chain, unit, len(one.ref)) == one.ref.upper()
    return _HINTS[other] if fits else ""
