"""Did the teacher help? Teacher, student, and the student without a teacher, by metric, size and speed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exapt.adapted import Adapted
from exapt.adapter import check_free
from exapt.comparison import Contender, Difference, paired_difference
from exapt.data.tables import Examples
from exapt.errors import DataError, RecipeError, listed
from exapt.events import Event, Listener, Run
from exapt.labelled import Table
from exapt.loading import load
from exapt.plugins import current
from exapt.recipe import Component, Recipe, read_recipe
from exapt.resolve import resolve
from exapt.tasks import read_table
from exapt.training import run

STRATEGY = "distillation"
TEACHER, STUDENT, ALONE = "teacher", "student", "student alone"
_TIMED, _ROWS = 3, 128


@dataclass(frozen=True)
class Contestant:
    """One model: its test metric by seed, all its parameters, and seconds of time for a thousand inputs."""

    name: str
    backbone: str
    values: tuple[float, ...]
    parameters: int
    seconds: float

    @property
    def mean(self) -> float:
        """The mean metric."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Distilled:
    """The outcome of ``exapt distil``; ``gain`` is the student minus the student alone, over paired seeds, if several."""

    metric: str
    seeds: tuple[int, ...]
    contestants: tuple[Contestant, ...]
    gain: Difference | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "metric": self.metric,
            "seeds": list(self.seeds),
            "contestants": [{**vars(one), "values": list(one.values), "mean": one.mean} for one in self.contestants],
            "gain": vars(self.gain) if self.gain else None,
        }


def distil(
    recipe: Recipe,
    out: Path | None = None,
    *,
    seeds: Sequence[int] = (),
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Distilled:
    """Train a student with its teacher and without, and measure all three on the test part; the first seed's student is kept.

    Raises ``RecipeError`` if the recipe has no distillation, several heads, or no test part.
    """
    numbers = tuple(seeds) or (recipe.seed,)
    if len(set(numbers)) < len(numbers):
        raise RecipeError("each seed may come once only: the same run twice tells nothing of luck")
    teacher = load(_teacher(recipe), device=device)
    if out is not None:
        check_free(out)
    table = read_table(resolve(recipe, current()))
    test = table.examples.take(table.split.test)
    if not len(test):
        raise RecipeError("teacher and student are compared on a test part: give split.column or split.fractions one")
    answered = _answered(teacher, recipe, test)
    for line in _warned(teacher, recipe, table):
        _tell(listeners, line)
    students: list[Adapted] = []
    alone: list[Adapted] = []
    for seed in numbers:
        paired = read_recipe({**recipe.model_dump(exclude_unset=True), "seed": seed})
        for name, found, one in ((STUDENT, students, paired), (ALONE, alone, without_teacher(paired))):
            _tell(listeners, f"{name}, seed {seed}")
            found.append(run(one, device=device, listeners=listeners))
    if out is not None:
        students[0].save(out)
    return _judged(teacher, answered, students, alone, test, numbers)


def _answered(teacher: Adapted, recipe: Recipe, test: Examples) -> dict[str, float]:
    """Return the metrics of the teacher's head that asks what the recipe's asks."""
    ((name, _),) = recipe.heads.items()
    labelled = [other for other in teacher.model.heads if teacher.model.head(other).labelled]
    other = name if name in labelled else labelled[0] if len(labelled) == 1 else ""
    if not other:
        raise RecipeError(f"the teacher has no head '{name}', only {listed(labelled)}: call them alike")
    try:
        report = teacher.evaluate(replace(test, labels={other: test.labels[name]}))["all"]
    except DataError as error:
        raise DataError(f"the teacher, on {teacher.name}: {error}") from None
    return {metric.removeprefix(f"{other}."): value for metric, value in report.items()}


def _warned(teacher: Adapted, recipe: Recipe, table: Table) -> list[str]:
    """Say so if the teacher may have learned from rows that it is measured on."""
    learned, facts = teacher.manifest["recipe"], teacher.manifest["data"]
    same = json.loads(recipe.split.model_dump_json()) == learned["split"] and recipe.seed == learned["seed"]
    if facts["sha256"] == table.facts["sha256"] and same:
        return []
    return [
        "the teacher was trained on another table, or on other parts of this one: rows of the test part that it learned from "
        "make it, and what it teaches, look better than it is"
    ]


def _teacher(recipe: Recipe) -> str:
    resolved = resolve(recipe, current())
    found = [chosen.options for chosen in resolved.strategies if chosen.offer.spec.name == STRATEGY]
    if not found:
        raise RecipeError(
            f"the recipe names no teacher: put the strategy '{STRATEGY}' into it, with teacher = an adapter"
        )
    if len(recipe.heads) > 1:
        raise RecipeError("distil compares answers to one question: give a recipe with one head")
    return str(found[0].model_dump()["teacher"])


def without_teacher(recipe: Recipe) -> Recipe:
    """Return the same recipe without its teacher."""
    # Resolved, so that what learns is named even where the teacher stood alone.
    named = resolve(recipe, current()).recipe.strategies
    return recipe.model_copy(update={"strategies": tuple(one for one in named if one.name != STRATEGY)})


def with_teacher(recipe: Recipe, teacher: str) -> Recipe:
    """Return the recipe with a teacher."""
    named = {one.name: one for one in recipe.strategies}
    taught = Component(**{**named.get(STRATEGY, Component(name=STRATEGY)).model_dump(), "teacher": teacher})
    others = tuple(one for name, one in named.items() if name != STRATEGY)
    return recipe.model_copy(update={"strategies": (*others, taught)})


def _judged(
    teacher: Adapted,
    answered: Mapping[str, float],
    students: Sequence[Adapted],
    alone: Sequence[Adapted],
    test: Examples,
    seeds: tuple[int, ...],
) -> Distilled:
    (name,) = students[0].model.heads
    metric = students[0].resolved.training.metric or students[0].model.head(name).metric
    if any(metric not in found for found in (answered, *(one.metrics["test"] for one in (*students, *alone)))):
        raise RecipeError(f"the metric '{metric}' is undefined on this test part; name another in training.metric")
    models = {TEACHER: teacher, STUDENT: students[0], ALONE: alone[0]}
    values = {
        TEACHER: [answered[metric]] * len(seeds),
        STUDENT: [one.metrics["test"][metric] for one in students],
        ALONE: [one.metrics["test"][metric] for one in alone],
    }
    seconds = _seconds(models, test)
    contestants = tuple(
        Contestant(
            which,
            adapted.manifest["backbone"]["name"],
            tuple(values[which]),
            sum(parameter.numel() for parameter in adapted.model.parameters()),
            seconds[which],
        )
        for which, adapted in models.items()
    )
    return Distilled(metric, seeds, contestants, _gain(contestants) if len(seeds) > 1 else None)


def _gain(contestants: Sequence[Contestant]) -> Difference:
    _, student, alone = (Contender(one.name, one.values, (), one.parameters) for one in contestants)
    return paired_difference(student, alone)


def _seconds(models: Mapping[str, Adapted], test: Examples) -> dict[str, float]:
    """Return the least time that a thousand answers took, of each model in turn, so that a busy moment hits none alone."""
    rows = np.resize(np.arange(len(test)), max(len(test), _ROWS))
    ids = [str(number) for number in range(len(rows))]
    bare = replace(test.take(rows), ids=ids, labels={})
    took: dict[str, list[float]] = {name: [] for name in models}
    for name, adapted in [*models.items()] * (_TIMED + 1):
        before = time.perf_counter()
        adapted.answer(bare)
        took[name].append(time.perf_counter() - before)
    # The first time warms up.
    return {name: min(times[1:]) / len(rows) * 1000 for name, times in took.items()}


def _tell(listeners: Sequence[Listener], text: str) -> None:
    for listener in listeners:
        listener(Run(None, {}), Event("note", {"text": text}))
