# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of an augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from exapt.errors import DataError
from exapt.parts import NO_UNIT, Augmentation, Changed, Tokenizer
from exapt.specs import AugmentationSpec, Options, TokenizerSpec
from exapt.testing._check import Check, Faults

_TRIES = 20


@dataclass(frozen=True)
class AugmentationCase:
    """An augmentation under test, with inputs and the tokenizer that is to read them before and after."""

    spec: AugmentationSpec
    options: Options
    tokenizer_spec: TokenizerSpec
    tokenizer_options: Options
    inputs: Sequence[Any]

    @cached_property
    def augmentation(self) -> Augmentation:
        """The augmentation, built once."""
        return self.spec.build(self.options)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built once."""
        return self.tokenizer_spec.build(self.tokenizer_options)

    def change(self, value: Any, seed: int) -> Changed:
        """Return an input, changed by the chance of a seed."""
        return self.augmentation.change(value, np.random.default_rng(seed))

    def results(self) -> Iterator[tuple[str, Any, Changed]]:
        """Yield what becomes of each input, with what a message calls it, and the input."""
        for place, value in enumerate(self.inputs):
            yield from ((f"input {place} under seed {seed}", value, self.change(value, seed)) for seed in range(_TRIES))
            for number, view in enumerate(self.augmentation.views(value)):
                yield f"view {number} of input {place}", value, view


def _alike(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def does_something(case: AugmentationCase) -> Faults:
    """It changes some training input if it says that it trains, and none if it says not; else it gives views."""
    changed = sum(not _alike(case.change(value, seed).value, value) for value in case.inputs for seed in range(_TRIES))
    if changed and not case.augmentation.trains:
        yield f"it says that it changes no training input, and changes {changed} of {_TRIES * len(case.inputs)}"
    if case.augmentation.trains and not changed:
        yield f"it says that it changes training inputs, and changes none in {_TRIES} tries"
    if not case.augmentation.trains and not any(case.augmentation.views(value) for value in case.inputs):
        yield "it neither changes training inputs nor gives views"


def chance_from_the_generator(case: AugmentationCase) -> Faults:
    """All its chance comes from the generator that it is given: the same seed, the same change."""
    for place, value in enumerate(case.inputs):
        for seed in range(_TRIES):
            if not _alike(case.change(value, seed), case.change(value, seed)):
                yield f"input {place} changes otherwise under the same seed {seed}"


def still_read(case: AugmentationCase) -> Faults:
    """What it makes of an input can be read."""
    for what, _, result in case.results():
        try:
            case.tokenizer.encode(result.value)
        except DataError as error:
            yield f"{what} cannot be read: {error}"


def units_are_traced(case: AugmentationCase) -> Faults:
    """It says of each unit which one of the input it was; without a word, every unit has stayed in its place."""
    for what, value, result in case.results():
        before, after = (case.tokenizer.encode(one).length for one in (value, result.value))
        if result.units is None:
            if before != after:
                yield f"{what} has {after} units after {before}, and it does not say where they come from"
        elif len(result.units) != after:
            yield f"{what} has {after} units, and it says of {len(result.units)} where they come from"
        elif ((result.units != NO_UNIT) & ((result.units < 0) | (result.units >= before))).any():
            yield f"{what}: a unit comes from {result.units.max()}, and the input had {before}, from 0"


def views_are_others(case: AugmentationCase) -> Faults:
    """Views are the same each time, as many of each input, and none is the input itself for all of them."""
    views = [case.augmentation.views(value) for value in case.inputs]
    again = [case.augmentation.views(value) for value in case.inputs]
    counts = sorted({len(some) for some in views})
    if len(counts) > 1:
        yield f"it gives {counts[0]} views of one input and {counts[-1]} of another"
    elif not _alike(views, again):
        yield "it gives other views when it is asked again"
    elif any(
        all(_alike(some[number].value, value) for some, value in zip(views, case.inputs, strict=True))
        for number in range(counts[0])
    ):
        yield "a view is the input itself, which is averaged over anyway"


AUGMENTATION_CHECKS: tuple[Check[AugmentationCase], ...] = (
    Check("does-something", "features kept although inputs change, or the other way round", does_something),
    Check("chance-from-the-generator", "runs that cannot be repeated or resumed", chance_from_the_generator),
    Check("still-read", "a change that leaves the alphabet", still_read),
    Check("units-are-traced", "labels per unit that stay behind when units move", units_are_traced),
    Check("views-are-others", "averages over unequal or doubled views", views_are_others),
)
