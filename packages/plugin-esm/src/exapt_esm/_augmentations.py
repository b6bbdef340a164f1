"""Substitutions of residues."""

from __future__ import annotations

from typing import Any

import numpy as np

from exapt import RecipeError
from exapt.parts import Augmentation, Changed
from exapt_esm.augmentations import SubstitutionOptions

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
SIMILAR = {
    "A": "S",
    "D": "EN",
    "E": "DKQ",
    "F": "WY",
    "H": "NY",
    "I": "LMV",
    "K": "EQR",
    "L": "IMV",
    "M": "ILV",
    "N": "DHS",
    "Q": "EKR",
    "R": "KQ",
    "S": "ANT",
    "T": "S",
    "V": "ILM",
    "W": "FY",
    "Y": "FHW",
}
"""The residues whose exchange scores above 0 in BLOSUM62 (Henikoff and Henikoff 1992, doi:10.1073/pnas.89.22.10915)."""


class Substitution(Augmentation):
    """Substitutions at random places; residues that none resembles, and other letters, stay when it goes by likeness.

    Shen et al. 2021, doi:10.1145/3459930.3469492.
    """

    def __init__(self, options: SubstitutionOptions) -> None:
        self._rate, self._by = options.rate, options.by

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the sequence with about ``rate`` of its residues replaced. Raises ``RecipeError`` for a structure."""
        if not isinstance(value, str):
            raise RecipeError(
                "augmentation 'residue-substitution' changes sequences; this backbone reads structures: use 'backbone-noise'"
            )
        letters = list(value)
        for place in np.flatnonzero(rng.random(len(letters)) < self._rate):
            letters[place] = self._other(letters[place], rng)
        return Changed("".join(letters))

    def _other(self, letter: str, rng: np.random.Generator) -> str:
        if letter not in RESIDUES:
            return letter
        others = SIMILAR.get(letter, "") if self._by == "similar" else RESIDUES.replace(letter, "")
        return others[int(rng.integers(len(others)))] if others else letter
