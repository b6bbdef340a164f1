"""Nucleotide Transformer, both versions: ESM's architecture and key names, run in exapt's steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from exapt import DataError
from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import Files
from exapt_dna.attention import attention_mask
from exapt_dna.configs import compare, read_config
from exapt_dna.kmers import Vocabulary
from exapt_dna.loading import Layout, blank, draw, load
from exapt_dna.nucleotide_transformer.modules import Esm, LanguageHead, NucleotideShape
from exapt_dna.nucleotide_transformer.tokenizer import files, vocabulary_of

_POSITIONS = "esm.embeddings.position_embeddings.weight"
_ROTARY = "esm.rotary_embeddings.inv_freq"
_DROPPED = {
    "esm.embeddings.position_ids": "a count from 0, written by some releases",
    "esm.pooler.": "no part of the published models; nothing reads it",
    "esm.contact_head.": "predicts contacts in proteins from attention maps; no loss on DNA ever reached it",
}
# A reader of version 2 makes learned positions too, and writes them, but never adds them.
_DROPPED_BESIDE_ROTARY = {_POSITIONS: "unused beside rotary positions"}

_BARE = re.compile(r"(embeddings|encoder|pooler|contact_head|rotary_embeddings)\.")
_LAYER_ROTARY = re.compile(r"encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq$")


def layout(version: int) -> Layout:
    """Return the names of a version's tensors."""
    return Layout(
        embeddings="esm.embeddings.word_embeddings.weight",
        decoder="lm_head.decoder.weight",
        head="lm_head.",
        dropped=_DROPPED | (_DROPPED_BESIDE_ROTARY if version == 2 else {}),
    )


class NucleotideTransformer(Backbone):
    """``esm``, and ``lm_head``, the language model's head, which the published checkpoints keep untied."""

    lora_targets = ("query", "key", "value")

    def __init__(self, shape: NucleotideShape, vocabulary: Vocabulary) -> None:
        super().__init__()
        pad, mask = vocabulary.ids["<pad>"], vocabulary.ids["<mask>"]
        self.width = shape.hidden_size
        # The first position is that after the padding token's id; version 2 counts its limit likewise.
        self.max_tokens = shape.max_position_embeddings - pad - 1
        self.tied = shape.tie_word_embeddings
        self.esm = Esm(shape, pad, mask)
        self.lm_head: LanguageHead | None = LanguageHead(shape)

    def tie(self) -> None:
        """Make the decoder's weights those of the embeddings, where the checkpoint says so."""
        if self.tied and self.lm_head is not None:
            self.lm_head.decoder.weight = self.esm.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """ESM without pooler and contact head: each of its parameters is used."""
        return self.esm

    @property
    def language(self) -> LanguageModel | None:
        """The pretrained masked language model; None if the file was saved without it."""
        return None if self.lm_head is None else LanguageModel(self.lm_head, "masked")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.esm.encoder.layer)

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width]."""
        embedded: Tensor = self.esm.embeddings(batch)
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive)."""
        mask = attention_mask(batch)
        tables = None if self.esm.rotary_embeddings is None else self.esm.rotary_embeddings(hidden)
        for layer in self.esm.encoder.layer[start:stop]:
            hidden = layer(hidden, mask, tables)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features after the final norm; the summary is the state of ``<cls>``."""
        hidden = self.esm.encoder.emb_layer_norm_after(hidden)
        return batch.features(hidden, hidden[:, 0])


def build(source: str, revision: str, weights: bool) -> NucleotideTransformer:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of a Nucleotide Transformer.
    """
    checkpoint = files(source, revision)
    shape = read_config(NucleotideShape, checkpoint)
    _refuse_other_models(shape, source)
    vocabulary = vocabulary_of(source, revision)
    compare(shape, vocabulary, checkpoint, "<pad>", "<mask>")
    backbone = blank(lambda: NucleotideTransformer(shape, vocabulary))
    if not weights:
        draw(backbone, shape.initializer_range)
    backbone.tie()
    given = _tensors(checkpoint, shape)
    if weights and not load(backbone, given, checkpoint, layout(shape.version), backbone.tied, {_ROTARY}):
        backbone.lm_head = None
    return backbone.eval()


def _refuse_other_models(shape: NucleotideShape, source: str) -> None:
    if shape.model_type not in (None, "esm"):
        raise DataError(f"'{source}' is a model of the type '{shape.model_type}', not Nucleotide Transformer")
    positions = shape.position_embedding_type
    if positions not in ("absolute", "rotary"):
        raise DataError(f"'{source}' has {positions} positions; Nucleotide Transformer has absolute or rotary ones")
    if shape.is_folding_model:
        raise DataError(f"'{source}' is a folding model, not Nucleotide Transformer")


def _tensors(checkpoint: Files, shape: NucleotideShape) -> Iterator[tuple[str, Tensor]]:
    for given, tensor in checkpoint.tensors():
        name = _renamed(given)
        if name.endswith(".intermediate.dense.weight"):
            _refuse_other_version(tensor, shape, checkpoint.source)
        yield name, tensor


def _refuse_other_version(widening: Tensor, shape: NucleotideShape, source: str) -> None:
    rows = {shape.intermediate_size: 1, 2 * shape.intermediate_size: 2}
    version = rows.get(len(widening), shape.version)
    if version != shape.version:
        kinds = {1: "plain feed-forward layers", 2: "gated feed-forward layers"}
        raise DataError(
            f"the weights of '{source}' have {kinds[version]}, as version {version} of Nucleotide Transformer has; "
            f"its config.json is of version {shape.version}"
        )


def _renamed(name: str) -> str:
    full = f"esm.{name}" if _BARE.match(name) else name
    # Each layer keeps its own copy of the one table of frequencies.
    full = _LAYER_ROTARY.sub("rotary_embeddings.inv_freq", full)
    return full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
