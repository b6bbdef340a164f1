"""Distillation: what a student learns from a teacher. The strategy is in ``_distillation``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import LocalPath, Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy

exapt_api = 1


class DistillationOptions(Options):
    """Who teaches, and how much of what is learned from the teacher."""

    teacher: LocalPath = Field("", description="Folder of the teacher, an adapter that answers the same question.")
    temperature: float = Field(
        2.0, gt=0, description="Softens the probabilities of classes, so that those of wrong ones are learned too."
    )
    mix: float = Field(
        0.5, ge=0, le=1, description="Share of the teacher's answers in the loss; the labels have the rest."
    )
    features: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance to the teacher's features, by a projection that learns; 0 for none.",
    )
    unlabelled: bool = Field(False, description="Learn the teacher's answers on the rows of target as well.")


def _build(options: DistillationOptions) -> Strategy:
    from exapt.builtin._distillation import Distillation

    return Distillation(options)


def _check(options: DistillationOptions, recipe: Any) -> None:
    if not options.teacher:
        raise RecipeError(
            "strategy 'distillation' needs a teacher: the folder of an adapter that answers the same question"
        )
    if options.unlabelled and recipe.target is None:
        raise RecipeError("strategy 'distillation' is to learn on unlabelled rows: name their table as target.path")


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield distillation."""
    yield StrategySpec(
        name="distillation",
        summary="A teacher's answers, and its features, are learned beside the labels.",
        options=DistillationOptions,
        build=_build,
        selects=False,
        needs=frozenset({"labels"}),
        excludes={"mixup": "the teacher answered for whole inputs, and the student would for blends of two"},
        check=_check,
    )
