"""Answers about two views of one input that agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exapt.builtin._domains import set_in
from exapt.builtin._pseudo_labels import classes_of, probabilities_of
from exapt.builtin.domains import ALIKE, ConsistencyOptions
from exapt.errors import RecipeError
from exapt.parts import Head, Learner, Step, Strategy, Training

_FIRST, _SECOND = (1 << 29), (1 << 29) + 1
"""Numbers of epochs that no training has, in which the views are made by which agreement is measured."""
_MEASURED = 512


class Consistency(Strategy):
    """Answers about two views of one unlabelled input agree: augmented twice, or seen twice with dropout.

    With ``agree`` the squared difference of the answers is added (Sajjadi et al. 2016, arXiv:1606.04586); with
    ``fixmatch`` a sure answer about the one view is the label of the other (Sohn et al. 2020, arXiv:2001.07685), both of
    them changed by the recipe's augmentations, where the paper changes the one little and the other much.
    """

    streams = ("target", "target-again")
    over = "target"

    def __init__(self, options: ConsistencyOptions) -> None:
        self.options = options
        self.heads: dict[str, Head] = {}

    def attach(self, model: Learner) -> nn.Module | None:
        """Take note of the heads whose answers can be compared."""
        every = {name: model.head(name) for name in model.heads}
        if self.options.method == "fixmatch":
            self.heads = {name: head for name, head in every.items() if classes_of(head, ("input",))}
        else:
            self.heads = {
                name: head
                for name, head in every.items()
                if head.labelled and head.answers == "input" and not head.fits
            }
        return None

    def begin(self, run: Training) -> None:
        """Raise ``RecipeError`` if nothing makes two views of an input differ."""
        if not run.streams["target"].source.changes and not _drops(run.model, self.heads.values()):
            raise RecipeError(ALIKE)

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether half of the training is behind."""
        return set_in(epoch, epochs)

    def loss(self, step: Step) -> Tensor:
        """Return how far the answers differ [], a mean over rows."""
        one, other = step.streams["target"], step.streams["target-again"]
        compare = self._labelled if self.options.method == "fixmatch" else _apart
        found = [compare(head, one.outputs[name], other.outputs[name]) for name, head in self.heads.items()]
        return self.options.weight * torch.stack(found).sum()

    def _labelled(self, head: Head, one: Tensor, other: Tensor) -> Tensor:
        sureness, label = probabilities_of(head, one.detach()).max(-1)
        target = torch.where(sureness >= self.options.threshold, label, int(head.pad))
        return head.loss(other.float(), target) / len(target)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return the ``agreement`` of each head: the share of rows of the target domain with the same class in both views."""
        rows = run.streams["target"]
        heads = {name: head for name, head in self.heads.items() if classes_of(head, ("input",))}
        if not rows.source.changes or not heads:
            return {}
        some = np.arange(min(len(rows), _MEASURED))
        one, other = (run.predict(rows.seen(some, epoch)) for epoch in (_FIRST, _SECOND))
        pairs = list(zip(one, other, strict=True))
        return {
            "agreement": {
                name: float(np.mean([a[name].argmax() == b[name].argmax() for a, b in pairs])) for name in heads
            }
        }


def _apart(head: Head, one: Tensor, other: Tensor) -> Tensor:
    """Return the squared difference of two answers [batch, ...]: of probabilities, where a head has any."""
    if head.outcomes is not None and head.outcomes.probabilities is not None:
        one, other = probabilities_of(head, one), probabilities_of(head, other)
    return (one.float() - other.float()).square().flatten(1).sum(1).mean()


def _drops(model: Learner, heads: Iterable[Head]) -> bool:
    """Return whether some dropout on the way to the answers of some heads is at work in training."""
    assert isinstance(model, nn.Module)
    model.train()
    # Not of the model as a whole, in which other strategies have dropout of their own that no answer passes through.
    ways = [module for part in (model.backbone, *heads) for module in part.modules()]
    return any(module.p > 0 and module.training for module in ways if isinstance(module, nn.modules.dropout._DropoutNd))
