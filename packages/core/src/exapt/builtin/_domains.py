"""Features that no longer tell domains apart: by a reversed gradient, by matched moments, by matched kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.builtin.domains import AdversarialOptions, CoralOptions, MmdOptions
from exapt.errors import DataError
from exapt.parts import Learner, Step, Strategy, Training

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of the vectors [rows, width] of two domains, their distance []."""
_TARGET = "target"


def set_in(epoch: int, epochs: int) -> bool:
    """Return whether half of the training is behind, so that what grows with it has set in."""
    return 2 * (epoch + 1) > epochs


class Domains:
    """Of which domain the rows of a step are: of those that the recipe tells apart in train, the last of all the target's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Tensor | None = None
        self.count = 1
        self.target = False

    def begin(self, run: Training) -> tuple[str, ...]:
        """Take note of a run; returns the streams that it has. Raises ``DataError`` where there is one domain alone."""
        domains = run.train.domains
        if domains is not None:
            self.known, self.count = torch.from_numpy(domains), len(run.model.domains)
        self.target = _TARGET in run.streams
        if self.target:
            return (_TARGET,)
        if domains is None or len(set(domains.tolist())) < 2:
            raise DataError(
                f"strategy '{self.name}': all rows of train are of one domain, so that there is nothing to bring together; "
                "name the table of another as target.path"
            )
        return ()

    def sizes(self, run: Training) -> list[int]:
        """Return how many rows each domain of a run has."""
        known = np.zeros(len(run.train), dtype=np.int64) if self.known is None else self.known.numpy()
        target = [len(run.streams[_TARGET])] if self.target else []
        return [*np.unique(known, return_counts=True)[1].tolist(), *target]

    def of(self, step: Step) -> Iterator[list[tuple[int, Tensor]]]:
        """Yield, for each input, the number of each domain in a step with the vectors [rows, width] of its rows."""
        for name in step.source.features:
            vectors = step.source.pooled(name)
            number = torch.zeros(len(vectors), dtype=torch.int64)
            if self.known is not None:
                number = self.known[step.source.rows.cpu()]
            found = [
                (domain, vectors[(number == domain).to(vectors.device)]) for domain in sorted(set(number.tolist()))
            ]
            # Other strategies bring streams too, such as rows of an earlier task, which are of no domain here.
            target = [(self.count, step.streams[_TARGET].pooled(name))] if self.target else []
            yield [*found, *target]


class _Reversed(torch.autograd.Function):
    """Identity whose gradient comes back the other way round, ``factor`` times as large."""

    @staticmethod
    def forward(context: Any, vectors: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return vectors.view_as(vectors)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradients[0], None


def ramp(progress: float, steepness: float) -> float:
    """Return the share, from 0 to 1, of the reversed gradient's height at a ``progress`` from 0 to 1."""
    return 2 / (1 + math.exp(-steepness * progress)) - 1


class Adversarial(Strategy):
    """Features from which a discriminator cannot tell the domain of a row (Ganin et al. 2016, arXiv:1505.07818).

    The discriminator learns to tell domains apart by the mean features of each input, and its gradient reaches the
    backbone the other way round. Several domains of train are classes of their own (after Zhao et al. 2018,
    arXiv:1705.09684); each domain of a step counts the same, however many of its rows are there.
    """

    whole = True

    def __init__(self, options: AdversarialOptions) -> None:
        self.options = options
        self.domains = Domains("adversarial")
        self.streams: Sequence[str] = ()

    def attach(self, model: Learner) -> nn.Module:
        """Return the discriminator: three linear layers, for the domains of train and the target's, if there is one."""
        width, hidden, drop = model.backbone.width, self.options.width, self.options.dropout
        self.discriminator = nn.Sequential(
            *(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(drop)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(drop)),
            nn.Linear(hidden, max(1, len(model.domains)) + model.targeted),
        )
        return self.discriminator

    def begin(self, run: Training) -> None:
        """Take note of the domains."""
        self.streams = self.domains.begin(run)

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether the reversed gradient is near its height."""
        return set_in(epoch, epochs)

    def loss(self, step: Step) -> Tensor:
        """Return the discriminator's cross-entropy [], a mean over domains and inputs."""
        factor = self.options.weight * ramp(step.progress, self.options.steepness)
        losses = [
            self._told(domain, vectors, factor) for domains in self.domains.of(step) for domain, vectors in domains
        ]
        return torch.stack(losses).mean()

    def _told(self, domain: int, vectors: Tensor, factor: float) -> Tensor:
        reverse: Callable[[Tensor, float], Tensor] = _Reversed.apply
        logits = self.discriminator(reverse(vectors, factor))
        return functional.cross_entropy(logits, torch.full((len(vectors),), domain, device=logits.device))


class Matching(Strategy):
    """Features whose ``distance`` between every two domains of a step is small, a mean over the pairs."""

    whole = True

    def __init__(self, name: str, weight: float, distance: Distance) -> None:
        self.name, self.weight, self.distance = name, weight, distance
        self.domains = Domains(name)
        self.streams: Sequence[str] = ()

    def begin(self, run: Training) -> None:
        """Take note of the domains. Raises ``DataError`` unless two have two rows each, of which there is a distribution."""
        self.streams = self.domains.begin(run)
        if "target" in self.streams and len(run.streams["target"]) < 2:
            raise DataError(
                f"strategy '{self.name}' matches how rows are distributed, and the target has one row: name a table of more, "
                "or leave the strategy out"
            )
        if sum(size > 1 for size in self.domains.sizes(run)) < 2:
            raise DataError(
                f"strategy '{self.name}' matches how rows are distributed, and fewer than two domains have two rows or more: "
                "add rows, or leave the strategy out"
            )

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether the features have had the time to come together."""
        return set_in(epoch, epochs)

    def loss(self, step: Step) -> Tensor | None:
        """Return the distance [], a mean over pairs of domains and inputs; None where no two have two rows each."""
        found = []
        for domains in self.domains.of(step):
            enough = [vectors for _, vectors in domains if len(vectors) > 1]
            found += [self.distance(one, other) for one, other in combinations(enough, 2)]
        return self.weight * torch.stack(found).mean() if found else None


def coral(options: CoralOptions) -> Distance:
    """Return the distance of second moments (Sun and Saenko 2016, arXiv:1607.01719).

    It is the squared Frobenius norm of the difference of covariances, over 4 x width^2, and with ``means`` the mean
    squared difference of the means too (as in Gulrajani and Lopez-Paz 2021, arXiv:2007.01434).
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        spread = (torch.cov(one.T) - torch.cov(other.T)).square().mean() / 4
        return spread + (one.mean(0) - other.mean(0)).square().mean() if options.means else spread

    return distance


def mmd(options: MmdOptions) -> Distance:
    """Return the maximum mean discrepancy under a mean of Gaussian kernels (Long et al. 2015, arXiv:1502.02791).

    The estimate is the unbiased one (Gretton et al. 2012, JMLR 13:723), which can be a little below 0. Widths go by the
    median squared distance of the rows, so that features cannot come together by merely becoming small.
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        both = torch.cat([one, other])
        apart = (both.unsqueeze(1) - both.unsqueeze(0)).square().sum(-1)
        away = ~torch.eye(len(both), dtype=torch.bool, device=both.device)
        median = apart.detach()[away].median().clamp(min=torch.finfo(apart.dtype).tiny)
        like = torch.stack([(-apart / (median * width)).exp() for width in options.bandwidths]).mean(0)
        # Rows are not compared with themselves.
        like = torch.where(away, like, 0)
        n, m = len(one), len(other)
        within = like[:n, :n].sum() / (n * (n - 1)) + like[n:, n:].sum() / (m * (m - 1))
        return within - 2 * like[:n, n:].mean()

    return distance
