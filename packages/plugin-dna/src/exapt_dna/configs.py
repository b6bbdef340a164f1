"""What a checkpoint's ``config.json`` says of the shape of a transformer, checked before anything is built."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from exapt import DataError
from exapt.weights import Files
from exapt_dna.kmers import Vocabulary

Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Shape(BaseModel):
    """The keys that BERT and ESM have in common, with the defaults of files that leave them out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: str | None = None
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt
    hidden_dropout_prob: Dropout = 0.1
    attention_probs_dropout_prob: Dropout = 0.1
    layer_norm_eps: Positive = 1e-12
    initializer_range: Positive = 0.02
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True


Read = TypeVar("Read", bound=BaseModel)


def read_config(kind: type[Read], files: Files) -> Read:
    """Return a checkpoint's ``config.json``; raises ``DataError`` if a key is missing or holds what it cannot."""
    try:
        return kind.model_validate(files.json("config.json"))
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"the config.json of '{files.source}' cannot be used: {said}") from None


def compare(config: Shape, vocabulary: Vocabulary, files: Files, pad: str, mask: str) -> None:
    """Raise ``DataError`` if a configuration does not fit its vocabulary, or makes no heads of equal width."""
    if config.vocab_size != len(vocabulary.ids):
        tokens = f"{len(vocabulary.ids):,} tokens (k = {vocabulary.k})"
        _refuse(files, f"its vocab.txt has {tokens}, its config.json says {config.vocab_size:,}")
    for token, index in ((pad, config.pad_token_id), (mask, config.mask_token_id)):
        if index is not None and vocabulary.ids[token] != index:
            _refuse(files, f"{token} is {vocabulary.ids[token]} in its vocab.txt, {index} in its config.json")
    even = 2 if config.position_embedding_type == "rotary" else 1
    if config.hidden_size % (even * config.num_attention_heads):
        kind = "an even" if even == 2 else "one"
        heads = f"heads of {kind} width out of {config.num_attention_heads}"
        _refuse(files, f"its width {config.hidden_size} makes no {heads}")


def _refuse(files: Files, what: str) -> None:
    raise DataError(f"'{files.source}' does not fit together: {what}")
