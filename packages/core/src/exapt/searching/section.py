"""The section of a recipe, or a file, that says what is searched: read, checked, or made up where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exapt.errors import ExaptError, RecipeError, did_you_mean, listed
from exapt.plugins import current
from exapt.recipe import HeadChoice, Recipe, TrainingOptions, parsed, read_recipe
from exapt.resolve import Chosen, Resolved, resolve
from exapt.searching.outcome import meaning
from exapt.searching.space import SINGULAR, Choices, Range, Space, place, settled

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_WHOLE = ("backbone", "tokenizer", "strategy", "strategies", "augmentation", "augmentations")
_SAME = {
    **dict.fromkeys(("data", "split", "target", "reference"), "trials on other rows cannot be compared"),
    "seed": "a seed that is chosen is luck that is kept",
    "training.metric": "trials that are measured by other metrics cannot be compared",
}
_COMPONENTS = (*_WHOLE, "head", "heads")
_BOUNDS = {"low", "high", "log"}
SECTION = "search"
"""Key of the space in the file of a recipe, or in a file of its own."""


def section_of(
    recipe: Recipe | Mapping[str, Any] | str | Path, space: Mapping[str, Any] | str | Path | None
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """Return a recipe as plain tables, and the section with its space: its own, or ``space``; None if nobody wrote any.

    Raises ``RecipeError`` for files that cannot be read, and if the space is written in two places.
    """
    given: Any
    if isinstance(recipe, Recipe):
        given = recipe.model_dump(mode="json", exclude_unset=True)
    else:
        given = recipe if isinstance(recipe, Mapping) else parsed(Path(recipe))
    if not isinstance(given, Mapping):
        raise RecipeError(f"recipe '{recipe}' holds no table of keys")
    plain = {key: value for key, value in given.items() if key != SECTION}
    if space is None:
        return plain, given.get(SECTION)
    if SECTION in given:
        raise RecipeError(
            "the space stands in the recipe, under [search], and is given beside it: leave one of them out"
        )
    if isinstance(space, Mapping):
        return plain, space
    if not Path(space).is_file():
        raise RecipeError(f"there is no file '{space}' with a space to search")
    section = parsed(Path(space))
    return plain, section.get(SECTION, section) if isinstance(section, Mapping) else section


def read_space(given: Mapping[str, Any], section: Any) -> Space:
    """Return the space of a recipe, as plain tables, and a section that names keys with choices or ranges.

    The recipe may lack what is searched. Every choice, and both ends of every range, are checked beside the first choices
    of the other keys. Raises ``RecipeError``, in one line, for keys that there are not or that stay as they are, for empty
    lists and ranges, and for choices that are no recipe.
    """
    if not isinstance(section, Mapping) or not section:
        raise RecipeError("search: there is nothing to choose from; name keys of the recipe with lists or ranges")
    flat = dict(_flat(section))
    for key, value in flat.items():
        _check_section(key)
        _check_shape(key, value)
    base = completed(given, flat)
    fields = _fields(base)
    for key in flat:
        _check_known(key, fields)
    _check_apart(base, flat)
    dimensions = {key: _dimension(key, value, fields[key]) for key, value in flat.items()}
    for key, one in dimensions.items():
        place(base, key, one.tried[0])
    space = Space(base, dimensions)
    checked = {key: _checked(space, key, one) for key, one in dimensions.items()}
    return Space(base, checked)


def default_section(resolved: Resolved, layers: int, top: int) -> dict[str, Any]:
    """Return what is searched where nobody said what: strategies, rates and layers.

    ``layers`` is how many layers there are to read, 0 if only one is, and ``top`` the one that heads read unless told. The
    rates span what probes, LoRA and full fine-tuning need.
    """
    strategies: list[Any] = ["probe", "full"]
    if layers:
        strategies += [{"name": "partial", "blocks": math.ceil(top / 3)}, {"name": "lora", "rank": 8}]
    section: dict[str, Any] = {
        "strategy": strategies,
        "training.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True},
        "training.head_learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
    }
    deep = sorted({math.ceil(top / 2), math.ceil(top * 3 / 4), top})
    # A head that poses its own questions reads the last layer and no other.
    asking = len(resolved.labels) < len(resolved.heads)
    if layers and len(deep) > 1 and not asking and "layer" not in resolved.recipe.model_fields_set:
        section["layer"] = deep
    return section


def _flat(section: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested tables with dots between; a table of bounds is a range and no place."""
    for name, value in section.items():
        key = f"{place}{name}"
        if isinstance(value, Mapping) and not (value.keys() & _BOUNDS):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _check_section(key: str) -> None:
    """Raise ``RecipeError`` for a key that no search may change, or that is in no recipe."""
    stays = next((why for name, why in _SAME.items() if f"{key}.".startswith(f"{name}.")), "")
    if stays:
        raise RecipeError(f"search: '{key}' stays as it is, for {stays}")
    known = _plain_fields()
    section, _, option = key.partition(".")
    if key in known or (option and section in _COMPONENTS):
        return
    _check_known(key, {**known, **dict.fromkeys(("head", "heads"))})


def _check_known(key: str, known: Mapping[str, Any]) -> None:
    if key in known:
        return
    section = key.partition(".")[0]
    near = [name for name in known if name.startswith(f"{section}.")] or list(known)
    raise RecipeError(f"search: unknown key '{key}'.{did_you_mean(key, known)} Known: {listed(near)}")


def _check_apart(base: Mapping[str, Any], keys: Collection[str]) -> None:
    """Raise ``RecipeError`` for two keys of one place, and for an option of what is itself chosen as a whole."""
    places: dict[str, str] = {}
    for key in keys:
        here = settled(base, key)
        if here in places:
            raise RecipeError(f"search: '{places[here]}' and '{key}' are one and the same: leave one of them out")
        places[here] = key
    for here, key in places.items():
        wholes = [other for there, other in places.items() if here.startswith(f"{there}.")]
        if wholes:
            raise RecipeError(
                f"search: '{key}' and '{wholes[0]}' change the same: write options beside the name of a choice, "
                '{name = "...", OPTION = ...}'
            )


def _check_shape(key: str, value: Any) -> None:
    """Raise ``RecipeError`` unless a value is a list with choices, or a range of which both ends are given."""
    if isinstance(value, Mapping):
        if key in _COMPONENTS:
            raise RecipeError(f"search.{key} is no number: give a list of choices in place of a range")
        unknown = sorted(value.keys() - _BOUNDS)
        if unknown:
            raise RecipeError(
                f"search.{key}: unknown key '{unknown[0]}'.{did_you_mean(unknown[0], _BOUNDS)} Known: {listed(_BOUNDS)}"
            )
        missing = sorted({"low", "high"} - value.keys())
        if missing:
            raise RecipeError(f"search.{key}: the range has no '{missing[0]}'")
    elif not isinstance(value, (list, tuple)):
        raise RecipeError(
            f"search.{key} is {value!r}: give a list of choices or a range, {{low = ..., high = ...}}; "
            "what is settled stands in the recipe"
        )
    elif not value:
        raise RecipeError(f"search.{key}: the list holds no choice")


def _dimension(key: str, value: Any, field: FieldInfo | None) -> Choices | Range:
    """Return choices, each once, or a range. Raises ``RecipeError`` for a range that holds nothing."""
    if not isinstance(value, Mapping):
        return Choices(tuple({json.dumps(one): one for one in value}.values()))
    low, high, log = value["low"], value["high"], value.get("log", False)
    kind = field.annotation if field is not None else None
    if kind not in (int, float):
        raise RecipeError(f"search.{key} is no number: give a list of choices in place of a range")
    fits = (int,) if kind is int else (int, float)
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, fits) or isinstance(bound, bool) or not math.isfinite(bound):
            raise RecipeError(f"search.{key}: {name} is {bound!r}, and no {'whole ' if kind is int else ''}number")
    if not isinstance(log, bool):
        raise RecipeError(f"search.{key}: log is {log!r}, and neither true nor false")
    if low >= high:
        raise RecipeError(f"search.{key}: low ({low}) is not below high ({high})")
    if log and low <= 0:
        raise RecipeError(f"search.{key}: low is {low}, which has no logarithm; leave log out")
    return Range(low, high, log, kind is int)


def _checked(space: Space, key: str, one: Choices | Range) -> Choices | Range:
    """Return the same choices, but of those that make one and the same recipe, such as 0 and 0.0, the first alone."""
    meanings: dict[str, Any] = {}
    for value in one.tried:
        try:
            recipe = space.recipe({key: value})
            meanings.setdefault(meaning(recipe), value)
        except ExaptError as error:
            raise RecipeError(f"search.{key}, {json.dumps(value)}: {error}") from None
    return Choices(tuple(meanings.values())) if isinstance(one, Choices) else one


def completed(given: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe as plain tables, with the first choice of each whole component in its place."""
    full = {key: value for key, value in given.items() if key != SECTION}
    for key in flat.keys() & {*SINGULAR, *SINGULAR.values()}:
        for other in (key, SINGULAR.get(key, ""), *(one for one, several in SINGULAR.items() if several == key)):
            full.pop(other, None)
    for key in flat.keys() & {"head", *_WHOLE}:
        if key != "head" or not (full.keys() & {"head", "heads"}):
            full[key] = flat[key][0]
    plain: dict[str, Any] = read_recipe(full).model_dump(mode="json", exclude_unset=True)
    return plain


@cache
def _plain_fields() -> dict[str, FieldInfo | None]:
    """Return the keys of every recipe that may be searched."""
    training = {f"training.{name}": field for name, field in TrainingOptions.model_fields.items() if name != "metric"}
    return {"layer": Recipe.model_fields["layer"], "start": None, "head": None, **dict.fromkeys(_WHOLE), **training}


def _fields(base: Mapping[str, Any]) -> dict[str, FieldInfo | None]:
    """Return the keys of a recipe that may be searched, with those of its components' options."""
    resolved = resolve(read_recipe(base), current())
    found = {**_plain_fields(), **_options("backbone", resolved.backbone), **_options("tokenizer", resolved.tokenizer)}
    if len(resolved.heads) > 1:
        # It stands for the only one.
        del found["head"]
    for name, head in resolved.heads.items():
        own = {f"heads.{name}": None, **_options(f"heads.{name}", head)}
        found |= {**own, f"heads.{name}.weight": HeadChoice.model_fields["weight"]}
        if len(resolved.heads) == 1:
            found |= _options("head", head)
    several = {"strategies": resolved.strategies, "augmentations": resolved.augmentations}
    for section, components in several.items():
        # By their names in the recipe, which may say whose a component is.
        for named, chosen in zip(getattr(resolved.recipe, section), components, strict=True):
            found |= _options(f"{section}.{named.name}", chosen)
    for one, many in SINGULAR.items():
        if len(base.get(many, ())) == 1:
            found |= _options(one, several[many][-1])
    return found


def _options(place: str, chosen: Chosen) -> dict[str, FieldInfo]:
    fields = type(chosen.options).model_fields
    return {f"{place}.{name}": field for name, field in fields.items() if name not in ("source", "revision")}
