"""Meta-learning: its options and its spec. The strategy itself is in ``_meta_learning``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy
    from exapt.recipe import Recipe

exapt_api = 1


class MamlOptions(Options):
    """How tasks are drawn, and how a model adapts to one."""

    tasks: Literal["auto", "domains", "targets", "classes"] = Field(
        "auto",
        description="What a task is: the rows of one domain (data.domain), one of several targets, or some of the classes; "
        "auto is domains where data.domain is named, else targets where a head has several numbers, else classes.",
    )
    ways: int = Field(
        0, ge=0, description="Classes of a task; 0 for all that it has, at most 5 where tasks are classes."
    )
    shots: int = Field(5, ge=1, description="Examples of each class (rows, for numbers) that a model adapts to.")
    queries: int = Field(5, ge=1, description="The most others of each class by which it is judged afterwards.")
    batch: int = Field(4, ge=1, description="Tasks of one step.")
    inner_steps: int = Field(3, ge=0, description="Steps of gradient descent by which a model adapts to a task.")
    inner_rate: float = Field(0.01, gt=0, description="Their rate.")
    adapts: Literal["all", "heads"] = Field(
        "all", description="What adapts inside a task: all that learns, or the heads alone (ANIL)."
    )
    first_order: bool = Field(
        False, description="Take the gradient at the adapted weights for that at the first ones: cheaper, less exact."
    )


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield meta-learning."""
    yield StrategySpec(
        name="maml",
        summary="Learns, over many small tasks, weights that adapt to a new one in a few steps (MAML, ANIL).",
        options=MamlOptions,
        build=_build_maml,
        selects=False,
        needs=frozenset({"labels", "learning"}),
        check=_check_maml,
    )


def _check_maml(options: MamlOptions, recipe: Recipe) -> None:
    if options.tasks == "domains" and not recipe.data.domain:
        raise RecipeError("strategy 'maml' has a task for each domain: name the column of the domains as data.domain")
    if options.inner_steps == 0 and options.adapts == "heads":
        raise RecipeError("strategy 'maml': adapts says what changes in the inner steps, and inner_steps is 0")


def _build_maml(options: MamlOptions) -> Strategy:
    from exapt.builtin._meta_learning import Maml

    return Maml(options)
