"""The smallest backbone that keeps every promise: heads and strategies are tried on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor, nn

from exapt.errors import DataError
from exapt.parts import Backbone, Batch, Encoding, Features, Tokenizer, unit_spans
from exapt.specs import BackboneSpec, Options, TokenizerSpec


class Letters(Tokenizer):
    """One token per letter, after a ``<cls>``; lower case is read as upper case."""

    vocabulary: Mapping[str, int] = {
        "<pad>": 0,
        "<cls>": 1,
        **{letter: n for n, letter in enumerate(ascii_uppercase, 2)},
    }

    def encode(self, value: Any) -> Encoding:
        """Encode letters A to Z. Raises ``DataError`` for any other character."""
        for position, letter in enumerate(value, 1):
            if letter.upper() not in self.vocabulary:
                raise DataError(f"position {position} holds '{letter}', which is not a letter from A to Z")
        ids = torch.tensor([1, *(self.vocabulary[letter] for letter in value.upper())]).numpy()
        return Encoding({"input_ids": ids}, {"input_ids": 0}, unit_spans(len(value), before=1), len(value))


class MaskedLetters(Letters):
    """The letters, and a token that hides them."""

    vocabulary: Mapping[str, int] = {**Letters.vocabulary, "<mask>": len(Letters.vocabulary)}
    mask = len(Letters.vocabulary)
    special = frozenset({0, 1, mask})


class Block(nn.Module):
    """Attention of one head, which sees no padding, with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, present: Tensor) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after attention over the tokens that are ``present``."""
        query, key, value = self.query(hidden), self.key(hidden), self.value(hidden)
        mixed: Tensor = nn.functional.scaled_dot_product_attention(query, key, value, present[:, None])
        return hidden + torch.tanh(mixed)


class TinyBackbone(Backbone):
    """Two blocks over embeddings of letters and of positions; ``<cls>`` is the whole-input vector."""

    width = 16
    max_tokens = 64
    lora_targets = ("query", "value")

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(Letters.vocabulary), self.width)
        self.places = nn.Embedding(self.max_tokens, self.width)
        self.layers = nn.ModuleList([Block(self.width) for _ in range(2)])
        self.norm = nn.LayerNorm(self.width)

    def blocks(self) -> Sequence[nn.Module]:
        """Return both blocks."""
        return list(self.layers)

    def stem(self, batch: Batch) -> Tensor:
        """Return the sum of both embeddings."""
        ids = batch["input_ids"]
        hidden: Tensor = self.letters(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return hidden

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the blocks from ``start`` to ``stop``."""
        for block in self.blocks()[start:stop]:
            hidden = block(hidden, batch.present)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Normalise, and take the state of ``<cls>`` as the summary."""
        hidden = self.norm(hidden)
        return batch.features(hidden, hidden[:, 0])


def seeded(kind: type[Backbone], weights: bool) -> Backbone:
    """Build a model that takes no arguments; its "pretrained" weights are those that seed 0 draws."""
    if not weights:
        return kind()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def _build(_options: Options, weights: bool) -> Backbone:
    return seeded(TinyBackbone, weights)


LETTERS = TokenizerSpec(name="tiny-letters", summary="One token per letter.", build=lambda _options: Letters())
MASKED_LETTERS = TokenizerSpec(
    name="masked-letters", summary="One token per letter, and a mask.", build=lambda _options: MaskedLetters()
)
TINY = BackboneSpec(
    name="tiny",
    summary="Two blocks of attention with seeded weights.",
    build=_build,
    tokenizer=LETTERS.name,
    modality="protein",
    probes=("MKTAYIAKQR", "ACDEF"),
)
