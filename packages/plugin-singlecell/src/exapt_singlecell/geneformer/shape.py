"""What a Geneformer's ``config.json`` says, checked before anything is built."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from exapt import DataError
from exapt.weights import Files

Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Shape(BaseModel):
    """The keys of stock BERT, with the defaults of files that leave them out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: str | None = None
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt
    type_vocab_size: PositiveInt = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: Dropout = 0.1
    attention_probs_dropout_prob: Dropout = 0.1
    layer_norm_eps: Positive = 1e-12
    initializer_range: Positive = 0.02
    pad_token_id: int = Field(0, ge=0)
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True
    is_decoder: bool = False


def read_shape(files: Files) -> Shape:
    """Return a checkpoint's ``config.json``; raises ``DataError`` if it is not that of a Geneformer."""
    try:
        shape = Shape.model_validate(files.json("config.json"))
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"the config.json of '{files.source}' cannot be used: {said}") from None
    fault = _other_model(shape) or _unfit(shape)
    if fault:
        raise DataError(f"'{files.source}' {fault}")
    return shape


def _other_model(shape: Shape) -> str:
    if shape.model_type not in (None, "bert"):
        return f"is a model of the type '{shape.model_type}', not Geneformer"
    if shape.hidden_act != "relu":
        return f"has the activation '{shape.hidden_act}'; Geneformer has 'relu', so that this is another BERT"
    if shape.position_embedding_type != "absolute":
        return f"has {shape.position_embedding_type} positions; Geneformer has absolute ones"
    return "is a decoder, not Geneformer" if shape.is_decoder else ""


def _unfit(shape: Shape) -> str:
    if shape.hidden_size % shape.num_attention_heads:
        return (
            f"does not fit together: its width {shape.hidden_size} makes no heads of one width out of "
            f"{shape.num_attention_heads}"
        )
    if shape.pad_token_id >= shape.vocab_size:
        return f"does not fit together: its padding is token {shape.pad_token_id} of {shape.vocab_size:,}"
    return ""
