"""The built-in head for pairs of units: its options, and what it asks of its labels. The module itself is in ``_contact``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from exapt.builtin.heads import PositionOptions
from exapt.errors import DataError
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, OfLoss

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext

exapt_api = 1


class ContactOptions(PositionOptions):
    """Options of ``contact``."""

    rank: int = Field(
        32, ge=1, description="Width to which a unit's features are projected before pairs are made of them."
    )
    min_separation: Annotated[int, OfLoss(metrics=True)] = Field(
        6,
        ge=1,
        le=24,
        description="Least distance along the sequence: nearer pairs are neither learned, measured nor answered. At most 24, "
        "where long range begins; above 12 there is no precision of medium range.",
    )
    positive_weight: Annotated[float, OfLoss()] = Field(
        1.0, gt=0, description="Weight in the loss of a pair that is in contact."
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which on a pair is named in the answer.")
    below: Annotated[float, OfLoss(metrics=True)] = Field(
        0.0,
        ge=0,
        description="A matrix holds distances, and those below this many are contacts; 0 for matrices of 0 and 1.",
    )


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the question that can be asked of pairs of units."""
    yield HeadSpec(
        name="contact",
        summary="Which pairs of units (residues, bases) are in contact.",
        options=ContactOptions,
        build=_build,
        infer=_check_some,
        answers="pair",
    )


def _check_some(options: ContactOptions, labels: Sequence[Any]) -> ContactOptions:
    """Raise ``DataError`` if no label has a pair in contact, far enough apart to be learned."""
    from exapt.data.pair_labels import contacts

    found = (pair for label in labels for pair in contacts(label, options.below))
    if not any(abs(one - other) >= options.min_separation for one, other in found):
        raise DataError(
            f"has no pair in contact that is at least {options.min_separation} units apart (head.min_separation)"
        )
    return options


def _build(options: ContactOptions, context: HeadContext) -> Head:
    from exapt.builtin._contact import Contact

    return Contact(options, context)
