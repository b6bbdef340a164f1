"""Heads that are fitted to pooled features in closed form, and the one by prototypes.

What they answer by are buffers: they are saved with the adapter and never learned by steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from torch.nn import functional

from exapt.builtin._heads import Classification, Regression
from exapt.builtin._trunk import Answering, Pool, Standardise, moments
from exapt.builtin.few_shot import FittedClasses, FittedNumbers, FittedOptions, PrototypeOptions
from exapt.builtin.heads import ClassificationOptions, RegressionOptions
from exapt.parts import Array, HeadContext

UNSEEN = -1e4
"""The logit of a class of which no example was seen: finite, so that all stays a number, and never the highest."""
EPISODIC = 0.1
"""The temperature where gradients lead through the fit, as a share of the mean distance (of ridge: of the way from 0 to 1).

To fit one would be a search, through which no gradient leads.
"""
_SHARPEST, _FLATTEST = 1e4, 1 / 3
_LEAST = 1e-12


class FittedTrunk(Answering, ABC):
    """From features to answers, by what was fitted to those of training examples."""

    def __init__(self, options: FittedOptions, context: HeadContext) -> None:
        super().__init__()
        self.reader = Pool(options, context)
        self.scale = Standardise(self.reader.width) if options.standardise else None

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the answers [batch, answers]."""
        vectors = self.reader(features).float()
        return self.answer(vectors if self.scale is None else self.scale(vectors))

    def fit(self, features: Mapping[str, Any], targets: Tensor, known: Tensor) -> dict[str, Tensor]:
        """Return all buffers, fitted to the examples whose targets are ``known`` [rows]."""
        vectors, targets = self.reader(features).float()[known], targets[known]
        if self.scale is None:
            return self.fitted(vectors, targets)
        before = self.scale.mean, self.scale.std
        mean, std = moments(vectors) if len(vectors) > 1 else before
        return {"scale.mean": mean, "scale.std": std, **self.fitted((vectors - mean) / std, targets)}

    @abstractmethod
    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the buffers for the answers, fitted to scaled ``vectors`` [rows, width] and their ``targets``."""

    @abstractmethod
    def answer(self, vectors: Tensor) -> Tensor:
        """Return the answers [batch, answers] for scaled ``vectors`` [batch, width]."""


def _of_trunk(fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"trunk.{name}": value for name, value in fitted.items()}


class FittedClassification(Classification):
    """One of several classes, by a trunk that is fitted and not learned."""

    fits = True
    trunk: FittedTrunk

    def __init__(self, options: FittedClasses, trunk: FittedTrunk) -> None:
        super().__init__(ClassificationOptions(classes=options.classes), trunk.reader, trunk)

    def fit(self, features: Mapping[str, Any], targets: Tensor) -> Mapping[str, Tensor]:
        """Return the buffers of the trunk, fitted to all training examples."""
        return _of_trunk(self.trunk.fit(features, targets.long(), targets != self.pad))

    def weigh(self, target: Tensor) -> Tensor:
        """Return how many targets count [], in a loss that compares the rows of a step those that share their class."""
        if not (self.whole and self.training):
            return super().weigh(target)
        # The cross-entropy counts all; a contrast has nothing to say of a row without a partner.
        partners = (target[:, None] == target).sum(1) > 1
        return super().weigh(target.masked_fill(~partners, int(self.pad)))


class FittedRegression(Regression):
    """One or many numbers, by a trunk that is fitted and not learned."""

    fits = True
    trunk: FittedTrunk

    def __init__(self, options: FittedNumbers, trunk: FittedTrunk) -> None:
        scaled = RegressionOptions(targets=options.targets, mean=options.mean, scale=options.scale)
        super().__init__(scaled, trunk.reader, options.targets, trunk)

    def fit(self, features: Mapping[str, Any], targets: Tensor) -> Mapping[str, Tensor]:
        """Return the buffers of the trunk, fitted to all training examples of which any number is known."""
        return _of_trunk(self.trunk.fit(features, targets.float(), ~targets.isnan().all(-1)))


class Prototypes(FittedTrunk):
    """The mean of each class; the nearer it is, the likelier the class.

    Snell, Swersky and Zemel 2017, arXiv:1703.05175. Distances are divided by a temperature that is fitted to the training
    examples, each left out of its own mean in turn; where no class has two, by the mean distance between classes. Where
    gradients lead through the fit, it is a share of the mean distance.
    """

    means: Tensor
    seen: Tensor
    temperature: Tensor

    def __init__(self, options: PrototypeOptions, context: HeadContext, width: int = 0) -> None:
        super().__init__(options, context)
        self.distance, self.fixed = options.distance, options.temperature
        classes = len(options.classes)
        self.register_buffer("means", torch.zeros(classes, width or self.reader.width))
        self.register_buffer("seen", torch.zeros(classes))
        self.register_buffer("temperature", torch.ones(()))

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the mean of each class, which of them were seen, and the temperature."""
        vectors = in_space(vectors, self.distance)
        chosen = functional.one_hot(targets, len(self.means)).to(vectors)
        counts = chosen.sum(0)
        means = chosen.T @ vectors / counts.clamp(min=1)[:, None]
        seen = (counts > 0).to(vectors)
        return {"means": means, "seen": seen, "temperature": self._divisor(vectors, targets, means, counts)}

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the logits [batch, classes]."""
        far = distances(in_space(vectors, self.distance), self.means, self.distance)
        return (-far / self.temperature).masked_fill(self.seen == 0, UNSEEN)

    def _divisor(self, vectors: Tensor, targets: Tensor, means: Tensor, counts: Tensor) -> Tensor:
        if self.fixed:
            return means.new_tensor(self.fixed)
        if vectors.requires_grad:
            return EPISODIC * distances(vectors, means[counts > 0], self.distance).mean().clamp(min=_LEAST)
        return means.new_tensor(self._temperature(vectors, targets, means, counts))

    def _temperature(self, vectors: Tensor, targets: Tensor, means: Tensor, counts: Tensor) -> float:
        far = distances(vectors, means, self.distance)
        rows, own = torch.arange(len(vectors), device=vectors.device), counts[targets]
        # Without an example, the mean of its class lies where the others of the class are.
        left = own.clamp(min=2)[:, None]
        others = (left * means[targets] - vectors) / (left - 1)
        # A mean of one example less lies farther from the next: by n / (n - 1) and not (n + 1) / n of the variance.
        far[rows, targets] = paired(vectors, others, self.distance) * (1 - 1 / left[:, 0].square())
        far = far.masked_fill(counts == 0, torch.inf)
        judged = own > 1
        if judged.any():
            return temperature_of(-far[judged].double().cpu().numpy(), targets[judged].cpu().numpy())
        between = distances(means[counts > 0], means[counts > 0], self.distance)
        return max(float(between.mean()), _LEAST)


def in_space(vectors: Tensor, distance: Literal["euclidean", "cosine"]) -> Tensor:
    """Return vectors [..., width] as they are compared: for cosines, at length 1."""
    return functional.normalize(vectors, dim=-1) if distance == "cosine" else vectors


def distances(one: Tensor, other: Tensor, distance: Literal["euclidean", "cosine"]) -> Tensor:
    """Return the distance of each of ``one`` [n, width] to each of ``other`` [m, width]: [n, m], never below 0."""
    if distance == "cosine":
        return (1 - functional.normalize(one, dim=-1) @ functional.normalize(other, dim=-1).T).clamp(min=0)
    # Far from 0, a product of matrices would lose the distances among the lengths.
    middle = other.detach().mean(0)
    one, other = one - middle, other - middle
    squared = one.square().sum(-1)[:, None] + other.square().sum(-1) - 2 * one @ other.T
    return squared.clamp(min=0)


def paired(one: Tensor, other: Tensor, distance: Literal["euclidean", "cosine"]) -> Tensor:
    """Return the distance [n] of each of ``one`` [n, width] to that of ``other`` [n, width] beside it."""
    if distance == "cosine":
        return (1 - functional.cosine_similarity(one, other, dim=-1)).clamp(min=0)
    return (one - other).square().sum(-1)


def temperature_of(scores: Array, targets: Array) -> float:
    """Return what ``scores`` [rows, classes] are to be divided by to be log-probabilities of ``targets`` [rows], but for a sum.

    It is the one of the highest likelihood (Guo et al. 2017, arXiv:1706.04599), under targets that leave other classes
    the share that an unseen row would give them (Platt 1999): so it stays above 0 where all rows are told apart. It is no
    more than three times the spread of the scores: few rows, left out, cannot show that the scores say nothing.
    """
    real = np.isfinite(scores)
    spread = float(np.ptp(np.where(real, scores, scores[real].mean()), axis=1).mean())
    rows, classes = scores.shape
    if spread <= 0 or classes < 2:
        return 1.0
    rest = real / np.maximum(real.sum(1, keepdims=True), 1)
    wanted = np.full_like(scores, 0.0)
    wanted[np.arange(rows), targets] = 1.0
    wanted = wanted * (1 - 1 / (rows + 2)) + rest / (rows + 2)

    def surprise(sharpness: float) -> float:
        log = log_softmax(scores * (np.exp(sharpness) / spread), axis=1)
        return float(-(wanted * np.where(real, log, 0)).sum())

    found = minimize_scalar(surprise, bounds=(np.log(_FLATTEST), np.log(_SHARPEST)), method="bounded")
    return float(spread / np.exp(found.x))
