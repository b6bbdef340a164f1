"""Places of a structure, as a user writes them: ``B``, ``A:52A``, ``A:1-10``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exapt import DataError
from exapt.parts import Array
from exapt.structures import ABSENT, Structure

_NUMBER = r"-?[0-9]+[A-Za-z]?"
_STRETCH = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")


@dataclass(frozen=True)
class Places:
    """Finds places of the structure that is called ``name``."""

    name: str
    structure: Structure
    numbering: Literal["file", "index"]

    def chain(self, name: str, asked: str) -> Array:
        """Return the units of a chain, for the flag ``asked``. Raises ``DataError`` for one that is not there."""
        chains = self.structure.chains
        if name not in chains:
            one = f"; a residue is written with its chain, {chains[0]}:{name}" if _STRETCH.fullmatch(name) else ""
            raise DataError(f"{asked}: {self.name} has no chain '{name}'; its chains are {', '.join(chains)}{one}")
        return np.flatnonzero(self.structure.chain_of == chains.index(name))

    def of(self, text: str, asked: str) -> Array:
        """Return the units of a place, those without a residue among them.

        Raises ``DataError`` for a chain or a residue that is not there, and for a place where no residue is.
        """
        if text in self.structure.chains or ":" not in text:
            return self.chain(text, asked)
        name, _, said = text.rpartition(":")
        units = self.chain(name, asked)
        found = _STRETCH.fullmatch(said)
        if not found:
            raise DataError(
                f"{asked}: '{text}' is no place; write a chain (A), a residue (A:52A) or a stretch (A:1-10)"
            )
        first = self._unit(units, found[1], asked)
        last = self._unit(units, found[2], asked) if found[2] else first
        if last < first:
            raise DataError(f"{asked}: '{text}' ends before it begins")
        if all(self.structure.letters[unit] == ABSENT for unit in range(first, last + 1)):
            raise DataError(f"{asked}: {self.name} has no residue at {text}: it is missing from the structure")
        return np.arange(first, last + 1)

    def _unit(self, units: Array, number: str, asked: str) -> int:
        found = self._by(units, number, self.numbering)
        if found is not None:
            return found
        other: Literal["file", "index"] = "index" if self.numbering == "file" else "file"
        there = self._by(units, number, other) is not None
        chain = self.structure.chains[self.structure.chain_of[units[0]]]
        raise DataError(
            f"{asked}: chain {chain} of {self.name} has no {self._span(units, number)}{_HINTS[other] if there else ''}"
        )

    def _by(self, units: Array, number: str, numbering: str) -> int | None:
        if numbering == "file":
            code = number.lstrip("-0123456789").upper()
            plain = f"{int(number[: len(number) - len(code)])}{code}"
            numbers = [self.structure.numbers[unit].upper() for unit in units]
            return int(units[numbers.index(plain)]) if plain in numbers else None
        place = int(number) if number.isdigit() else 0
        return int(units[place - 1]) if 1 <= place <= len(units) else None

    def _span(self, units: Array, number: str) -> str:
        if self.numbering == "index":
            return f"position {number}; its positions are 1 to {len(units)}"
        first, last = (self.structure.numbers[unit] for unit in (units[0], units[-1]))
        return f"residue {number}; its residues are {first} to {last}"


_HINTS = {
    "index": "; counted from 1 along the chain it has: --numbering index",
    "file": "; by the residue numbers of the file it has: --numbering file",
}
