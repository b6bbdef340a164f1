"""Letters of sequences that are compared: one alphabet for a kind, and one letter for all that is unknown."""

from __future__ import annotations

from typing import Final

LETTERS: Final = {"dna": "ACGTN", "protein": "ARNDCQEGHILKMFPSTWYVBZX*"}
"""Letters of each kind, in the order of their codes."""
_UNKNOWN: Final = {"dna": "N", "protein": "X"}
_COMPLEMENT: Final = str.maketrans("ACGT", "TGCA")


def _table(kind: str) -> dict[int, str]:
    known = {ord(letter): letter for letter in LETTERS[kind]}
    if kind == "dna":
        known[ord("U")] = "T"
    every = {code: known.get(code, _UNKNOWN[kind]) for code in range(128)}
    return {**every, **{ord(letter.lower()): every[ord(letter)] for letter in map(chr, range(ord("A"), ord("Z") + 1))}}


_TABLES: Final = {kind: _table(kind) for kind in LETTERS}


def bare(sequence: str, kind: str) -> str:
    """Return a sequence in capital letters of its kind: U as T in DNA, and what is unknown as N (in proteins X)."""
    return sequence.encode("ascii", "replace").decode().translate(_TABLES[kind])


def reverse_complement(sequence: str) -> str:
    """Return the other strand of DNA, read in its own direction."""
    return sequence.translate(_COMPLEMENT)[::-1]
