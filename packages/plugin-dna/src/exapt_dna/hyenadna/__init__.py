"""HyenaDNA: long convolutions over single bases. Nguyen et al. 2023, arXiv:2306.15794; Poli et al. 2023, arXiv:2302.10866."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt import BackboneSpec, Checkpoint, TokenizerSpec
from exapt_dna.options import DnaBackboneOptions, DnaTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

PAPER = "https://doi.org/10.48550/arXiv.2306.15794"

# Short, so that a model with few positions reads them too.
PROBES = ("ACGTTGCATTAGCCGATCAGGA", "GATTACAGGCATNCCTAAGTCCAA", "TTTTTTTTTT")


class HyenaDnaTokenizerOptions(DnaTokenizerOptions):
    """Options of the HyenaDNA tokenizer."""

    ends: Literal["published", "sep", "cls-sep", "none"] = Field(
        "published",
        description="The special tokens around a sequence: as the checkpoint's own layout has them ([SEP] behind it in "
        "model.safetensors with config.json, [CLS] before and [SEP] behind it beside weights.ckpt), or one of these "
        "whatever the layout.",
    )


def _checkpoint(size: str, revision: str, parameters: int, width: int, context: int) -> Checkpoint:
    return Checkpoint(
        name=f"hyenadna-{size.replace('-seqlen', '')}",
        source=f"LongSafari/hyenadna-{size}-hf",
        revision=revision,
        licence="BSD-3-Clause",
        commercial=True,
        parameters=parameters,
        width=width,
        context=context,
        paper=PAPER,
    )


CHECKPOINTS = (
    _checkpoint("tiny-1k-seqlen", "e8c1effa8673814e257e627d2e1eda9ea5a373f6", 438_144, 128, 1_026),
    _checkpoint("tiny-1k-seqlen-d256", "6036d4e144922b44470294f510cbfd2539ba3b7e", 1_645_184, 256, 1_026),
    _checkpoint("tiny-16k-seqlen-d128", "d79fa37e2cd62dd338103c630f95be8f90812d46", 438_144, 128, 16_386),
    _checkpoint("small-32k-seqlen", "8fe770c78eb13fe33bf81501612faeddf4d6f331", 3_281_664, 256, 32_770),
    _checkpoint("medium-160k-seqlen", "7ebf71773d22c0ede2cc55cb2be15ee8c289e1ce", 6_554_624, 256, 160_002),
    _checkpoint("medium-450k-seqlen", "42dedd4d374eac0fb8168549e546a3472fbd27ae", 6_554_624, 256, 450_002),
    _checkpoint("large-1m-seqlen", "0a629abf9c7f85b4ec9aa6a1aefa3adcf1907446", 6_554_624, 256, 1_000_002),
)


def build_tokenizer(options: HyenaDnaTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; only its ``config.json`` is read."""
    from exapt_dna.hyenadna.tokenizer import HyenaDnaTokenizer, ends_of

    return HyenaDnaTokenizer(options, ends_of(options))


def build_backbone(options: DnaBackboneOptions, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_dna.hyenadna.backbone import build

    return build(options.source, options.revision, weights)


def infer_ends(options: HyenaDnaTokenizerOptions) -> HyenaDnaTokenizerOptions:
    """Return the options with the special tokens that the checkpoint's layout has, unless others were chosen."""
    from exapt_dna.hyenadna.tokenizer import ends_of

    return options.model_copy(update={"ends": ends_of(options)})


TOKENIZERS = (
    TokenizerSpec(
        name="hyenadna",
        summary="One token per base, with [SEP] behind them, or between [CLS] and [SEP] as the checkpoint's layout says.",
        options=HyenaDnaTokenizerOptions,
        build=build_tokenizer,
        infer=infer_ends,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="hyenadna",
        summary="HyenaDNA, causal models of long convolutions over single bases.",
        options=DnaBackboneOptions,
        build=build_backbone,
        tokenizer="hyenadna",
        modality="dna",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("log-likelihood",),
    ),
)
