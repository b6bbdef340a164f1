"""A head under test, over features that need no backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from exapt.data.batching import padded
from exapt.fitting import fit_head
from exapt.parts import Array, Features, Head, HeadContext, Pooled
from exapt.specs import HeadSpec, Options

WIDTH = 16
_UNITS = (6, 3, 8, 5)
_STEPS = 300


class AnyHeadCase(Protocol):
    """A head under test, whether it learns from labels or poses its own questions."""

    @property
    def lengths(self) -> Sequence[int]:
        """How many answers each input has, where their number differs from input to input."""

    @property
    def features(self) -> Mapping[str, Features]:
        """The features that are answered from, by input."""

    @property
    def learned(self) -> Head:
        """The head after it has learned by heart."""

    def build(self, seed: int = 0) -> Head:
        """Build the head in evaluation mode, with torch's generator at a seed."""

    def loss(self, head: Head) -> Tensor:
        """Return the summed loss [] of all inputs."""

    def encoded(self, head: Head) -> list[Array]:
        """Return the target of every input."""

    def targets(self, head: Head) -> Tensor:
        """Return all targets as core gives them to the loss."""

    def outputs(self, head: Head) -> list[Array]:
        """Return one output per input as core gives them to ``decode`` and ``metrics``."""


@dataclass(frozen=True)
class HeadCase:
    """A head, labels that it must be able to learn, and how many units the input of each label has."""

    spec: HeadSpec
    asked: Options
    labels: Sequence[Any]
    lengths: Sequence[int]
    inputs: tuple[str, ...] = ("sequence",)

    @cached_property
    def options(self) -> Options:
        """The options with what only the labels know."""
        options: Options = self.spec.infer(self.asked, self.labels)
        return options

    def build(self, seed: int = 0, options: Options | None = None) -> Head:
        """Build the head in evaluation mode, with torch's generator at a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.spec.build(options or self.options, HeadContext(dict.fromkeys(self.inputs, WIDTH))).eval()

    @cached_property
    def features(self) -> dict[str, Features]:
        """One row of random features per label, with special tokens, padding and a whole-input vector.

        A head that is fitted is not asked to know chance by heart: of its features, most tells the label.
        """
        told = self._telling() if self.spec.fits else None
        return {name: features_of(self.lengths, seed, told=told) for seed, name in enumerate(self.inputs)}

    def _telling(self) -> Tensor:
        """Return one vector [WIDTH] per label: alike for labels that are alike."""
        targets = torch.from_numpy(np.stack(self.encoded(self.build()))).reshape(len(self.labels), -1)
        chance = torch.Generator().manual_seed(7)
        if not targets.is_floating_point():
            targets = nn.functional.one_hot(targets[:, 0]).float()
        return targets.nan_to_num().float() @ torch.randn(targets.shape[1], WIDTH, generator=chance)

    @cached_property
    def learned(self) -> Head:
        """The head after it has learned the labels by heart, and been fitted where it is."""
        return by_heart(self.build(), self.features, self.loss, len(self.labels), self.fit)

    def fit(self, head: Head, rows: Sequence[int] | None = None) -> None:
        """Fit a head, if it is one that is fitted, to all labels or some ``rows`` of them."""
        if head.fits:
            every = list(range(len(self.labels))) if rows is None else list(rows)
            pooled = {name: Pooled(head.reads, given.pool(head.reads)[every]) for name, given in self.features.items()}
            fit_head(head, pooled, self.targets(head)[every])

    def loss(self, head: Head) -> Tensor:
        """Return the summed loss of all labels."""
        return head.loss(head(self.features).float(), self.targets(head))

    def encoded(self, head: Head) -> list[Array]:
        """Return every label as a target."""
        return [head.encode(label, length) for label, length in zip(self.labels, self.lengths, strict=True)]

    def targets(self, head: Head) -> Tensor:
        """Return all targets as core gives them to the loss."""
        arrays = self.encoded(head)
        if not head.ragged:
            return torch.from_numpy(np.stack(arrays))
        return torch.from_numpy(padded(arrays, max(map(len, arrays)), head.pad, head.axes))

    def outputs(self, head: Head) -> list[Array]:
        """Return one output per label, padding cut off, as core gives them to ``decode`` and ``metrics``."""
        return [
            unpadded(head, output, length).numpy()
            for output, length in zip(answer(head, self.features), self.lengths, strict=True)
        ]


def by_heart(
    head: Head,
    features: Mapping[str, Features],
    loss: Callable[[Head], Tensor],
    rows: int,
    fit: Callable[[Head], None] = lambda head: None,
) -> Head:
    """Return a head after it has learned ``rows`` inputs, of which ``loss`` gives the sum, by heart, and was fitted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head.adjust(features)
        fit(head)
        # A head that is only fitted has nothing that steps could move, and an optimiser takes no empty list.
        learning = list(head.parameters()) or [nn.Parameter(torch.zeros(1))]
        optimizer = torch.optim.Adam(learning, lr=0.03)
        for _ in range(_STEPS if any(True for _ in head.parameters()) else 0):
            head.zero_grad()
            torch.autograd.backward(loss(head.train()) / rows)
            optimizer.step()
        fit(head.eval())
    return head


def lengths_of(labels: Sequence[Any], per_unit: bool) -> list[int]:
    """Return how many units the inputs have: those of the labels, or some of different numbers."""
    return [len(label) if per_unit else _UNITS[place % len(_UNITS)] for place, label in enumerate(labels)]


def answer(head: Head, features: Mapping[str, Features | Pooled]) -> Tensor:
    """Return what the head says without gradients."""
    with torch.inference_mode():
        output: Tensor = head(features)
        return output.float()


def unpadded(head: Head, output: Tensor, length: int) -> Tensor:
    """Return one input's ``output`` without what only fills up a batch."""
    return output[(slice(length),) * head.axes]


def features_of(lengths: Sequence[int], seed: int = 0, padding: int = 2, told: Tensor | None = None) -> Features:
    """Return random features of inputs of some lengths, each after one special token, with garbage for padding.

    With ``told`` [inputs, WIDTH] they are around these vectors.
    """
    tokens = 1 + max(lengths) + padding
    # One generator a row, so that an input's vectors do not depend on what stands beside it.
    rows = [
        torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(100 * seed + row))
        for row in range(len(lengths))
    ]
    if told is not None:
        rows = [0.05 * row + vector for row, vector in zip(rows, told, strict=True)]
    units = torch.arange(-1, tokens - 1).expand(len(lengths), tokens)
    mask = (units >= 0) & (units < torch.tensor(lengths)[:, None])
    spans = torch.where(mask, units, -1)[..., None].expand(-1, -1, 2)
    hidden = torch.where(mask[..., None], torch.stack(rows), 1e3 * torch.stack(rows))
    return Features(hidden, mask, spans, torch.tensor(lengths), torch.stack([row[0] for row in rows]))


def rows_of(features: Mapping[str, Features], rows: list[int]) -> dict[str, Features]:
    """Return the features of some inputs only, as narrow as they can be."""
    return {name: _narrow(given, rows) for name, given in features.items()}


def _narrow(features: Features, rows: list[int]) -> Features:
    tokens = 1 + int(features.lengths[rows].max())
    summary = None if features.summary is None else features.summary[rows]
    hidden, mask, spans = (part[rows, :tokens] for part in (features.hidden, features.mask, features.spans))
    return Features(hidden, mask, spans, features.lengths[rows], summary)
