"""What the built-in heads share: reading features, scaling them, and the layers from there to the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exapt.builtin.few_shot import FittedOptions
from exapt.builtin.heads import HeadOptions, PositionOptions, SequenceOptions
from exapt.errors import RecipeError
from exapt.parts import HeadContext


class Pool(nn.Module):
    """One vector per example [batch, width]: each input pooled, and all joined."""

    answers: Literal["input", "unit", "token"] = "input"

    def __init__(self, options: SequenceOptions | FittedOptions, context: HeadContext) -> None:
        super().__init__()
        widths = _widths(options.inputs, context)
        self.inputs, self.pooling, self.join = options.inputs, options.pooling, options.join
        self.reads = "tokens" if self.pooling == "attention" else self.pooling
        self.width = sum(widths)
        if self.join != "concatenate":
            # Inputs that are compared are read alike: with one attention for both.
            widths = _of_one_width(options.inputs, widths)
            self.width = widths[0] * (3 if self.join == "symmetric" else 1)
        attends = self.pooling == "attention"
        self.scores = nn.ModuleList([nn.Linear(width, 1) for width in widths] if attends else [])

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the joined vectors [batch, width]; an input without a token gives zeros."""
        vectors = [self._vector(features[name], place) for place, name in enumerate(self.inputs)]
        if self.join == "concatenate":
            return torch.cat(vectors, -1)
        one, other = vectors
        if self.join == "difference":
            return one - other
        return torch.cat([one + other, one * other, (one - other).abs()], -1)

    def _vector(self, features: Any, place: int) -> Tensor:
        attends = len(self.scores)
        vector: Tensor = features.attend(self.scores[place % attends]) if attends else features.pool(self.pooling)
        return vector

    def rows(self, features: Mapping[str, Any]) -> Tensor:
        """Return the vectors [n, width] that tell how the features are distributed."""
        vectors: Tensor = self(features)
        return vectors


class Units(nn.Module):
    """One vector per unit [batch, units, width]."""

    answers: Literal["input", "unit", "token"] = "unit"
    reads = "tokens"

    def __init__(self, options: PositionOptions, context: HeadContext) -> None:
        super().__init__()
        (self.input,) = options.inputs
        (self.width,) = _widths(options.inputs, context)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the vectors [batch, units, width]; a unit under no token gets zeros, and has neither label nor answer."""
        vectors: Tensor = features[self.input].per_unit()[0]
        return vectors

    def rows(self, features: Mapping[str, Any]) -> Tensor:
        """Return the vectors [n, width] of the units that a token covers."""
        vectors, covered = features[self.input].per_unit()
        rows: Tensor = vectors[covered]
        return rows


class Standardise(nn.Module):
    """Scales each feature by the ``mean`` and ``std`` [width] of training examples; until fitted, changes nothing."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take mean and deviation from ``rows`` [n, width]; fewer than two tell nothing and change nothing."""
        if len(rows) < 2:
            return
        mean, std = moments(rows)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the scaled vectors, in this module's own precision."""
        return (vectors.type_as(self.mean) - self.mean) / self.std


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation [width] of ``rows`` [n, width] by which features are scaled."""
    std, mean = torch.std_mean(rows.float(), 0, correction=0)
    # A feature that hardly varies is not blown up: its deviation counts as a hundredth of the average one.
    floor = std.mean() / 100
    return mean, std.clamp(min=floor) if floor > 0 else torch.ones_like(std)


class Answering(nn.Module):
    """What takes features to answers, whether it is learned or fitted."""

    def adjust(self, features: Mapping[str, Any]) -> None:
        """See the features of some training examples, to set a scaling."""


class Trunk(Answering):
    """From features to answers: read, scale, and one linear layer or two."""

    def __init__(self, options: HeadOptions, reader: Pool | Units, answers: int) -> None:
        super().__init__()
        self.reader = reader
        self.scale = Standardise(reader.width) if options.standardise else None
        inner = options.hidden or reader.width
        first = [nn.Linear(reader.width, inner), nn.GELU()] if options.hidden else []
        self.layers = nn.Sequential(*first, nn.Dropout(options.dropout), nn.Linear(inner, answers))

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling to the features of some training examples."""
        if self.scale is not None:
            with torch.no_grad():
                self.scale.fit(self.reader.rows(features))

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the answers [batch, answers], or [batch, units, answers]."""
        vectors = self.reader(features).type_as(self.layers[-1].weight)
        answers: Tensor = self.layers(vectors if self.scale is None else self.scale(vectors))
        return answers


def _of_one_width(inputs: Sequence[str], widths: Sequence[int]) -> list[int]:
    if len(set(widths)) > 1:
        told = " and ".join(f"'{name}' of {width}" for name, width in zip(inputs, widths, strict=True))
        raise RecipeError(f"inputs that are compared need features of one width; these are {told}")
    return [widths[0]]


def _widths(inputs: Sequence[str], context: HeadContext) -> list[int]:
    for name in inputs:
        if name not in context.widths:
            raise RecipeError(f"the head reads input '{name}', but the inputs are {', '.join(context.widths)}")
    return [context.widths[name] for name in inputs]
