"""What the configurations of HyenaDNA's two layouts say of the architecture, in one set of words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from exapt import DataError
from exapt.weights import Files
from exapt_dna.configs import Dropout, read_config

VOCABULARY = {
    token: index
    for index, token in enumerate(("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN"))
}
"""The ids of all HyenaDNA models: their checkpoints hold no file that would say them."""

Bands = Annotated[int, Field(ge=3)]


class Shape(BaseModel):
    """The architecture, in the words of the layout with ``model.safetensors``; its own defaults where a key is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    layout: Literal["hf", "original"] = "hf"
    d_model: PositiveInt
    n_layer: PositiveInt
    d_inner: PositiveInt | None = None
    vocab_size: PositiveInt = 12
    pad_vocab_size_multiple: PositiveInt = 8
    max_seq_len: PositiveInt
    emb_dim: Bands = 3
    filter_order: PositiveInt = 64
    num_inner_mlps: Annotated[int, Field(ge=0)] = 2
    short_filter_order: PositiveInt = 3
    hyena_order: PositiveInt = 2
    activation_freq: PositiveFloat = 1
    train_freq: bool = True
    use_bias: bool = True
    modulate: bool = True
    shift: float = 0.05
    embed_dropout: Dropout = 0.1
    resid_dropout: Dropout = 0.0
    hyena_dropout: Dropout = 0.0
    hyena_filter_dropout: Dropout = 0.0
    layer_norm_epsilon: PositiveFloat = 1e-5
    block_epsilon: PositiveFloat = 1e-5
    initializer_range: PositiveFloat = 0.02
    tie_word_embeddings: bool = False

    @model_validator(mode="before")
    @classmethod
    def _in_these_words(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Rename the keys of the layout with ``weights.ckpt``, which keeps those of the operator under ``layer``."""
        layer = given.get("layer")
        if not isinstance(layer, dict):
            return given
        names = {
            "max_seq_len": "l_max",
            "activation_freq": "w",
            "hyena_order": "order",
            "hyena_dropout": "dropout",
            "hyena_filter_dropout": "filter_dropout",
            "use_bias": "bias",
        }
        theirs = {ours: layer[name] for ours, name in names.items() if name in layer}
        epsilon = given.get("layer_norm_epsilon", 1e-5)
        return {"layout": "original", "resid_dropout": 0.0, "block_epsilon": epsilon} | given | layer | theirs

    @property
    def rows(self) -> int:
        """Rows of the embeddings: the vocabulary, filled up to a multiple."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple


def files(source: str, revision: str) -> Files:
    """Return the files of a HyenaDNA checkpoint."""
    return Files(source, revision, "hyenadna", "HyenaDNA")


def read_shape(checkpoint: Files) -> Shape:
    """Return the architecture of a checkpoint; raises ``DataError`` if it is none of HyenaDNA, or another kind of it."""
    given = checkpoint.json("config.json")
    layer = given.get("layer")
    kind = layer.get("_name_", "hyena") if isinstance(layer, dict) else given.get("model_type")
    if kind not in ("hyena", "hyenadna"):
        raise DataError(f"'{checkpoint.source}' is a model of the type '{kind}', not HyenaDNA")
    shape = read_config(Shape, checkpoint)
    _refuse_other_kinds(shape, given | (layer if isinstance(layer, dict) else {}), checkpoint.source)
    if shape.vocab_size != len(VOCABULARY):
        raise DataError(
            f"'{checkpoint.source}' does not fit together: HyenaDNA has {len(VOCABULARY)} tokens, its config.json says "
            f"{shape.vocab_size}"
        )
    return shape


def _refuse_other_kinds(shape: Shape, given: dict[str, Any], source: str) -> None:
    """Refuse what no published HyenaDNA has, and could not be verified."""
    for unlike, what in (
        (shape.hyena_order != 2, f"hyena_order is {shape.hyena_order}, HyenaDNA has 2"),
        (shape.emb_dim % 2 == 0, f"emb_dim is {shape.emb_dim}, but sines, cosines and time make an odd number"),
        (not shape.use_bias, "use_bias is false, HyenaDNA has biases"),
        (bool(given.get("normalized")), "normalized is true, HyenaDNA's filters are not normalised"),
        (bool(given.get("bidirectional")), "bidirectional is true, HyenaDNA reads in one direction"),
    ):
        if unlike:
            raise DataError(f"the config.json of '{source}' cannot be used: {what}")
