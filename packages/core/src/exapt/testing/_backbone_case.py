"""A backbone under test: built, read in batches, compared number by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from exapt.data.batching import collate
from exapt.parts import Backbone, Batch, Encoding, Features, Tokenizer, cast_features
from exapt.specs import BackboneSpec, Options, TokenizerSpec
from exapt.structures import Structure
from exapt.testing._structures import halved, is_structure

TOLERANCE = 1e-5
"""The most by which two ways to the same features may differ, in parts of the largest value or of 1."""


@dataclass(frozen=True)
class BackboneCase:
    """A backbone and its tokenizer, with inputs that they must be able to read."""

    spec: BackboneSpec
    options: Options
    tokenizer_spec: TokenizerSpec
    tokenizer_options: Options
    inputs: Sequence[Any]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built once."""
        return self.tokenizer_spec.build(self.tokenizer_options)

    @cached_property
    def encodings(self) -> list[Encoding]:
        """Every input as tokens; the longest stands there once more, cut to half, so that lengths differ; of cells none does."""
        texts = sorted((value for value in self.inputs if isinstance(value, str)), key=len)
        halves: list[Any] = [texts[-1][: (len(texts[-1]) + 1) // 2]] if texts else []
        shapes = [Structure.of(value) for value in self.inputs if is_structure(value)]
        halves += [halved(max(shapes, key=len))] if shapes else []
        return [self.tokenizer.encode(value) for value in [*self.inputs, *halves]]

    @cached_property
    def batch(self) -> Batch:
        """All encodings in one batch."""
        return collate(self.encodings)

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained model, shared by all checks that leave it as it is."""
        return self.build()

    @cached_property
    def features(self) -> Features:
        """What the pretrained model says of all inputs in one batch."""
        return read(self.backbone, self.batch)

    def build(self, weights: bool = True, seed: int = 0) -> Backbone:
        """Build the model anew, in evaluation mode, with torch's generator at a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.spec.build(self.options, weights).eval()


def read(backbone: Backbone, batch: Batch) -> Features:
    """Return the features of a batch as they are predicted with: without gradients."""
    with torch.inference_mode():
        return cast_features(backbone(batch))


def gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, in parts of the largest value of ``one`` where that is above 1; NaN stays NaN."""
    if not one.numel():
        return 0.0
    largest = max(1.0, float(one.abs().max()))
    return float((one - other).abs().max()) / largest


def learn_from(features: Features) -> None:
    """Give gradients of a number that depends on every feature in a way of its own, so that none cancels."""
    hidden = features.hidden[features.mask]
    wave = torch.arange(1.0, hidden.shape[-1] + 1).sin()
    loss = (hidden.float() * wave).square().sum()
    if features.summary is not None:
        loss = loss + (features.summary.float() * wave).square().sum()
    # Where all parameters are frozen there is nothing to give gradients to.
    if loss.requires_grad:
        torch.autograd.backward(loss)
