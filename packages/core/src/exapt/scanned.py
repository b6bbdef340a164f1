"""What is scanned: a sequence or a structure, and each substitution of it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from exapt.data.changes import Edit
from exapt.data.positions import chosen_positions
from exapt.data.reference import Whole
from exapt.data.residues import chain_named, unit_of
from exapt.data.variants import Placement, Variant
from exapt.errors import DataError
from exapt.structures import ABSENT, Array, Structure

_STRETCH = re.compile(r"(?:([^:]+):)?(-?[0-9]{1,9}[A-Za-z]?)(?:-(-?[0-9]{1,9}[A-Za-z]?))?")


@dataclass(frozen=True)
class Scanned(ABC):
    """An input that is scanned at ``positions`` (from 1), with an ``alphabet`` of substitutes; ``who`` is its id."""

    who: str
    positions: Sequence[int]
    alphabet: str

    @abstractmethod
    def __len__(self) -> int:
        """Return how many positions there are, scanned or not."""

    @abstractmethod
    def letter(self, position: int) -> str:
        """Return the letter at a position, as a capital."""

    @abstractmethod
    def variant(self, position: int, other: str) -> Variant | Placement:
        """Return the substitution by another letter."""

    @abstractmethod
    def places(self, positions: Sequence[int]) -> pa.Array:
        """Return what positions are called."""

    def mutation(self, position: int, other: str) -> str:
        """Return the name of a substitution, such as A23G."""
        return f"{self.letter(position)}{position}{other}"

    def label(self, position: int) -> str:
        """Return what stands at a position, and which it is, as short as can be."""
        return f"{self.letter(position)}{position}"

    @property
    def left_out(self) -> list[int]:
        """The positions whose letters are none of the alphabet."""
        return [position for position in self.positions if self.letter(position) not in self.alphabet]

    @property
    def lacking(self) -> Sequence[int]:
        """The positions that were asked for by name, and of which the model reads nothing."""
        return ()

    def substitutions(self) -> list[tuple[int, str]]:
        """Return every substitution, by position and then by letter."""
        return [
            (position, other)
            for position in self.positions
            for own in [self.letter(position)]
            for other in (self.alphabet if own in self.alphabet else "")
            if other != own
        ]

    def rows(self, scores: Sequence[float | None]) -> pa.RecordBatch:
        """Return a table of all substitutions, with their ``scores``."""
        made = self.substitutions()
        return pa.record_batch(
            {
                "id": pa.array([self.who] * len(made), pa.string()),
                "position": self.places([position for position, _ in made]),
                "wild_type": pa.array([self.letter(position) for position, _ in made], pa.string()),
                "mutant": pa.array([other for _, other in made], pa.string()),
                "mutation": pa.array([self.mutation(*one) for one in made], pa.string()),
                "score": pa.array(scores, pa.float32()),
            }
        )


@dataclass(frozen=True)
class ScannedSequence(Scanned):
    """A sequence ``text``."""

    text: str

    @classmethod
    def of(cls, who: str, text: Any, positions: str | Sequence[int], alphabet: str) -> ScannedSequence:
        """Return a sequence as it is to be scanned. Raises ``DataError`` for what is none, and for positions beyond its end."""
        if not isinstance(text, str) or not text:
            raise DataError(f"'{who}': is {text!r}, not a sequence")
        return cls(who, chosen_positions(positions, len(text), who), alphabet, text)

    def __len__(self) -> int:
        return len(self.text)

    def letter(self, position: int) -> str:
        """Return the letter at a position, as a capital."""
        return self.text[position - 1].upper()

    def variant(self, position: int, other: str) -> Variant:
        """Return the substitution by another letter."""
        edit = Edit(position - 1, self.letter(position), other)
        return Variant(f"{self.who} {self.mutation(position, other)}", Whole(self.text), (edit,))

    def places(self, positions: Sequence[int]) -> pa.Array:
        """Return what positions are called: whole numbers, from 1."""
        return pa.array(positions, pa.int64())


@dataclass(frozen=True, eq=False)
class ScannedStructure(Scanned):
    """A structure, at residues that the model reads; positions count them through all chains."""

    structure: Structure
    unread: Sequence[int]

    @classmethod
    def of(
        cls, who: str, structure: Structure, positions: str | Sequence[int], alphabet: str, read: Array
    ) -> ScannedStructure:
        """Return a structure as it is to be scanned; ``read`` [units] says which residues the model reads.

        Raises ``DataError`` for positions that it does not have.
        """
        words = [word.strip() for word in positions.split(",")] if isinstance(positions, str) else map(str, positions)
        stretches = [_stretch(word, structure, who) for word in words] if positions else [range(len(structure))]
        units = sorted({unit for stretch in stretches for unit in stretch if structure.letters[unit] != ABSENT})
        # Of a whole structure the tally counts them.
        unread = [unit + 1 for unit in units if not read[unit]] if positions else []
        return cls(who, [unit + 1 for unit in units if read[unit]], alphabet, structure, unread)

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def lacking(self) -> Sequence[int]:
        """The positions of residues that were asked for by name, and that lack atoms which the model reads."""
        return self.unread

    def letter(self, position: int) -> str:
        """Return the letter at a position."""
        return self.structure.letters[position - 1]

    def variant(self, position: int, other: str) -> Placement:
        """Return the substitution by another letter."""
        letters = self.structure.letters
        mutant = self.structure.with_letters(f"{letters[: position - 1]}{other}{letters[position:]}")
        return Placement(f"{self.who} {self.mutation(position, other)}", self.structure, mutant)

    def places(self, positions: Sequence[int]) -> pa.Array:
        """Return what positions are called: chain and residue number, such as A:52."""
        return pa.array([self.structure.names[position - 1] for position in positions], pa.string())

    def mutation(self, position: int, other: str) -> str:
        """Return the name of a substitution, such as A52G or, of one chain among others, A52G/B."""
        chain, number = self._address(position)
        of_chain = f"/{chain}" if len(self.structure.chains) > 1 else ""
        return f"{self.letter(position)}{number}{other}{of_chain}"

    def label(self, position: int) -> str:
        """Return what stands at a position, and its residue number, with its chain if there are others."""
        chain, number = self._address(position)
        return (
            f"{self.letter(position)} {chain}:{number}"
            if len(self.structure.chains) > 1
            else f"{self.letter(position)}{number}"
        )

    def _address(self, position: int) -> tuple[str, str]:
        chain = self.structure.chains[int(self.structure.chain_of[position - 1])]
        return chain, self.structure.numbers[position - 1]


def _stretch(word: str, structure: Structure, who: str) -> range:
    """Return the units of ``10-40``, ``A:10-40`` or ``57``, by the residue numbers of the file."""
    found = _STRETCH.fullmatch(word)
    if not found:
        raise DataError(f"positions of a structure are told as in 10-40,57 or A:10-40,B:57, and '{word}' is none")
    chain, first, last = found.groups()
    if not chain and len(structure.chains) > 1:
        there = ", ".join(structure.chains)
        raise DataError(
            f"'{who}' has the chains {there}: name one with its positions, as in {structure.chains[0]}:{word}"
        )
    try:
        number = chain_named(structure, chain or "")
    except DataError as error:
        raise DataError(f"'{who}': {error}") from None
    ends = [_unit(structure, number, residue, who) for residue in (first, last or first)]
    if ends[1] < ends[0]:
        raise DataError(f"positions {word} end before they begin")
    return range(ends[0], ends[1] + 1)


def _unit(structure: Structure, chain: int, number: str, who: str) -> int:
    unit = unit_of(structure, chain, number, "file")
    if unit is None or structure.letters[unit] == ABSENT:
        raise DataError(f"'{who}' has no residue {number} in chain {structure.chains[chain]}")
    return unit
