"""Did transfer help? A recipe against the same architecture from scratch and against a linear model, over paired seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from exapt.baseline import fit_baseline
from exapt.building import bare_head
from exapt.errors import RecipeError
from exapt.events import Event, Listener, Run
from exapt.labelled import Table
from exapt.metrics import LOWER_IS_BETTER
from exapt.parts import Head
from exapt.plugins import current
from exapt.recipe import Component, Recipe, TrainingOptions, read_recipe, validated
from exapt.resolve import Resolved, resolve
from exapt.structures import Structure
from exapt.tasks import read_table
from exapt.training import run

RECIPE, SCRATCH, BASELINE = "recipe", "scratch", "baseline"
_SIMPLE = {"sequence": "k-mers, linear", "structure": "k-mers, linear", "cell": "log counts, linear"}


@dataclass(frozen=True)
class Contender:
    """One way over all seeds: the test metric by seed, seconds of processor time by seed, parameters that learned."""

    name: str
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    trainable: int

    @property
    def mean(self) -> float:
        """The mean metric."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Difference:
    """The recipe minus another, paired by seed, with its 95 % interval (Student's t over seeds)."""

    against: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The outcome of ``exapt compare``."""

    metric: str
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        """One plain sentence on each difference."""
        return " ".join(_sentence(difference, self.metric) for difference in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "metric": self.metric,
            "seeds": list(self.seeds),
            "contenders": [
                {
                    "name": one.name,
                    "mean": one.mean,
                    "values": list(one.values),
                    "seconds": float(np.mean(one.seconds)),
                    "trainable": one.trainable,
                }
                for one in self.contenders
            ],
            "differences": [vars(difference) for difference in self.differences],
            "verdict": self.verdict,
        }


def compare(
    recipe: Recipe, seeds: Sequence[int], scratch: Mapping[str, Any], device: str, listeners: Sequence[Listener]
) -> Comparison:
    """Run all contenders over all seeds on the same splits, and compare them on the test part.

    ``scratch`` holds training options of the runs from scratch alone. Raises ``RecipeError`` if there are fewer than two
    seeds, several heads, or no test part to compare on.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise RecipeError("a comparison needs at least two seeds, all different: one run cannot tell gain from luck")
    if len(recipe.heads) > 1:
        raise RecipeError("a comparison asks one question: give a recipe with one head")
    from_scratch(recipe, scratch)
    metric = _metric(recipe)
    linear = _has_baseline(recipe)
    records: dict[str, list[tuple[float, float, int]]] = {RECIPE: [], SCRATCH: [], BASELINE: []}
    if not linear:
        del records[BASELINE]
        _announce(listeners, "there is no linear model for this question or these inputs: it is left out")
    for seed in seeds:
        paired = read_recipe({**recipe.model_dump(exclude_unset=True), "seed": seed})
        for name, one in ((RECIPE, paired), (SCRATCH, from_scratch(paired, scratch))):
            _announce(listeners, f"{name}, seed {seed}")
            values, seconds, trainable = _neural(one, device, listeners)
            records[name].append((_value(values, metric, name, seed), seconds, trainable))
        if linear:
            _announce(listeners, f"{BASELINE}, seed {seed}")
            values, seconds, trainable = _linear(paired, metric)
            records[BASELINE].append((_value(values, metric, BASELINE, seed), seconds, trainable))
    return _judged(metric, tuple(seeds), _named(records, recipe))


def from_scratch(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe with fresh weights that all learn, and the training that suits that.

    What the user chose stays (batch size, metric, ...), but for what the recipe's own strategies have defaults of their
    own for: a rate or a number of epochs that suits them says nothing of training from scratch. ``options`` go over all.
    """
    peculiar = {"learning_rate"} | {
        key for chosen in resolve(recipe, current()).strategies for key in chosen.offer.spec.training_of(chosen.options)
    }
    training = {k: v for k, v in recipe.training.model_dump(exclude_unset=True).items() if k not in peculiar}
    kept = validated(TrainingOptions, {**training, **options}, "training from scratch")
    return recipe.model_copy(
        update={"strategies": (Component(name=SCRATCH),), "training": kept, "start": "", "base": "", "reference": None}
    )


def _named(records: Mapping[str, Sequence[tuple[float, float, int]]], recipe: Recipe) -> tuple[Contender, ...]:
    strategy = " + ".join(strategy.name for strategy in recipe.strategies)
    names = {
        RECIPE: f"{strategy} ({recipe.backbone.name})",
        SCRATCH: "scratch",
        BASELINE: _SIMPLE.get(_accepts(recipe), ""),
    }
    return tuple(
        Contender(
            names[key],
            tuple(value for value, _, _ in rows),
            tuple(seconds for _, seconds, _ in rows),
            max(trainable for _, _, trainable in rows),
        )
        for key, rows in records.items()
    )


def _accepts(recipe: Recipe) -> str:
    return str(resolve(recipe, current()).backbone.offer.spec.accepts)


def _announce(listeners: Sequence[Listener], text: str) -> None:
    for listener in listeners:
        listener(Run(None, {}), Event("note", {"text": text}))


def _neural(recipe: Recipe, device: str, listeners: Sequence[Listener]) -> tuple[dict[str, float], float, int]:
    sizes: dict[str, Any] = {}

    def note(run: Any, event: Event) -> None:
        if event.name == "start":
            sizes.update(event.facts)

    before = time.process_time()
    adapted = run(recipe, device=device, listeners=[note, *listeners])
    if not adapted.metrics["test"]:
        raise RecipeError("a comparison needs a test part: give split.column or split.fractions one")
    return adapted.metrics["test"], time.process_time() - before, int(sizes["trainable"])


def _metric(recipe: Recipe) -> str:
    """Return the metric asked for, else the head's own."""
    if recipe.training.metric:
        return recipe.training.metric
    resolved = resolve(recipe, current())
    return _head(resolved.infer(read_table(resolved).labels("train"))).metric


def _head(resolved: Resolved) -> Head:
    (name,) = resolved.heads
    return bare_head(resolved, name)


def _has_baseline(recipe: Recipe) -> bool:
    """Whether a linear model can answer: it reads texts, per position one text only, or one whole cell."""
    resolved = resolve(recipe, current())
    (chosen,), accepts = resolved.heads.values(), resolved.backbone.offer.spec.accepts
    if chosen.offer.spec.baseline == "none" or accepts not in _SIMPLE:
        return False
    table = read_table(resolved)
    simple = (len(table.examples.inputs) == 1, not _head(resolved.infer(table.labels("train"))).ragged)
    return all(simple) if accepts == "cell" else any(simple)


def _value(values: Mapping[str, float], metric: str, name: str, seed: int) -> float:
    if metric not in values:
        raise RecipeError(
            f"the metric '{metric}' is undefined for the {name} with seed {seed} on this test part; "
            "name another in training.metric"
        )
    return values[metric]


def _linear(recipe: Recipe, metric: str) -> tuple[dict[str, float], float, int]:
    before = time.process_time()
    resolved = resolve(recipe, current())
    table = read_table(resolved)
    resolved = resolved.infer(table.labels("train"))
    values, size = _fit_linear(resolved, table, recipe.seed, metric)
    return values, time.process_time() - before, size


def _fit_linear(resolved: Resolved, table: Table, seed: int, metric: str) -> tuple[dict[str, float], int]:
    ((name, chosen),) = resolved.heads.items()
    head = _head(resolved)
    values = _inputs(table, resolved)
    lengths = [len(value) if isinstance(value, str) else len(value.places) for value in values]
    targets = [head.encode(label, length) for label, length in zip(table.examples.labels[name], lengths, strict=True)]
    parts = {part: getattr(table.split, part) for part in ("train", "valid", "test")}

    def of(every: Sequence[Any], part: str) -> list[Any]:
        return [every[row] for row in parts[part]]

    baseline = fit_baseline(
        chosen.offer.spec.baseline,
        head.ragged,
        of(values, "train"),
        of(targets, "train"),
        of(values, "valid"),
        of(targets, "valid"),
        seed,
        answers=len(getattr(chosen.options, "classes", ())) or None,
        # Its penalty is chosen as the other contenders' best epoch is: by the metric, on the valid part.
        score=lambda outputs, known: _sign(metric) * head.metrics(outputs, known).get(metric, math.nan),
    )
    return head.metrics(baseline.predict(of(values, "test")), of(targets, "test")), baseline.size


def _inputs(table: Table, resolved: Resolved) -> list[Any]:
    inputs = [table.examples.inputs[name] for name in resolved.recipe.data.inputs]
    if resolved.backbone.offer.spec.accepts == "cell":
        return list(inputs[0])
    # Of a structure, a linear model sees the sequence.
    inputs = [[value.text if isinstance(value, Structure) else value for value in values] for values in inputs]
    # Several inputs stand in one text, kept apart by a letter that no sequence has.
    return ["|".join(values) for values in zip(*inputs, strict=True)]


def _judged(metric: str, seeds: tuple[int, ...], contenders: tuple[Contender, ...]) -> Comparison:
    recipe, *others = contenders
    differences = tuple(paired_difference(recipe, other) for other in others)
    return Comparison(metric, seeds, contenders, differences)


def paired_difference(one: Contender, other: Contender) -> Difference:
    """Return ``one`` minus ``other`` over their common seeds, with the 95 % interval of the mean."""
    gaps = np.array(one.values) - np.array(other.values)
    mean = float(gaps.mean())
    spread = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    reach = float(stats.t.ppf(0.975, len(gaps) - 1)) * spread
    return Difference(other.name, mean, mean - reach, mean + reach)


def _sign(metric: str) -> int:
    return -1 if metric.rpartition(".")[2] in LOWER_IS_BETTER else 1


def _sentence(difference: Difference, metric: str) -> str:
    sign = _sign(metric)
    low, high = sorted((sign * difference.low, sign * difference.high))
    by = f"{metric} {difference.mean:+.3f}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    if low == high:
        # Seeds that all differ by the same amount tell nothing of how much the next one would.
        return f"Nothing can be told against {difference.against}: {by}, without any spread; take more seeds."
    if low > 0:
        return f"Transfer helps against {difference.against}: {by}."
    if high < 0:
        return f"Transfer HURTS against {difference.against}: {by}."
    return f"No gain can be told against {difference.against}: {by}."
