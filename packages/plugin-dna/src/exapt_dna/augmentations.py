"""Changes of a DNA sequence that keep what it means. The code is in ``_augmentations``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt import AugmentationSpec, Options

if TYPE_CHECKING:
    from exapt.parts import Augmentation


class ReverseComplementOptions(Options):
    """Options of ``reverse-complement``."""

    probability: float = Field(0.5, ge=0, le=1, description="Share of the training sequences that are turned round.")
    average: bool = Field(True, description="Answer for both strands, and average the two answers.")


class ShiftOptions(Options):
    """Options of ``shift``."""

    most: int = Field(10, ge=1, description="The most bases by which a training sequence is moved, to either side.")
    fill: Literal["crop", "N"] = Field(
        "crop", description="What comes into the gap: nothing, so that the sequence gets shorter, or N."
    )


class PointMutationOptions(Options):
    """Options of ``point-mutation``."""

    rate: float = Field(0.01, gt=0, lt=1, description="Share of the bases that another takes the place of.")


def _build_reverse_complement(options: ReverseComplementOptions) -> Augmentation:
    from exapt_dna._augmentations import ReverseComplement

    return ReverseComplement(options)


def _build_shift(options: ShiftOptions) -> Augmentation:
    from exapt_dna._augmentations import Shift

    return Shift(options)


def _build_point_mutation(options: PointMutationOptions) -> Augmentation:
    from exapt_dna._augmentations import PointMutation

    return PointMutation(options)


AUGMENTATIONS = (
    AugmentationSpec(
        name="reverse-complement",
        summary="The other strand: in training at random, in answering averaged with the given one.",
        options=ReverseComplementOptions,
        build=_build_reverse_complement,
        modalities=("dna",),
    ),
    AugmentationSpec(
        name="shift",
        summary="A window moved by a few bases.",
        options=ShiftOptions,
        build=_build_shift,
        modalities=("dna",),
    ),
    AugmentationSpec(
        name="point-mutation",
        summary="Random substitutions of single bases.",
        options=PointMutationOptions,
        build=_build_point_mutation,
        modalities=("dna",),
    ),
)
