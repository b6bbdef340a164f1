"""ESM-2: stock transformers' model, weights and key names, run in exapt's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.esm.configuration_esm import EsmConfig
from transformers.models.esm.modeling_esm import EsmForMaskedLM

from exapt import DataError
from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import fill, refuse_missing
from exapt_esm.asked import few_asked, first_layer, last_layer, unlike_the_first
from exapt_esm.layers import Attention, Intermediate, Rotary, Tables
from exapt_esm.tokenizer import read_vocabulary
from exapt_esm.weights import DROPPED, files, read

_EMBEDDINGS = "esm.embeddings.word_embeddings.weight"
_DECODER = "lm_head.decoder.weight"


class Esm2(Backbone):
    """``esm``, stock ``EsmModel``, and ``lm_head``, stock ``EsmLMHead``, whose decoder is tied to the embeddings."""

    lora_targets = ("query", "key", "value")

    def __init__(self, config: EsmConfig, max_tokens: int) -> None:
        super().__init__()
        # The plain constructor: what transformers builds without memory first leaves buffers unfilled.
        stock: Any = EsmForMaskedLM(config)
        self.width: int = config.hidden_size
        self.max_tokens = max_tokens
        self.tied = bool(config.tie_word_embeddings)
        self.esm = _lighter(stock.esm)
        self.lm_head = stock.lm_head
        if self.tied:
            self.lm_head.decoder.weight = self.esm.embeddings.word_embeddings.weight

    @property
    def module(self) -> nn.Module:
        """Stock ``EsmModel`` without pooler and contact head: each of its parameters is used."""
        esm: nn.Module = self.esm
        return esm

    @property
    def language(self) -> LanguageModel | None:
        """The masked language model; None if the checkpoint was saved without its head."""
        return None if self.lm_head is None else LanguageModel(self.lm_head, "masked")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer layers."""
        return list(self.esm.encoder.layer)

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width], scaled by ESM-2's token dropout."""
        embedded: Tensor = self.esm.embeddings(input_ids=batch["input_ids"], attention_mask=batch.present)
        return embedded

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the layers ``start`` to ``stop`` (exclusive)."""
        mask, tables = self._looks(hidden, batch)
        for layer in self.esm.encoder.layer[start:stop]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=tables)
        return hidden

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features after the final norm; the summary is the state of ``<cls>``."""
        hidden = self.esm.encoder.emb_layer_norm_after(hidden)
        return batch.features(hidden, hidden[:, 0])

    def at_places(self, batch: Batch, rows: Tensor, places: Tensor) -> Tensor:
        """Return the last states [asked, width] at ``places`` [asked] of the inputs ``rows`` [asked]; where they are few,
        the last layer works on these tokens alone.
        """
        rows, places, layers = rows.to(batch.present.device), places.to(batch.present.device), self.esm.encoder.layer
        too_long = self.max_tokens is not None and batch.present.shape[1] > self.max_tokens
        if len(layers) == 1 or too_long or not few_asked(batch, rows):
            return super().at_places(batch, rows, places)
        hidden = self.stem(batch)
        mask, tables = self._looks(hidden, batch)
        unlike = unlike_the_first(batch, hidden)
        if unlike is not None:
            hidden = first_layer(layers[0], hidden, unlike, tables)
        hidden = self.run(hidden, batch, int(unlike is not None), len(layers) - 1)
        states: Tensor = self.esm.encoder.emb_layer_norm_after(
            last_layer(layers[-1], hidden, mask, tables, rows, places)
        )
        return states

    def _looks(self, hidden: Tensor, batch: Batch) -> tuple[Tensor | None, Tables]:
        """Return which tokens are looked at, and the rotary positions of all."""
        # Attention without a mask is faster, and most batches of similar lengths need none.
        mask = None if bool(batch.present.all()) else batch.present[:, None, None, :]
        return mask, self.esm.rotary_embeddings(hidden)


def _lighter(esm: Any) -> Any:
    """Return a stock ``EsmModel`` with faster modules in place of its own, and without its contact head."""
    head_width = esm.config.hidden_size // esm.config.num_attention_heads
    esm.rotary_embeddings = Rotary(head_width, getattr(esm.config, "rope_theta", 10000.0))
    for layer in esm.encoder.layer:
        layer.attention.self = Attention(layer.attention.self)
        layer.intermediate = Intermediate(layer.intermediate)
    esm.contact_head = None
    return esm


def build(source: str, revision: str, max_tokens: int, weights: bool) -> Esm2:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the files are missing, damaged, or not those of an ESM-2.
    """
    config = _config(source, revision)
    # Weights that are about to be read are not drawn first: of large models that takes longer than the reading.
    with no_init_weights() if weights else nullcontext():
        backbone = Esm2(config, max_tokens)
    if weights:
        _load(backbone, source, revision)
    return backbone.eval()


def _config(source: str, revision: str) -> EsmConfig:
    given = files(source, revision).json("config.json")
    _refuse_other_models(given, source)
    try:
        config = EsmConfig(**given)
    except (StrictDataclassError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"the config.json of '{source}' cannot be used: {said}") from None
    _compare(config, read_vocabulary(source, revision), source)
    return config


def _refuse_other_models(given: Mapping[str, Any], source: str) -> None:
    model = given.get("model_type")
    if model != "esm":
        raise DataError(f"'{source}' is a model of the type '{model}', not ESM-2")
    positions = given.get("position_embedding_type", "absolute")
    if positions != "rotary":
        raise DataError(f"'{source}' has {positions} positions, as ESM-1b has; ESM-2 has rotary ones")
    if given.get("is_folding_model") or given.get("is_decoder"):
        raise DataError(f"'{source}' is a folding model or a decoder, not ESM-2")


def _compare(config: EsmConfig, vocabulary: Mapping[str, int], source: str) -> None:
    if config.vocab_size != len(vocabulary):
        sizes = f"vocab.txt has {len(vocabulary)} tokens, its config.json says {config.vocab_size}"
        raise DataError(f"'{source}' does not fit together: its {sizes}")
    if config.hidden_size % (2 * config.num_attention_heads):
        sizes = f"width {config.hidden_size} makes no heads of an even width out of {config.num_attention_heads}"
        raise DataError(f"'{source}' does not fit together: its {sizes}")
    for token, index in (("<pad>", config.pad_token_id), ("<mask>", config.mask_token_id)):
        if vocabulary[token] != index:
            ids = f"{token} is {vocabulary[token]} in its vocab.txt, {index} in its config.json"
            raise DataError(f"'{source}' does not fit together: {ids}")


def _load(backbone: Esm2, source: str, revision: str) -> None:
    checkpoint = files(source, revision)
    given = read(checkpoint)
    if backbone.tied:
        # A decoder in the file has to be the embeddings again, which filling one place twice makes sure of.
        given = ((_EMBEDDINGS if name == _DECODER else name, tensor) for name, tensor in given)
    wanted = backbone.state_dict()
    computed = {"esm.rotary_embeddings.inv_freq"} | ({_DECODER} if backbone.tied else set())
    missing = fill(wanted, given, checkpoint, DROPPED) - computed
    head = {name for name in wanted if name.startswith("lm_head.")} - computed
    if head <= missing:
        backbone.lm_head = None
        missing -= head
    refuse_missing(missing, checkpoint)
