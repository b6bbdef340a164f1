"""Letters of sequences that are compared: one alphabet for a kind, and one letter for all that is unknown."""

from __future__ import annotations

import re
from typing import Final

LETTERS: Final = {"dna": "ACGTN", "protein": "ARNDCQEGHILKMFPSTWYVBZX*"}
"""Letters of each kind, in the order of their codes."""
UNKNOWN: Final = {"dna": "N", "protein": "X"}
"""The letter of each kind for what is not known."""
SUBSTITUTES: Final = {"dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}
"""The letters of each kind that one of them can be replaced by: bases, and the twenty amino acids."""
_FOREIGN: Final = {"dna": re.compile(r"[^A-Za-z]"), "protein": re.compile(r"[^A-Za-z*]")}
_COMPLEMENT: Final = str.maketrans("ACGT", "TGCA")


def _table(kind: str) -> dict[int, str]:
    known = {ord(letter): letter for letter in LETTERS[kind]}
    if kind == "dna":
        known[ord("U")] = "T"
    every = {code: known.get(code, UNKNOWN[kind]) for code in range(128)}
    return {**every, **{ord(letter.lower()): every[ord(letter)] for letter in map(chr, range(ord("A"), ord("Z") + 1))}}


_TABLES: Final = {kind: _table(kind) for kind in LETTERS}


def bare(sequence: str, kind: str) -> str:
    """Return a sequence in capital letters of its kind: U as T in DNA, and what is unknown as N (in proteins X)."""
    return sequence.encode("ascii", "replace").decode().translate(_TABLES[kind])


def foreign(sequence: str, kind: str) -> tuple[int, str] | None:
    """Return place (from 1) and character of the first that is no letter of a kind, such as a gap; None if all are."""
    found = _FOREIGN[kind].search(sequence)
    return (found.start() + 1, found[0]) if found else None


def reverse_complement(sequence: str) -> str:
    """Return the other strand of DNA, read in its own direction."""
    return sequence.translate(_COMPLEMENT)[::-1]
