"""The modules of the built-in language-model objectives: a copy of the pretrained head, and what it is asked."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exapt.builtin.language import CausalOptions, LanguageOptions, MaskedOptions
from exapt.errors import RecipeError
from exapt.parts import NO_UNIT, Array, Encoding, Head, HeadContext, LanguageModel, Tokenizer

# What is kept of a token to be measured: its loss, and whether the likeliest token was the true one.
_KEPT = 2
# No cross-entropy is below 0: it marks, as NaN would, which JSON cannot hold, a token that was not asked for.
_NOT_ASKED = -1.0
_OTHER = {"masked": "causal-lm", "causal": "masked-lm"}


class Language(Head):
    """Cross-entropy of the tokens that are asked for, by the pretrained language model's own head.

    The head is a copy that learns apart: a decoder that the published model ties to its embeddings is no longer tied.
    """

    metric = "perplexity"
    answers: Literal["input", "unit", "token"] = "token"
    labelled = False
    objective: Literal["masked", "causal"]

    def __init__(self, options: LanguageOptions, context: HeadContext) -> None:
        super().__init__()
        (self.input,) = options.inputs
        self.tokenizer = _tokenizer(context)
        self.decoder = copy.deepcopy(_language(context, self.input, self.objective).head)
        # A backbone's own parameters may be at rest already: what is copied here is to learn.
        self.decoder.requires_grad_(True)

    @property
    def language(self) -> LanguageModel:
        """The head that learned on."""
        return LanguageModel(self.decoder, self.objective)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return logits [batch, tokens, vocabulary]."""
        logits: Tensor = self.decoder(features[self.input].hidden)
        return logits

    def weigh(self, target: Tensor) -> Tensor:
        """Return the number of tokens that are asked for."""
        return (target != self.pad).sum().float()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the summed cross-entropy of ``output``, logits or what ``condense`` made of them."""
        if output.shape[-1] == _KEPT:
            return torch.where(target == self.pad, 0, output[..., 0]).sum()
        return self._losses(output, target).sum()

    def _losses(self, logits: Tensor, target: Tensor) -> Tensor:
        flat = functional.cross_entropy(
            logits.float().flatten(0, -2), target.flatten().long(), ignore_index=int(self.pad), reduction="none"
        )
        return flat.view(target.shape)

    def condense(self, output: Tensor, target: Tensor) -> Tensor:
        """Return of each token [batch, tokens, 2] its loss and whether it was told; -1 where it was not asked for."""
        hit = (output.argmax(-1) == target).float()
        kept = torch.stack((self._losses(output, target), hit), -1)
        return kept.masked_fill((target == self.pad).unsqueeze(-1), _NOT_ASKED)

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``cross_entropy`` (natural log, per token asked for) and ``perplexity`` of each input."""
        asked = [_asked(output) for output in outputs]
        losses = [float(kept[:, 0].mean()) if len(kept) else None for kept in asked]
        return {
            "cross_entropy": losses,
            "perplexity": [None if loss is None else float(np.exp(loss)) for loss in losses],
        }

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return ``perplexity`` and ``accuracy`` over all tokens that were asked for."""
        asked = np.concatenate([_asked(output) for output in outputs] or [np.empty((0, _KEPT))])
        if not len(asked):
            return {}
        return {"perplexity": float(np.exp(asked[:, 0].mean())), "accuracy": float(asked[:, 1].mean())}

    @abstractmethod
    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return what the model reads, and the token asked for at each place [tokens], ``pad`` where none is."""


class Masked(Language):
    """Masked language modelling (Devlin et al. 2019, doi:10.18653/v1/N19-1423), without leaks between tokens that overlap.

    A token is chosen, and with it all tokens that cover the unit in its middle: for k-mers, k neighbours at a time, as in
    DNABERT (Ji et al. 2021, doi:10.1093/bioinformatics/btab083), since any one of them left in sight would tell.
    Together they are hidden, replaced by random tokens, or left.
    """

    objective: Literal["masked", "causal"] = "masked"

    def __init__(self, options: MaskedOptions, context: HeadContext) -> None:
        super().__init__(options, context)
        self.options = options
        if self.tokenizer.mask is None:
            raise RecipeError("head 'masked-lm' hides tokens, and this tokenizer has no token to hide them with")
        self.mask = self.tokenizer.mask
        known = sorted(set(self.tokenizer.vocabulary.values()) - self.tokenizer.special)
        self.replacements = np.array(known, dtype=np.int64)

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return the encoding with tokens hidden, and these tokens [tokens], ``pad`` elsewhere."""
        ids = encoding.arrays[self.tokenizer.ids]
        target, hidden = np.full(len(ids), int(self.pad), dtype=np.int64), ids.copy()
        real = np.flatnonzero((encoding.spans[:, 0] != NO_UNIT) & ~np.isin(ids, list(self.tokenizer.special)))
        if not len(real):
            return encoding, target
        fate = rng.random(len(real))
        for token, share in zip(*self._chosen(encoding, real, rng, fate), strict=True):
            together = _covering(encoding.spans, real, token)
            target[together] = ids[together]
            if share < self.options.masked:
                hidden[together] = self.mask
            elif share < self.options.masked + self.options.random:
                hidden[together] = rng.choice(self.replacements, len(together))
        arrays = {**encoding.arrays, self.tokenizer.ids: hidden.astype(ids.dtype)}
        return replace(encoding, arrays=arrays), target

    def _chosen(self, encoding: Encoding, real: Array, rng: np.random.Generator, fate: Array) -> tuple[Array, Array]:
        """Return the tokens to be hidden with their neighbours, and what becomes of each, as a number from 0 to 1."""
        spans = encoding.spans[real]
        # A unit under k tokens hides k at a time: a token stays if none of the k around it is chosen.
        cover = (spans[:, 1] - spans[:, 0] + 1).sum() / (spans[:, 1].max() - spans[:, 0].min() + 1)
        share = 1 - (1 - self.options.probability) ** (1 / max(1.0, cover))
        chosen = np.flatnonzero(rng.random(len(real)) < share)
        if not len(chosen):
            # An input of which nothing is asked would teach nothing.
            chosen = rng.integers(len(real), size=1)
        return real[chosen], fate[chosen]


def _covering(spans: Array, real: Array, token: int) -> Array:
    """Return the tokens among ``real`` that cover the unit in the middle of one of them."""
    middle = (spans[token, 0] + spans[token, 1]) // 2
    return np.asarray(real[(spans[real, 0] <= middle) & (middle <= spans[real, 1])])


class Causal(Language):
    """Causal language modelling: each token from all that stand before it; special ones are not asked for.

    Bengio et al. 2003, A Neural Probabilistic Language Model, JMLR 3:1137; for DNA as in HyenaDNA, arXiv:2306.15794.
    """

    objective: Literal["masked", "causal"] = "causal"

    def __init__(self, options: CausalOptions, context: HeadContext) -> None:
        super().__init__(options, context)

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return the encoding as it is, and the token after each place [tokens], ``pad`` where it is a special one."""
        ids = encoding.arrays[self.tokenizer.ids]
        target = np.full(len(ids), int(self.pad), dtype=np.int64)
        following = ids[1:].astype(np.int64)
        target[:-1] = np.where(np.isin(following, list(self.tokenizer.special)), int(self.pad), following)
        return encoding, target


def _asked(output: Array) -> Array:
    kept = output.astype(np.float64)
    return np.asarray(kept[kept[:, 0] != _NOT_ASKED])


def _tokenizer(context: HeadContext) -> Tokenizer:
    if context.tokenizer is None:
        raise RecipeError("a language-model head needs the tokenizer of its backbone")
    return context.tokenizer


def _language(context: HeadContext, name: str, objective: str) -> LanguageModel:
    language = context.language.get(name)
    if language is None:
        raise RecipeError(
            f"the input '{name}' has no language model: its backbone, or this checkpoint of it, came without one, or the "
            "recipe reads another layer than the last"
        )
    if language.objective == "values":
        raise RecipeError("the backbone tells hidden values, not tokens, which is what this head asks for")
    if language.objective == "ordered":
        raise RecipeError(
            "the backbone tells tokens in an order that its input names: only a head that poses such orders can ask it"
        )
    if language.objective != objective:
        raise RecipeError(
            f"the backbone is a {language.objective} language model: use head '{_OTHER[objective]}', "
            f"not '{_OTHER[language.objective]}'"
        )
    return language
