"""Labels from the cells of a reference, by where a model puts cells: nearest neighbours or prototypes, and 'unknown'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import pairwise_distances_chunked

from exapt import DataError, RecipeError
from exapt.parts import Array

UNKNOWN = "unknown"
METHODS = ("neighbours", "prototypes")
METRICS = ("cosine", "euclidean")

_CALIBRATED = 2_000
"""Cells of each class whose own distances say which distances are usual: more change the quantiles no longer."""
_LEAST = 1e-12
"""Distance below which two cells are one, so that weights stay finite."""
_ROUGH = 2e-6
"""How far off a distance may be that is told by a product of matrices, as a share of the length of both vectors."""
_ROUNDING = 1e-9
"""By how much a number of cells may be off that is told by a share: 10 cells at 0.9 leave 0.99999... of one out."""
_MEBIBYTES = 128
"""Memory for distances to all of a reference."""


@dataclass(frozen=True)
class Transfer:
    """How labels are transferred. Raises ``RecipeError`` for what cannot be.

    ``unknown`` is the quantile of the reference's own distances, each cell left out in turn, beyond which a cell is
    unknown, 1 their maximum; None if all cells are to get a label.
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
    Of cells that are equally near, those that come first in the reference vote, whatever else is asked beside a cell.
    """

    def __init__(self, vectors: Array, codes: Array, how: Transfer) -> None:
        super().__init__(vectors, codes, how)
        if how.k >= len(codes):
            raise RecipeError(
                f"k = {how.k} needs a reference of more than {how.k:,} labelled cells, not {len(codes):,}"
            )
        # Far from 0, a product of matrices would lose the distances among the lengths.
        self._middle = vectors.mean(0, dtype=np.float64)
        self._around = self._centred(vectors)
        self._longest = float(np.linalg.norm(self._around, axis=1).max())

    def votes(self, vectors: Array) -> Votes:
        """Return the shares of the votes of k neighbours."""
        squared, found = self._nearest(vectors, self.how.k)
        distances = self.how.distance(squared)
        weights = 1 / np.maximum(distances, _LEAST)
        places = np.arange(len(found))[:, None] * self.classes + self.codes[found]
        shares = np.bincount(places.ravel(), weights.ravel(), len(found) * self.classes).reshape(-1, self.classes)
        return Votes(shares / shares.sum(1, keepdims=True), distances.mean(1))

    def left_out(self, rows: Array) -> Array:
        """Return the mean distances to the k nearest other cells."""
        squared, found = self._nearest(self.vectors[rows], self.how.k + 1)
        others = found != rows[:, None]
        # A cell with more than k copies need not be among its own neighbours.
        others[others.all(1), -1] = False
        distances = self.how.distance(squared[others].reshape(len(rows), -1))
        return np.asarray(distances.mean(1))

    def _nearest(self, vectors: Array, k: int) -> tuple[Array, Array]:
        """Return the squared distances [cells, k] to the nearest cells of the reference, and their rows [cells, k]."""
        centred = self._centred(vectors)
        slack = _ROUGH * (np.linalg.norm(centred, axis=1) + self._longest)
        rough = pairwise_distances_chunked(centred, self._around, metric="euclidean", working_memory=_MEBIBYTES)
        pairs = [
            self._exactly(vector, far, k, room)
            for vector, far, room in zip(vectors, chain.from_iterable(rough), slack, strict=True)
        ]
        return np.stack([squared for squared, _ in pairs]), np.stack([rows for _, rows in pairs])

    def _exactly(self, vector: Array, far: Array, k: int, slack: float) -> tuple[Array, Array]:
        """Return the same of one cell, of which rough distances [reference] are known up to ``slack``."""
        near = np.flatnonzero(far <= np.partition(far, k - 1)[k - 1] + slack)
        squared = np.square(self.vectors[near] - vector.astype(np.float64)).sum(1)
        order = np.argsort(squared, kind="stable")[:k]
        return squared[order], near[order]

    def _centred(self, vectors: Array) -> Array:
        return np.ascontiguousarray(vectors - self._middle, dtype=np.float32)


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

    Each class that has enough cells for its quantile to lie within them has a limit of its own, from its own distances: at
    0.99, 100 cells. The others share that of all classes together. At 1 the limit of each is its own largest distance.
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
            if len(own) and (self.how.unknown == 1 or len(own) * (1 - self.how.unknown) >= 1 - _ROUNDING):
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
    # As objects: arrays of text lose what ends in a character 0.
    names, codes = np.unique(np.array(list(map(str, labels)), dtype=object), return_inverse=True)
    found: list[str] = names.tolist()
    taken = next((name for name in found if name.casefold() == UNKNOWN), None)
    if taken is not None:
        raise DataError(f"the reference has a class '{taken}' of its own: rename it, or leave those labels out")
    if len(found) < 2:
        raise DataError(f"the reference has one class only, '{found[0]}': there is nothing to tell apart")
    return found, codes
