"""The tokenizer of ProteinMPNN: one token for each position of a structure, with its atoms and its letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exapt import DataError
from exapt.parts import NO_UNIT, Array, Encoding, Tally, Tokenizer, unit_spans
from exapt.structures import ABSENT, Structure
from exapt_esm.proteinmpnn import ALPHABET, CA_CHECKPOINTS

# Of the residue index, between the last residue of a chain and the first of the next one.
_JUMP = 100
_CA = 1
OTHER = ALPHABET.index("X")


class Residues(Tally):
    """Counts the positions that a model cannot place, and the residues that it has no letter for."""

    def __init__(self) -> None:
        self._structures = self._positions = self._absent = self._gaps = self._other = self._odd = 0

    def count(self, values: Sequence[Any], encodings: Sequence[Encoding]) -> None:
        """Take in some structures."""
        for encoding in encodings:
            lacking = int((~encoding.arrays["resolved"]).sum())
            self._structures += 1
            self._positions += encoding.length
            self._absent += lacking
            self._gaps += lacking > 0
            self._other += encoding.unknown
            self._odd += encoding.unknown > 0

    def lines(self, name: str) -> list[str]:
        """Return one line if there were such positions, and one if there were such residues."""
        lines = []
        if self._absent:
            lines.append(
                f"{self._absent:,} of {self._positions:,} positions of '{name}', in {self._gaps:,} of {self._structures:,} "
                "structures, lack atoms of the backbone: they have no features"
            )
        if self._other:
            residues = "residue" if self._other == 1 else "residues"
            lines.append(
                f"{self._other:,} {residues} in {self._odd:,} of {self._structures:,} structures of '{name}' are none of the "
                "twenty, and read as X"
            )
        return lines


class ProteinMpnnTokenizer(Tokenizer):
    """One token for each position, no special ones.

    A token whose backbone atoms are not all there stands for no unit: it is a gap in the chain, of which nothing is said.
    Where ``alphas`` are all that the model reads, a CA atom is enough.
    """

    vocabulary: Mapping[str, int] = {letter: place for place, letter in enumerate(ALPHABET)}
    special = frozenset({OTHER})

    def __init__(self, alphas: bool) -> None:
        self.alphas = alphas
        self.rules = {"atoms": "ca" if alphas else "backbone"}

    def tally(self) -> Tally:
        """Return a new tally of structures."""
        return Residues()

    def unit_names(self, value: Any) -> Sequence[str]:
        """Return chain and residue number of each position, such as ``A:52``."""
        return Structure.of(value).names

    def encode(self, value: Any) -> Encoding:
        """Encode one structure, no letter of which is seen before another.

        Raises ``DataError`` for what is no structure, and for one that has not the atoms that the model reads.
        """
        structure = Structure.of(value)
        atoms = np.asarray(structure.atoms, dtype=np.float32)
        finite: Array = np.isfinite(atoms)
        there = np.logical_and.reduce(finite, axis=-1)
        resolved = there[:, _CA] if self.alphas else np.logical_and.reduce(there, axis=1)
        self._refuse_nothing(resolved, there)
        spans = unit_spans(len(structure))
        spans[~resolved] = NO_UNIT
        chain = structure.chain_of.astype(np.int64)
        ids = letters_ids(structure.letters)
        arrays: dict[str, Array] = {
            "atoms": np.where(finite, atoms, np.float32(0)),
            "resolved": resolved,
            "residue_index": np.arange(len(structure)) + _JUMP * chain,
            "chain": chain + 1,
            "input_ids": ids,
            "rank": np.zeros(len(structure), dtype=np.int64),
        }
        pads = {"atoms": 0, "resolved": 0, "residue_index": 0, "chain": 0, "input_ids": OTHER, "rank": 0}
        absent = np.array([letter == ABSENT for letter in structure.letters])
        return Encoding(arrays, pads, spans, len(structure), int(((ids == OTHER) & ~absent).sum()))

    def _refuse_nothing(self, resolved: Array, there: Array) -> None:
        if resolved.any():
            return
        if self.alphas:
            raise DataError("has no backbone atoms: no residue has a CA atom")
        if there[:, _CA].any() and not there[:, [0, 2, 3]].any():
            raise DataError(
                f"has CA atoms alone, and this model reads N, CA, C and O; use one of {', '.join(CA_CHECKPOINTS)}"
            )
        raise DataError("has no backbone atoms: no residue has all of N, CA, C and O")


def letters_ids(letters: str) -> Array:
    """Return the ids [units] of letters; whatever is none of the twenty is X."""
    return np.array([ProteinMpnnTokenizer.vocabulary.get(letter, OTHER) for letter in letters], dtype=np.int64)
