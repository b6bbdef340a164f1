"""Episodes of n ways and k shots: drawn, answered by a head that is fitted to each, and summed up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from exapt import device as devices
from exapt.errors import DataError, RecipeError
from exapt.fitting import fit_head
from exapt.parts import Array, Head, Pooled

LEAST_EPISODES = 100
"""Fewer say too little of how much an episode's score depends on the examples that were drawn."""


@dataclass(frozen=True)
class Draw:
    """How episodes are drawn: ``shots`` examples of each of ``ways`` classes to learn from, up to ``queries`` to answer for.

    Raises ``RecipeError`` for numbers that make no episode.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = LEAST_EPISODES
    seed: int = 0

    def __post_init__(self) -> None:
        for what, least in (("ways", 2), ("shots", 1), ("queries", 1), ("episodes", LEAST_EPISODES), ("seed", 0)):
            if getattr(self, what) < least:
                raise RecipeError(f"{what} is {getattr(self, what)}: give {least} or more")

    def check(self, counts: Mapping[str, int]) -> None:
        """Raise ``DataError`` unless classes with so many examples make such episodes, a query for each of them at least."""
        if self.ways > len(counts):
            raise DataError(
                f"{self.ways} ways need {self.ways} classes, and there are {len(counts)}: {', '.join(counts)}; lower ways"
            )
        short = {name: count for name, count in counts.items() if count <= self.shots}
        if short:
            told = ", ".join(f"'{name}' has {count}" for name, count in short.items())
            raise DataError(
                f"{self.shots} shots and a query need {self.shots + 1} examples of each class, and {told}; lower shots, or "
                "name the classes to draw from"
            )

    def episode(self, rows: Sequence[Array], number: int) -> tuple[list[Array], list[Array]]:
        """Return the rows of each class of one episode to learn from, and those to answer for; ``rows`` are by class.

        An episode depends on the seed and its ``number`` alone, so that any two heads are given the same ones.
        """
        chance = np.random.default_rng((self.seed, number))
        chosen = [chance.permutation(rows[at]) for at in chance.choice(len(rows), self.ways, replace=False)]
        asked = [mine[self.shots : self.shots + self.queries] for mine in chosen]
        return [mine[: self.shots] for mine in chosen], asked

    def drawn(self, rows: Sequence[Array]) -> Array:
        """Return all rows that stand in any episode: of a large table, few of it."""
        episodes = (self.episode(rows, number) for number in range(self.episodes))
        return np.unique(np.concatenate([mine for known, asked in episodes for mine in (*known, *asked)]))


@dataclass(frozen=True)
class Interval:
    """A mean over episodes, with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the interval of two or more values."""
        mean = math.fsum(values) / len(values)
        half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Episodes:
    """How well a few examples suffice: the accuracy and the logarithmic loss of each episode, and what they were drawn from."""

    head: str
    model: str
    draw: Draw
    classes: Mapping[str, int]
    """The classes that were drawn from, and how many rows each has."""
    accuracies: Sequence[float]
    losses: Sequence[float]
    notes: Sequence[str] = field(default=())

    @property
    def accuracy(self) -> Interval:
        """Mean accuracy, every class of an episode counting the same."""
        return Interval.of(self.accuracies)

    @property
    def log_loss(self) -> Interval:
        """Mean negative logarithm of the probability given to the true class."""
        return Interval.of(self.losses)

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.draw.ways

    @property
    def told(self) -> str:
        """What was drawn from what, in a sentence."""
        draw, rows = self.draw, sum(self.classes.values())
        return (
            f"{draw.episodes:,} episodes of {draw.ways} ways and {draw.shots} shots, from {rows:,} rows of "
            f"{len(self.classes)} classes; chance is {self.chance:.4g}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        draw = {name: getattr(self.draw, name) for name in ("ways", "shots", "queries", "episodes", "seed")}
        found = {name: vars(getattr(self, name)) for name in ("accuracy", "log_loss")}
        values = {"accuracies": list(self.accuracies), "losses": list(self.losses)}
        return {
            "model": self.model,
            "head": self.head,
            **draw,
            "chance": self.chance,
            **found,
            "classes": dict(self.classes),
            **values,
        }


def play(
    head: Head, features: Mapping[str, Tensor], rows: Sequence[Array], draw: Draw
) -> tuple[list[float], list[float]]:
    """Return accuracy and logarithmic loss of each episode, drawn from ``rows`` by class of ``features`` [rows, width].

    ``head`` answers for as many classes as an episode has ways; it is fitted anew to each. Raises ``DataError`` for answers
    that are no numbers.
    """
    accuracies, losses = [], []
    for number in range(draw.episodes):
        known, asked = draw.episode(rows, number)
        fit_head(head, _those(head, features, known), _classes(known))
        with devices.resting():
            shares = head(_those(head, features, asked)).double().log_softmax(-1)
        truth = _classes(asked)
        right = (shares.argmax(-1) == truth).double()
        accuracies.append(float(np.mean([float(right[truth == way].mean()) for way in range(draw.ways)])))
        losses.append(float(-shares[torch.arange(len(truth)), truth].mean()))
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"the loss of episode {number + 1} is {losses[-1]}: the model's features of its rows, or the head's answers, "
                "are not finite; choose another head, or leave out the rows that the model cannot read"
            )
    return accuracies, losses


def _those(head: Head, features: Mapping[str, Tensor], rows: Sequence[Array]) -> dict[str, Pooled]:
    every = np.concatenate(list(rows))
    return {name: Pooled(head.reads, vectors[every]) for name, vectors in features.items()}


def _classes(rows: Sequence[Array]) -> Tensor:
    return torch.cat([torch.full((len(mine),), way) for way, mine in enumerate(rows)])
