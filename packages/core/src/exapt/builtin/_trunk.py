"""What the built-in heads share: reading features, scaling them, and the layers from there to the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exapt.builtin.heads import HeadOptions, PositionOptions, SequenceOptions
from exapt.errors import RecipeError
from exapt.parts import HeadContext


class Pool(nn.Module):
    """One vector per example [batch, width]: each input pooled, and all joined."""

    answers: Literal["input", "unit", "token"] = "input"

    def __init__(self, options: SequenceOptions, context: HeadContext) -> None:
        super().__init__()
        widths = _widths(options.inputs, context)
        self.inputs, self.pooling, self.width = options.inputs, options.pooling, sum(widths)
        self.reads = "tokens" if self.pooling == "attention" else self.pooling
        attends = self.pooling == "attention"
        self.scores = nn.ModuleList([nn.Linear(width, 1) for width in widths] if attends else [])

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return the joined vectors [batch, width]; an input without a token gives zeros."""
        if self.scores:
            read = zip(self.inputs, self.scores, strict=True)
            return torch.cat([features[name].attend(score) for name, score in read], -1)
        return torch.cat([features[name].pool(self.pooling) for name in self.inputs], -1)

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
        std, mean = torch.std_mean(rows.float(), 0, correction=0)
        # A feature that hardly varies is not blown up: its deviation counts as a hundredth of the average one.
        floor = std.mean() / 100
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=floor) if floor > 0 else torch.ones_like(std))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the scaled vectors, in this module's own precision."""
        return (vectors.type_as(self.mean) - self.mean) / self.std


class Trunk(nn.Module):
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


def _widths(inputs: Sequence[str], context: HeadContext) -> list[int]:
    for name in inputs:
        if name not in context.widths:
            raise RecipeError(f"the head reads input '{name}', but the inputs are {', '.join(context.widths)}")
    return [context.widths[name] for name in inputs]
