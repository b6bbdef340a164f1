"""A range test of learning rates: which rate suits what learns, told from a few steps with ever higher ones.

Smith (2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186). Heads are tested under a backbone
that stays still. What learns in the backbone is tested after that, under heads that have learned at the rate found for
them, so that the loss tells of the backbone and not of heads that know nothing yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from exapt.building import build_strategies
from exapt.data.files import open_writer
from exapt.errors import DataError, RecipeError
from exapt.events import Event, Listener, Run, Stopped
from exapt.pictures import Panel, check_picture, save_curves
from exapt.plugins import current
from exapt.recipe import Recipe, read_recipe
from exapt.resolve import resolve
from exapt.specs import Options
from exapt.training import run

Floats = npt.NDArray[np.float64]

KEYS = {"heads": "training.head_learning_rate", "backbone": "training.learning_rate"}
"""Where in a recipe stands the rate of what was tested."""
# Losses of single steps jump from batch to batch: each is averaged with its neighbours, by a bell of this share of all.
_BELL = 0.06
_LAG = 0.9
_SETTLED = 8


class RangeOptions(Options):
    """The rates that are tried, and how one of them is chosen."""

    steps: int = Field(100, ge=20, description="Steps of each test, from the lowest rate to the highest.")
    low: float = Field(1e-7, gt=0, description="The lowest rate.")
    high: float = Field(1.0, gt=0, description="The highest rate; a test ends before it where the loss diverges.")
    rule: Literal["steepest", "divergence"] = Field(
        "steepest",
        description="Which rate is suggested: where the loss falls fastest, or a tenth of that at which it diverges.",
    )

    @model_validator(mode="after")
    def _upwards(self) -> RangeOptions:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        return self

    @property
    def rates(self) -> Floats:
        """The rates [steps], evenly spaced in their logarithm."""
        return np.geomspace(self.low, self.high, self.steps)


@dataclass(frozen=True)
class Curve:
    """One test, of the ``heads`` or of what learns in the ``backbone``: loss and smoothed loss [steps] by rate [steps].

    ``suggestion`` is the rate that ``rule`` chose; None, with no rule, if the loss neither fell nor diverged.
    """

    part: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    suggestion: float | None
    rule: str

    @property
    def says(self) -> str:
        """The rule, in words."""
        told = {
            "steepest": "where the loss falls fastest",
            "divergence": f"a tenth of {self.rates[-1]:.2g}, where the loss diverges",
        }
        return told.get(self.rule, f"none: the loss neither falls nor diverges from {self.rates[0]:.2g} on")


@dataclass(frozen=True)
class Rates:
    """The outcome of a range test."""

    curves: tuple[Curve, ...]

    @property
    def suggestions(self) -> dict[str, float]:
        """The rates that are suggested, by their keys in a recipe."""
        return {KEYS[curve.part]: curve.suggestion for curve in self.curves if curve.suggestion is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "suggestions": self.suggestions,
            "curves": [{**vars(curve), "says": curve.says} for curve in self.curves],
        }

    def table(self) -> pa.Table:
        """Return one row a step: part, step (from 1), rate, loss and smoothed loss."""
        return pa.table(
            {
                "part": pa.array([curve.part for curve in self.curves for _ in curve.rates], pa.string()),
                "step": pa.array(
                    [step for curve in self.curves for step in range(1, len(curve.rates) + 1)], pa.int64()
                ),
                **{
                    name: pa.array([value for curve in self.curves for value in getattr(curve, many)], pa.float64())
                    for name, many in (("rate", "rates"), ("loss", "losses"), ("smoothed", "smoothed"))
                },
            }
        )


def find_rates(
    recipe: Recipe,
    options: RangeOptions,
    *,
    out: Path | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Rates:
    """Test the rates of a recipe on its training part; nothing that is learned is kept.

    ``out`` is a file for the table, ``picture`` one for the curves. Raises ``RecipeError`` or ``OutputError`` before any
    training for what cannot be run or written.
    """
    if picture is not None:
        check_picture(picture, overwrite)
    if out is not None:
        open_writer(out, overwrite=overwrite)
    found = Rates(tuple(_curves(recipe, options, device, listeners)))
    if out is not None:
        with open_writer(out, overwrite=overwrite) as writer:
            for batch in found.table().to_batches():
                writer.write(batch)
    if picture is not None:
        draw(found, picture, recipe.backbone.name, overwrite)
    return found


def _curves(recipe: Recipe, options: RangeOptions, device: str, listeners: Sequence[Listener]) -> Iterator[Curve]:
    tested, rate = _tested(recipe), recipe.training.head_learning_rate
    heads = _Sweep("heads", options)
    heads.run(tested, device, listeners)
    if not heads.there:
        raise RecipeError(
            "nothing learns by steps here, so that no rate suits it: the backbone rests, and the heads are fitted once"
        )
    if "heads" in heads.there:
        curve = heads.curve()
        rate = curve.suggestion or rate
        yield curve
    if "backbone" in heads.there:
        # What heads left to fall is little: set against the same steps of a model at rest, it is seen among hard and easy
        # batches.
        resting = _Sweep("backbone", options, rate, rests=True)
        resting.run(tested, device, listeners)
        backbone = _Sweep("backbone", options, rate, resting.losses)
        backbone.run(tested, device, listeners)
        yield backbone.curve()


def _tested(recipe: Recipe) -> Recipe:
    """Return the recipe with peak rates of 1, so that the schedule holds the rates themselves, and no end of its own.

    Strategies that put other weights in place when training is over are left out: a test is over before that.
    """
    resolved = resolve(recipe, current())
    built = build_strategies(resolved).values()
    strategies = [
        named.model_dump()
        for named, strategy in zip(resolved.recipe.strategies, built, strict=True)
        if not strategy.replaces
    ]
    training = recipe.training.model_dump(exclude_unset=True)
    training |= {"learning_rate": 1.0, "head_learning_rate": 1.0, "patience": 0, "metric": "", "checkpoint_steps": 0}
    # Of the strategies' own, where the recipe says none.
    training |= {"epochs": resolved.training.epochs}
    return read_recipe({**recipe.model_dump(exclude_unset=True), "strategies": strategies, "training": training})


class _Sweep:
    """One test: the schedule of its rates, and a listener that hears the losses and ends the run.

    ``resting`` [steps] are the losses of the same steps without any learning, if they are known.
    """

    def __init__(
        self,
        part: str,
        options: RangeOptions,
        head_rate: float = 0.0,
        resting: Sequence[float] = (),
        rests: bool = False,
    ) -> None:
        self.part, self.options, self.head_rate, self.rests = part, options, head_rate, rests
        self.resting = np.array(resting) if resting else np.zeros(options.steps)
        # Heads learn first, and then rest: what the loss does is the backbone's doing.
        self.first = 0 if part == "heads" else options.steps // 2
        self.losses: list[float] = []
        self.there: set[str] = set()
        self.diverged = False
        self._lagging: list[float] = []

    def schedule(self, step: int, backbone: bool) -> float:
        """Return the rate at a step (from 0): of what is tested the next higher one; the rest stays as it is."""
        part = "backbone" if backbone else "heads"
        self.there.add(part)
        place = min(step - self.first, self.options.steps - 1)
        if part == self.part and place >= 0:
            return 0.0 if self.rests else float(self.options.rates[place])
        return self.head_rate if part == "heads" and place < 0 else 0.0

    def run(self, recipe: Recipe, device: str, listeners: Sequence[Listener]) -> None:
        """Train until the last rate, or until the loss diverges."""
        # There is at least one step in an epoch, and the listener ends the run; what strategies do in later epochs fits in.
        epochs = max(recipe.training.epochs, self.first + self.options.steps)
        training = recipe.training.model_copy(update={"epochs": epochs})
        tested = recipe.model_copy(update={"training": training})
        try:
            run(tested, device=device, listeners=[*listeners, self], parts=("train",), schedule=self.schedule)
        except Stopped:
            return
        except DataError:
            # A loss that is no number any more is where it diverged; without any, the data are at fault.
            if not self.losses:
                raise
            self.diverged = True

    def __call__(self, run: Run, event: Event) -> None:
        """Note the loss of a step."""
        if event.name != "step" or event.facts["step"] <= self.first:
            return
        self.losses.append(event.facts["loss"])
        change = self.losses[-1] - float(self.resting[len(self.losses) - 1])
        before = self._lagging[-1] if self._lagging else change
        self._lagging.append(_LAG * before + (1 - _LAG) * change)
        self.diverged = self._is_over()
        if self.diverged or len(self.losses) == self.options.steps:
            raise Stopped(self.part)

    def _is_over(self) -> bool:
        """Whether the loss, by its lagging mean, is above where it began and four times as high as it was at its best."""
        if len(self.losses) <= _SETTLED or self.rests:
            return False
        level = float(self.resting.mean())
        start, best, now = (
            level + value for value in (self._lagging[_SETTLED - 1], min(self._lagging), self._lagging[-1])
        )
        return now > start and now > best + 3 * max(abs(best), 0.1 * abs(start - best))

    def curve(self) -> Curve:
        """Return what was heard, smoothed, and the rate that it suggests."""
        rates, losses = self.options.rates[: len(self.losses)], np.array(self.losses)
        width, change = _BELL * self.options.steps, losses - self.resting[: len(self.losses)]
        even = smoothed(change, width)
        steepest = suggested(rates, change, even, width) if self.options.rule == "steepest" else None
        rule, suggestion = ("steepest", steepest) if steepest else ("", None)
        if not steepest and self.diverged:
            rule, suggestion = "divergence", float(rates[-1]) / 10
        return Curve(
            self.part,
            tuple(rates.tolist()),
            tuple(self.losses),
            tuple((even + self.resting.mean()).tolist()),
            self.diverged,
            suggestion,
            rule,
        )


def smoothed(values: Floats, width: float) -> Floats:
    """Return ``values`` [steps], each averaged with its neighbours under a bell of ``width`` steps."""
    places = np.arange(len(values))
    bells = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    even: Floats = bells @ values / bells.sum(1)
    return even


def suggested(rates: Floats, losses: Floats, even: Floats, width: float) -> float | None:
    """Return the rate of ``rates`` [steps] at which the smoothed losses ``even`` [steps] fall fastest; None if they do not.

    Only what lies below all before it is a fall: losses jump up, and come back, where a rate is too high. What is no more
    than the noise of ``losses`` [steps] under a bell of ``width`` steps is none.
    """
    lowest, low = np.minimum.accumulate(even), int(even.argmin()) + 1
    noise = float((losses - even)[:low].std()) / math.sqrt(2 * math.sqrt(math.pi) * width)
    if low <= _SETTLED or lowest[0] - lowest[-1] <= 2 * noise:
        return None
    slopes = np.gradient(lowest, np.log10(rates))
    # The first steep fall: where a rate is too high already, a loss may jump and fall once more.
    steep = slopes <= slopes.min() / 2
    start = int(steep.argmax())
    stop = start + int((~steep[start:]).argmax() or len(steep) - start)
    return float(rates[start + slopes[start:stop].argmin()])


def draw(found: Rates, picture: Path, title: str, overwrite: bool = False) -> None:
    """Save a picture of the curves, one panel each, the suggested rate marked."""
    panels = [Panel(curve.part, curve.rates, curve.losses, curve.smoothed, curve.suggestion) for curve in found.curves]
    save_curves(picture, panels, title=title, across="learning rate", up="loss", overwrite=overwrite)
