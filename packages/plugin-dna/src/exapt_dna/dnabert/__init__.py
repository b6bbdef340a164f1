"""DNABERT: BERT over overlapping k-mers, k = 3 to 6. Ji et al. 2021, doi:10.1093/bioinformatics/btab083."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exapt import BackboneSpec, Checkpoint, TokenizerSpec
from exapt_dna.options import DnaBackboneOptions, DnaTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

PAPER = "https://doi.org/10.1093/bioinformatics/btab083"

PROBES = (
    "ACGTTGCATTAGCCGATCAGGA",
    "GATTACAGGCATGCCTAAGTCCAATTGGCTAGCTAGGATCC",
    "TTTTTTTTTT",
)


def _checkpoint(k: int, parameters: int, revision: str = "") -> Checkpoint:
    return Checkpoint(
        name=f"dnabert-{k}",
        source=f"zhihan1996/DNA_bert_{k}",
        revision=revision,
        licence="Apache-2.0",
        commercial=True,
        parameters=parameters,
        width=768,
        context=512,
        paper=PAPER,
    )


CHECKPOINTS = (
    _checkpoint(3, 86_095_941),
    _checkpoint(4, 86_243_589),
    _checkpoint(5, 86_834_181),
    _checkpoint(6, 89_196_549, "55e0c0eb7b734c8b9b77bc083bf89eb6fbda1341"),
)


def build_tokenizer(options: DnaTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; only its ``vocab.txt`` is read."""
    from exapt_dna.dnabert.tokenizer import DnabertTokenizer, vocabulary_of

    return DnabertTokenizer(vocabulary_of(options.source, options.revision), options)


def build_backbone(options: DnaBackboneOptions, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_dna.dnabert.backbone import build

    return build(options.source, options.revision, weights)


TOKENIZERS = (
    TokenizerSpec(
        name="dnabert",
        summary="Overlapping k-mers, one at each base, between [CLS] and [SEP]; k and ids from vocab.txt.",
        options=DnaTokenizerOptions,
        build=build_tokenizer,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="dnabert",
        summary="DNABERT, BERT over overlapping k-mers of DNA.",
        options=DnaBackboneOptions,
        build=build_backbone,
        tokenizer="dnabert",
        modality="dna",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
        scorers=("masked-marginal", "pseudo-log-likelihood"),
    ),
)
