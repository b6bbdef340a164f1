"""Changes of a protein's sequence that mostly keep what it does. The code is in ``_augmentations``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt import AugmentationSpec, Options

if TYPE_CHECKING:
    from exapt.parts import Augmentation


class SubstitutionOptions(Options):
    """Options of ``residue-substitution``."""

    rate: float = Field(0.05, gt=0, lt=1, description="Share of the residues that another takes the place of.")
    by: Literal["similar", "any"] = Field(
        "similar", description="Residues that evolution often puts there (above 0 in BLOSUM62), or any other one."
    )


def _build_substitution(options: SubstitutionOptions) -> Augmentation:
    from exapt_esm._augmentations import Substitution

    return Substitution(options)


AUGMENTATIONS = (
    AugmentationSpec(
        name="residue-substitution",
        summary="Random substitutions of single residues, by similar ones or by any.",
        options=SubstitutionOptions,
        build=_build_substitution,
        modalities=("protein",),
    ),
)
