"""Which residues of a structure lie near each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exapt.structures import Structure

_ROWS = 512
"""Rows of the matrix of distances that are held at a time."""


def contacts_of(structure: Structure, distance: float) -> npt.NDArray[np.int64]:
    """Return the pairs of positions nearer than ``distance`` in Å, as [pairs, 2]: counted from 1, the first before the second.

    Near are C-beta atoms, put where the backbone tells (Dauparas et al. 2022, doi:10.1126/science.add2187), for glycine
    too; C-alpha where N, CA and C are not all there. A position without coordinates is near none.
    """
    places = _beta(structure.atoms.astype(np.float64))
    units = np.flatnonzero(np.isfinite(places).all(axis=1))
    found = [np.zeros((0, 2), dtype=np.int64)]
    for begin in range(0, len(units), _ROWS):
        rows, later = units[begin : begin + _ROWS], units[begin:]
        near = np.linalg.norm(places[rows, None] - places[None, later], axis=2) < distance
        first, second = np.nonzero(np.triu(near, 1))
        found.append(np.stack([rows[first], later[second]], axis=1) + 1)
    return np.concatenate(found)


def _beta(atoms: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    nitrogen, alpha, carbon = atoms[:, 0], atoms[:, 1], atoms[:, 2]
    to_alpha, to_carbon = alpha - nitrogen, carbon - alpha
    across = np.cross(to_alpha, to_carbon)
    beta = -0.58273431 * across + 0.56802827 * to_alpha - 0.54067466 * to_carbon + alpha
    return np.where(np.isfinite(beta), beta, alpha)
