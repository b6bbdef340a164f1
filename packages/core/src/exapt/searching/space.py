"""What a search may choose from: keys of the recipe, each with its choices or its range."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from exapt.recipe import Recipe, read_recipe
from exapt.settings import put

if TYPE_CHECKING:
    from optuna.trial import Trial

SINGULAR = {"strategy": "strategies", "augmentation": "augmentations"}
"""Keys that are short for one of several."""


@dataclass(frozen=True)
class Choices:
    """Values of which one is taken."""

    values: tuple[Any, ...]

    @property
    def tried(self) -> tuple[Any, ...]:
        """The values that stand for all: each of them."""
        return self.values

    @property
    def words(self) -> list[str]:
        """Each value as JSON."""
        return [json.dumps(value) for value in self.values]

    def draw(self, trial: Trial, key: str) -> Any:
        """Return the value that a trial suggests."""
        return json.loads(trial.suggest_categorical(key, self.words))

    def plain(self) -> Any:
        """Return it as it stands in a file."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; evenly in their logarithm if ``log``, whole ones if ``whole``."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def tried(self) -> tuple[float, float]:
        """The values that stand for all: the ends."""
        return self.low, self.high

    def draw(self, trial: Trial, key: str) -> float:
        """Return the value that a trial suggests."""
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def plain(self) -> Any:
        """Return it as it stands in a file."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Space:
    """The recipe to which trials are changes, as plain tables, and what may change in it, by dotted key."""

    base: Mapping[str, Any]
    dimensions: Mapping[str, Choices | Range]

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of one trial. Raises ``RecipeError`` if the values do not go together."""
        changed: dict[str, Any] = json.loads(json.dumps(self.base))
        for key, value in values.items():
            place(changed, key, value)
        return read_recipe(changed)

    def combinations(self) -> Iterator[dict[str, str]]:
        """Yield what can be chosen together, values as JSON; only a space without ranges can be gone through."""
        keys = list(self.dimensions)
        for values in product(*(choices.words for choices in self.dimensions.values() if isinstance(choices, Choices))):
            yield dict(zip(keys, values, strict=True))

    @property
    def size(self) -> float:
        """How many combinations there are; infinitely many where there is a range."""
        sizes = [len(one.values) if isinstance(one, Choices) else math.inf for one in self.dimensions.values()]
        return math.prod(sizes)

    def plain(self) -> dict[str, Any]:
        """Return choices and ranges as they stand in a file."""
        return {key: one.plain() for key, one in self.dimensions.items()}


def settled(recipe: Mapping[str, Any], key: str) -> str:
    """Return the one key of a place in a recipe whose components all stand in the plural, of which it may have several."""
    section, dot, rest = key.partition(".")
    many = SINGULAR.get(section, section)
    if section in SINGULAR and rest:
        return f"{many}.{recipe[many][-1]['name']}.{rest}"
    if section == "head":
        return f"heads.{next(iter(recipe['heads']))}{dot}{rest}"
    return f"{many}{dot}{rest}"


def place(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Put a value where its key leads in a recipe whose components all stand in the plural."""
    section, _, rest = key.partition(".")
    many = SINGULAR.get(section, section)
    if many in SINGULAR.values():
        if not rest:
            recipe[many] = value if section == many else [value]
            return
        name, _, option = rest.rpartition(".")
        next(one for one in recipe[many] if section != many or one["name"] == name)[option] = value
    elif section in ("head", "heads"):
        only = next(iter(recipe["heads"]))
        name, _, option = (rest if section == "heads" else f"{only}.{rest}").partition(".")
        if option:
            recipe["heads"][name][option] = value
        else:
            kept = {
                key: recipe["heads"][name][key] for key in ("label", "weight", "data") if key in recipe["heads"][name]
            }
            recipe["heads"][name] = {**kept, **(value if isinstance(value, Mapping) else {"name": value})}
    else:
        put(recipe, key, value)
