"""DNABERT: BERT's architecture and key names, run in exapt's steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from exapt import DataError
from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import Files
from exapt_dna.attention import attention_mask
from exapt_dna.configs import compare, read_config
from exapt_dna.dnabert.modules import ACTIVATIONS, Bert, BertShape, Predictions
from exapt_dna.dnabert.tokenizer import files, vocabulary_of
from exapt_dna.loading import Layout, blank, draw, load

LAYOUT = Layout(
    embeddings="bert.embeddings.word_embeddings.weight",
    decoder="cls.predictions.decoder.weight",
    head="cls.predictions.",
    dropped={
        "bert.pooler.": "no loss of the pretraining ever reached it",
        "bert.embeddings.position_ids": "a count from 0, written by some releases",
        "cls.seq_relationship.": "tells whether two texts follow each other, which DNABERT was not trained on",
    },
)

_BIAS = "cls.predictions.bias"
_DECODER_BIAS = "cls.predictions.decoder.bias"
_BARE = re.compile(r"(embeddings|encoder|pooler)\.")
_GATED = ("mlp.gated_layers.", "attention.self.Wqkv.")


class Dnabert(Backbone):
    """``bert``, and ``cls.predictions``, the language model's head, whose decoder is mostly tied to the embeddings."""

    lora_targets = ("query", "key", "value")

    def __init__(self, shape: BertShape, pad: int) -> None:
        super().__init__()
        self.width = shape.hidden_size
        self.max_tokens = shape.max_position_embeddings
        self.tied = shape.tie_word_embeddings
        self.bert = Bert(shape, pad)
        self.cls = nn.ModuleDict({"predictions": Predictions(shape)})

    def tie(self) -> None:
        """Make the decoder's weights those of the embeddings, where the checkpoint says so."""
        predictions = self.cls["predictions"]
        if self.tied and isinstance(predictions, Predictions):
            predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """BERT without its pooler: each of its parameters is used."""
        return self.bert

    @property
    def language(self) -> LanguageModel | None:
        """The pretrained masked language model; None if the file was saved without it."""
        return LanguageModel(self.cls["predictions"], "masked") if "predictions" in self.cls else None

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.bert.encoder.layer)

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width]."""
        embedded: Tensor = self.bert.embeddings(batch["input_ids"])
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive)."""
        mask = attention_mask(batch)
        for layer in self.bert.encoder.layer[start:stop]:
            hidden = layer(hidden, mask)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of the last layer; the summary is the state of ``[CLS]``."""
        return batch.features(hidden, hidden[:, 0])


def build(source: str, revision: str, weights: bool) -> Dnabert:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of a DNABERT.
    """
    checkpoint = files(source, revision)
    shape = read_config(BertShape, checkpoint)
    _refuse_other_models(shape, checkpoint)
    vocabulary = vocabulary_of(source, revision)
    compare(shape, vocabulary, checkpoint, "[PAD]", "[MASK]")
    backbone = blank(lambda: Dnabert(shape, vocabulary.ids["[PAD]"]))
    if not weights:
        draw(backbone, shape.initializer_range)
    backbone.tie()
    if weights and not load(backbone, _tensors(checkpoint, backbone.tied), checkpoint, LAYOUT, backbone.tied, set()):
        del backbone.cls["predictions"]
    return backbone.eval()


def _refuse_other_models(shape: BertShape, checkpoint: Files) -> None:
    source = checkpoint.source
    if shape.model_type not in (None, "bert"):
        raise DataError(f"'{source}' is a model of the type '{shape.model_type}', not DNABERT")
    if "alibi_starting_size" in checkpoint.json("config.json"):
        raise DataError(
            f"'{source}' is a DNABERT-2, whose attention has linear biases in place of DNABERT's learned positions; "
            f"name it as dnabert2:{source}"
        )
    if shape.position_embedding_type != "absolute":
        raise DataError(f"'{source}' has {shape.position_embedding_type} positions; DNABERT has absolute ones")
    if shape.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise DataError(
            f"the config.json of '{source}' cannot be used: hidden_act is '{shape.hidden_act}', not one of {known}"
        )


def _tensors(checkpoint: Files, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under today's names."""
    beside, own = None, False
    for given, tensor in checkpoint.tensors():
        name = _renamed(given, checkpoint.source)
        own = own or name == _DECODER_BIAS
        if name == _BIAS:
            beside = tensor
        else:
            yield name, tensor
    # Files hold the head's bias under two names. It is one tensor, unless the decoder is untied and has one of its own.
    if beside is not None and (tied or not own):
        yield _DECODER_BIAS, beside


def _renamed(name: str, source: str) -> str:
    if any(part in name for part in _GATED):
        raise DataError(
            f"the weights of '{source}' hold '{name}', which is of DNABERT-2, not DNABERT; name it as dnabert2:{source}"
        )
    full = f"bert.{name}" if _BARE.match(name) else name
    return full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
