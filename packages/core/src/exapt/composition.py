"""What goes together: which strategies can stand beside each other in one recipe, and what they need of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from exapt.errors import RecipeError, listed
from exapt.recipe import DataOptions, Recipe, TrainingOptions
from exapt.specs import HeadSpec, Need, StrategySpec, new_paths


class _Offer(Protocol):
    @property
    def spec(self) -> Any: ...


class _Chosen(Protocol):
    @property
    def offer(self) -> _Offer: ...

    @property
    def options(self) -> Any: ...

    @property
    def files(self) -> Mapping[str, str]: ...


def check_together(strategies: Sequence[_Chosen], recipe: Recipe, heads: Mapping[str, _Chosen]) -> None:
    """Raise ``RecipeError`` unless the strategies can stand beside each other and have what they need."""
    specs: list[StrategySpec] = [chosen.offer.spec for chosen in strategies]
    for place, spec in enumerate(specs):
        _check_beside(spec, [*specs[:place], *specs[place + 1 :]])
        asked: Sequence[HeadSpec] = [chosen.offer.spec for chosen in heads.values()]
        for need in sorted(spec.needs):
            _check_need(spec, need, recipe, specs, asked)
    for chosen in (*strategies, *heads.values()):
        if chosen.offer.spec.check is not None:
            chosen.offer.spec.check(chosen.options, recipe)
    named = {name: (chosen.offer.spec, chosen.options) for name, chosen in heads.items()}
    for chosen in strategies:
        if chosen.offer.spec.check_heads is not None:
            chosen.offer.spec.check_heads(chosen.options, named)
    if recipe.reference is not None:
        _check_reference(recipe.reference, specs)


def _check_reference(options: DataOptions, strategies: Sequence[StrategySpec]) -> None:
    if any(spec.name == "scratch" for spec in strategies):
        raise RecipeError(
            "reference measures what is left of the pretrained language model, and 'scratch' has none: leave it out"
        )
    labelled = next((key for key in ("labels", "masks", "mask") if getattr(options, key)), "")
    if labelled:
        raise RecipeError(f"reference.{labelled}: the reference set has no labels, nor masks of them; leave it out")
    if len(options.inputs) != 1 or options.made:
        raise RecipeError("reference holds one input, whose tokens the language model tells: name its column as input")


def check_files(strategies: Sequence[_Chosen]) -> None:
    """Raise ``RecipeError`` unless the files and folders that strategies name are there: asked of a run, not of an adapter."""
    for chosen in strategies:
        written = new_paths(type(chosen.options))
        for option, path in chosen.files.items():
            there = Path(path).expanduser()
            if option in written and not there.parent.is_dir():
                raise RecipeError(
                    f"strategy '{chosen.offer.spec.name}': there is no folder '{there.parent}' to write '{there.name}' in"
                )
            if option not in written and not there.exists():
                raise RecipeError(f"strategy '{chosen.offer.spec.name}': there is no {option} '{path}'")


def _check_beside(spec: StrategySpec, others: Sequence[StrategySpec]) -> None:
    names = [other.name for other in others]
    if spec.name in names:
        raise RecipeError(f"strategy '{spec.name}' is named twice")
    selecting = [other.name for other in others if other.selects]
    if spec.alone and selecting:
        told = ", ".join(f"'{name}'" for name in selecting)
        raise RecipeError(
            f"strategy '{spec.name}' says of the whole backbone what learns: it cannot stand beside {told}"
        )
    for name in names:
        if name in spec.excludes:
            raise RecipeError(f"strategy '{spec.name}' cannot stand beside '{name}': {spec.excludes[name]}")


def _check_need(
    spec: StrategySpec, need: Need, recipe: Recipe, strategies: Sequence[StrategySpec], heads: Sequence[HeadSpec]
) -> None:
    what = f"strategy '{spec.name}'"
    if need == "target" and recipe.target is None:
        raise RecipeError(f"{what} learns from rows of another domain: name their table as target.path")
    if need == "learning" and _rests(strategies):
        raise RecipeError(
            f"{what} is about what learns in the backbone, and of a 'probe' nothing does: put another beside it, such as "
            "'full' or 'lora'"
        )
    if need == "pretrained" and any(other.name == "scratch" for other in strategies):
        raise RecipeError(f"{what} is about the pretrained weights, and 'scratch' has none: leave one of them out")
    if need == "augmentations" and not recipe.augmentations:
        raise RecipeError(f"{what} compares views of an input, and nothing changes the inputs: name an augmentation")
    if need == "labels" and not any(head.labelled for head in heads):
        raise RecipeError(f"{what} needs a head that learns from labels; there is {listed([h.name for h in heads])}")
    if need == "valid" and not recipe.split.column and recipe.split.fractions[1] == 0:
        raise RecipeError(f"{what} chooses by the valid part, and split.fractions leaves none")


IDLE = (
    'training.sampling = "balanced" draws the rows of steps, and nothing learns by steps here: the heads are fitted to all '
    "training rows at once; leave it out"
)


def _rests(strategies: Sequence[StrategySpec]) -> bool:
    """Return whether nothing of the backbone learns."""
    return all(spec.name == "probe" or not spec.selects for spec in strategies)


def check_sampling(training: TrainingOptions, strategies: Sequence[_Chosen], heads: Mapping[str, _Chosen]) -> None:
    """Raise ``RecipeError`` if classes are to be drawn equally often and the first head has none, or weighs them besides."""
    labelled = [name for name, head in heads.items() if head.offer.spec.labelled]
    if training.sampling == "tasks" and len(labelled) < 2:
        raise RecipeError(
            'training.sampling = "tasks" draws several heads in turn, and the recipe has one: leave it out'
        )
    if training.sampling != "balanced":
        return
    name, head = next(iter(heads.items()))
    spec: HeadSpec = head.offer.spec
    if not spec.labelled or spec.baseline != "classification" or spec.answers != "input":
        raise RecipeError(
            f"training.sampling = \"balanced\" draws the classes of whole inputs equally often, and head '{name}', "
            f"'{spec.name}', has none: leave it out, or name a head such as sequence-classification first"
        )
    if _rests([chosen.offer.spec for chosen in strategies]) and not any(
        one.offer.spec.learns for one in heads.values()
    ):
        raise RecipeError(IDLE)
    if getattr(head.options, "class_weights", "none") == "balanced":
        raise RecipeError(
            f'training.sampling = "balanced" and class_weights = "balanced" of head \'{name}\' would both make up for rare '
            "classes: choose one of them"
        )
