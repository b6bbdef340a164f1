"""Changes of a cell that keep what it is. The code is in ``_augmentations``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from exapt import AugmentationSpec, Options

if TYPE_CHECKING:
    from exapt.parts import Augmentation


class ThinningOptions(Options):
    """Options of ``thinning``."""

    least: float = Field(
        0.5, gt=0, lt=1, description="The least share of a cell's molecules that is kept; drawn anew from there to 1."
    )


class GeneDropoutOptions(Options):
    """Options of ``gene-dropout``."""

    rate: float = Field(0.1, gt=0, lt=1, description="Share of a cell's expressed genes that go unseen.")


def _build_thinning(options: ThinningOptions) -> Augmentation:
    from exapt_singlecell._augmentations import Thinning

    return Thinning(options.least)


def _build_gene_dropout(options: GeneDropoutOptions) -> Augmentation:
    from exapt_singlecell._augmentations import GeneDropout

    return GeneDropout(options.rate)


AUGMENTATIONS = (
    AugmentationSpec(
        name="thinning",
        summary="A cell as if fewer of its molecules had been sequenced.",
        options=ThinningOptions,
        build=_build_thinning,
        modalities=("cell",),
    ),
    AugmentationSpec(
        name="gene-dropout",
        summary="A cell without some of the genes that it expresses.",
        options=GeneDropoutOptions,
        build=_build_gene_dropout,
        modalities=("cell",),
    ),
)
