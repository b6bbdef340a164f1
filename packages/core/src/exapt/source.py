"""What rows are made of anew: the values of inputs, changed at random in training and seen from other sides in answering.

Augmentations are a plugin's code: whatever they do against their contract is told as that plugin's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exapt.errors import DataError, ExaptError, PluginError
from exapt.features import encodings_digest
from exapt.parts import NO_UNIT, Array, Augmentation, Changed, Encoding

# Digits of a digest that seed a generator: 128 bits.
_DIGITS = 32


@dataclass(frozen=True)
class Held:
    """An augmentation, held to its contract. ``name`` says which one, and of which distribution."""

    name: str
    augmentation: Augmentation

    @property
    def trains(self) -> bool:
        """Whether it changes training inputs."""
        return self.augmentation.trains

    def change(self, value: Any, who: str, rng: np.random.Generator) -> Changed:
        """Return the input ``who``, changed at random. Raises ``PluginError`` if the augmentation fails."""
        return self._fit(self._called(lambda: self.augmentation.change(value, rng), who), who)

    def views(self, value: Any, who: str) -> list[Changed]:
        """Return the other views of the input ``who``. Raises ``PluginError`` if the augmentation fails."""
        return [self._fit(view, who) for view in self._called(lambda: list(self.augmentation.views(value)), who)]

    def _called(self, call: Callable[[], Any], who: str) -> Any:
        try:
            return call()
        except (ExaptError, MemoryError):
            raise
        # Whatever a plugin's code raises is that plugin's fault, with the cause kept for a traceback.
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise PluginError(f"{self.name} fails on '{who}': {said}") from error

    def _fit(self, changed: Any, who: str) -> Changed:
        if not isinstance(changed, Changed):
            raise self.unfit(who, f"returns {type(changed).__name__}, not Changed")
        units = changed.units
        if units is not None and not (isinstance(units, np.ndarray) and units.ndim == 1 and units.dtype.kind in "iu"):
            raise self.unfit(who, f"says where units come from with {_kind(units)}, not with an array of whole numbers")
        return changed

    def traced(self, units: Array | None, before: int, after: int, who: str) -> Array | None:
        """Return where the ``after`` units of an input come from. Raises ``PluginError`` if that cannot be."""
        if units is None:
            if before != after:
                raise self.unfit(who, f"makes {after} units of {before} and does not say where they come from")
            return None
        if len(units) != after:
            raise self.unfit(who, f"makes {after} units and says of {len(units)} where they come from")
        strange = units[(units != NO_UNIT) & ((units < 0) | (units >= before))]
        if len(strange):
            raise self.unfit(who, f"lets a unit come from {strange[0]}, and the input had {before}, from 0")
        return units

    def unfit(self, who: str, how: str) -> PluginError:
        """Return the error for an augmentation that breaks its contract over the input ``who``."""
        return PluginError(f"{self.name} breaks its contract on '{who}': it {how}")


def _kind(units: Any) -> str:
    return (
        f"an array of {units.dtype} in {units.ndim} dimensions"
        if isinstance(units, np.ndarray)
        else f"a {_type(units)}"
    )


def _type(value: Any) -> str:
    return type(value).__name__


@dataclass(frozen=True)
class Source:
    """What rows are made of anew: ``values`` of each input, one per row, and the ``numbers`` [rows] that chance goes by.

    ``encode(id, value)`` encodes a changed value of a row; ``limit`` is the most tokens that the model then takes, None
    where it takes any number.
    """

    ids: Sequence[str]
    values: Mapping[str, Sequence[Any]]
    numbers: Array
    encode: Callable[[str, Any], Encoding]
    limit: int | None
    augmentations: Sequence[Held]
    seed: int

    def subset(self, rows: Array) -> Source:
        """Return some rows."""
        values = {name: [given[row] for row in rows] for name, given in self.values.items()}
        return replace(self, ids=[self.ids[row] for row in rows], values=values, numbers=self.numbers[rows])

    @property
    def changes(self) -> bool:
        """Whether training rows are changed at random."""
        return any(augmentation.trains for augmentation in self.augmentations)

    def chance(self, row: int, epoch: int) -> np.random.Generator:
        """Return the generator of a row in an epoch of training."""
        return np.random.default_rng((self.seed, epoch, int(self.numbers[row])))

    def lasting(self, encoding: Encoding) -> np.random.Generator:
        """Return the generator of an input outside training: the same wherever, and beside whatever, it stands."""
        return np.random.default_rng((self.seed, int(encodings_digest([encoding])[:_DIGITS], 16)))

    def changed(self, name: str, row: int, rng: np.random.Generator, before: Encoding) -> tuple[Encoding, Array | None]:
        """Return an input, changed at random, and where its units [units] stood before (None: where they stand).

        A change that the model cannot read leaves the input as it was: letters that come in may be more unknown ones
        than are let pass, a point mutation can break a long word of the vocabulary in two, and nothing may be left.
        """
        value, units, who = self.values[name][row], None, self.ids[row]
        for augmentation in self.augmentations:
            step = augmentation.change(value, who, rng)
            value, units = step.value, _composed(augmentation, units, step.units, who)
        try:
            encoding = self.encode(who, value)
        except DataError:
            return before, None
        if not self._fits(encoding) or encoding.empty:
            return before, None
        return encoding, self.augmentations[-1].traced(units, before.length, encoding.length, who)

    def views(self, name: str, row: int, before: Encoding) -> list[list[tuple[Encoding, Array | None]]]:
        """Return, by augmentation, the other views of an input: encoded, and where their units [units] stand in it.

        Raises ``DataError`` for a view that is longer than the model takes.
        """
        who = self.ids[row]
        return [
            [self._view(augmentation, view, who, before) for view in augmentation.views(self.values[name][row], who)]
            for augmentation in self.augmentations
        ]

    def _view(self, held: Held, view: Changed, who: str, before: Encoding) -> tuple[Encoding, Array | None]:
        encoding = self.encode(who, view.value)
        if not self._fits(encoding):
            raise DataError(
                f"'{who}' has {encoding.tokens:,} tokens as an augmentation sees it, more than the {self.limit:,} that "
                "the model takes; shorten it"
            )
        return encoding, held.traced(view.units, before.length, encoding.length, who)

    def _fits(self, encoding: Encoding) -> bool:
        return self.limit is None or encoding.tokens <= self.limit


def _composed(held: Held, first: Array | None, second: Array | None, who: str) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    second = held.traced(second, len(first), len(second), who)
    assert second is not None
    return np.where(second == NO_UNIT, NO_UNIT, first[second])
