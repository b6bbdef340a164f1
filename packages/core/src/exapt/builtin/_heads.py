"""The modules of the built-in heads: three kinds of answer on one kind of trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exapt import metrics
from exapt.builtin._focal import focal
from exapt.builtin._trunk import Answering, Pool, Trunk, Units
from exapt.builtin.heads import (
    ClassificationOptions,
    PositionClassificationOptions,
    PositionRegressionOptions,
    RegressionOptions,
    unit_classes,
)
from exapt.data.labels import class_name, number, numbers, unit_values
from exapt.errors import DataError, RecipeError, UnknownClassError
from exapt.parts import Array, Head, Outcomes


class Classification(Head):
    """One of several classes, per example or per unit: a logit for each, and cross-entropy.

    Focal loss: Lin et al. 2017, arXiv:1708.02002.
    """

    metric = "macro_f1"
    smoothing = 0.0
    gamma = 0.0
    weights: Tensor

    def __init__(
        self,
        options: ClassificationOptions | PositionClassificationOptions,
        reader: Pool | Units,
        trunk: Answering | None = None,
    ) -> None:
        super().__init__()
        self.classes = known_classes(options.classes)
        self.ignore = options.ignore if isinstance(options, PositionClassificationOptions) else ()
        self.reads, self.answers = reader.reads, reader.answers
        self.trunk: Answering = trunk or Trunk(options, reader, len(self.classes))
        self.gamma = options.gamma if options.loss == "focal" else 0.0
        weights = options.class_weights if isinstance(options.class_weights, tuple) else [1.0] * len(self.classes)
        # The options hold the weights already: they are not part of what learning changed.
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    @property
    def outcomes(self) -> Outcomes:
        """The classes."""
        return Outcomes(self.classes, _log_odds, lambda logits: logits.softmax(-1))

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling of the features."""
        self.trunk.adjust(features)

    def encode(self, label: Any, length: int) -> Array:
        """Return the index of the class [], or of each unit's class [units]; raises ``DataError``."""
        if not self.ragged:
            return np.asarray(self._index(class_name(label)), dtype=np.int64)
        names = unit_classes(label, self.ignore, self.classes)
        _check_length(len(names), length)
        return np.asarray([int(self.pad) if name is None else self._index(name) for name in names], dtype=np.int64)

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise UnknownClassError(name, self.classes)
        return self.classes.index(name)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return logits [batch, classes] or [batch, units, classes]."""
        logits: Tensor = self.trunk(features)
        return logits

    def weigh(self, target: Tensor) -> Tensor:
        """Return the summed class weights of the targets that count."""
        real = target != self.pad
        return torch.where(real, self.weights[torch.where(real, target, 0).long()], 0).sum()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss, weighted by class; in training of smoothed targets, if it was told so."""
        logits, truth, smoothing = output.float().flatten(0, -2), target.flatten().long(), self.smoothing
        smoothing = smoothing if self.training else 0.0
        if self.gamma:
            return focal(logits, truth, self.weights.float(), self.gamma, int(self.pad), smoothing)
        return functional.cross_entropy(
            logits,
            truth,
            self.weights.float(),
            ignore_index=int(self.pad),
            reduction="sum",
            label_smoothing=smoothing,
        )

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``prediction`` and ``probability_<class>``: a name and numbers, or lists of them where per unit."""
        shares = [_softmax(output) for output in outputs]
        names = np.asarray(self.classes, dtype=object)
        columns: dict[str, list[Any]] = {"prediction": [_plain(names[share.argmax(-1)]) for share in shares]}
        for at, name in enumerate(self.classes):
            columns[f"probability_{name}"] = [share[..., at].tolist() for share in shares]
        return columns

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the metrics of classification, over all examples or all their units."""
        flat, truth = stacked(outputs, len(self.classes)), stacked(targets, 1)[:, 0]
        real = truth != self.pad
        return metrics.classification(_softmax(flat[real]), truth[real].astype(np.int64))


class Regression(Head):
    """One or many numbers per example, or one per unit, learned on their standardised scale by squared error."""

    pad = float("nan")
    metric = "spearman"

    def __init__(
        self,
        options: RegressionOptions | PositionRegressionOptions,
        reader: Pool | Units,
        targets: tuple[str, ...],
        trunk: Answering | None = None,
    ) -> None:
        super().__init__()
        self.targets = targets
        if not targets or not len(options.mean) == len(options.scale) == len(targets):
            raise RecipeError("mean and scale need one number for each target; without them both are inferred")
        self.mean, self.scale = np.asarray(options.mean), np.asarray(options.scale)
        self.reads, self.answers = reader.reads, reader.answers
        self.trunk: Answering = trunk or Trunk(options, reader, len(targets))

    @property
    def outcomes(self) -> Outcomes:
        """The measured values."""
        return Outcomes(self.targets, self._told)

    def _told(self, values: Tensor) -> Tensor:
        return values * torch.from_numpy(self.scale).to(values) + torch.from_numpy(self.mean).to(values)

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling of the features."""
        self.trunk.adjust(features)

    def encode(self, label: Any, length: int) -> Array:
        """Return the standardised values [targets] or [units], NaN where one is missing; raises ``DataError``."""
        if self.ragged:
            values = [number(value) for value in unit_values(label, characters=False)]
            _check_length(len(values), length)
        else:
            values = numbers(label)
            if len(values) != len(self.targets):
                raise DataError(f"has {len(values)} values for {len(self.targets)} targets")
        return np.asarray((np.asarray(values) - self.mean) / self.scale, dtype=np.float32)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return standardised values [batch, targets] or [batch, units, 1]."""
        values: Tensor = self.trunk(features)
        return values

    def weigh(self, target: Tensor) -> Tensor:
        """Return the number of values that are known."""
        return (~target.isnan()).sum().float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed squared error."""
        output, target = output.float(), target.reshape(output.shape).float()
        # Unknown ones are taken out before the square: after it, their gradient would be 0 x NaN.
        return torch.where(target.isnan(), 0, output - target).square().sum()

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``prediction`` in the labels' own units; for several targets ``prediction.<target>`` each."""
        values = [self._unscaled(output) for output in outputs]
        names = [f"prediction.{name}" for name in self.targets] if len(self.targets) > 1 else ["prediction"]
        return {name: [value[..., at].tolist() for value in values] for at, name in enumerate(names)}

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the metrics of regression, in the labels' own units."""
        count = len(self.targets)
        predicted, truth = self._unscaled(stacked(outputs, count)), self._unscaled(stacked(targets, count))
        return metrics.regressions(predicted, truth, self.targets)

    def _unscaled(self, values: Array) -> Array:
        return np.asarray(values.astype(np.float64) * self.scale + self.mean)


def known_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes. Raises ``RecipeError`` if there are none."""
    if not classes:
        raise RecipeError("the head's classes are not known; name them in 'classes' or infer them from labels")
    return classes


def _check_length(labels: int, units: int) -> None:
    if labels != units:
        raise DataError(f"has {labels} labels for {units} units")


def stacked(arrays: Sequence[Array], columns: int) -> Array:
    """Return arrays of any rows as one [all rows, columns]."""
    return np.concatenate([array.reshape(-1, columns) for array in arrays]) if arrays else np.empty((0, columns))


def _log_odds(logits: Tensor) -> Tensor:
    """Return the logarithm of each class's probability over that of all others [..., classes]."""
    # What a softmax is given is free of meaning up to a constant, which this takes out.
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits - logits.unsqueeze(-2).masked_fill(own, -torch.inf).logsumexp(-1)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
