"""The head that aligns two locked backbones: a projection of each to one space, learned from pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt import metrics
from exapt.builtin._trunk import Standardise
from exapt.builtin.alignment import COLDEST, AlignmentOptions
from exapt.parts import Array, Head, HeadContext

_HIGHEST = -math.log(COLDEST)


class ContrastiveAlignment(Head):
    """Cosines of what goes together, above those of all else in a step.

    The loss over a step is that of CLIP (Radford et al. 2021, arXiv:2103.00020) or of SigLIP (Zhai et al. 2023,
    arXiv:2303.15343); the towers are locked, as both are in the ablations of LiT (Zhai et al. 2022, arXiv:2111.07991).
    A target [2] numbers the distinct inputs of both towers: rows that have one of them in common are no counterexamples.
    """

    reads = "tower"
    whole = True
    metric = "mrr"

    def __init__(self, options: AlignmentOptions, context: HeadContext) -> None:
        super().__init__()
        self.towers, self.kind = options.towers, options.loss
        self.projections = nn.ModuleList([Projection(options, context.widths[name]) for name in self.towers])
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))
        self.bias = (
            nn.Parameter(torch.tensor(options.bias)) if options.bias is not None and options.loss == "sigmoid" else None
        )

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by []: one over the temperature."""
        # While it learns, ``forward`` has put it into its bounds: a clamp here would leave it no gradient to come back by.
        free = self.training or self.kind == "sigmoid"
        return (self.log_scale if free else self.log_scale.clamp(max=_HIGHEST)).exp()

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling of each tower's features."""
        for name, projection in zip(self.towers, self.projections, strict=True):
            assert isinstance(projection, Projection)
            projection.adjust(features[name].vectors)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return a unit vector for each tower that there are features of: [batch, towers, width]."""
        if self.training and self.kind == "softmax":
            self.log_scale.data.clamp_(max=_HIGHEST)
        there = [(projection, name) for projection, name in zip(self.projections, self.towers, strict=True)]
        vectors = [projection(features[name].vectors) for projection, name in there if name in features]
        return torch.stack(vectors, 1)

    def weigh(self, target: Tensor) -> Tensor:
        """Return the number of pairs."""
        return torch.tensor(float(len(target)), device=target.device)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss of pairs [batch, 2, width], each told from all others that it shares no input with."""
        one, other = output.unbind(1)
        logits = self.scale * one @ other.T
        own = torch.eye(len(target), dtype=torch.bool, device=target.device)
        alike = (target[:, None] == target[None]).any(-1) & ~own
        if self.bias is not None:
            signs = torch.where(own, 1.0, -1.0)
            return -functional.logsigmoid(signs * (logits + self.bias)).masked_fill(alike, 0).sum()
        logits = logits.masked_fill(alike, -torch.inf)
        right = torch.arange(len(target), device=target.device)
        there, back = (functional.cross_entropy(each, right, reduction="sum") for each in (logits, logits.T))
        return (there + back) / 2

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return no column: vectors mean nothing by themselves."""
        return {}

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return how well each side of the pairs finds the other, with chance beside it."""
        return metrics.retrieval(np.stack(outputs), np.stack(targets), self.towers)


class Projection(nn.Module):
    """From one tower's features to the common space: scaled, through one linear layer or two, to length 1."""

    def __init__(self, options: AlignmentOptions, width: int) -> None:
        super().__init__()
        self.scaling = Standardise(width) if options.standardise else None
        inner = options.hidden or width
        first = [nn.Linear(width, inner), nn.GELU()] if options.hidden else []
        self.layers = nn.Sequential(*first, nn.Dropout(options.dropout), nn.Linear(inner, options.width))

    def adjust(self, vectors: Tensor) -> None:
        """Fit the scaling to the features [n, width] of some training rows."""
        if self.scaling is not None:
            self.scaling.fit(vectors)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return unit vectors [batch, width of the common space]."""
        return functional.normalize(self.layers(vectors if self.scaling is None else self.scaling(vectors)), dim=-1)
