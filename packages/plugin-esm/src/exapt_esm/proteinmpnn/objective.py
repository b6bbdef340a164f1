"""The module of ``inverse-folding``: a copy of the pretrained last layer, and what it is asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exapt import RecipeError
from exapt.parts import Array, Encoding, Head, HeadContext, LanguageModel
from exapt_esm.proteinmpnn import InverseFoldingOptions
from exapt_esm.proteinmpnn.tokenizer import OTHER, ProteinMpnnTokenizer

# What is kept of a residue to be measured: its loss, the negative logarithm of its probability, and whether it was told.
_KEPT = 3
# No such number is below 0: it marks, as NaN would, which JSON cannot hold, a residue that was not asked for.
_NOT_ASKED = -1.0
# Puts what is not resolved first in any order.
_FIRST = 1e-4


class InverseFolding(Head):
    """Which residue stands at each place of a backbone, by those decoded before it in an order drawn at random.

    Dauparas et al. 2022, doi:10.1126/science.add2187. The last layer is a copy of the checkpoint's, which learns apart.
    """

    metric = "perplexity"
    answers: Literal["input", "unit", "token", "pair"] = "token"
    labelled = False

    def __init__(self, options: InverseFoldingOptions, context: HeadContext) -> None:
        super().__init__()
        (self.input,) = options.inputs
        self._smoothing = options.smoothing
        if not isinstance(context.tokenizer, ProteinMpnnTokenizer):
            raise _unfit(self.input)
        # A backbone's own parameters may be at rest already: what is copied here is to learn.
        self.decoder = copy.deepcopy(_language(context, self.input).head).requires_grad_(True)

    @property
    def language(self) -> LanguageModel:
        """The last layer that learned on."""
        return LanguageModel(self.decoder, "ordered")

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return the encoding in a random order, and the residues [tokens], ``pad`` where none is resolved or known.

        What is not resolved comes first, so that nothing waits for it.
        """
        ids, resolved = encoding.arrays["input_ids"], encoding.arrays["resolved"]
        order = np.argsort((resolved + _FIRST) * np.abs(rng.normal(size=len(ids))), kind="stable")
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(len(ids))
        target = np.where(resolved & (ids != OTHER), ids, int(self.pad))
        return replace(encoding, arrays={**encoding.arrays, "rank": rank}), target

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return logits [batch, tokens, letters]."""
        logits: Tensor = self.decoder(features[self.input].hidden)
        return logits

    def weigh(self, target: Tensor) -> Tensor:
        """Return the number of residues that are asked for."""
        return (target != self.pad).sum().float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed cross-entropy, smoothed, of ``output``, logits or what ``condense`` made of them."""
        if output.shape[-1] == _KEPT:
            return torch.where(target == self.pad, 0, output[..., 0]).sum()
        return self._losses(output, target, self._smoothing).sum()

    def _losses(self, logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
        flat = functional.cross_entropy(
            logits.float().flatten(0, -2),
            target.flatten().long(),
            ignore_index=int(self.pad),
            reduction="none",
            # The letter has 1 and all share ``smoothing``, before both are divided by their sum.
            label_smoothing=smoothing / (1 + smoothing),
        )
        return flat.view(target.shape)

    def condense(self, output: Tensor, target: Tensor) -> Tensor:
        """Return of each residue [batch, tokens, 3] loss, negative log probability and whether it was told; else -1."""
        hit = (output.argmax(-1) == target).float()
        kept = torch.stack((self._losses(output, target, self._smoothing), self._losses(output, target, 0), hit), -1)
        return kept.masked_fill((target == self.pad).unsqueeze(-1), _NOT_ASKED)

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``cross_entropy`` (natural log, per residue), ``perplexity`` and ``recovery`` of each structure."""
        told = [_told(_asked(output)) for output in outputs]
        return {name: [one.get(name) for one in told] for name in ("cross_entropy", "perplexity", "recovery")}

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return ``perplexity`` and ``recovery``, the share of residues whose likeliest letter is their own, over all."""
        told = _told(np.concatenate([_asked(output) for output in outputs] or [np.empty((0, _KEPT))]))
        return {name: told[name] for name in ("perplexity", "recovery") if name in told}


def _asked(output: Array) -> Array:
    kept = output.astype(np.float64)
    return np.asarray(kept[kept[:, 0] != _NOT_ASKED])


def _told(asked: Array) -> dict[str, float]:
    if not len(asked):
        return {}
    entropy = float(asked[:, 1].mean())
    return {"cross_entropy": entropy, "perplexity": float(np.exp(entropy)), "recovery": float(asked[:, 2].mean())}


def _language(context: HeadContext, name: str) -> LanguageModel:
    language = context.language.get(name)
    if language is None or language.objective != "ordered":
        raise _unfit(name)
    return language


def _unfit(name: str) -> RecipeError:
    return RecipeError(
        f"head 'inverse-folding' asks which residue stands where in a structure, and the backbone of '{name}' does not tell "
        "it, or the recipe reads another layer than the last; use a backbone of ProteinMPNN"
    )
