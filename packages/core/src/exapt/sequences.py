"""Tasks learned one after the other on one backbone, and how much of each is left at the end."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exapt.adapted import Adapted
from exapt.adapter import check_free, describe_tensors, learned_files
from exapt.broadcast import locked
from exapt.data.tables import Examples
from exapt.errors import ComponentError, DataError, OutputError, RecipeError
from exapt.events import Event, Listener, Run
from exapt.golden import probe_record
from exapt.loading import load
from exapt.manifest import MANIFEST, finite
from exapt.model import Model
from exapt.parts import Head
from exapt.plugins import current
from exapt.recipe import Component, HeadChoice, Recipe
from exapt.resolve import Resolved, resolve
from exapt.sequence_matrix import Sequenced
from exapt.sequence_plan import Plan, Task
from exapt.tasks import read_table
from exapt.training import run

_PROGRESS, _REPORT, _TABLE, _MEMORY, _FINAL = "progress.json", "sequence.json", "matrix.csv", "memory", "final"


def learn_in_sequence(
    plan: Plan, out: Path, *, resume: bool = False, device: str = "", listeners: Sequence[Listener] = ()
) -> Sequenced:
    """Learn all tasks of a plan, and measure after each of them all that were learned so far.

    Into ``out`` go an adapter for each task, the matrix as JSON and CSV and, where each task has a head of its own, in
    ``final`` what the last model answers to each. ``resume`` goes on with an interrupted sequence. Raises ``RecipeError``
    and ``DataError``, naming the task, before anything is trained.
    """
    plan, tests = _read(plan)
    if not resume:
        check_free(out)
    if out.exists() and not (out / _PROGRESS).is_file():
        raise OutputError(f"'{out}' holds no sequence to go on with; choose another folder")
    found = out.exists()
    with locked(out):
        try:
            return _Sequence(plan, tests, out, resume, device, listeners).run()
        except BaseException:
            if not found and not list(out.glob(f"*/{MANIFEST}")) and not list(out.glob("*.run/checkpoint-*")):
                # Nothing of it is worth going on with.
                shutil.rmtree(out, ignore_errors=True)
            raise


def _read(plan: Plan) -> tuple[Plan, list[Examples]]:
    """Return the plan with nothing left to infer that all tasks share, and the test rows of each task."""
    tests, seen = [], []
    for place, task in enumerate(plan.tasks):
        try:
            resolved = resolve(_beside(plan, place, task.recipe, Path("memory")), current())
            table = read_table(resolved)
            resolved = resolved.infer(table.labels("train"))
        except (RecipeError, DataError, ComponentError) as error:
            raise type(error)(f"task '{task.name}': {error}") from None
        if not len(table.split.test):
            raise RecipeError(f"task '{task.name}' has no test part to be measured on: give it one in split")
        tests.append(table.examples.take(table.split.test))
        seen.append((resolved, table.labels("train")))
    return _with_one_head(plan, seen), tests


def _with_one_head(plan: Plan, seen: Sequence[tuple[Resolved, Mapping[str, Sequence[Any]]]]) -> Plan:
    """Write into every task what only the labels of all of them know, where one head answers them all."""
    if not plan.shared:
        return plan
    first = resolve(plan.tasks[0].recipe, current())
    labels = {name: [label for _, own in seen for label in own[name]] for name in first.labels}
    written = first.infer(labels).as_recipe()["heads"]
    tasks = []
    for task in plan.tasks:
        own = {
            name: HeadChoice.model_validate(
                {**written[name], **({"label": head.label} if name in labels else {}), "weight": head.weight}
            )
            for name, head in task.recipe.heads.items()
        }
        tasks.append(Task(task.name, task.recipe.model_copy(update={"heads": own})))
    return Plan(plan.options, tuple(tasks))


def _beside(plan: Plan, place: int, recipe: Recipe, memory: Path) -> Recipe:
    """Return a task's recipe with what the method puts beside its strategies."""
    method, last = plan.options.method, len(plan.tasks) - 1
    if method.name in ("finetune", "separate") or (method.name == "l2-sp" and place == 0):
        return recipe
    extra: dict[str, Any] = dict(method.options)
    if method.name != "l2-sp":
        if place:
            extra["memory"] = str(memory / f"{plan.tasks[place - 1].name}.safetensors")
        if place < last:
            extra["keep"] = str(memory / f"{plan.tasks[place].name}.safetensors")
    companion = Component.model_validate({"name": method.name, **extra})
    return recipe.model_copy(update={"strategies": (*recipe.strategies, companion)})


@dataclass
class _Learned:
    """A task that is behind: its heads, as they were learned, over the backbone as it is now."""

    heads: dict[str, Head]
    adapted: Adapted
    metric: str

    def onto(self, now: Adapted, shared: bool) -> None:
        """Move the heads over the backbone of a later model or, if one head is ``shared``, let that model answer itself."""
        old, model = self.adapted.model, now.model
        if not shared:
            model = Model(now.model.backbone, self.heads, old.weights, old.layer)
            model.precision, model.changed, model.base = old.precision, set(now.model.changed), now.model.base
        self.adapted = replace(self.adapted, model=model.eval())


class _Sequence:
    """A sequence under way."""

    def __init__(
        self,
        plan: Plan,
        tests: Sequence[Examples],
        out: Path,
        resume: bool,
        device: str,
        listeners: Sequence[Listener],
    ) -> None:
        self.plan, self.tests, self.out, self.resume = plan, tests, out, resume
        self.device, self.listeners = device, listeners
        self.behind: list[_Learned] = []
        self.matrix = self._begun()

    def run(self) -> Sequenced:
        adapted = None
        for place, task in enumerate(self.plan.tasks):
            self._tell(f"task {place + 1} of {len(self.plan.tasks)}, '{task.name}'")
            adapted = self._learned(place, task)
            for one in self.behind if not self.plan.separate else ():
                one.onto(adapted, self.plan.shared)
            heads = {name: adapted.model.head(name) for name in adapted.model.heads}
            self.behind.append(_Learned(heads, adapted, _metric(adapted)))
            if place >= len(self.matrix):
                self.matrix.append(self._measured(place))
                self._keep()
        assert adapted is not None
        if not (self.plan.separate or self.plan.shared):
            self._finish(adapted)
        outcome = Sequenced(
            self.plan.options.method.name,
            tuple(task.name for task in self.plan.tasks),
            tuple(one.metric for one in self.behind),
            self.matrix,
            tuple(task.name for task in self.plan.tasks),
        )
        self._write(outcome)
        return outcome

    def _learned(self, place: int, task: Task) -> Adapted:
        folder = self.out / task.name
        if (folder / MANIFEST).is_file():
            return load(folder, device=self.device, backbone=self._weights(task))
        recipe = _beside(self.plan, place, task.recipe, self.out / _MEMORY)
        if place and not self.plan.separate:
            recipe = recipe.model_copy(update={"start": str(self.out / self.plan.tasks[place - 1].name)})
        return run(recipe, folder, resume=self.resume, device=self.device, listeners=self.listeners)

    def _weights(self, task: Task) -> str:
        name = task.recipe.backbone.name
        return name if ":" in name and resolve(task.recipe, current()).folder else ""

    def _measured(self, place: int) -> list[float | None]:
        """Return the metric of each task as the model is now; None of those that are still to come."""
        row: list[float | None] = [None] * len(self.plan.tasks)
        for task, one in enumerate(self.behind):
            if self.plan.separate and task < place:
                row[task] = self.matrix[-1][task]
                continue
            report = one.adapted.evaluate(self.tests[task])["all"]
            if one.metric not in report:
                raise RecipeError(
                    f"task '{self.plan.tasks[task].name}': the metric '{one.metric}' is undefined on its test part; name "
                    "another in training.metric"
                )
            row[task] = report[one.metric]
        return row

    def _finish(self, now: Adapted) -> None:
        """Write what the last model answers to each task: an adapter like any other."""
        (self.out / _FINAL).mkdir(exist_ok=True)
        for place, (task, one) in enumerate(zip(self.plan.tasks, self.behind, strict=True)):
            folder = self.out / _FINAL / task.name
            if folder.exists():
                continue
            answering = one.adapted
            measured = {
                name: value for name, value in answering.evaluate(self.tests[place])["all"].items() if name != "rows"
            }
            manifest = dict(answering.manifest)
            manifest |= {
                # What is built again is the model as the last task left it.
                "recipe": {**manifest["recipe"], "strategies": now.manifest["recipe"]["strategies"]},
                "plugins": {**manifest["plugins"], **now.manifest["plugins"]},
                "metrics": finite({"test": measured}),
                "tensors": describe_tensors(learned_files(answering.model)),
                "probe": probe_record(
                    answering.model,
                    answering.tokenizer,
                    manifest["probe"]["inputs"],
                    list(answering.resolved.recipe.data.inputs),
                ),
            }
            replace(answering, manifest=manifest).save(folder)

    def _begun(self) -> list[list[float | None]]:
        """Return the rows of the matrix that are known. Raises ``RecipeError`` if the folder is of another sequence."""
        (self.out / _MEMORY).mkdir(exist_ok=True)
        place = self.out / _PROGRESS
        if not place.is_file():
            self.matrix = []
            self._keep()
            return []
        try:
            begun = json.loads(place.read_text(encoding="utf-8"))
            rows: list[list[float | None]] = begun["matrix"]
            said = begun["plan"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"'{place}' is damaged ({error}); remove '{self.out}' to start afresh") from None
        if said != self._identity():
            raise RecipeError(
                f"'{self.out}' holds another sequence: give back its tasks and its method, or choose another folder"
            )
        return rows

    def _identity(self) -> Any:
        told = [{"name": task.name, "recipe": task.recipe.model_dump(mode="json")} for task in self.plan.tasks]
        return json.loads(json.dumps({"options": self.plan.options.model_dump(mode="json"), "tasks": told}))

    def _keep(self) -> None:
        _put(self.out / _PROGRESS, json.dumps({"plan": self._identity(), "matrix": self.matrix}, indent=1))

    def _write(self, outcome: Sequenced) -> None:
        _put(self.out / _REPORT, json.dumps(outcome.as_dict(), indent=1, ensure_ascii=False) + "\n")
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["", *outcome.tasks], *outcome.rows()])
        _put(self.out / _TABLE, table.getvalue())

    def _tell(self, text: str) -> None:
        for listener in self.listeners:
            listener(Run(None, {}), Event("note", {"text": text}))


def _put(place: Path, text: str) -> None:
    under_way = place.with_name(f".{place.name}")
    try:
        under_way.write_text(text, encoding="utf-8")
        under_way.replace(place)
    except OSError as error:
        raise OutputError(f"'{place}' cannot be written: {error.strerror}") from None


def _metric(adapted: Adapted) -> str:
    first = next(iter(adapted.model.heads))
    own = adapted.model.head(first).metric
    named = adapted.resolved.training.metric
    return named or (own if len(adapted.model.heads) == 1 else f"{first}.{own}")
