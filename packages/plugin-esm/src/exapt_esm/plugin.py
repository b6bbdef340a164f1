"""What this plugin offers. Nothing heavy is imported before a component is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from exapt import (
    AugmentationSpec,
    BackboneSpec,
    Checkpoint,
    HeadSpec,
    Limit,
    ReaderSpec,
    ScorerSpec,
    Sourced,
    TokenizerSpec,
    Windowed,
    WriterSpec,
    hookimpl,
)
from exapt_esm import proteinmpnn
from exapt_esm.augmentations import AUGMENTATIONS
from exapt_esm.designing import WRITERS
from exapt_esm.proteinmpnn.scorers import SCORERS
from exapt_esm.structures import READERS

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

exapt_api = 1

PAPER = "https://doi.org/10.1126/science.ade2574"

PROBES = (
    "ACDEFGHIKLMNPQRSTVWY",
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    "GXBZUOG",
)


class Esm2Options(Sourced, Windowed):
    """Options of the ESM-2 models."""

    max_tokens: int = Field(
        1024,
        ge=3,
        description="The most tokens of one input, with <cls> and <eos>. The models were trained on 1,024; their "
        "rotary positions go further, at a cost that grows with the square of the length.",
    )


class Esm2TokenizerOptions(Sourced):
    """Options of the ESM-2 tokenizer."""

    max_unknown: Annotated[float, Limit()] = Field(
        0.05,
        ge=0,
        le=1,
        description="The largest share of a sequence's letters that the model may not know (J, *); above it the "
        "sequence is refused. X, B, Z, '-' and '.' have tokens of their own, and are known.",
    )


def _checkpoint(size: str, layers: int, revision: str, parameters: int, width: int) -> Checkpoint:
    return Checkpoint(
        name=f"esm2-{size.lower()}",
        source=f"facebook/esm2_t{layers}_{size}_UR50D",
        revision=revision,
        licence="MIT",
        commercial=True,
        parameters=parameters,
        width=width,
        context=1024,
        paper=PAPER,
    )


CHECKPOINTS = (
    _checkpoint("8M", 6, "c731040fcd8d73dceaa04b0a8e6329b345b0f5df", 7_512_353, 320),
    _checkpoint("35M", 12, "6fbf070e65b0b7291e7bbcd451118c216cff79d8", 33_501_153, 480),
    _checkpoint("150M", 30, "a695f6045e2e32885fa60af20c13cb35398ce30c", 148_139_553, 640),
    _checkpoint("650M", 33, "08e4846e537177426273712802403f7ba8261b6c", 651_042_593, 1280),
    _checkpoint("3B", 36, "476b639933c8baad5ad09a60ac1a87f987b656fc", 2_839_004_193, 2560),
    _checkpoint("15B", 48, "5fbca39631164edc1d402a5aa369f982f72ee282", 15_129_098_273, 5120),
)


def build_tokenizer(options: Esm2TokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; only its ``vocab.txt`` is read."""
    from exapt_esm.tokenizer import Esm2Tokenizer, read_vocabulary

    return Esm2Tokenizer(read_vocabulary(options.source, options.revision), options.max_unknown)


def build_backbone(options: Esm2Options, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_esm.backbone import build

    return build(options.source, options.revision, options.max_tokens, weights)


@hookimpl
def exapt_readers() -> Iterable[ReaderSpec]:
    """Yield the reader of protein structures."""
    yield from READERS


@hookimpl
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield the tokenizers of ESM-2 and of ProteinMPNN."""
    yield TokenizerSpec(
        name="esm2",
        summary="One token per residue, between <cls> and <eos>; ids from the checkpoint's own vocab.txt.",
        options=Esm2TokenizerOptions,
        build=build_tokenizer,
    )
    yield from proteinmpnn.TOKENIZERS


@hookimpl
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield the families ESM-2 and ProteinMPNN."""
    yield BackboneSpec(
        name="esm2",
        summary="ESM-2, protein language models with rotary positions.",
        options=Esm2Options,
        build=build_backbone,
        tokenizer="esm2",
        modality="protein",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("masked-marginal", "pseudo-log-likelihood", "wild-type-marginal"),
    )
    yield from proteinmpnn.BACKBONES


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the native objective of ProteinMPNN."""
    yield from proteinmpnn.HEADS


@hookimpl
def exapt_augmentations() -> Iterable[AugmentationSpec]:
    """Yield changes of sequences, and the noise with which ProteinMPNN was trained."""
    yield from AUGMENTATIONS
    yield from proteinmpnn.AUGMENTATIONS


@hookimpl
def exapt_scorers() -> Iterable[ScorerSpec]:
    """Yield the scorers of variants on a structure."""
    yield from SCORERS


@hookimpl
def exapt_writers() -> Iterable[WriterSpec]:
    """Yield the FASTA of designs."""
    yield from WRITERS
