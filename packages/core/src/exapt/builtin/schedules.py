"""Strategies that say when and how fast parts of a backbone learn, whatever others let learn of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from exapt.errors import RecipeError, listed
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy
    from exapt.recipe import Recipe

exapt_api = 1

_PLACES = re.compile(r"(\d+)(?:-(\d+))?")


def _height_given(given: Any) -> Any:
    # To python True is 1, and who writes it does not mean one block.
    if given != "all" and (isinstance(given, bool) or not isinstance(given, int)):
        raise ValueError('write how many of the top blocks learn, or "all"')
    return given


class Stage(Options):
    """Some epochs in which a part of the backbone learns."""

    blocks: Annotated[Annotated[int, Field(ge=0)] | Literal["all"], BeforeValidator(_height_given)] = Field(
        description="How many of the top blocks learn: 0 for the heads alone, all for the whole backbone."
    )
    epochs: int = Field(1, ge=1, description="How many epochs it lasts.")
    rate: float = Field(1.0, gt=0, description="What the rates of the backbone are multiplied by meanwhile.")


class UnfreezingOptions(Options):
    """When the blocks begin to learn, from the top down."""

    stages: tuple[Stage, ...] = Field(
        (), description="The stages one by one; the last goes on to the end. Empty to make them of the options below."
    )
    head_epochs: int = Field(1, ge=0, description="Epochs of the heads alone.")
    blocks: int = Field(0, ge=0, description="How many more blocks learn in each stage; 0 for a third of them.")
    every: int = Field(1, ge=1, description="Epochs from one stage to the next.")

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        others = sorted(self.model_fields_set - {"stages"})
        if self.stages and any(getattr(self, name) != type(self).model_fields[name].default for name in others):
            raise ValueError(f"stages are the whole plan: leave out {others[0]}")
        for place, (one, other) in enumerate(pairwise(self.stages), 2):
            if _height(other) < _height(one):
                raise ValueError(
                    f"stage {place} has {other.blocks} blocks and the one before {one.blocks}: what has begun to learn goes on"
                )
        if self.stages and self.stages[-1].blocks == 0:
            raise ValueError("no stage lets any block learn: that is strategy 'probe'")
        return self

    @property
    def epochs(self) -> int:
        """The epochs of all stages; 0 where they are not told one by one."""
        return sum(stage.epochs for stage in self.stages)


def _height(stage: Stage) -> float:
    return float("inf") if stage.blocks == "all" else stage.blocks


def _places(given: Any) -> Any:
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


class Group(Options):
    """Blocks that learn at a rate of their own."""

    blocks: Annotated[str, BeforeValidator(_places)] = Field(
        description='One block or several in a row, counted from 0 at the input, such as "3" or "0-3".'
    )
    rate: float = Field(gt=0, description="What the rates there are multiplied by.")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        found = _PLACES.fullmatch(self.blocks)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise ValueError(f"blocks '{self.blocks}' names no blocks: write one number, or two such as 0-3")
        return self

    @property
    def places(self) -> range:
        """The blocks, counted from 0 at the input."""
        first, _, last = self.blocks.partition("-")
        return range(int(first), int(last or first) + 1)


class RatesOptions(Options):
    """How the rates fall from the top block towards the input."""

    decay: float = Field(
        0.8, gt=0, le=1, description="What the rate is multiplied by from one block to the one below it."
    )
    groups: tuple[Group, ...] = Field(
        (), description="Rates of groups of blocks, in place of decay; blocks that none of them names keep theirs."
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.groups and self.decay != type(self).model_fields["decay"].default:
            raise ValueError("groups say all rates: leave out decay")
        named = [place for group in self.groups for place in group.places]
        twice = sorted({place for place in named if named.count(place) > 1})
        if twice:
            raise ValueError(f"two groups name block {twice[0]}")
        return self


def _unfreezing(options: UnfreezingOptions) -> Strategy:
    from exapt.builtin._schedules import GradualUnfreezing

    return GradualUnfreezing(options)


def _rates(options: RatesOptions) -> Strategy:
    from exapt.builtin._schedules import DiscriminativeRates

    return DiscriminativeRates(options)


def _long_enough(options: UnfreezingOptions, recipe: Recipe) -> None:
    """Raise ``RecipeError`` if the stages take longer than the training that the recipe asks for."""
    training = recipe.training
    least = options.epochs or options.head_epochs + 1
    if training.epochs < least:
        what = f"stages of {least} epochs" if options.stages else f"{options.head_epochs} epochs of the heads and more"
        raise RecipeError(
            f"strategy 'gradual-unfreezing' has {what}, and training.epochs is {training.epochs}: make that {least} or more"
        )


def _heads_learn(options: UnfreezingOptions, heads: Mapping[str, tuple[HeadSpec, Any]]) -> None:
    """Raise ``RecipeError`` if there is a stage of the heads alone, and nothing of them learns by steps."""
    alone = options.stages[0].blocks == 0 if options.stages else options.head_epochs > 0
    if alone and not any(spec.learns for spec, _ in heads.values()):
        instead = "leave out the stage with blocks = 0" if options.stages else "set head_epochs = 0"
        raise RecipeError(
            f"strategy 'gradual-unfreezing': the heads ({listed(spec.name for spec, _ in heads.values())}) are fitted, not "
            f"trained, so that nothing would learn in the epochs of the heads alone: {instead}"
        )


def _epochs(options: UnfreezingOptions) -> Mapping[str, Any]:
    return {"epochs": options.epochs} if options.stages else {}


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield gradual-unfreezing and discriminative-rates."""
    yield StrategySpec(
        name="gradual-unfreezing",
        summary="The heads learn first, then the top blocks too, and so down to the input (ULMFiT).",
        options=UnfreezingOptions,
        build=_unfreezing,
        training=_epochs,
        selects=False,
        needs=frozenset({"learning", "blocks", "pretrained"}),
        check=_long_enough,
        check_heads=_heads_learn,
    )
    yield StrategySpec(
        name="discriminative-rates",
        summary="Lower blocks learn more slowly: by a decay from block to block, or by groups (ULMFiT).",
        options=RatesOptions,
        build=_rates,
        selects=False,
        needs=frozenset({"learning", "blocks"}),
    )
