"""Heads that answer by the nearest training examples, with a calibrated distance to them.

Cover and Hart 1967, doi:10.1109/TIT.1967.1053964; neighbours are weighted by the softmax of their distances, as in
neighbourhood components analysis (Goldberger et al. 2004, NIPS 17).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from exapt.builtin._few_shot import EPISODIC, FittedTrunk, distances, in_space, paired
from exapt.builtin.few_shot import NeighbourOptions, NeighbourRegressionOptions
from exapt.parts import HeadContext

_LEAST = 1e-6
_ROWS = 1024
_CALIBRATED = 2048
"""Examples that are left out in turn: more would hardly change what their distances tell."""
_TEMPERATURES = torch.logspace(-10, 4, 29, base=2, dtype=torch.float64)
_SHARES = (0.0, *torch.logspace(-3, 0, 16, dtype=torch.float64).tolist()[:-1], 0.9, 1.0)
_ITSELF = 1e-6
"""Of the mean distance: what is as near as this to an example is that example."""


class Neighbours(FittedTrunk):
    """Training examples as they stand, ``vectors`` [support, width] with ``values`` [support, answers] that may be missing.

    Answers are means of the values of the nearest, weighted by the softmax of their distances over ``temperature``, of
    which a share ``flat`` is replaced by the mean of all values. Both are fitted to the training examples, each left
    out in turn; of one alone in its class, nothing is learned so. Where none is left, and where gradients lead through
    the fit, they are the mean distance, or a share of it, and 1 / (support + 1). In training an input that is one of the
    examples does not answer for itself.
    """

    most_flat = 1.0
    """The greatest share of the mean of all values: with all of it, inputs are not told apart."""

    vectors: Tensor
    values: Tensor
    known: Tensor
    temperature: Tensor
    flat: Tensor

    def __init__(
        self, options: NeighbourOptions | NeighbourRegressionOptions, context: HeadContext, answers: int
    ) -> None:
        super().__init__(options, context)
        self.neighbours, self.distance, self.fixed = options.neighbours, options.distance, options.temperature
        self.register_buffer("vectors", torch.zeros(options.support, self.reader.width))
        self.register_buffer("values", torch.zeros(options.support, answers))
        # Where there were fewer examples than places, and where one lacks a value, this is 0.
        self.register_buffer("known", torch.zeros(options.support, answers))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("flat", torch.zeros(()))

    def least_flat(self, rows: int) -> float:
        """Return the least share of the mean of all values that some rows can justify."""
        return 0.0

    @abstractmethod
    def errors(self, own: Tensor, mean: Tensor, shares: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return the summed error [shares] of answers of which a share is ``mean`` [answers] and the rest ``own``.

        ``own``, ``values`` and ``known`` are [rows, answers].
        """

    def keep(self, vectors: Tensor, values: Tensor, known: Tensor, groups: Tensor) -> dict[str, Tensor]:
        """Return the buffers: the examples, filled up to the places that there are, and how their distances count.

        Where there are more than places, ``groups`` [rows] are those that are to be kept evenly.
        """
        chosen = spread_evenly(groups, len(self.vectors))
        vectors, values, known = in_space(vectors, self.distance)[chosen], values[chosen], known[chosen]
        temperature, flat = self._counted(vectors, values, known, groups[chosen])
        empty = len(self.vectors) - len(vectors)
        filled = {
            name: functional.pad(value, (0, 0, 0, empty))
            for name, value in (("vectors", vectors), ("values", values), ("known", known))
        }
        return filled | {"temperature": temperature, "flat": vectors.new_tensor(flat)}

    def told(self, vectors: Tensor) -> Tensor:
        """Return the means [batch, answers] of the values of the neighbours."""
        there = self.known.sum(1) > 0
        support, values, known = self.vectors[there], self.values[there], self.known[there]
        if not len(support):
            return self.values.new_zeros(len(vectors), self.values.shape[1])
        far = distances(in_space(vectors, self.distance), support, self.distance)
        itself = self._itself(vectors, support, far)
        places = far.masked_fill(itself, torch.inf).topk(min(self.neighbours, len(support)), largest=False).indices
        near, there = far.gather(1, places), ~itself.gather(1, places)
        # At its own distance of 0 it would leave the others no weight.
        near = torch.where(there, near, near.amax(1, keepdim=True))
        mean = _mean(values, known)
        own = _weighted(near, values[places], known[places] * there[..., None], self.temperature, mean)
        return (1 - self.flat) * own + self.flat * mean

    def _itself(self, vectors: Tensor, support: Tensor, far: Tensor) -> Tensor:
        """Return which of the ``support`` [batch, support] each input is, in training: one or none."""
        nearest = far.argmin(1)
        apart = paired(in_space(vectors, self.distance), support[nearest], self.distance)
        same = (apart <= _ITSELF * far.mean(1)) & self.training & (len(support) > 1)
        return functional.one_hot(nearest, len(support)).bool() & same[:, None]

    def _counted(self, vectors: Tensor, values: Tensor, known: Tensor, groups: Tensor) -> tuple[Tensor, float]:
        """Return the temperature and the share of the mean, fitted where rows can tell them."""
        if self.fixed:
            return vectors.new_tensor(self.fixed), 0.0
        judged = torch.nonzero(groups.bincount()[groups] > 1)[:, 0]
        if len(vectors) < 3 or not len(judged) or vectors.requires_grad:
            return self._unit(vectors), 1.0 / (len(vectors) + 1)
        temperature, flat = self._calibrated(vectors, values, known, judged)
        return vectors.new_tensor(temperature), flat

    def _unit(self, vectors: Tensor) -> Tensor:
        """Return the mean distance [] to neighbours, or the share of it where gradients lead through it."""
        if len(vectors) < 2:
            return vectors.new_ones(())
        near, _ = self._others(vectors, torch.arange(len(vectors), device=vectors.device))
        return (EPISODIC if vectors.requires_grad else 1.0) * near.mean().clamp(min=_LEAST)

    def _calibrated(self, vectors: Tensor, values: Tensor, known: Tensor, judged: Tensor) -> tuple[float, float]:
        """Return the temperature and the share of the mean with the least error of ``judged`` rows, each left out in turn."""
        rows = judged[spread_evenly(torch.zeros_like(judged), _CALIBRATED)]
        near, places = self._others(vectors, rows)
        unit = (near[:, -1:] - near[:, :1]).mean().clamp(min=_LEAST)
        mean, least = _mean(values, known).double(), self.least_flat(len(rows))
        shares = torch.tensor(
            [share for share in _SHARES if least <= share <= self.most_flat], dtype=torch.float64, device=mean.device
        )
        beside, there = values.double()[places], known.double()[places]
        best = (torch.inf, 1.0, 1.0)
        for temperature in (_TEMPERATURES * float(unit)).tolist():
            own = _weighted(near.double(), beside, there, torch.tensor(temperature), mean)
            errors = self.errors(own, mean, shares, values[rows].double(), known[rows].double())
            at = int(errors.argmin())
            best = min(best, (float(errors[at]), temperature, float(shares[at])))
        return best[1:]

    def _others(self, vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances [rows, neighbours] of some ``rows`` to the nearest others, and which they are."""
        count, found = min(self.neighbours, len(vectors) - 1), []
        for part in torch.split(rows, _ROWS):
            far = distances(vectors[part], vectors, self.distance)
            far[torch.arange(len(part), device=far.device), part] = torch.inf
            found.append(far.topk(count, largest=False))
        return torch.cat([near for near, _ in found]), torch.cat([places for _, places in found])


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).sum(0) / known.sum(0).clamp(min=1)


def _weighted(near: Tensor, values: Tensor, known: Tensor, temperature: Tensor, mean: Tensor) -> Tensor:
    """Return the weighted means [batch, answers] of values [batch, neighbours, answers]; ``mean`` where none is known."""
    weights = (-near / temperature.to(near)).softmax(-1)[..., None] * known
    total = weights.sum(-2)
    own = (weights * values).sum(-2) / total.clamp(min=_LEAST)
    return torch.where(total > 0, own, mean.expand_as(own))


def spread_evenly(groups: Tensor, most: int) -> Tensor:
    """Return the rows, at most ``most``, that are kept of ``groups`` [rows]: about as many of each group, from all over it."""
    rows = torch.arange(len(groups), device=groups.device)
    if len(rows) <= most:
        return rows
    order = groups.argsort(stable=True)
    sizes = groups.bincount()
    within = rows - (sizes.cumsum(0) - sizes)[groups[order]]
    # Multiples of the golden ratio fall evenly, so that each group has about one row before each whole number.
    turns = (within.double() * 0.6180339887498949) % 1.0 * sizes[groups[order]]
    return order[turns.argsort(stable=True)[:most]].sort().values


class NeighbourClasses(Neighbours):
    """Neighbours that vote for classes."""

    most_flat = 0.9

    def __init__(self, options: NeighbourOptions, context: HeadContext) -> None:
        super().__init__(options, context, len(options.classes))

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the buffers; the values of an example are 1 for its class and 0 for others."""
        values = functional.one_hot(targets, self.values.shape[1]).to(vectors)
        return self.keep(vectors, values, torch.ones_like(values), targets)

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the log-probabilities [batch, classes]."""
        return self.told(vectors).clamp(min=_LEAST).log()

    def least_flat(self, rows: int) -> float:
        """Return the share that a row yet unseen would have: neighbours that never erred may err."""
        return 1 / (rows + 2)

    def errors(self, own: Tensor, mean: Tensor, shares: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return the summed surprise at the true classes."""
        true, usual = (own * values).sum(-1), (mean * values).sum(-1)
        told = (1 - shares)[:, None] * true + shares[:, None] * usual
        return -told.clamp(min=_LEAST).log().sum(-1)


class NeighbourNumbers(Neighbours):
    """Neighbours whose numbers are averaged."""

    def __init__(self, options: NeighbourRegressionOptions, context: HeadContext) -> None:
        super().__init__(options, context, len(options.targets))

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the buffers; missing numbers are left out of all means."""
        missing = targets.isnan()
        one = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        return self.keep(vectors, targets.masked_fill(missing, 0), (~missing).to(vectors), one)

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the standardised numbers [batch, targets]."""
        return self.told(vectors)

    def errors(self, own: Tensor, mean: Tensor, shares: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return the summed squared error."""
        told = (1 - shares)[:, None, None] * own + shares[:, None, None] * mean
        return ((told - values) * known).square().sum((-1, -2))
