"""Trials leave nothing behind: what their strategies write stands aside, and goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exapt.composition import check_files
from exapt.plugins import current
from exapt.recipe import Component, Recipe
from exapt.resolve import Chosen, resolve
from exapt.specs import new_paths

MARK = ".trial-"
"""How the folder of what a trial writes begins."""


@contextmanager
def aside(recipe: Recipe, folder: Path) -> Iterator[Recipe]:
    """Yield a recipe whose strategies write into a folder inside of ``folder``, which is removed afterwards.

    Raises ``RecipeError`` if they could not write where the recipe says, as the best one will.
    """
    strategies = resolve(recipe, current()).strategies
    check_files(strategies)
    if not any(_written(chosen) for chosen in strategies):
        yield recipe
        return
    with TemporaryDirectory(prefix=MARK, dir=folder) as place:
        # ``full`` may stand before those that the recipe names.
        own = zip(recipe.strategies, strategies[-len(recipe.strategies) :], strict=True)
        moved = tuple(
            _moved(named, chosen, Path(place).resolve() / str(number)) for number, (named, chosen) in enumerate(own)
        )
        yield recipe.model_copy(update={"strategies": moved})


def _written(chosen: Chosen) -> dict[str, str]:
    return {option: path for option, path in chosen.files.items() if option in new_paths(type(chosen.options))}


def _moved(named: Component, chosen: Chosen, place: Path) -> Component:
    place.mkdir()
    return named.model_copy(update={option: str(place / Path(path).name) for option, path in _written(chosen).items()})
