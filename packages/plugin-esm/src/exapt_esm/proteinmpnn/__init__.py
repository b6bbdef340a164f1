"""ProteinMPNN: sequences for backbones, and what their structure tells. Dauparas et al. 2022, doi:10.1126/science.add2187."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from exapt import AugmentationSpec, BackboneSpec, Checkpoint, HeadSpec, OfLoss, Options, Sourced, TokenizerSpec
from exapt_esm.proteinmpnn.probes import PROBES

if TYPE_CHECKING:
    from exapt.parts import Augmentation, Backbone, Head, HeadContext, Tokenizer

PAPER = "https://doi.org/10.1126/science.add2187"
ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"
"""The letters that the models know, in the order of their ids."""


class ProteinMpnnTokenizerOptions(Sourced):
    """Options of the ProteinMPNN tokenizer."""

    atoms: Literal["published", "backbone", "ca"] = Field(
        "published",
        description="The atoms without which a residue counts as missing: those that the checkpoint reads, or N, CA, C and O, "
        "or CA alone.",
    )


class InverseFoldingOptions(Options):
    """Options of ``inverse-folding``."""

    inputs: tuple[str] = Field(("structure",), description="The input whose letters are asked for.")
    smoothing: Annotated[float, OfLoss()] = Field(
        0.1,
        ge=0,
        le=1,
        description="How much of a letter all 21 letters share in training, before both are scaled to 1; 0.1 as published. "
        "Perplexity is told without it.",
    )


class BackboneNoiseOptions(Options):
    """Options of ``backbone-noise``."""

    deviation: float = Field(
        0.02,
        gt=0,
        le=5,
        description="Standard deviation in Å of what is added to each coordinate of a training structure.",
    )


def _checkpoint(kind: str, noise: str, parameters: int) -> Checkpoint:
    return Checkpoint(
        name=f"proteinmpnn-{kind}-{noise}",
        source=f"proteinmpnn/{kind}_model_weights/v_48_{noise}.pt",
        licence="MIT",
        commercial=True,
        parameters=parameters,
        width=128,
        paper=PAPER,
    )


CHECKPOINTS = (
    *(_checkpoint("vanilla", noise, 1_660_485) for noise in ("002", "010", "020", "030")),
    *(_checkpoint("soluble", noise, 1_660_485) for noise in ("002", "010", "020", "030")),
    *(_checkpoint("ca", noise, 1_628_613) for noise in ("002", "010", "020")),
)
CA_CHECKPOINTS = tuple(checkpoint.name for checkpoint in CHECKPOINTS if checkpoint.name.startswith("proteinmpnn-ca-"))


def build_tokenizer(options: ProteinMpnnTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint."""
    from exapt_esm.proteinmpnn.tokenizer import ProteinMpnnTokenizer

    return ProteinMpnnTokenizer(infer_atoms(options).atoms == "ca")


def build_backbone(options: Sourced, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_esm.proteinmpnn.backbone import build

    return build(options.source, weights)


def build_head(options: InverseFoldingOptions, context: HeadContext) -> Head:
    """Return the objective of the models: which letter stands where."""
    from exapt_esm.proteinmpnn.objective import InverseFolding

    return InverseFolding(options, context)


def build_noise(options: BackboneNoiseOptions) -> Augmentation:
    """Return the change of coordinates."""
    from exapt_esm.proteinmpnn.noise import BackboneNoise

    return BackboneNoise(options.deviation)


def infer_atoms(options: ProteinMpnnTokenizerOptions) -> ProteinMpnnTokenizerOptions:
    """Return the options with the atoms that the checkpoint reads, unless others were chosen."""
    from exapt_esm.proteinmpnn.weights import reads_alphas

    if options.atoms != "published":
        return options
    return options.model_copy(update={"atoms": "ca" if reads_alphas(options.source) else "backbone"})


TOKENIZERS = (
    TokenizerSpec(
        name="proteinmpnn",
        summary="One token for each position of a structure, with its backbone atoms and its letter.",
        options=ProteinMpnnTokenizerOptions,
        build=build_tokenizer,
        infer=infer_atoms,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="proteinmpnn",
        summary="ProteinMPNN, message-passing networks over the backbones of proteins, that tell their sequences.",
        options=Sourced,
        build=build_backbone,
        tokenizer="proteinmpnn",
        modality="protein",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        accepts="structure",
        scorers=("conditional", "unconditional", "decoding-orders"),
        prompts=False,
    ),
)

HEADS = (
    HeadSpec(
        name="inverse-folding",
        summary="Which residue stands where in a backbone: goes on with the pretraining of ProteinMPNN, without labels.",
        options=InverseFoldingOptions,
        build=build_head,
        answers="token",
        labelled=False,
    ),
)

AUGMENTATIONS = (
    AugmentationSpec(
        name="backbone-noise",
        summary="Small random moves of all atoms of a structure.",
        options=BackboneNoiseOptions,
        build=build_noise,
        modalities=("protein",),
    ),
)
