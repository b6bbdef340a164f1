"""Fewer molecules, and genes that go unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from exapt import RecipeError
from exapt.cells import Array, Cell
from exapt.parts import Augmentation, Changed


class Thinning(Augmentation):
    """Binomial thinning of counts: each molecule is kept with one chance, as at a lower depth of sequencing.

    Robinson and Storey 2014, doi:10.1093/bioinformatics/btu552.
    """

    def __init__(self, least: float) -> None:
        self._least = least

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the cell with some of its molecules. Raises ``RecipeError`` for values that are no counts."""
        cell = Cell.of(value)
        if not cell.raw or (cell.values % 1).any():
            raise RecipeError(
                "augmentation 'thinning' draws among counts of molecules, and these values are normalised: give raw counts, "
                "or use 'gene-dropout'"
            )
        chance = rng.uniform(self._least, 1)
        return _of(cell, rng.binomial(cell.values.astype(np.int64), chance).astype(cell.values.dtype))


class GeneDropout(Augmentation):
    """Expressed genes that go unseen at random (input dropout: Srivastava et al. 2014, JMLR 15)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return the cell without about ``rate`` of its expressed genes."""
        cell = Cell.of(value)
        return _of(cell, np.where(rng.random(len(cell.values)) < self._rate, 0, cell.values).astype(cell.values.dtype))


def _of(cell: Cell, values: Array) -> Changed:
    """Return a cell with other values of its expressed genes; one of which nothing is left stays as it was."""
    kept = np.flatnonzero(values)
    if not len(kept):
        return Changed(cell)
    return Changed(replace(cell, places=cell.places[kept], values=values[kept]), kept)
