# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of an augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np

from exapt.errors import DataError
from exapt.parts import NO_UNIT, Array
from exapt.testing._augmentation_case import MOST_TRIES, AugmentationCase, Result, alike
from exapt.testing._check import Check, Faults

_PLACES = 24


def does_something(case: AugmentationCase) -> Faults:
    """It changes some training input if it says that it trains, and none if it says not; else it gives views."""
    acts = [(place, seeds[0]) for place, seeds in enumerate(case.acting) if seeds]
    if acts and not case.augmentation.trains:
        place, seed = acts[0]
        yield f"it says that it changes no training input, and changes input {place} under seed {seed}"
    if case.augmentation.trains and not acts:
        yield f"it says that it changes training inputs, and changes none in {MOST_TRIES} tries"
    if not case.augmentation.trains and not any(case.augmentation.views(value) for value in case.inputs):
        yield "it neither changes training inputs nor gives views"


def chance_from_the_generator(case: AugmentationCase) -> Faults:
    """All its chance comes from the generator that it is given: the same seed, the same change."""
    for place, value in enumerate(case.inputs):
        for seed in case.seeds(place):
            if not alike(case.change(value, seed), case.change(value, seed)):
                yield f"input {place} changes otherwise under the same seed {seed}"


def still_read(case: AugmentationCase) -> Faults:
    """What it makes of an input can be read."""
    for result in case.results():
        try:
            case.tokenizer.encode(result.changed.value)
        except DataError as error:
            yield f"{result.what} cannot be read: {error}"


def units_are_traced(case: AugmentationCase) -> Faults:
    """It says of each unit which one of the input it was; without a word, every unit has stayed in its place."""
    for result in case.results():
        what, units = result.what, result.changed.units
        before, after = (case.tokenizer.encode(one).length for one in (result.before, result.changed.value))
        if units is None:
            if before != after:
                yield f"{what} has {after} units after {before}, and it does not say where they come from"
        elif not (isinstance(units, np.ndarray) and units.ndim == 1 and units.dtype.kind in "iu"):
            yield f"{what}: it says where units come from with {_kind(units)}, not with an array of whole numbers"
        elif len(units) != after:
            yield f"{what} has {after} units, and it says of {len(units)} where they come from"
        elif ((units != NO_UNIT) & ((units < 0) | (units >= before))).any():
            yield f"{what}: a unit comes from {units.max()}, and the input had {before}, from 0"


def _kind(units: Any) -> str:
    if isinstance(units, np.ndarray):
        return f"an array of {units.dtype} in {units.ndim} dimensions"
    return f"a {type(units).__name__}"


def units_stand_where_it_says(case: AugmentationCase) -> Faults:
    """Another letter in the input makes a difference, if any, where it says that this letter went."""
    for result in case.results():
        before, after = result.before, result.changed.value
        texts = isinstance(before, str) and isinstance(after, str)
        if not texts or len(after) != case.tokenizer.encode(after).length:
            continue
        units = np.arange(len(after)) if result.changed.units is None else result.changed.units
        seen = {at: units[_different(case, result, at)] for at in _some(len(before))}
        wrong = [at for at, said in seen.items() if (said != NO_UNIT).any() and not (said == at).any()]
        # Chance that depends on the letters may move a few of them: only a rule that mostly fails is a wrong one.
        if 2 * len(wrong) > sum(len(said) > 0 for said in seen.values()):
            yield f"{result.what}: another letter at {wrong[0]}, from 0, makes a difference elsewhere than it says"


def _some(units: int) -> list[int]:
    return np.unique(np.linspace(0, units - 1, min(units, _PLACES)).astype(int)).tolist() if units else []


def _different(case: AugmentationCase, result: Result, at: int) -> Array:
    """Return the places [places] of a result where another letter of the input makes a difference."""
    before, after = result.before, result.changed.value
    for letter in case.letters:
        other = result.again(before[:at] + letter + before[at + 1 :]).value if letter != before[at] else ""
        if len(other) == len(after):
            return np.flatnonzero([one != two for one, two in zip(after, other, strict=True)])
    return np.empty(0, dtype=int)


def views_are_others(case: AugmentationCase) -> Faults:
    """Views are the same each time, as many of each input, and none is the input itself for all of them."""
    views = [case.augmentation.views(value) for value in case.inputs]
    again = [case.augmentation.views(value) for value in case.inputs]
    counts = sorted({len(some) for some in views})
    if len(counts) > 1:
        yield f"it gives {counts[0]} views of one input and {counts[-1]} of another"
    elif not alike(views, again):
        yield "it gives other views when it is asked again"
    elif any(
        all(alike(some[number].value, value) for some, value in zip(views, case.inputs, strict=True))
        for number in range(counts[0])
    ):
        yield "a view is the input itself, which is averaged over anyway"


AUGMENTATION_CHECKS: tuple[Check[AugmentationCase], ...] = (
    Check("does-something", "features kept although inputs change, or the other way round", does_something),
    Check("chance-from-the-generator", "runs that cannot be repeated or resumed", chance_from_the_generator),
    Check("still-read", "a change that leaves the alphabet", still_read),
    Check("units-are-traced", "labels per unit that stay behind when units move", units_are_traced),
    Check("units-stand-where-it-says", "labels of other units learned as those of these", units_stand_where_it_says),
    Check("views-are-others", "averages over unequal or doubled views", views_are_others),
)
