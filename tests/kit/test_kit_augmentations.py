"""Each check of an augmentation fails on an augmentation that was made to have the fault."""

import itertools

import numpy as np
import pytest

from exapt import AugmentationSpec
from exapt.parts import NO_UNIT, Augmentation, Changed
from exapt.testing import CHECKS, ConformanceError, check_augmentation

INPUTS = ["MKTAYIAKQR", "ACDEF", "GLWSKIKEVG"]


class Backwards(Augmentation):
    """Reads backwards, half of the time in training, and as a view."""

    def change(self, value, rng):
        return self.turned(value) if rng.random() < 0.5 else Changed(value)

    def views(self, value):
        return (self.turned(value),)

    def turned(self, value):
        return Changed(value[::-1], np.arange(len(value))[::-1])


class Hides(Backwards):
    trains = False


class NeverTurns(Backwards):
    def change(self, value, rng):
        return Changed(value)


class Idle(NeverTurns):
    trains = False

    def views(self, value):
        return ()


class OwnChance(Backwards):
    rng = np.random.default_rng(0)

    def change(self, value, rng):
        return super().change(value, self.rng)


class Stars(Backwards):
    def change(self, value, rng):
        return Changed("*" + value[1:])


class Shifts(Backwards):
    def turned(self, value):
        return Changed(value[1:])


class ShiftsHalf(Backwards):
    def turned(self, value):
        return Changed(value[1:], np.arange(len(value)))


class FromAfar(Backwards):
    def turned(self, value):
        return Changed(value[::-1], np.arange(len(value)) + 3)


class SomeViews(Backwards):
    def views(self, value):
        return super().views(value) * (1 + (len(value) > 5))


class OtherViews(Backwards):
    turns = itertools.count()

    def views(self, value):
        at = next(self.turns) % 5
        return (Changed(value[at:] + value[:at], np.full(len(value), NO_UNIT)),)


class Itself(Backwards):
    def views(self, value):
        return (*super().views(value), Changed(value))


def of(kind):
    return AugmentationSpec(name="backwards", summary="Read backwards.", build=lambda _options: kind())


FAULTS = [
    (Hides, "does-something: it says that it changes no training input, and changes 21 of 60"),
    (NeverTurns, "does-something: it says that it changes training inputs, and changes none in 20 tries"),
    (Idle, "does-something: it neither changes training inputs nor gives views"),
    (OwnChance, "chance-from-the-generator: input 0 changes otherwise under the same seed 1"),
    (
        Stars,
        "still-read: input 0 under seed 0 cannot be read: position 1 holds '*', which is not a letter from A to Z",
    ),
    (Shifts, "units-are-traced: input 0 under seed 2 has 9 units after 10, and it does not say where they come from"),
    (ShiftsHalf, "units-are-traced: input 0 under seed 2 has 9 units, and it says of 10 where they come from"),
    (FromAfar, "units-are-traced: input 0 under seed 2: a unit comes from 12, and the input had 10, from 0"),
    (SomeViews, "views-are-others: it gives 1 views of one input and 2 of another"),
    (OtherViews, "views-are-others: it gives other views when it is asked again"),
    (Itself, "views-are-others: a view is the input itself, which is averaged over anyway"),
]


@pytest.mark.parametrize(("kind", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_augmentation_with_a_fault_is_told_of_it(kind, message):
    with pytest.raises(ConformanceError) as caught:
        check_augmentation(of(kind), inputs=INPUTS)
    assert str(caught.value) == f"augmentation 'backwards' fails {message}"


def test_an_augmentation_may_keep_every_promise():
    check_augmentation(of(Backwards), inputs=INPUTS)


def test_every_check_of_an_augmentation_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["augmentation"]}
