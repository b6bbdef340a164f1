"""DNABERT-2: the published architecture and key names, run in exapt's steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from exapt import DataError
from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import Files
from exapt_dna.configs import read_config
from exapt_dna.dnabert.modules import BertShape, Predictions
from exapt_dna.dnabert2.layers import Bert, Packing
from exapt_dna.dnabert2.tokenizer import files, read_pieces
from exapt_dna.loading import Layout, blank, draw, load

LAYOUT = Layout(
    embeddings="bert.embeddings.word_embeddings.weight",
    decoder="cls.predictions.decoder.weight",
    head="cls.predictions.",
    dropped={"bert.pooler.": "no part of the published model: other programs make it up at random"},
)

_BARE = re.compile(r"(embeddings|encoder|pooler)\.")
_STOCK = ("embeddings.position_embeddings.", "attention.self.query.", "intermediate.dense.")


class Dnabert2(Backbone):
    """``bert``, and ``cls.predictions``, the language model's head, whose decoder is tied to the embeddings."""

    # Query, key and value stay packed as they are published: one product in place of three, and a LoRA folder fits the
    # published model, whose users name this layer.
    lora_targets = ("Wqkv",)

    def __init__(self, shape: BertShape, pad: int, max_tokens: int) -> None:
        super().__init__()
        self.width = shape.hidden_size
        self.max_tokens = max_tokens
        self.tied = shape.tie_word_embeddings
        self.heads = shape.num_attention_heads
        self.bert = Bert(shape, pad)
        self.cls = nn.ModuleDict({"predictions": Predictions(shape)})

    def tie(self) -> None:
        """Make the decoder's weights those of the embeddings, where the checkpoint says so."""
        predictions = self.cls["predictions"]
        if self.tied and isinstance(predictions, Predictions):
            predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """The encoder without a pooler: each of its parameters is used."""
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
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive), zero where there is padding."""
        packing = Packing(batch.present, self.heads)
        packed = packing.pack(hidden)
        for layer in self.bert.encoder.layer[start:stop]:
            packed = layer(packed, packing)
        return packing.unpack(packed)

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of the last layer; the summary is the state of ``[CLS]``."""
        return batch.features(hidden, hidden[:, 0])


def build(source: str, revision: str, max_tokens: int, weights: bool) -> Dnabert2:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of a DNABERT-2.
    """
    checkpoint = files(source, revision)
    _refuse_other_models(checkpoint)
    shape = read_config(BertShape, checkpoint)
    pad = _padding(shape, checkpoint)
    backbone = blank(lambda: Dnabert2(shape, pad, max_tokens))
    if not weights:
        draw(backbone, shape.initializer_range)
    backbone.tie()
    if weights and not load(backbone, _tensors(checkpoint), checkpoint, LAYOUT, backbone.tied, set()):
        del backbone.cls["predictions"]
    return backbone.eval()


def _refuse_other_models(checkpoint: Files) -> None:
    given, source = checkpoint.json("config.json"), checkpoint.source
    model = given.get("model_type", "bert")
    if model != "bert":
        raise DataError(f"'{source}' is a model of the type '{model}', not DNABERT-2")
    # The published file says 'bert' and 'absolute', as stock BERT does: only this key tells them apart.
    if "alibi_starting_size" not in given:
        raise DataError(_stock(source, "its config.json has no alibi_starting_size"))
    activation = given.get("hidden_act", "gelu")
    if activation != "gelu":
        raise DataError(
            f"the config.json of '{source}' cannot be used: hidden_act is {activation!r}, DNABERT-2 has 'gelu'"
        )


def _stock(source: str, sign: str) -> str:
    return (
        f"'{source}' is a stock BERT, not DNABERT-2: {sign}. DNABERT-2 has biases in place of learned positions, and "
        f"gated layers; if this is a DNABERT, name it as dnabert:{source}"
    )


def _padding(shape: BertShape, checkpoint: Files) -> int:
    """Return the id of ``[PAD]``, which is the tokenizer's to say: the published configuration leaves it out."""
    pieces, source = read_pieces(checkpoint.source, checkpoint.revision), checkpoint.source
    size = pieces.get_vocab_size()
    if size != shape.vocab_size:
        sizes = f"its tokenizer.json has {size:,} tokens, its config.json says {shape.vocab_size:,}"
        raise DataError(f"'{source}' does not fit together: {sizes}")
    if shape.hidden_size % shape.num_attention_heads:
        sizes = f"its width {shape.hidden_size} makes no heads of one width out of {shape.num_attention_heads}"
        raise DataError(f"'{source}' does not fit together: {sizes}")
    return pieces.get_vocab()["[PAD]"]


def _tensors(checkpoint: Files) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in checkpoint.tensors():
        if any(part in name for part in _STOCK):
            raise DataError(_stock(checkpoint.source, f"its weights hold '{name}'"))
        yield (f"bert.{name}" if _BARE.match(name) else name), tensor
