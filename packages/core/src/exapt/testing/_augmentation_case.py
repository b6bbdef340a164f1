"""An augmentation under test, with inputs and the tokenizer that is to read them before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from exapt.parts import Augmentation, Changed, Tokenizer
from exapt.specs import AugmentationSpec, Options, TokenizerSpec

TRIES, MOST_TRIES = 20, 1000


@dataclass(frozen=True)
class Result:
    """What became of an input ``before``; ``again`` makes the same of another. ``what`` is it for a message."""

    what: str
    before: Any
    changed: Changed
    again: Callable[[Any], Changed]


@dataclass(frozen=True)
class AugmentationCase:
    """An augmentation, inputs that it may change, and the tokenizer that is to read them before and after."""

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

    @cached_property
    def acting(self) -> list[list[int]]:
        """The first seeds, by input, under which it changes the input, among as many as are tried."""
        return [self._acting(value) for value in self.inputs]

    def _acting(self, value: Any) -> list[int]:
        found = []
        for seed in range(MOST_TRIES):
            if not alike(self.change(value, seed).value, value):
                found.append(seed)
            if len(found) == TRIES:
                break
        return found

    def seeds(self, place: int) -> list[int]:
        """Return the seeds under which an input is looked at: the first ones, and the first ones that change it."""
        return sorted({*range(TRIES), *self.acting[place]})

    @cached_property
    def letters(self) -> list[str]:
        """All letters of the inputs that are texts."""
        return sorted({letter for value in self.inputs if isinstance(value, str) for letter in value})

    def results(self) -> Iterator[Result]:
        """Yield what becomes of each input."""
        for place, value in enumerate(self.inputs):
            for seed in self.seeds(place):
                change = partial(self.change, seed=seed)
                yield Result(f"input {place} under seed {seed}", value, change(value), change)
            for number, view in enumerate(self.augmentation.views(value)):
                yield Result(f"view {number} of input {place}", value, view, partial(self._view, number))

    def _view(self, number: int, value: Any) -> Changed:
        return self.augmentation.views(value)[number]


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are the same by what they hold: arrays, records and lists of them too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    if is_dataclass(one) and not isinstance(one, type):
        return all(alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    # A record that does not say when two of it are equal is what it holds.
    if hasattr(one, "__dict__") and not any("__eq__" in vars(kind) for kind in type(one).__mro__[:-1]):
        return alike(vars(one), vars(other))
    return bool(np.all(one == other))
