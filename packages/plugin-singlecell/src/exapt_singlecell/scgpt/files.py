"""What a scGPT folder says of itself: the shape in ``args.json``, the genes in ``vocab.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from exapt import DataError
from exapt.weights import Files

CLS = "<cls>"

Dropout = Annotated[float, Field(ge=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# Where a file says that these are unused, or says nothing in them, they are as in the published models.
_VARIANTS = ("pre_norm", "norm_scheme", "activation", "domain_spec_batchnorm")
_UNUSED = ("", "none")


class Shape(BaseModel):
    """The keys of ``args.json`` that a model is built from, with the published values where a file leaves them out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    embsize: PositiveInt
    nheads: PositiveInt
    d_hid: PositiveInt
    nlayers: PositiveInt
    dropout: Dropout = 0.2
    pad_token: str = "<pad>"  # noqa: S105 - a token, no secret
    pad_value: Finite = -2.0
    mask_value: Finite = -1.0
    n_bins: Annotated[int, Field(ge=2)] = 51
    max_seq_len: Annotated[int, Field(ge=2)] = 1200
    input_style: Literal["binned"] = "binned"
    input_emb_style: Literal["continuous"] = "continuous"
    pre_norm: Literal[False] = False
    norm_scheme: Literal["post"] = "post"
    activation: Literal["relu"] = "relu"
    domain_spec_batchnorm: Literal[False] = False


@dataclass(frozen=True)
class Vocabulary:
    """Token to id, with the ids of the tokens that are no genes."""

    ids: dict[str, int]
    pad: int
    cls: int
    special: frozenset[int]


def files(source: str, revision: str) -> Files:
    """Return the files of a scGPT checkpoint."""
    return Files(source, revision, "scgpt", "scGPT")


def read_shape(checkpoint: Files) -> Shape:
    """Return a checkpoint's ``args.json``; raises ``DataError`` if a key is missing or holds what it cannot.

    So does one that tells of another architecture, such as blocks that normalise in front, under the names of this one.
    """
    said = {key: value for key, value in checkpoint.json("args.json").items() if not _unused(key, value)}
    try:
        shape = Shape.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"the args.json of '{checkpoint.source}' cannot be used: {why}") from None
    if shape.embsize % shape.nheads:
        width = f"its width {shape.embsize} makes no heads of one width out of {shape.nheads}"
        raise DataError(f"the args.json of '{checkpoint.source}' cannot be used: {width}")
    return shape


def _unused(key: str, value: object) -> bool:
    return value is None or (key in _VARIANTS and isinstance(value, str) and value.lower() in _UNUSED)


def read_vocabulary(checkpoint: Files, shape: Shape) -> Vocabulary:
    """Return a checkpoint's ``vocab.json``, whose order says nothing of the ids.

    Raises ``DataError`` for ids that do not count from 0 without a gap, and where ``<cls>`` or padding is missing.
    """
    ids = checkpoint.json("vocab.json")
    numbers = [index for index in ids.values() if type(index) is int]
    if sorted(numbers) != list(range(len(ids))):
        raise DataError(
            f"the vocab.json of '{checkpoint.source}' gives its {len(ids):,} tokens other ids than 0 to {len(ids) - 1:,}, "
            "each once; take the file that belongs to the weights"
        )
    for token in (shape.pad_token, CLS):
        if token not in ids:
            raise DataError(
                f"the vocab.json of '{checkpoint.source}' has no '{token}', so that it is a list of genes and not the "
                "vocabulary of a model; take the file that belongs to the weights"
            )
    special = {index for token, index in ids.items() if token.startswith("<") and token.endswith(">")}
    return Vocabulary(ids, ids[shape.pad_token], ids[CLS], frozenset(special | {ids[shape.pad_token]}))
