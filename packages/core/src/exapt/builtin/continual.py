"""Strategies that keep what earlier tasks need while another is learned. Their modules are in ``_elastic`` and ``_replay``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import LocalPath, NewPath, Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy

exapt_api = 1

_MEMORY = "File that a run on an earlier task kept; empty for the first task."
_KEEP = "File to keep what the next task has to know in; empty for none."


class ElasticOptions(Options):
    """How hard weights are held that earlier tasks need, and how it is told which these are."""

    weight: float = Field(
        10000.0, gt=0, description="Weight of half the squared distances, each times its weight's Fisher information."
    )
    memory: LocalPath = Field("", description=_MEMORY)
    keep: NewPath = Field("", description=_KEEP)
    fisher: Literal["labels", "sampled"] = Field(
        "labels",
        description="What the Fisher information is of: the true labels, or answers drawn from the model's own.",
    )
    rows: int = Field(256, ge=0, description="Training rows that it is estimated on; 0 for all.")
    anchors: Literal["last", "each"] = Field(
        "last", description="One penalty, around the weights after the last task (online EWC), or one for each task."
    )
    decay: float = Field(
        1.0, gt=0, le=1, description="Of one penalty: what earlier tasks count beside the last, each time anew."
    )


class ReplayOptions(Options):
    """Which rows of earlier tasks are learned from again."""

    size: int = Field(200, ge=1, description="The most rows that are remembered, of all tasks together.")
    weight: float = Field(1.0, gt=0, description="Weight of the loss of remembered rows beside that of the task's own.")
    memory: LocalPath = Field("", description=_MEMORY)
    keep: NewPath = Field("", description=_KEEP)


def _ewc(options: ElasticOptions) -> Strategy:
    from exapt.builtin._elastic import Elastic

    return Elastic(options)


def _replay(options: ReplayOptions) -> Strategy:
    from exapt.builtin._replay import Replay

    return Replay(options)


def _remembers(options: ElasticOptions | ReplayOptions, _: Any) -> None:
    if not (options.memory or options.keep):
        name = "ewc" if isinstance(options, ElasticOptions) else "replay"
        raise RecipeError(
            f"strategy '{name}' is about tasks one after the other: name the memory of an earlier one, or where to keep one "
            "for the next; 'exapt learn-in-sequence' does both"
        )


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield what keeps earlier tasks."""
    yield StrategySpec(
        name="ewc",
        summary="Weights that earlier tasks need are held (elastic weight consolidation).",
        options=ElasticOptions,
        build=_ewc,
        selects=False,
        needs=frozenset({"learning"}),
        check=_remembers,
    )
    yield StrategySpec(
        name="replay",
        summary="Some rows of earlier tasks are learned from again, beside those of the new one.",
        options=ReplayOptions,
        build=_replay,
        selects=False,
        needs=frozenset({"labels"}),
        check=_remembers,
    )
