"""The module of ``masked-expression``: a copy of the pretrained decoder, and what it is asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from exapt import RecipeError
from exapt.parts import NO_UNIT, Array, Encoding, Head, HeadContext
from exapt_singlecell.scgpt import MaskedExpressionOptions
from exapt_singlecell.scgpt.model import ExpressionDecoder
from exapt_singlecell.scgpt.tokenizer import ScgptTokenizer


class MaskedExpression(Head):
    """How much of some genes is expressed, told from all others: scGPT's own objective, doi:10.1038/s41592-024-02201-0.

    The value of a share of a cell's genes is hidden, and their bins are asked for, by squared error. The decoder is a copy
    of the checkpoint's, which learns apart, or a fresh one where the checkpoint has none.
    """

    metric = "rmse"
    answers: Literal["input", "unit", "token"] = "token"
    labelled = False

    def __init__(self, options: MaskedExpressionOptions, context: HeadContext) -> None:
        super().__init__()
        (self.input,) = options.inputs
        self.probability = options.probability
        if not isinstance(context.tokenizer, ScgptTokenizer):
            raise RecipeError(
                "head 'masked-expression' hides values of genes, which only the tokenizer 'scgpt' gives; use a backbone "
                "of scGPT, or head 'masked-lm' where tokens themselves are hidden"
            )
        self.hidden = context.tokenizer.hidden
        self.decoder = _decoder(context, self.input)

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return the encoding with values of genes hidden, and these values [tokens], ``pad`` elsewhere."""
        values = encoding.arrays["values"]
        target, seen = np.full(len(values), self.pad, dtype=np.float32), values.copy()
        genes = np.flatnonzero(encoding.spans[:, 0] != NO_UNIT)
        chosen = genes[rng.random(len(genes)) < self.probability]
        if len(genes) and not len(chosen):
            # A cell of which nothing is asked would teach nothing.
            chosen = rng.choice(genes, 1)
        target[chosen], seen[chosen] = values[chosen], self.hidden
        return replace(encoding, arrays={**encoding.arrays, "values": seen}), target

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return bins [batch, tokens, 1], not rounded."""
        bins: Tensor = self.decoder(features[self.input].hidden)
        return bins

    def weigh(self, target: Tensor) -> Tensor:
        """Return the number of genes that are asked for."""
        return (target != self.pad).sum().float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed squared error of ``output``, bins or what ``condense`` made of them."""
        return torch.where(target == self.pad, 0, output[..., 0].float() - target).square().sum()

    def condense(self, output: Tensor, target: Tensor) -> Tensor:
        """Return of each token [batch, tokens, 2] what was told and what is true; 0, which is no bin, if not asked for."""
        both = torch.stack((output[..., 0].float(), target), -1)
        return both.masked_fill((target == self.pad).unsqueeze(-1), 0)

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return the mean squared error ``mse``, in bins, of each cell."""
        asked = [_asked(output) for output in outputs]
        return {"mse": [float(_squared(kept).mean()) if len(kept) else None for kept in asked]}

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return ``mse``, ``rmse`` and ``pearson`` (0 where nothing varies) over all genes that were asked for."""
        asked = np.concatenate([_asked(output) for output in outputs] or [np.empty((0, 2))])
        if not len(asked):
            return {}
        mse = float(_squared(asked).mean())
        return {"mse": mse, "pearson": _pearson(asked), "rmse": float(np.sqrt(mse))}


def _asked(output: Array) -> Array:
    kept = output.astype(np.float64)
    return np.asarray(kept[kept[:, 1] != 0])


def _squared(asked: Array) -> Array:
    return np.asarray(np.square(asked[:, 0] - asked[:, 1]))


def _pearson(asked: Array) -> float:
    told, true = (asked - asked.mean(0)).T
    spread = float(np.sqrt((told @ told) * (true @ true)))
    return float(told @ true) / spread if spread else 0.0


def _decoder(context: HeadContext, name: str) -> nn.Module:
    pretrained = context.language.get(name)
    if pretrained is None:
        return ExpressionDecoder(context.widths[name])
    # A backbone's own parameters may be at rest already: what is copied here is to learn.
    return copy.deepcopy(pretrained.head).requires_grad_(True)
