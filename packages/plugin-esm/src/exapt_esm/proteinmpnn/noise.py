"""Noise on the coordinates of a structure, with which ProteinMPNN was trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from exapt import RecipeError
from exapt.parts import Augmentation, Changed
from exapt.structures import Structure


class BackboneNoise(Augmentation):
    """Gaussian noise on every coordinate, so that a model learns folds, not the last hundredth of an Å.

    Dauparas et al. 2022, doi:10.1126/science.add2187.
    """

    def __init__(self, deviation: float) -> None:
        self._deviation = deviation

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the structure with its atoms moved; those that are not there stay so. Raises ``RecipeError`` for a sequence."""
        if isinstance(value, str):
            raise RecipeError(
                "augmentation 'backbone-noise' moves the atoms of structures; this backbone reads sequences"
            )
        structure = Structure.of(value)
        moves = rng.normal(0, self._deviation, structure.atoms.shape)
        return Changed(structure.with_atoms(structure.atoms + moves))
