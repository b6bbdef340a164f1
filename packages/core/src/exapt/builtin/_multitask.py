"""Losses of several tasks, weighed by what is learned of their noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exapt.parts import Head, Learner, Step, Strategy, Training

_MOST = 4.0


class UncertaintyWeights(Strategy):
    """Each task's loss is divided by a variance that is learned with it (Kendall et al. 2018, arXiv:1705.07115).

    Of every head, be it of classes or of values, ``exp(-s)`` times its loss plus half of ``s`` is learned in each step that
    holds a label of it, where ``s`` is the logarithm of the variance and starts at 0: with the weights that the recipe gives.
    It stays within 4 of that, since a task that is learned without any error would else come to count without bounds.
    """

    whole = True

    def __init__(self) -> None:
        self._variances = nn.ParameterDict()
        self._heads: dict[str, Head] = {}

    def attach(self, model: Learner) -> nn.Module | None:
        """Return the logarithm of the variance of each head."""
        self._heads = {name: model.head(name) for name in model.heads}
        self._variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in model.heads})
        return self._variances

    def combine(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each loss over its variance."""
        return {name: torch.exp(-self._variances[name]) * loss for name, loss in losses.items()}

    def loss(self, step: Step) -> Tensor | None:
        """Return what keeps variances from growing without end, of the heads that the step has labels of."""
        targets = step.source.targets
        present = [name for name, head in self._heads.items() if float(head.weigh(targets[name])) > 0]
        return torch.stack([self._variances[name] / 2 for name in present]).sum() if present else None

    def stepped(self, run: Training) -> None:
        """Keep the variances within bounds."""
        with torch.no_grad():
            for value in self._variances.values():
                value.clamp_(-_MOST, _MOST)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Report the weight that each head's loss ended with."""
        return {f"{name}.weight": float(torch.exp(-value.detach())) for name, value in self._variances.items()}
