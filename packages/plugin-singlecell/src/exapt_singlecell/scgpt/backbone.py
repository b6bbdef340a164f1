"""scGPT, run in exapt's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt_singlecell.scgpt import weights as published
from exapt_singlecell.scgpt.files import Shape, files, read_shape, read_vocabulary
from exapt_singlecell.scgpt.model import CellTransformer, ExpressionDecoder, attention_mask, draw

Built = TypeVar("Built", bound=nn.Module)


class Scgpt(Backbone):
    """``scgpt``, the model, and ``decoder``, which tells hidden expression; None if the file was saved without one.

    The summary is the state of ``<cls>`` as it is; scGPT divides it by its length before cells are compared.
    """

    lora_targets = ("q_proj", "k_proj", "v_proj")

    def __init__(self, scgpt: CellTransformer, decoder: ExpressionDecoder | None, unread: Sequence[str] = ()) -> None:
        super().__init__()
        self.width = scgpt.encoder.embedding.embedding_dim
        self.scgpt = scgpt
        self.decoder = decoder
        self.unread = tuple(unread)
        self.notes = published.told(unread)

    @property
    def module(self) -> nn.Module:
        """The model without its decoder: each of its parameters is used."""
        return self.scgpt

    @property
    def language(self) -> LanguageModel | None:
        """The pretrained decoder of hidden expression, in bins."""
        return None if self.decoder is None else LanguageModel(self.decoder, "values")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.scgpt.transformer_encoder.layers)

    def stem(self, batch: Batch) -> Tensor:
        """Return the sum of gene and value embeddings [batch, tokens, width]."""
        embedded: Tensor = self.scgpt.encoder(batch["input_ids"]) + self.scgpt.value_encoder(batch["values"])
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive)."""
        mask = attention_mask(batch)
        for layer in self.scgpt.transformer_encoder.layers[start:stop]:
            hidden = layer(hidden, mask)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of the last layer; the summary is the state of ``<cls>``."""
        return batch.features(hidden, hidden[:, 0])


def build(source: str, revision: str, weights: bool) -> Scgpt:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Fresh weights have the tensors that pretrained ones have: a decoder only where the file has one, or where there is no
    file. Raises ``DataError`` if the files are missing, damaged, or do not fit together.
    """
    checkpoint = files(source, revision)
    shape = read_shape(checkpoint)
    vocabulary = read_vocabulary(checkpoint, shape)
    make = _maker(shape, len(vocabulary.ids), vocabulary.pad)
    given = published.read(checkpoint) if weights or any(map(checkpoint.find, published.NAMES)) else {}
    decoder = _blank(lambda: ExpressionDecoder(shape.embsize))
    kept = not given or published.has_decoder(given, decoder)
    if not weights:
        fresh = make()
        draw(fresh)
        return Scgpt(fresh, ExpressionDecoder(shape.embsize) if kept else None).eval()
    model = _blank(make)
    published.load(model, decoder if kept else None, given, shape, checkpoint)
    return Scgpt(model, decoder if kept else None, published.outside(given, kept)).eval()


def _maker(shape: Shape, tokens: int, pad: int) -> Callable[[], CellTransformer]:
    return lambda: CellTransformer(shape, tokens, pad)


def _blank(make: Callable[[], Built]) -> Built:
    """Build a model whose parameters have no values yet: drawing those of a large one takes longer than reading them."""
    with torch.device("meta"):
        model = make()
    return model.to_empty(device="cpu")
