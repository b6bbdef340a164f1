"""The letters of DNA: which are read, which are counted as unknown, and which are refused."""

from __future__ import annotations

from typing import Any

from exapt import DataError
from exapt_dna.options import DnaTokenizerOptions

BASES = "ACGT"
AMBIGUOUS = "RYSWKMBDHVN"
"""IUPAC's letters for more than one base, of Cornish-Bowden (1985), doi:10.1093/nar/13.9.3021."""

_READ = frozenset(BASES + AMBIGUOUS + (BASES + AMBIGUOUS).lower())
_PROTEIN_ALONE = frozenset("EFILPQefilpq")


def read(value: Any, options: DnaTokenizerOptions) -> tuple[str, int]:
    """Return a sequence as the tokenizers take it, and how many of its letters are other than A, C, G and T.

    Raises ``DataError``, with the position, for a letter that is no nucleotide, for U where RNA was not asked for, and
    for too many unknown letters.
    """
    if not isinstance(value, str):
        raise DataError(f"a sequence is text, not {type(value).__name__}")
    text = value.replace("U", "T").replace("u", "t") if options.rna else value
    if not _READ.issuperset(text):
        _refuse(text)
    text = text.upper() if options.case == "upper" else text
    unknown = len(text) - sum(map(text.count, BASES))
    if unknown and unknown / len(text) > options.max_unknown:
        which = ", ".join(sorted(set(text) - set(BASES)))
        raise DataError(
            f"{unknown} of {len(text)} letters ({which}) are unknown to the model, "
            f"more than max_unknown = {options.max_unknown:g} allows"
        )
    return text, unknown


def _refuse(text: str) -> None:
    place = next(place for place, letter in enumerate(text) if letter not in _READ)
    letter = text[place]
    where = f"character {letter!r} at position {place + 1}"
    if letter in "Uu":
        raise DataError(f"{where} is RNA; set tokenizer.rna = true to read U as T")
    looks = "; the sequence looks like protein" if _PROTEIN_ALONE & set(text) else ""
    raise DataError(f"{where} is no nucleotide{looks}")
