"""Supervised contrastive learning: Khosla et al. 2020, arXiv:2004.11362."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.builtin._few_shot import FittedClassification, Prototypes
from exapt.builtin.few_shot import ContrastiveOptions, PrototypeOptions
from exapt.parts import HeadContext


class Contrastive(FittedClassification):
    """Features of one class are drawn together and away from those of others; answers are by prototypes of the training rows.

    What is contrasted are vectors of a projection, which learns with all the rest. In training, ``forward`` gives these;
    otherwise logits, by prototypes among the features (the projection has done its work) or among the projected vectors.
    """

    whole = True

    def __init__(self, options: ContrastiveOptions, context: HeadContext) -> None:
        super().__init__(options, Projected(options, context))
        self.contrast = options.contrast

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed contrastive loss of projected vectors, in training; else the summed cross-entropy of logits."""
        if not self.training:
            return super().loss(output, target)
        known = target != self.pad
        return contrastive_loss(output.float()[known], target[known], self.contrast)


class Projected(Prototypes):
    """Prototypes before or behind a projection."""

    def __init__(self, options: ContrastiveOptions, context: HeadContext) -> None:
        shared = PrototypeOptions.model_fields.keys() & type(options).model_fields.keys()
        behind = options.space == "projection"
        given = PrototypeOptions(**{name: getattr(options, name) for name in shared})
        super().__init__(given, context, options.projection if behind else 0)
        width = self.reader.width
        inner = options.hidden or width
        self.behind = behind
        self.projection = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, options.projection))

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the projected vectors [batch, projection], in training; else the logits [batch, classes]."""
        if not self.training:
            return super().forward(features)
        vectors = self.reader(features).float()
        projected: Tensor = self.projection(vectors if self.scale is None else self.scale(vectors))
        return projected

    def fitted(self, vectors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the buffers of the prototypes, wherever they stand."""
        return super().fitted(self._placed(vectors), targets)

    def answer(self, vectors: Tensor) -> Tensor:
        """Return the logits [batch, classes]."""
        return super().answer(self._placed(vectors))

    def _placed(self, vectors: Tensor) -> Tensor:
        placed: Tensor = self.projection(vectors) if self.behind else vectors
        return placed


def contrastive_loss(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the loss [], summed over the ``vectors`` [rows, width] that share their class with another row.

    Of each, it is the mean surprise at meeting the others of its class when all other rows are drawn by their cosines
    over the ``temperature``.
    """
    along = functional.normalize(vectors, dim=-1)
    itself = torch.eye(len(along), dtype=torch.bool, device=along.device)
    # The least finite number, not minus infinity: a row by itself would give NaN.
    alike = (along @ along.T / temperature).masked_fill(itself, torch.finfo(along.dtype).min)
    surprise = alike.logsumexp(1, keepdim=True) - alike
    together = (classes[:, None] == classes) & ~itself
    mean = torch.where(together, surprise, 0).sum(1) / together.sum(1).clamp(min=1)
    return mean.sum()
