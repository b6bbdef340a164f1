"""DNABERT-2: a BERT with linear biases for positions over word pieces. Zhou et al. 2023, arXiv:2306.15006."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from exapt import BackboneSpec, Checkpoint, TokenizerSpec
from exapt_dna.options import DnaBackboneOptions, DnaTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

PAPER = "https://doi.org/10.48550/arXiv.2306.15006"

PROBES = (
    "ACGTTGCATTAGCCGATCAGGA",
    "GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCCNACGTAGCATCGGATCTATCTATCGACACTTGG",
    "TTTTTTTTTT",
)

CHECKPOINTS = (
    Checkpoint(
        name="dnabert2-117m",
        source="zhihan1996/DNABERT-2-117M",
        revision="7bce263b15377fc15361f52cfab88f8b586abda0",
        licence="Apache-2.0",
        commercial=True,
        parameters=117_074_176,
        width=768,
        context=512,
        paper=PAPER,
    ),
)


class Dnabert2Options(DnaBackboneOptions):
    """Options of the DNABERT-2 models."""

    max_tokens: int = Field(
        512,
        ge=3,
        description="The most tokens of one input, with [CLS] and [SEP]; a token is about five bases. Biases in place of "
        "positions go further than the 512 of the published configuration, at a cost that grows with the square of the "
        "length; the paper goes to 10,000 bases.",
    )


def build_tokenizer(options: DnaTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; only its ``tokenizer.json`` is read."""
    from exapt_dna.dnabert2.tokenizer import Dnabert2Tokenizer, read_pieces

    return Dnabert2Tokenizer(read_pieces(options.source, options.revision), options)


def build_backbone(options: Dnabert2Options, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_dna.dnabert2.backbone import build

    return build(options.source, options.revision, options.max_tokens, weights)


TOKENIZERS = (
    TokenizerSpec(
        name="dnabert2",
        summary="Byte-pair word pieces of DNA between [CLS] and [SEP], from the checkpoint's own tokenizer.json.",
        options=DnaTokenizerOptions,
        build=build_tokenizer,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="dnabert2",
        summary="DNABERT-2, a BERT with linear biases and gated layers over word pieces of DNA.",
        options=Dnabert2Options,
        build=build_backbone,
        tokenizer="dnabert2",
        modality="dna",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("masked-marginal", "pseudo-log-likelihood"),
    ),
)
