"""Expression in bins: each value of a cell by the quantiles of the cell's own values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from exapt.parts import Array

# Up to here a table of all counts is faster than putting a cell's values in order.
_COUNTED = 4096


def binned(values: Array, bins: int) -> Array:
    """Return the bins [genes], from 1 to ``bins`` - 1, of the non-zero ``values`` [genes] of one cell.

    The edges are ``bins`` - 1 quantiles of the values themselves. Where a value is that of several edges, as most of a
    cell's small counts are, scGPT draws one of the bins between them at random; here it gets the mean of what would be
    drawn, rounded down, so that equal values have equal bins and a cell has the same bins each time. Whatever keeps the
    order of the values, such as a logarithm, keeps the bins but for the rounding of edges between two values.
    """
    if not len(values):
        return np.empty(0, dtype=np.float32)
    counts = np.maximum.reduce(values) < _COUNTED and not np.count_nonzero(np.rint(values) != values)
    return _of_counts(values.astype(np.intp), bins) if counts else _of_numbers(values, bins)


def _of_counts(counts: Array, bins: int) -> Array:
    reached = np.bincount(counts).cumsum()
    places, share = _places(len(counts), bins - 1)
    edges = _edges(reached.searchsorted(places, "right").astype(np.float32), share)
    starts = np.concatenate((np.ceil(edges), np.floor(edges) + 1)).astype(np.intp)
    return np.asarray(_middle(starts, len(reached))[counts])


def _of_numbers(values: Array, bins: int) -> Array:
    order = np.argsort(values)
    ordered = values[order]
    places, share = _places(len(values), bins - 1)
    edges, exact = _edges(ordered[places], share), ordered.astype(np.float64)
    starts = np.concatenate((exact.searchsorted(edges, "left"), exact.searchsorted(edges, "right")))
    found = np.empty(len(values), dtype=np.float32)
    found[order] = _middle(starts, len(values))
    return found


def _middle(starts: Array, length: int) -> Array:
    """Return the bins of ``length`` rising values.

    ``starts`` are the places at which values begin to be at least as great as an edge, and greater than one: the bins
    that can be drawn begin one above the number of edges below a value, and end at the number of those not above it.
    """
    return ((np.bincount(starts, minlength=length)[:length].cumsum() + 1) >> 1).astype(np.float32)


def _edges(values: Array, share: Array) -> Array:
    """Return quantiles [count], rounded exactly as those of ``numpy.quantile``, of the ``values`` at their places."""
    low, high, near = values.reshape(3, -1)
    return np.asarray(near + (high - low) * share)


@lru_cache(maxsize=4096)
def _places(length: int, count: int) -> tuple[Array, Array]:
    """Return the places of ordered values at which ``count`` quantiles lie, and the share of the way from the nearest.

    The places [3 * count] are those of the value below each quantile, of that above it, and of the nearer of both.
    """
    places = np.linspace(0, 1, count) * (length - 1)
    lower = np.floor(places).astype(np.intp)
    upper = np.minimum(lower + 1, length - 1)
    share = places - lower
    near = share >= 0.5
    return np.concatenate((lower, upper, np.where(near, upper, lower))), np.where(near, share - 1, share)
