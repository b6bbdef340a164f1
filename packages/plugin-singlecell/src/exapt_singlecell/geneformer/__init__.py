"""Geneformer: BERT over the genes of a cell, ranked by how far their expression is above its usual level.

Version 1: Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9. Version 2: Chen et al. 2024,
doi:10.1101/2024.08.16.608180.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from exapt import BackboneSpec, Checkpoint, LocalPath, TokenizerSpec
from exapt_singlecell.options import CellBackboneOptions, CellTokenizerOptions

if TYPE_CHECKING:
    from exapt.parts import Backbone, Tokenizer

V1_PAPER = "https://doi.org/10.1038/s41586-023-06139-9"
V2_PAPER = "https://doi.org/10.1101/2024.08.16.608180"

REPOSITORY = "ctheodoris/Geneformer"
REVISION = "ad8f66dfcda3ebbd148d916c01f31339c5b95a15"

_MARKERS = (
    *("ENSG00000156508", "ENSG00000075624", "ENSG00000111640", "ENSG00000166710", "ENSG00000167286"),
    *("ENSG00000153563", "ENSG00000010610", "ENSG00000156738", "ENSG00000170458", "ENSG00000105374"),
    *("ENSG00000090382", "ENSG00000163736", "ENSG00000026025", "ENSG00000115414", "ENSG00000119888"),
)
_OTHERS = (
    *("ENSG00000002933", "ENSG00000023608", "ENSG00000026950", "ENSG00000042088", "ENSG00000055957"),
    *("ENSG00000064115", "ENSG00000088320", "ENSG00000102385", "ENSG00000002330", "ENSG00000008086"),
    *("ENSG00000008869", "ENSG00000010932", "ENSG00000013561", "ENSG00000019995", "ENSG00000027644"),
)
_ALL = (*_MARKERS, *_OTHERS)

PROBES = (
    {"genes": list(_ALL), "counts": [1 + place * 7 % 31 for place in range(len(_ALL))]},
    {"genes": list(_MARKERS), "counts": [3 * place % 8 for place in range(len(_MARKERS))]},
    {"genes": list(_OTHERS), "counts": [2 + place * place % 5 for place in range(len(_OTHERS))]},
)


class GeneformerTokenizerOptions(CellTokenizerOptions):
    """How cells become ranked genes, and where the dictionaries for it are."""

    dictionaries: LocalPath = Field(
        "",
        description="Folder of the model's dictionaries; empty to look in the checkpoint's folder, in 'geneformer' "
        "there or beside it, and in the folder above.",
    )
    token_dictionary: LocalPath = Field("", description="File of the ids of genes; empty to look for it.")
    gene_medians: LocalPath = Field("", description="File of the usual levels of genes; empty to look for it.")
    gene_names: LocalPath = Field("", description="File of the Ensembl ids of symbols; empty to look for it.")
    gene_mapping: LocalPath = Field(
        "", description="File of the Ensembl ids that others are counted for; empty to look for it."
    )


def _checkpoint(folder: str, parameters: int, width: int, context: int, paper: str) -> Checkpoint:
    return Checkpoint(
        name=folder.lower().replace("_", "-"),
        source=f"{REPOSITORY}/{folder}",
        revision=REVISION,
        licence="Apache-2.0",
        commercial=True,
        parameters=parameters,
        width=width,
        context=context,
        paper=paper,
    )


CHECKPOINTS = (
    _checkpoint("Geneformer-V1-10M", 10_288_722, 256, 2048, V1_PAPER),
    _checkpoint("Geneformer-V2-104M", 104_386_867, 768, 4096, V2_PAPER),
    _checkpoint("Geneformer-V2-104M_CLcancer", 104_386_867, 768, 4096, V2_PAPER),
    _checkpoint("Geneformer-V2-316M", 316_354_867, 1152, 4096, V2_PAPER),
)


def build_tokenizer(options: GeneformerTokenizerOptions) -> Tokenizer:
    """Return the tokenizer of a checkpoint; its configuration and its dictionaries are read."""
    from exapt_singlecell.geneformer.tokenizer import build

    return build(options)


def build_backbone(options: CellBackboneOptions, weights: bool) -> Backbone:
    """Return the model of a checkpoint, with its weights or with fresh ones."""
    from exapt_singlecell.geneformer.backbone import build

    return build(options.source, options.revision, weights)


TOKENIZERS = (
    TokenizerSpec(
        name="geneformer",
        summary="Expressed genes by falling rank of count over usual level; ids and levels from the model's dictionaries.",
        options=GeneformerTokenizerOptions,
        build=build_tokenizer,
    ),
)

BACKBONES = (
    BackboneSpec(
        name="geneformer",
        summary="Geneformer V1 and V2, BERT over the ranked genes of a cell.",
        options=CellBackboneOptions,
        build=build_backbone,
        tokenizer="geneformer",
        modality="cell",
        accepts="cell",
        probes=PROBES,
        checkpoints=CHECKPOINTS,
    ),
)
