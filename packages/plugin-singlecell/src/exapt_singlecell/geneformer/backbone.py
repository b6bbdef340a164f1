"""Geneformer: stock transformers' BERT with rectified units, run in exapt's steps.

Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForMaskedLM

from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import Files, fill, refuse_missing
from exapt_singlecell import tensors
from exapt_singlecell.geneformer.files import files
from exapt_singlecell.geneformer.shape import Shape, read_shape

DROPPED = {
    "bert.pooler.": "no loss of the pretraining ever reached it",
    "bert.embeddings.position_ids": "a count from 0, written by old releases",
}
"""Tensors that files may hold and the backbone leaves out, by name or beginning of the name, with the reason."""

# The head of a model that was fine-tuned as one of stock BERT's classifiers, of cells or of genes.
_CLASSIFIER = "classifier."
_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder.weight"
_BIAS = "cls.predictions.bias"
_DECODER_BIAS = "cls.predictions.decoder.bias"
_BARE = re.compile(r"(embeddings|encoder|pooler)\.")


class Geneformer(Backbone):
    """``bert``, stock ``BertModel``, and ``cls``, its language model's head, whose decoder is tied to the embeddings."""

    lora_targets = ("query", "key", "value")

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        # The plain constructor: what transformers builds without memory first leaves buffers unfilled.
        stock: Any = BertForMaskedLM(_config(shape))
        self.width: int = shape.hidden_size
        self.max_tokens = shape.max_position_embeddings
        self.tied = shape.tie_word_embeddings
        self.bert = stock.bert
        self.cls = stock.cls
        predictions = self.cls.predictions
        # Files hold this one tensor under either name, or under both.
        predictions.decoder.bias = predictions.bias
        if self.tied:
            predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """Stock ``BertModel`` without its pooler: each of its parameters is used."""
        bert: nn.Module = self.bert
        return bert

    @property
    def language(self) -> LanguageModel | None:
        """The masked language model; None if the checkpoint was saved without its head."""
        return None if self.cls is None else LanguageModel(self.cls, "masked")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.bert.encoder.layer)

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width] of genes and of their ranks."""
        embedded: Tensor = self.bert.embeddings(input_ids=batch["input_ids"])
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive)."""
        if not hidden.shape[1]:
            return hidden
        mask = _attention_mask(batch.present)
        for layer in self.bert.encoder.layer[start:stop]:
            hidden = layer(hidden, mask)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of the last layer; the summary is the state of ``<cls>``, None where cells have none."""
        special = batch.present & (batch.spans[..., 0] < 0)
        return batch.features(hidden, hidden[:, 0] if bool(special[:, :1].any()) else None)


def _attention_mask(present: Tensor) -> Tensor | None:
    """Return the mask [batch, 1, 1, tokens] that hides padding; None where there is none, which is faster."""
    if bool(present.all()):
        return None
    # An empty cell, all padding, attends to that: nothing reads its states, but NaN would reach every gradient.
    return (present | ~present.any(1, keepdim=True))[:, None, None, :]


def _config(shape: Shape) -> BertConfig:
    config = BertConfig(**shape.model_dump(exclude={"model_type", "position_embedding_type"}))
    config._attn_implementation = "sdpa"
    return config


def build(source: str, revision: str, weights: bool) -> Geneformer:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of a Geneformer.
    """
    checkpoint = files(source, revision)
    shape = read_shape(checkpoint)
    # Weights that are about to be read are not drawn first: of large models that takes longer than the reading.
    with no_init_weights() if weights else nullcontext():
        backbone = Geneformer(shape)
    if weights:
        _load(backbone, checkpoint)
    return backbone.eval()


def _load(backbone: Geneformer, checkpoint: Files) -> None:
    computed = {_DECODER_BIAS} | ({_DECODER} if backbone.tied else set())
    unread: list[str] = []
    given = _without_classifier(_tensors(checkpoint, backbone.tied), unread)
    missing = fill(backbone.state_dict(), given, checkpoint, DROPPED) - computed
    head = {name for name in backbone.state_dict() if name.startswith("cls.")} - computed
    if head <= missing:
        backbone.cls = None
        missing -= head
    refuse_missing(missing, checkpoint)
    backbone.notes = tensors.told(unread)


def _without_classifier(given: Iterator[tuple[str, Tensor]], unread: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the encoder and its language model; the names of a classifier's are put into ``unread``."""
    for name, tensor in given:
        if name.startswith(_CLASSIFIER):
            unread.append(name)
        else:
            yield name, tensor


def _tensors(checkpoint: Files, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under today's names."""
    beside, own = None, False
    for saved, tensor in checkpoint.tensors():
        given = tensors.bare(saved)
        full = f"bert.{given}" if _BARE.match(given) else given
        name = full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        own = own or name == _DECODER_BIAS
        if name == _BIAS:
            beside = tensor
        elif tied and name == _DECODER:
            # A decoder in the file has to be the embeddings again, which filling one place twice makes sure of.
            yield _EMBEDDINGS, tensor
        else:
            yield (_BIAS if name == _DECODER_BIAS else name), tensor
    # The head's bias is one tensor, unless the decoder is untied and has one of its own.
    if beside is not None and (tied or not own):
        yield _BIAS, beside
