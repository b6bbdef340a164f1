"""Nucleotide Transformer, versions 1 and 2. Dalla-Torre et al. 2025, doi:10.1038/s41592-024-02523-z."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exapt import BackboneSpec, Checkpoint, TokenizerSpec
from exapt_dna.options import DnaBackboneOptions, DnaTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

PAPER = "https://doi.org/10.1038/s41592-024-02523-z"
PAPER_3MER = "https://doi.org/10.1093/bioinformatics/btae529"

PROBES = (
    "ATTCCGATTCCGATTCCG",
    "GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCCA",
    "TTTTTTTTTTT",
)


def _checkpoint(
    size: str, parameters: int, width: int, context: int, revision: str = "", paper: str = PAPER
) -> Checkpoint:
    name = size.removesuffix("-multi-species") if size.startswith("v2") else size
    return Checkpoint(
        name=f"nt-{name}",
        source=f"InstaDeepAI/nucleotide-transformer-{size}",
        revision=revision,
        licence="CC-BY-NC-SA-4.0",
        commercial=False,
        parameters=parameters,
        width=width,
        context=context,
        paper=paper,
    )


CHECKPOINTS = (
    _checkpoint("500m-human-ref", 485_698_825, 1280, 1000),
    _checkpoint("500m-1000g", 485_698_825, 1280, 1000),
    _checkpoint("2.5b-1000g", 2_547_800_585, 2560, 1000),
    _checkpoint("2.5b-multi-species", 2_547_800_585, 2560, 1000, "b746b125aacd1b0970c05a32fd71ba726754542e"),
    _checkpoint("v2-50m-multi-species", 54_855_179, 512, 2048, "81b29e5786726d891dbf929404ef20adca5b36f1"),
    _checkpoint("v2-100m-multi-species", 96_839_179, 512, 2048, "f34324c6fde36a4f635f0f1f06cac5d25acd6798"),
    _checkpoint("v2-250m-multi-species", 233_545_995, 768, 2048, "c0f0359229f36ff6bc3a021247eefe0a9c344bd1"),
    _checkpoint("v2-500m-multi-species", 496_245_771, 1024, 2048, "06615c1660c892fc199840c18123f8385b3542a8"),
    _checkpoint(
        "v2-50m-3mer-multi-species", 50_722_379, 512, 2048, "ff82eaf931e483feeb6bf7ecf03f1febe6b2fe76", PAPER_3MER
    ),
)


def build_tokenizer(options: DnaTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; only its ``vocab.txt`` is read."""
    from exapt_dna.nucleotide_transformer.tokenizer import NucleotideTokenizer, vocabulary_of

    return NucleotideTokenizer(vocabulary_of(options.source, options.revision), options)


def build_backbone(options: DnaBackboneOptions, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_dna.nucleotide_transformer.backbone import build

    return build(options.source, options.revision, weights)


TOKENIZERS = (
    TokenizerSpec(
        name="nucleotide-transformer",
        summary="k-mers side by side (k = 6 or 3), single letters at N and at the end, after <cls>; ids from vocab.txt.",
        options=DnaTokenizerOptions,
        build=build_tokenizer,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="nucleotide-transformer",
        summary="Nucleotide Transformer versions 1 and 2, transformers over 6-mers of DNA; config.json tells which.",
        options=DnaBackboneOptions,
        build=build_backbone,
        tokenizer="nucleotide-transformer",
        modality="dna",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("masked-marginal", "pseudo-log-likelihood"),
    ),
)
