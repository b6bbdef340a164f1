"""The other strand, a window that moves, and point mutations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exapt.parts import NO_UNIT, Augmentation, Changed
from exapt_dna.augmentations import PointMutationOptions, ReverseComplementOptions, ShiftOptions
from exapt_dna.letters import BASES

_PAIRS = str.maketrans("ACGTURYSWKMBDHVNacgturyswkmbdhvn", "TGCAAYRSWMKVHDBNtgcaayrswmkvhdbn")


def reverse_complement(sequence: str) -> str:
    """Return the other strand, from its 5' end, with IUPAC's letters paired and case kept."""
    return sequence.translate(_PAIRS)[::-1]


def _turned(sequence: str) -> Changed:
    return Changed(reverse_complement(sequence), np.arange(len(sequence))[::-1])


class ReverseComplement(Augmentation):
    """The other strand; a label per base goes with its base pair (Zhou et al. 2022, PMLR 165)."""

    def __init__(self, options: ReverseComplementOptions) -> None:
        self._options = options
        self.trains = options.probability > 0

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the sequence, or with the chosen probability its other strand."""
        return _turned(value) if rng.random() < self._options.probability else Changed(value)

    def views(self, value: Any) -> Sequence[Changed]:
        """Return the other strand, unless averaging was not asked for."""
        return (_turned(value),) if self._options.average else ()


class Shift(Augmentation):
    """The sequence seen through a window that moved by a few bases (Kelley et al. 2018, doi:10.1101/gr.227819.117)."""

    def __init__(self, options: ShiftOptions) -> None:
        self._options = options

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the sequence without some bases of one end; with ``fill`` N, as many letters N at the other."""
        most = min(self._options.most, len(value) - 1)
        by = int(rng.integers(-most, most + 1)) if most > 0 else 0
        units = np.arange(len(value))[max(0, by) : len(value) + min(0, by)]
        kept = value[max(0, by) : len(value) + min(0, by)]
        if self._options.fill == "crop":
            return Changed(kept, units)
        gap, nothing = "N" * abs(by), np.full(abs(by), NO_UNIT)
        if by < 0:
            return Changed(gap + kept, np.concatenate([nothing, units]))
        return Changed(kept + gap, np.concatenate([units, nothing]))


class PointMutation(Augmentation):
    """Substitutions at random places (Lee et al. 2023, doi:10.1186/s13059-023-02941-w); letters other than A, C, G and T stay."""

    def __init__(self, options: PointMutationOptions) -> None:
        self._rate = options.rate

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the sequence with about ``rate`` of its bases replaced, each by one of the three others."""
        letters = list(value)
        for place in np.flatnonzero(rng.random(len(letters)) < self._rate):
            letters[place] = _other(letters[place], int(rng.integers(3)))
        return Changed("".join(letters))


def _other(letter: str, choice: int) -> str:
    if letter.upper() not in BASES:
        return letter
    others = [base for base in BASES if base != letter.upper()]
    return others[choice] if letter.isupper() else others[choice].lower()
