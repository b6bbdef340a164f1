"""Short patterns of equal letters, by which sequences that may be related are found without aligning all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from exapt.data.alphabets import LETTERS

Rows = npt.NDArray[np.int64]

# Positions that count are 1. The patterns overlap with shifted copies of themselves as little as palindromes of their
# length can; as palindromes they find the same on both strands, and in either direction.
_DNA: Final = {
    8: "1110001001000111",
    9: "11100100100100111",
    10: "11101001000010010111",
    11: "111001001010100100111",
    12: "111010010001100010010111",
}
_PROTEIN: Final = "11011"
_SIZE: Final = {"dna": 4, "protein": 20}
_NEAR: Final = 8
"""Diagonals between two seeds of one alignment: so many letters may be inserted or lost between them."""
_EXPECTED: Final = 16
"""Seeds of chance that a letter may have, which the weight of a pattern for DNA is chosen for."""


class Seeds:
    """Finds sequences with two seeds in common on nearly one diagonal; one is enough where one of the two is short.

    Seeds of one or two letters only, such as in ``AAAAAA`` or ``CACACA``, do not count.
    """

    def __init__(self, sequences: Sequence[str], kind: str, short: int) -> None:
        self._size, letters = _SIZE[kind], sum(map(len, sequences))
        weight = int(np.clip(np.ceil(np.log(max(1, letters) / _EXPECTED) / np.log(4)), min(_DNA), max(_DNA)))
        pattern = _DNA[weight] if kind == "dna" else _PROTEIN
        self._places = np.flatnonzero([letter == "1" for letter in pattern])
        self._span = len(pattern)
        self._code = np.full(128, self._size, np.int64)
        self._code[[ord(letter) for letter in LETTERS[kind][: self._size]]] = np.arange(self._size)
        self._short = np.array([len(sequence) < short for sequence in sequences])
        self._longest = max(map(len, sequences))
        self._limit = short
        self._index(sequences)

    def _index(self, sequences: Sequence[str]) -> None:
        found = [self._seeds(sequence) for sequence in sequences]
        words = np.concatenate([words for words, _ in found])
        order = np.argsort(words, kind="stable")
        sizes = [len(words) for words, _ in found]
        self._sequence = np.repeat(np.arange(len(found)), sizes)[order]
        self._position = np.concatenate([positions for _, positions in found])[order]
        counts = np.bincount(words, minlength=self._size ** len(self._places))
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def _seeds(self, sequence: str) -> tuple[Rows, Rows]:
        """Return the seeds of a sequence as numbers, and where they begin."""
        codes = self._code[np.frombuffer(sequence.encode(), np.uint8)]
        count = len(codes) - self._span + 1
        if count < 1:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        letters = np.stack([codes[place : place + count] for place in self._places])
        ordered = np.sort(letters, axis=0)
        distinct = 1 + (np.diff(ordered, axis=0) > 0).sum(axis=0)
        usable = np.flatnonzero((ordered[-1] < self._size) & (distinct > 2))
        powers = self._size ** np.arange(len(self._places), dtype=np.int64)
        return powers @ letters[:, usable], usable

    def near(self, sequence: str) -> Rows:
        """Return the numbers of the sequences, ascending, that may be related to one on its own strand."""
        words, positions = self._seeds(sequence)
        begins = self._first[words]
        counts = self._first[words + 1] - begins
        total = int(counts.sum())
        # Every hit's place in the index: a run from its word's first, one run after the other.
        runs = np.repeat(begins - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if total else begins[:0]
        places = runs + np.arange(total)
        targets = self._sequence[places]
        diagonals = self._position[places] - np.repeat(positions, counts) + self._longest
        # Diagonals of two sequences are further apart than those of one can be.
        keys = np.sort(targets * (3 * self._longest + _NEAR) + diagonals)
        owners = keys // (3 * self._longest + _NEAR)
        twice = owners[1:][np.diff(keys) <= _NEAR]
        if len(sequence) < self._limit:
            return np.unique(owners)
        return np.unique(np.concatenate([twice, owners[self._short[owners]]]))
