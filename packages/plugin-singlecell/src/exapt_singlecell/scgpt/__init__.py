"""scGPT: a transformer over the genes of a cell and their binned expression. Cui et al. 2024, doi:10.1038/s41592-024-02201-0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from exapt import BackboneSpec, HeadSpec, LocalPath, OfLoss, Options, TokenizerSpec
from exapt_singlecell.options import CellBackboneOptions, CellTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Head, HeadContext, Tokenizer

PAPER = "https://doi.org/10.1038/s41592-024-02201-0"

# Human, mouse and Ensembl names side by side: of the usual vocabularies each knows some genes of each probe. To one that
# knows none a probe is <cls> alone, and the fingerprint rests on the vocabulary.
_GENES = (
    *(
        "CD3E",
        "MS4A1",
        "TP53",
        "CD8A",
        "NKG7",
        "LYZ",
        "GAPDH",
        "ACTB",
        "MALAT1",
        "CD14",
        "IL7R",
        "B2M",
        "RPLP0",
        "EEF1A1",
    ),
    *("Cd3e", "Ms4a1", "Trp53", "Cd8a", "Nkg7", "Actb", "Malat1", "B2m"),
    *("ENSG00000198851", "ENSG00000156738", "ENSG00000141510", "ENSG00000111640"),
)

PROBES = (
    {"genes": list(_GENES), "counts": [15, *((7 * place) % 11 + 1 for place in range(1, len(_GENES)))]},
    {"genes": list(_GENES[:14]), "counts": [3, 9, *((5 * place) % 4 for place in range(2, 14))]},
    {"genes": list(_GENES[::-1]), "counts": [*((3 * place) % 5 for place in range(1, len(_GENES))), 7]},
)


class ScgptTokenizerOptions(CellTokenizerOptions):
    """How the expression of a cell becomes tokens."""

    max_length: int = Field(
        0,
        ge=0,
        description="The most tokens of a cell, <cls> included; 0 for max_seq_len of the checkpoint's args.json.",
    )
    bins: int = Field(
        0,
        ge=0,
        description="Number of expression bins, that of zero included; 0 for n_bins of the checkpoint's args.json.",
    )
    surplus: Literal["spread", "highest"] = Field(
        "spread",
        description="Which genes of a cell stay where it expresses more than max_length takes: a subset spread over all "
        "levels of expression, by a hash of the genes' symbols, or the most highly expressed.",
    )
    gene_map: LocalPath = Field(
        "",
        description="Table (.csv, .tsv or .parquet) of Ensembl ids and their symbols, for cells whose genes are named by "
        "Ensembl ids.",
    )
    gene_map_ids: str = Field("ensembl", description="Column of gene_map that holds Ensembl ids.")
    gene_map_symbols: str = Field("symbol", description="Column of gene_map that holds symbols.")

    @field_validator("max_length", "bins")
    @classmethod
    def _no_room(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 leaves no room for a gene: give 2 or more, or 0 to read it from args.json")
        return value


class MaskedExpressionOptions(Options):
    """Options of ``masked-expression``."""

    inputs: tuple[str] = Field(("cell",), description="The input whose expression is asked for.")
    probability: Annotated[float, OfLoss(metrics=True)] = Field(
        0.5, gt=0, lt=1, description="Share of a cell's genes whose expression is hidden and asked for, about."
    )


def build_tokenizer(options: ScgptTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; its ``args.json`` and ``vocab.json`` are read."""
    from exapt_singlecell.scgpt.tokenizer import build

    return build(options)


def infer_lengths(options: ScgptTokenizerOptions) -> ScgptTokenizerOptions:
    """Return the options with the length and the bins of the checkpoint, unless others were chosen."""
    from exapt_singlecell.scgpt.tokenizer import inferred

    return inferred(options)


def build_backbone(options: CellBackboneOptions, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_singlecell.scgpt.backbone import build

    return build(options.source, options.revision, weights)


def build_masked_expression(options: MaskedExpressionOptions, context: HeadContext) -> Head:
    """Return the head that goes on with scGPT's own pretraining."""
    from exapt_singlecell.scgpt.heads import MaskedExpression

    return MaskedExpression(options, context)


TOKENIZERS = (
    TokenizerSpec(
        name="scgpt",
        summary="<cls>, then one token for each expressed gene, with its expression in quantile bins of its cell.",
        options=ScgptTokenizerOptions,
        build=build_tokenizer,
        infer=infer_lengths,
    ),
)

# The eight published variants lie behind links of a file hoster, where nothing can be pinned: users bring folders.
BACKBONES = (
    BackboneSpec(
        name="scgpt",
        summary="scGPT, a transformer over genes and their binned expression; name a folder as scgpt:PATH.",
        options=CellBackboneOptions,
        build=build_backbone,
        tokenizer="scgpt",
        modality="cell",
        accepts="cell",
        probes=PROBES,
    ),
)

HEADS = (
    HeadSpec(
        name="masked-expression",
        summary="How much of hidden genes is expressed: goes on with the pretraining of scGPT, without labels.",
        options=MaskedExpressionOptions,
        build=build_masked_expression,
        answers="token",
        labelled=False,
    ),
)
