"""Several tasks at once: how their losses are weighed. The strategy is in ``_multitask``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy

exapt_api = 1


def _build(options: Options) -> Strategy:
    from exapt.builtin._multitask import UncertaintyWeights

    return UncertaintyWeights()


def _check(options: Options, heads: Mapping[str, Any]) -> None:
    if len(heads) < 2:
        raise RecipeError(
            f"strategy 'uncertainty-weights' weighs the losses of several heads, and the recipe has one, '{min(heads)}': "
            "leave it out, or ask more"
        )


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield the weighing of tasks."""
    yield StrategySpec(
        name="uncertainty-weights",
        summary="Several heads: the weight of each one's loss is learned, less for those that are noisy.",
        build=_build,
        selects=False,
        check_heads=_check,
    )
