"""Tasks to be learned one after the other, as they are written: a recipe for all, and what differs in each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from exapt.errors import RecipeError, did_you_mean, listed
from exapt.recipe import Component, Recipe, parsed, read_recipe, validated
from exapt.specs import Options

METHODS = ("ewc", "finetune", "l2-sp", "replay", "separate")
"""How tasks are learned one after the other."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MERGED = ("data", "split", "training", "target", "reference")
"""Sections of which a task says only what differs; components it names whole."""


class SequenceOptions(Options):
    """How tasks are learned one after the other: the section ``[sequence]``."""

    method: Component = Field(
        Component(name="finetune"),
        description="finetune, ewc, l2-sp or replay, all of which go on from the task before; or separate, an adapter a task.",
    )
    head: Literal["own", "shared"] = Field(
        "own", description="Whether each task has a head of its own, or all tasks ask one head the same question."
    )

    @field_validator("method", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        method = {"name": given} if isinstance(given, str) else given
        name = method.get("name") if isinstance(method, Mapping) else None
        if isinstance(name, str) and name not in METHODS:
            raise ValueError(f"there is no such method.{did_you_mean(name, METHODS)} Known: {listed(METHODS)}")
        own = {"memory", "keep"} & (method.keys() if isinstance(method, Mapping) else set())
        if own:
            raise ValueError(f"what is kept between tasks has its place in the output folder: leave {min(own)} out")
        if name in ("finetune", "separate") and len(method) > 1:
            raise ValueError(f"'{name}' has no options")
        return method


@dataclass(frozen=True)
class Task:
    """One task of several, under a name."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """Tasks in their order, and how they are learned."""

    options: SequenceOptions
    tasks: tuple[Task, ...]

    @property
    def separate(self) -> bool:
        """Whether each task starts from the pretrained model."""
        return self.options.method.name == "separate"

    @property
    def shared(self) -> bool:
        """Whether one head answers all tasks."""
        return self.options.head == "shared"


def read_plan(given: Mapping[str, Any] | str | Path, method: str = "") -> Plan:
    """Return a plan from a mapping, or a TOML or JSON file; ``method`` stands in for the one that is written.

    Raises ``RecipeError`` for what is no plan, naming the task that is amiss.
    """
    table = given if isinstance(given, Mapping) else parsed(Path(given))
    if not isinstance(table, Mapping) or "tasks" not in table:
        raise RecipeError("a sequence names its tasks: [[tasks]] in TOML, each with what differs in that task")
    above = {key: value for key, value in table.items() if key not in ("tasks", "sequence")}
    section = table.get("sequence", {})
    if method and isinstance(section, Mapping):
        section = {**section, "method": method}
    options = validated(SequenceOptions, section, "sequence")
    tasks = table["tasks"]
    if not isinstance(tasks, Sequence) or isinstance(tasks, str) or len(tasks) < 2:
        raise RecipeError("a sequence has at least two tasks, each a table of its own: [[tasks]] in TOML")
    names = [_name(task, place) for place, task in enumerate(tasks, 1)]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two tasks are called '{name}'")
    plan = Plan(options, tuple(Task(name, _recipe(name, above, task)) for name, task in zip(names, tasks, strict=True)))
    _check_alike(plan)
    return _with_own_heads(plan)


def _name(task: Any, place: int) -> str:
    if not isinstance(task, Mapping):
        raise RecipeError(f"task {place} is no table of keys")
    name = str(task.get("name", place))
    if not _NAME.fullmatch(name) or name in ("final", "memory"):
        raise RecipeError(
            f"task {place} is called '{name}': name it by letters, digits, '-' and '_', and not 'final' or 'memory'"
        )
    return name


def _recipe(name: str, above: Mapping[str, Any], task: Mapping[str, Any]) -> Recipe:
    gone = {"start"} & task.keys()
    if gone:
        raise RecipeError(f"task '{name}' starts where the one before it ended: leave start out")
    try:
        return read_recipe(_merged(above, {key: value for key, value in task.items() if key != "name"}))
    except RecipeError as error:
        raise RecipeError(f"task '{name}': {error}") from None


def _merged(above: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    rivals = [("head", "heads"), ("strategy", "strategies"), ("augmentation", "augmentations")]
    gone = {key for pair in rivals if own.keys() & set(pair) for key in pair}
    full = {key: value for key, value in above.items() if key not in gone} | dict(own)
    for key in _MERGED:
        if isinstance(above.get(key), Mapping) and isinstance(own.get(key), Mapping):
            full[key] = {**above[key], **own[key]}
    return full


def _check_alike(plan: Plan) -> None:
    first = plan.tasks[0]
    for task in plan.tasks[1:]:
        if task.recipe.backbone != first.recipe.backbone:
            raise RecipeError(
                f"all tasks are learned on one backbone: '{task.name}' names {task.recipe.backbone.name}, and '{first.name}' "
                f"{first.recipe.backbone.name}"
            )
        asked = ({name: head.name for name, head in one.recipe.heads.items()} for one in (first, task))
        if plan.shared and len({str(sorted(heads.items())) for heads in asked}) > 1:
            raise RecipeError(f"head = 'shared': '{task.name}' asks other questions than '{first.name}'")
        if not plan.separate and any(strategy.name == "scratch" for strategy in task.recipe.strategies):
            raise RecipeError(f"task '{task.name}': 'scratch' would forget the tasks before it; name another strategy")


def _with_own_heads(plan: Plan) -> Plan:
    """Return the plan with heads that are called after their tasks, where each has its own."""
    if plan.shared:
        return plan
    return Plan(plan.options, tuple(Task(task.name, _named_after(task)) for task in plan.tasks))


def _named_after(task: Task) -> Recipe:
    heads = task.recipe.heads
    own = {task.name if len(heads) == 1 else f"{task.name}-{name}": head for name, head in heads.items()}
    return task.recipe.model_copy(update={"heads": own})
