"""Labels from the cells of a reference, by where a model puts cells: nearest neighbours or prototypes, and 'unknown'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.neighbors import NearestNeighbors

from exapt import DataError, RecipeError
from exapt.parts import Array

UNKNOWN = "unknown"
METHODS = ("neighbours", "prototypes")
METRICS = ("cosine", "euclidean")

_CALIBRATED = 2_000
"""Cells of each class whose own distances say which distances are usual: more change the quantiles no longer."""
_LEAST = 1e-12
"""Distance below which two cells are one, so that weights stay finite."""


@dataclass(frozen=True)
class Transfer:
    """How labels are transferred. Raises ``RecipeError`` for what cannot be.

    ``unknown`` is the quantile of the reference's own distances, each cell left out in turn, beyond which a cell is
    unknown; None if all cells are to get a label.
    """

    method: Literal["neighbours", "prototypes"] = "neighbours"
    k: int = 15
    metric: Literal["cosine", "euclidean"] = "cosine"
    unknown: float | None = 0.99

    def __post_init__(self) -> None:
        for what, given, known in (("method", self.method, METHODS), ("metric", self.metric, METRICS)):
            if given not in known:
                raise RecipeError(f"unknown {what} '{given}'; choose {' or '.join(known)}")
        if self.k < 1:
            raise RecipeError(f"k is {self.k}, and at least one neighbour is needed")
        if self.unknown is not None and not 0 < self.unknown <= 1:
            raise RecipeError(f"unknown is {self.unknown:g}: give a quantile above 0 and up to 1, or None for never")

    def space(self, vectors: Array) -> Array:
        """Return vectors [cells, width] so that half their squared distance, or their distance, is what is asked for."""
        if self.metric == "euclidean":
            return vectors
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST))

    def distance(self, squared: Array) -> Array:
        """Return squared euclidean distances in that space as distances of the metric."""
        return squared / 2 if self.metric == "cosine" else np.sqrt(squared)


@dataclass(frozen=True)
class Votes:
    """What the reference says of some cells: the share of each class [cells, classes], and a distance [cells] to it."""

    shares: Array
    distances: Array


class Reference(ABC):
    """The labelled cells: ``vectors`` [cells, width] in the space of the metric, ``codes`` [cells] of their classes."""

    def __init__(self, vectors: Array, codes: Array, how: Transfer) -> None:
        self.vectors, self.codes, self.how = vectors, codes, how
        self.classes = int(codes.max()) + 1

    @abstractmethod
    def votes(self, vectors: Array) -> Votes:
        """Return what is said of cells [cells, width] that are not of the reference."""

    @abstractmethod
    def left_out(self, rows: Array) -> Array:
        """Return the distances [rows] of cells of the reference to the others; NaN where there is none to ask."""


class Neighbours(Reference):
    """The nearest cells vote, each by the inverse of its distance; the distance of a cell is the mean of theirs.

    So labels are carried over from an atlas by Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7 (with other weights).
    """

    def __init__(self, vectors: Array, codes: Array, how: Transfer) -> None:
        super().__init__(vectors, codes, how)
        if how.k >= len(codes):
            raise RecipeError(
                f"k = {how.k} needs a reference of more than {how.k:,} labelled cells, not {len(codes):,}"
            )
        self._search = NearestNeighbors(algorithm="brute").fit(vectors)

    def votes(self, vectors: Array) -> Votes:
        """Return the shares of the votes of k neighbours."""
        far, found = self._search.kneighbors(vectors, self.how.k)
        distances = self.how.distance(far.astype(np.float64) ** 2)
        weights = 1 / np.maximum(distances, _LEAST)
        places = np.arange(len(found))[:, None] * self.classes + self.codes[found]
        shares = np.bincount(places.ravel(), weights.ravel(), len(found) * self.classes).reshape(-1, self.classes)
        return Votes(shares / shares.sum(1, keepdims=True), distances.mean(1))

    def left_out(self, rows: Array) -> Array:
        """Return the mean distances to the k nearest other cells."""
        far, found = self._search.kneighbors(self.vectors[rows], self.how.k + 1)
        others = found != rows[:, None]
        # A cell with more than k copies need not be among its own neighbours.
        others[others.all(1), -1] = False
        distances = self.how.distance(far.astype(np.float64)[others].reshape(len(rows), -1) ** 2)
        return np.asarray(distances.mean(1))


class Prototypes(Reference):
    """Each class is the mean of its cells, the nearest one wins (Snell et al. 2017, arXiv:1703.05175).

    Probabilities are the softmax of the negative squared distances, times the one factor that makes the reference's own
    labels likeliest, each cell left out in turn (a temperature, after Guo et al. 2017, arXiv:1706.04599).
    """

    def __init__(self, vectors: Array, codes: Array, how: Transfer) -> None:
        super().__init__(vectors, codes, how)
        self._counts = np.bincount(codes)
        self._sums = np.stack([vectors[codes == code].sum(0, dtype=np.float64) for code in range(self.classes)])
        self._means = how.space(self._sums / self._counts[:, None])
        self._factor = self._fitted()

    def votes(self, vectors: Array) -> Votes:
        """Return the probabilities of the classes, and the distance to the nearest prototype."""
        squared = self._squared(vectors)
        return Votes(softmax(-self._factor * squared, axis=1), self.how.distance(squared.min(1)))

    def left_out(self, rows: Array) -> Array:
        """Return the distances to the means of the other cells of their classes."""
        return self.how.distance(self._own(rows))

    def _squared(self, vectors: Array) -> Array:
        # One class at a time: all differences at once would take classes times the room.
        return np.stack([((vectors - mean) ** 2).sum(1, dtype=np.float64) for mean in self._means], axis=1)

    def _own(self, rows: Array) -> Array:
        codes = self.codes[rows]
        others = self._counts[codes] - 1
        mean = (self._sums[codes] - self.vectors[rows]) / np.maximum(others, 1)[:, None]
        squared = ((self.vectors[rows] - self.how.space(mean)) ** 2).sum(1, dtype=np.float64)
        return np.where(others > 0, squared, np.nan)

    def _fitted(self) -> float:
        rows = sample(self.codes)
        rows = rows[self._counts[self.codes[rows]] > 1]
        squared, codes = self._squared(self.vectors[rows]), self.codes[rows]
        usual = float(np.median(squared)) if len(rows) else 0.0
        if usual <= 0:
            return 1.0
        squared[np.arange(len(rows)), codes] = self._own(rows)

        def unlikely(exponent: float) -> float:
            likely = log_softmax(-np.exp(exponent) / usual * squared, axis=1)
            return float(-likely[np.arange(len(rows)), codes].mean())

        return float(np.exp(minimize_scalar(unlikely, bounds=(-5, 10), method="bounded").x) / usual)


def sample(codes: Array) -> Array:
    """Return rows of each class, evenly from all that it has, no more than calibration takes."""
    chosen = []
    for code in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == code)
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(len(rows), _CALIBRATED)).astype(np.intp)])
    return np.concatenate(chosen)


class Labeller:
    """Gives cells labels of a reference, by ``names`` of its classes, or none where they are too far from all of it.

    Each class that has enough cells for its quantile to lie within them has a limit of its own, from its own distances;
    the others share that of all classes together.
    """

    def __init__(self, vectors: Array, labels: Sequence[str], how: Transfer) -> None:
        self.names, codes = _coded(labels)
        self.how, self.width = how, vectors.shape[1]
        kind = Neighbours if how.method == "neighbours" else Prototypes
        self._reference: Reference = kind(how.space(vectors), codes, how)
        self.limits = self._limits(codes)

    def _limits(self, codes: Array) -> Array:
        limits = np.full(len(self.names), np.inf)
        if self.how.unknown is None:
            return limits
        rows = sample(codes)
        distances = self._reference.left_out(rows)
        known = ~np.isnan(distances)
        rows, distances = rows[known], distances[known]
        if not len(rows):
            raise DataError("the reference has one cell of each class: nothing tells which distances are usual")
        limits[:] = np.quantile(distances, self.how.unknown)
        for code in range(len(limits)):
            own = distances[codes[rows] == code]
            if len(own) * (1 - self.how.unknown) >= 1:
                limits[code] = np.quantile(own, self.how.unknown)
        return limits

    def answers(self, ids: Sequence[str], vectors: Array, empty: Array) -> pa.RecordBatch:
        """Return the columns id, prediction, probability_<class> of each and distance, for cells [cells, width].

        An ``empty`` cell is unknown, without probabilities and distance. Raises ``DataError`` for another width.
        """
        if vectors.shape[1] != self.width:
            raise DataError(f"the query's vectors are {vectors.shape[1]} wide, the reference's {self.width}")
        shares, distances = np.full((len(ids), len(self.names)), np.nan), np.full(len(ids), np.nan)
        told = np.full(len(ids), UNKNOWN, dtype=object)
        full = np.flatnonzero(~empty)
        if len(full):
            votes = self._reference.votes(self.how.space(vectors[full]))
            shares[full], distances[full] = votes.shares, votes.distances
            best = votes.shares.argmax(1)
            near = votes.distances <= self.limits[best]
            told[full[near]] = np.array(self.names, dtype=object)[best[near]]
        columns = {"id": pa.array(list(ids), pa.string()), "prediction": pa.array(told, pa.string())}
        columns |= {f"probability_{name}": pa.array(share) for name, share in zip(self.names, shares.T, strict=True)}
        return pa.record_batch({**columns, "distance": pa.array(distances)})

    @property
    def facts(self) -> dict[str, Any]:
        """How labels are given, as JSON."""
        limits = {} if self.how.unknown is None else dict(zip(self.names, self.limits.tolist(), strict=True))
        return {**asdict(self.how), "limits": limits}


def _coded(labels: Sequence[str]) -> tuple[list[str], Array]:
    names, codes = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    found = [str(name) for name in names]
    if UNKNOWN in found:
        raise DataError(f"the reference has a class '{UNKNOWN}' of its own: rename it, or leave those labels out")
    if len(found) < 2:
        raise DataError(f"the reference has one class only, '{found[0]}': there is nothing to tell apart")
    return found, codes
