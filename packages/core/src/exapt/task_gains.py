"""Did learning tasks together help? Each task of a recipe against the same model that learns it alone, over paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exapt.comparison import Contender, Difference, paired_difference
from exapt.errors import RecipeError
from exapt.events import Event, Listener, Run
from exapt.metrics import LOWER_IS_BETTER
from exapt.plugins import current
from exapt.recipe import Recipe, read_recipe
from exapt.resolve import resolve
from exapt.training import run

# What is about several tasks and means nothing of one.
_OF_SEVERAL = ("uncertainty-weights",)


@dataclass(frozen=True)
class TaskGain:
    """One task: its test metric by seed together with the others and alone, and the paired difference, if seeds are several."""

    task: str
    metric: str
    together: tuple[float, ...]
    alone: tuple[float, ...]
    gain: Difference | None

    @property
    def sentence(self) -> str:
        """What can be said of it."""
        gap = float(np.mean(self.together) - np.mean(self.alone))
        if self.gain is None:
            return f"'{self.task}': {self.metric} {gap:+.3f}; one seed cannot tell gain from luck."
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * self.gain.low, sign * self.gain.high))
        by = f"{self.metric} {gap:+.3f}, 95 % interval {self.gain.low:+.3f} to {self.gain.high:+.3f}"
        verdict = "gains from" if low > 0 else "LOSES by" if high < 0 else "shows no difference from"
        return f"'{self.task}' {verdict} the other tasks: {by}."


def compare_tasks(
    recipe: Recipe, *, seeds: Sequence[int], device: str = "", listeners: Sequence[Listener] = ()
) -> list[TaskGain]:
    """Train a recipe of several heads, and one recipe for each head, over all seeds, and compare them on the test part.

    Raises ``RecipeError`` if there are not several heads with labels, a seed comes twice, or a metric is undefined.
    """
    tasks = list(resolve(recipe, current()).labels)
    if len(tasks) < 2:
        raise RecipeError(
            "tasks are compared with each learned alone: give a recipe with several heads that have labels"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise RecipeError("give at least one seed, all different")
    _check_split(recipe)
    together: dict[str, list[float]] = {task: [] for task in tasks}
    alone: dict[str, list[float]] = {task: [] for task in tasks}
    metrics: dict[str, str] = {}
    for seed in seeds:
        paired = read_recipe({**recipe.model_dump(exclude_unset=True), "seed": seed})
        _tell(listeners, f"all tasks, seed {seed}")
        joint = run(paired, device=device, listeners=listeners)
        for task in tasks:
            _tell(listeners, f"'{task}' alone, seed {seed}")
            single = run(alone_of(paired, task), device=device, listeners=listeners)
            metrics[task] = single.model.head(task).metric
            together[task].append(_value(joint.metrics["test"], f"{task}.{metrics[task]}"))
            alone[task].append(_value(single.metrics["test"], metrics[task]))
    return [_judged(task, metrics[task], together[task], alone[task]) for task in tasks]


def _check_split(recipe: Recipe) -> None:
    """Raise ``RecipeError`` if a task alone would be split otherwise than beside those of its table."""
    tables = [(head.data or recipe.data).model_dump_json() for head in recipe.heads.values()]
    if not recipe.split.column and len(set(tables)) < len(tables):
        raise RecipeError(
            "tasks that share a table are compared on the same parts of it, and split.fractions deals the rows of each task "
            "anew: write the parts with 'exapt split', and name their column as split.column"
        )


def alone_of(recipe: Recipe, task: str) -> Recipe:
    """Return the recipe of one task alone, on its own table."""
    head = recipe.heads[task]
    changes: dict[str, Any] = {
        "heads": {task: head.model_copy(update={"data": None})},
        "data": head.data or recipe.data,
    }
    if changes["data"].missing_labels == "keep":
        changes["data"] = changes["data"].model_copy(update={"missing_labels": "drop"})
    changes["strategies"] = tuple(one for one in recipe.strategies if one.name not in _OF_SEVERAL) or recipe.strategies
    training = recipe.training
    dropped = {"metric"} | ({"sampling"} if training.sampling == "tasks" else set())
    kept = {key: value for key, value in training.model_dump(exclude_unset=True).items() if key not in dropped}
    changes["training"] = type(training).model_validate(kept)
    return recipe.model_copy(update=changes)


def _value(metrics: dict[str, float], name: str) -> float:
    if name not in metrics:
        raise RecipeError(
            f"'{name}' is undefined on this test part: tasks are compared on a test part with labels of each"
        )
    return metrics[name]


def _judged(task: str, metric: str, together: Sequence[float], alone: Sequence[float]) -> TaskGain:
    several = len(together) > 1
    gain = (
        paired_difference(Contender("together", tuple(together), (), 0), Contender("alone", tuple(alone), (), 0))
        if several
        else None
    )
    return TaskGain(task, metric, tuple(together), tuple(alone), gain)


def _tell(listeners: Sequence[Listener], text: str) -> None:
    for listener in listeners:
        listener(Run(None, {}), Event("note", {"text": text}))
