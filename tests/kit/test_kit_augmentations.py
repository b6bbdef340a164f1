"""Each check of an augmentation fails on an augmentation that was made to have the fault."""

import itertools

import numpy as np
import pytest

from exapt import AugmentationSpec, TokenizerSpec
from exapt.parts import NO_UNIT, Augmentation, Changed
from exapt.testing import CHECKS, ConformanceError, check_augmentation
from exapt.testing.tiny import Letters

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


class NoWord(Backwards):
    """Turns its units round and says that they stayed."""

    def turned(self, value):
        return Changed(value[::-1])


class Stayed(Backwards):
    def turned(self, value):
        return Changed(value[::-1], np.arange(len(value)))


class AllFromOne(Backwards):
    """Tells the truth in training, and traces every unit of a view to the first."""

    def views(self, value):
        return (Changed(value[::-1], np.zeros(len(value), dtype=int)),)


class RarelyWrong(Backwards):
    def change(self, value, rng):
        return Changed(value[::-1]) if rng.random() < 0.01 else Changed(value)


class InFractions(Backwards):
    def turned(self, value):
        return Changed(value[::-1], np.arange(len(value))[::-1].astype(float))


class InAList(Backwards):
    def turned(self, value):
        return Changed(value[::-1], list(range(len(value)))[::-1])


class OtherInTheMiddle(Backwards):
    """Traces long inputs otherwise each time, at a place that a printed array leaves out."""

    turns = itertools.count()

    def turned(self, value):
        units = np.arange(len(value))[::-1].copy()
        units[len(value) // 2] = next(self.turns) % len(value)
        return Changed(value[::-1], units)


class Rare(Backwards):
    """Keeps every promise, and seldom does anything."""

    def change(self, value, rng):
        return self.turned(value) if rng.random() < 0.01 else Changed(value)


class Substitutes(Augmentation):
    """A share of the letters is another one; what is drawn depends on the letters."""

    def __init__(self, rate):
        self.rate = rate

    def change(self, value, rng):
        return Changed("".join(self._other(letter, rng) for letter in value))

    def _other(self, letter, rng):
        if letter == "K" or rng.random() > self.rate:
            return letter
        return rng.choice(sorted(set("ACDEFG") - {letter}))


class Window(Augmentation):
    """Loses letters at one end and gains unknown ones at the other."""

    def change(self, value, rng):
        by = int(rng.integers(0, 3))
        units = np.concatenate([np.arange(by, len(value)), np.full(by, NO_UNIT)])
        return Changed(value[by:] + "X" * by, units)


class Record:
    """An input that is no text, and does not say when two of it are equal."""

    def __init__(self, values):
        self.values = values


class Scales(Augmentation):
    """Measures another half of the time in another unit."""

    def change(self, value, rng):
        return Changed(Record(value.values * (1 + rng.integers(2))))


class Itself(Backwards):
    def views(self, value):
        return (*super().views(value), Changed(value))


def of(kind):
    return AugmentationSpec(name="backwards", summary="Read backwards.", build=lambda _options: kind())


FAULTS = [
    (Hides, "does-something: it says that it changes no training input, and changes input 0 under seed 2"),
    (NeverTurns, "does-something: it says that it changes training inputs, and changes none in 1000 tries"),
    (Idle, "does-something: it neither changes training inputs nor gives views"),
    (OwnChance, "chance-from-the-generator: input 0 changes otherwise under the same seed 4"),
    (
        Stars,
        "still-read: input 0 under seed 0 cannot be read: position 1 holds '*', which is not a letter from A to Z",
    ),
    (Shifts, "units-are-traced: input 0 under seed 2 has 9 units after 10, and it does not say where they come from"),
    (ShiftsHalf, "units-are-traced: input 0 under seed 2 has 9 units, and it says of 10 where they come from"),
    (FromAfar, "units-are-traced: input 0 under seed 2: a unit comes from 12, and the input had 10, from 0"),
    (
        InFractions,
        "units-are-traced: input 0 under seed 2: it says where units come from with an array of float64 in 1 dimensions, "
        "not with an array of whole numbers",
    ),
    (
        InAList,
        "units-are-traced: input 0 under seed 2: it says where units come from with a list, not with an array of whole "
        "numbers",
    ),
    (
        NoWord,
        "units-stand-where-it-says: input 0 under seed 2: another letter at 0, from 0, makes a difference elsewhere than "
        "it says",
    ),
    (
        Stayed,
        "units-stand-where-it-says: input 0 under seed 2: another letter at 0, from 0, makes a difference elsewhere than "
        "it says",
    ),
    (
        AllFromOne,
        "units-stand-where-it-says: view 0 of input 0: another letter at 1, from 0, makes a difference elsewhere than "
        "it says",
    ),
    (
        RarelyWrong,
        "units-stand-where-it-says: input 0 under seed 34: another letter at 0, from 0, makes a difference elsewhere "
        "than it says",
    ),
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


@pytest.mark.parametrize(
    "kind", [Rare, Window, *(lambda rate=rate: Substitutes(rate) for rate in (0.05, 0.5, 1))], ids=lambda kind: ""
)
def test_a_correct_augmentation_of_another_kind_keeps_every_promise(kind):
    check_augmentation(of(kind), inputs=INPUTS)


def test_arrays_are_compared_to_the_last_of_their_values():
    with pytest.raises(ConformanceError) as caught:
        check_augmentation(of(OtherInTheMiddle), inputs=["MKTAY" * 300])
    assert str(caught.value) == (
        "augmentation 'backwards' fails chance-from-the-generator: input 0 changes otherwise under the same seed 2"
    )


class Measured(Letters):
    """Reads a record by its values."""

    def encode(self, value):
        return super().encode("A" * len(value.values))


def test_inputs_need_not_be_texts():
    measured = TokenizerSpec(name="measured", summary="Values.", build=lambda _options: Measured())
    check_augmentation(of(Scales), inputs=[Record(np.arange(3.0))], tokenizer=measured)


def test_every_check_of_an_augmentation_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["augmentation"]}
