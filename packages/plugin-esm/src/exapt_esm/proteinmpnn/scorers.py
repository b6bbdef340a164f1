"""Scorers of variants on a structure. The code is in ``_scorers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt import Options, ScorerSpec

if TYPE_CHECKING:
    from exapt.parts import Scorer


LARGEST_SEED = 2**63 - 1
"""What tables can hold in a column of integers."""


class ConditionalOptions(Options):
    """Options of conditional scores."""

    orders: int = Field(
        1,
        ge=1,
        description="Decoding orders, of all residues but the one that changes, over which a score is averaged.",
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the orders, which else depend on the structure alone."
    )


class DecodingOrdersOptions(Options):
    """Options of log-likelihoods over decoding orders."""

    orders: int = Field(10, ge=1, description="Decoding orders over which the log-likelihood is averaged.")
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the orders, which else depend on the structure alone."
    )
    order: Literal["random", "forward", "backward"] = Field(
        "random", description="How residues follow one another; forward and backward are one order, along the chains."
    )
    given: tuple[str, ...] = Field(
        (),
        description="Chains whose letters are given, such as a target that a binder is scored on: decoded before all "
        "others, and not counted.",
    )


def _unconditional(options: Options) -> Scorer:
    from exapt_esm.proteinmpnn._scorers import Unconditional

    return Unconditional()


def _conditional(options: ConditionalOptions) -> Scorer:
    from exapt_esm.proteinmpnn._scorers import Conditional

    return Conditional(options)


def _decoding_orders(options: DecodingOrdersOptions) -> Scorer:
    from exapt_esm.proteinmpnn._scorers import DecodingOrders

    return DecodingOrders(options)


SCORERS = (
    ScorerSpec(
        name="unconditional",
        summary="The residues that change, by the backbone alone, no letter seen: one pass for all variants of a structure.",
        build=_unconditional,
        objective="ordered",
    ),
    ScorerSpec(
        name="conditional",
        summary="The residues that change, each after all others with the letters of the wild type; several add up.",
        options=ConditionalOptions,
        build=_conditional,
        objective="ordered",
    ),
    ScorerSpec(
        name="decoding-orders",
        summary="The log-likelihood of the whole sequence, over decoding orders, mutant minus wild type.",
        options=DecodingOrdersOptions,
        build=_decoding_orders,
        objective="ordered",
    ),
)
