"""The module of the head that gives any number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt import metrics
from exapt.builtin._focal import binary_focal
from exapt.builtin._heads import known_classes, stacked
from exapt.builtin._trunk import Pool, Trunk
from exapt.builtin.multilabel import MultilabelOptions
from exapt.data.labels import class_set, is_set
from exapt.errors import DataError, UnknownClassError
from exapt.parts import Array, Head, Outcomes


class Multilabel(Head):
    """Any number of labels per example: a logit for each, and binary cross-entropy.

    Focal loss: Lin et al. 2017, arXiv:1708.02002, whose form this is.
    """

    metric = "macro_f1"
    smoothing = 0.0
    gamma = 0.0
    weights: Tensor

    def __init__(self, options: MultilabelOptions, reader: Pool) -> None:
        super().__init__()
        self.classes, self.threshold = known_classes(options.classes), options.threshold
        self.reads = reader.reads
        self.trunk = Trunk(options, reader, len(self.classes))
        self.gamma = options.gamma if options.loss == "focal" else 0.0
        weights = options.class_weights if isinstance(options.class_weights, tuple) else [1.0] * len(self.classes)
        # The options hold the weights already: they are not part of what learning changed.
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    @property
    def outcomes(self) -> Outcomes:
        """The labels, each for itself."""
        return Outcomes(self.classes, probabilities=torch.sigmoid, exclusive=False)

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling of the features."""
        self.trunk.adjust(features)

    def encode(self, label: Any, length: int) -> Array:
        """Return 1 for each label that applies, else 0 [labels]; a cell that is missing among several counts not."""
        if isinstance(label, tuple):
            return self._from_columns(label)
        names = class_set(label)
        for name in names:
            if name not in self.classes:
                raise UnknownClassError(name, self.classes)
        return np.asarray([name in names for name in self.classes], dtype=np.float32)

    def _from_columns(self, label: Sequence[Any]) -> Array:
        if len(label) != len(self.classes):
            raise DataError(f"has {len(label)} columns for {len(self.classes)} classes")
        values = np.asarray([is_set(value) for value in label], dtype=np.float32)
        return np.where(np.isnan(values), np.float32(self.pad), values)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return logits [batch, labels]."""
        logits: Tensor = self.trunk(features)
        return logits

    def weigh(self, target: Tensor) -> Tensor:
        """Return the summed weight of the labels that are known, over all examples: its own where one applies, else 1."""
        return torch.where(target != self.pad, self._weights_of(target), 0).sum()

    def _weights_of(self, target: Tensor) -> Tensor:
        return torch.where(target == 1, self.weights.float(), 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss, summed over labels and examples; in training of smoothed targets, if told so."""
        real = target != self.pad
        logits, truth = output.float(), torch.where(real, target, 0).float()
        weights = self._weights_of(truth)
        if self.training:
            truth = truth * (1 - self.smoothing) + self.smoothing / 2
        each = weights * binary_focal(logits, truth, self.gamma)
        return torch.where(real, each, 0).sum()

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``prediction``, the list of labels from the threshold on, and ``probability_<class>``."""
        shares = [_sigmoid(output) for output in outputs]
        chosen = [
            [name for name, p in zip(self.classes, share, strict=True) if p >= self.threshold] for share in shares
        ]
        columns: dict[str, list[Any]] = {"prediction": chosen}
        for at, name in enumerate(self.classes):
            columns[f"probability_{name}"] = [float(share[at]) for share in shares]
        return columns

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the metrics of multi-label classification."""
        count = len(self.classes)
        return metrics.multilabel(_sigmoid(stacked(outputs, count)), stacked(targets, count), self.threshold)


def _sigmoid(logits: Array) -> Array:
    # Through tanh, because exp overflows, with a warning, at large negative logits.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))
