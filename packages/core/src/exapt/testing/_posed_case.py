"""A head without labels under test: its questions about some inputs, and a small language model that it learns on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from exapt.data.batching import collate, padded
from exapt.errors import RecipeError
from exapt.parts import Array, Encoding, Features, Head, HeadContext, LanguageModel, Tokenizer
from exapt.specs import HeadSpec, Options
from exapt.testing._head_case import WIDTH, answer, by_heart
from exapt.testing.tiny import MaskedLetters

POSED_INPUTS = ("MKTAYIAKQRQISF", "ACDEFGHIKL", "GLWSK", "MKVLAAGIVGLLLAQWERTY")
_Objective = Literal["masked", "causal", "values", "ordered"]
_OBJECTIVES: tuple[_Objective, ...] = ("masked", "causal", "values", "ordered")


@dataclass(frozen=True)
class PosedHeadCase:
    """A head that poses its own questions, and the inputs that it poses them of: letters, unless it ``reads`` others."""

    spec: HeadSpec
    options: Options
    inputs: Sequence[Any]
    names: tuple[str, ...] = ("sequence",)
    reads: Tokenizer | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with a token that hides others."""
        return self.reads or MaskedLetters()

    @cached_property
    def encodings(self) -> list[Encoding]:
        """Every input as tokens, before anything is asked of it."""
        return [self.tokenizer.encode(value) for value in self.inputs]

    @property
    def lengths(self) -> list[int]:
        """The tokens of each input: it has as many answers."""
        return [encoding.tokens for encoding in self.encodings]

    @cached_property
    def objective(self) -> _Objective:
        """The objective of the language model that the head takes; raises ``RecipeError`` if it takes none."""
        refusals = []
        for objective in _OBJECTIVES:
            try:
                self._built(self.language(objective), 0)
            except RecipeError as refusal:
                article = "an" if objective == "ordered" else "a"
                refusals.append(f"over {article} {objective} language model: {refusal}")
            else:
                return objective
        raise RecipeError("; ".join(refusals))

    def language(self, objective: _Objective) -> LanguageModel:
        """Return a language model, the same each time; it is at rest, as that of a frozen backbone is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            width = 1 if objective == "values" else len(self.tokenizer.vocabulary)
            return LanguageModel(nn.Linear(WIDTH, width).requires_grad_(False), objective)

    @cached_property
    def pretrained(self) -> LanguageModel:
        """The language model that all heads of this case are built from."""
        return self.language(self.objective)

    def build(self, seed: int = 0) -> Head:
        """Build the head in evaluation mode, with torch's generator at a seed."""
        return self._built(self.pretrained, seed)

    def _built(self, language: LanguageModel, seed: int) -> Head:
        context = HeadContext(dict.fromkeys(self.names, WIDTH), dict.fromkeys(self.names, language), self.tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.spec.build(self.options, context).eval()

    def ask(self, head: Head, row: int, seed: int = 0) -> tuple[Encoding, Array]:
        """Return what a head makes of a copy of an input by the chance of a seed, and the target [tokens]."""
        return head.pose(copy.deepcopy(self.encodings[row]), np.random.default_rng((seed, row)))

    @cached_property
    def features(self) -> dict[str, Features]:
        """Random features of all inputs as they are to be seen, with garbage for padding."""
        head = self.build()
        batch = collate([self.ask(head, row)[0] for row in range(len(self.inputs))])
        return {name: batch.features(_hidden(batch.present, 100 * number)) for number, name in enumerate(self.names, 1)}

    @cached_property
    def learned(self) -> Head:
        """The head after it has learned the answers to one question of each input by heart."""
        return by_heart(self.build(), self.features, self.loss, len(self.inputs))

    def loss(self, head: Head) -> Tensor:
        """Return the summed loss [] of what is asked of all inputs."""
        return head.loss(head(self.features).float(), self.targets(head))

    def encoded(self, head: Head) -> list[Array]:
        """Return what a head asks of every input [tokens]."""
        return [self.ask(head, row)[1] for row in range(len(self.inputs))]

    def targets(self, head: Head) -> Tensor:
        """Return all targets as core gives them to the loss."""
        return torch.from_numpy(padded(self.encoded(head), max(self.lengths), head.pad))

    def outputs(self, head: Head) -> list[Array]:
        """Return what is kept of each input's output, padding cut off, as core gives it to ``decode`` and ``metrics``."""
        with torch.inference_mode():
            kept = head.condense(answer(head, self.features), self.targets(head)).float()
        return [output[:length].numpy() for output, length in zip(kept, self.lengths, strict=True)]


def _hidden(present: Tensor, seed: int) -> Tensor:
    """Return states [batch, tokens, width]; an input's do not depend on what stands beside it."""
    rows, tokens = present.shape
    states = [torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed + row)) for row in range(rows)]
    hidden = torch.stack(states)
    return torch.where(present[..., None], hidden, 1e3 * hidden)
