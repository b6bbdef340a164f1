"""Does it hold elsewhere? Each domain is left out in turn: learned on the others, measured on it.

What is reported is the mean over the domains left out, which a random split of all rows would make too good (Gulrajani
and Lopez-Paz 2021, arXiv:2007.01434).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from exapt.adapted import Adapted
from exapt.data.domains import domain_names, numbered
from exapt.data.files import table_sha256, writing
from exapt.data.labels import class_name
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, OutputError, RecipeError
from exapt.events import Event, Listener, Run
from exapt.loading import load
from exapt.manifest import MANIFEST
from exapt.plugins import current
from exapt.recipe import Recipe
from exapt.resolve import Resolved, column_name, resolve
from exapt.specs import StrategySpec
from exapt.training import run

FORMAT = 1
RESULTS = "domains.json"
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class LeftOut:
    """A domain that was left out: its rows, the metric on it, and on the test part of the others, if that has rows."""

    domain: str
    rows: int
    value: float
    source: float | None

    @property
    def gap(self) -> float | None:
        """The metric on the domain minus that on the test part of the others."""
        return None if self.source is None else self.value - self.source


@dataclass(frozen=True)
class Generalisation:
    """The outcome of ``exapt leave-one-out``."""

    metric: str
    column: str
    adapted: bool
    """Whether the rows of the domain left out were learned from, without their labels."""
    domains: tuple[LeftOut, ...]

    @property
    def mean(self) -> float:
        """The mean metric over the domains left out."""
        return float(np.mean([one.value for one in self.domains]))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean: Student's t over the domains."""
        values = [one.value for one in self.domains]
        reach = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return self.mean - reach, self.mean + reach

    @property
    def gap(self) -> float | None:
        """The mean gap; None where the other domains have no test part."""
        gaps = [one.gap for one in self.domains if one.gap is not None]
        return float(np.mean(gaps)) if gaps else None

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        low, high = self.interval
        said = (
            f"On a domain that was left out, {self.metric} is {self.mean:.3f} (95 % interval {low:.3f} to {high:.3f} over "
            f"{len(self.domains)} domains)"
        )
        return (
            f"{said}; {self.gap:+.3f} against the domains that were learned from."
            if self.gap is not None
            else f"{said}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "metric": self.metric,
            "column": self.column,
            "adapted": self.adapted,
            "domains": [{**asdict(one), "gap": one.gap} for one in self.domains],
            "mean": self.mean,
            "interval": list(self.interval),
            "gap": self.gap,
            "verdict": self.verdict,
        }


def leave_one_out(
    recipe: Recipe,
    column: str = "",
    *,
    adapt: bool = False,
    out: Path | None = None,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Generalisation:
    """Leave each domain out in turn; ``column`` names the domains, unless the recipe does.

    With ``adapt`` the rows of the domain left out are the target data, without labels. Into ``out`` goes an adapter for
    each; a folder that holds some of the very same recipe is gone on with. Raises ``RecipeError`` and ``DataError``, before
    anything is trained, where there are fewer than two domains, or one cannot be measured on.
    """
    recipe = _checked(recipe, column, adapt)
    # Which domains there are shows once the table is read; until then, any two stand for them.
    resolved = resolve(_left_out(recipe, ("others",), "one", adapt), current())
    examples, names = _read(recipe, resolved)
    _check_classes(examples, names, resolved)
    known, _ = numbered(names)
    folder = GeneralisationFolder(out)
    sha256 = table_sha256(recipe.data.path, recipe.data.format)
    folder.begin({"recipe": recipe.model_dump(mode="json"), "adapt": adapt, "sha256": sha256})
    found = []
    for place, name in enumerate(known, 1):
        if name not in folder.results:
            for listener in listeners:
                text = f"domain {place} of {len(known)}, '{name}', is left out"
                listener(Run(None, {}), Event("note", {"text": text}))
            here = _left_out(recipe, tuple(other for other in known if other != name), name, adapt)
            adapted = _adapted(here, folder.place(place, name), device, listeners)
            folder.keep(name, _measured(adapted, name, None if adapt else resolved))
        facts = folder.results[name]
        found.append(LeftOut(name, names.count(name), facts["value"], facts["source"]))
    return Generalisation(folder.results[known[0]]["metric"], recipe.data.domain, adapt, tuple(found))


def _checked(recipe: Recipe, column: str, adapt: bool) -> Recipe:
    """Return the recipe with the column of its domains. Raises ``RecipeError`` for one that cannot leave domains out."""
    column = column or recipe.data.domain
    if not column:
        raise RecipeError(
            "say which column names the domain of each row: --domain COLUMN, or data.domain in the recipe"
        )
    if recipe.split.column == column:
        raise RecipeError(
            f"split.column is '{column}', whose domains are left out in turn: leave split.column out, so that valid and test "
            "rows come from the domains that are learned from"
        )
    if recipe.target is not None:
        raise RecipeError("each domain is the target in its turn: leave the recipe's target out")
    for named in recipe.strategies:
        if not adapt and "target" in current().get(StrategySpec, named.name).spec.needs:
            raise RecipeError(
                f"strategy '{named.name}' learns from rows of the domain that is left out, without their labels: allow that "
                "by --adapt"
            )
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"domain": column})})


def _left_out(recipe: Recipe, others: tuple[str, ...], name: str, adapt: bool) -> Recipe:
    data = recipe.data.model_copy(update={"only": others})
    target = recipe.data.model_copy(update={"only": (name,)}) if adapt else None
    return recipe.model_copy(update={"data": data, "target": target})


def _read(recipe: Recipe, resolved: Resolved) -> tuple[Examples, list[str]]:
    """Return the rows of the table and the domain of each. Raises ``DataError`` if they are of fewer than two."""
    options = resolved.recipe.data.model_copy(update={"only": recipe.data.only})
    examples, _ = read_examples(options, resolved.labels, per_unit=resolved.per_unit)
    names = domain_names(examples.table, options.domain, examples.ids, Path(options.path).name)
    if len(set(names)) < 2:
        raise DataError(
            f"the column '{options.domain}' has one domain, '{names[0]}', so that without it there is nothing to learn from"
        )
    return examples, names


def _check_classes(examples: Examples, names: Sequence[str], resolved: Resolved) -> None:
    """Raise ``DataError`` for a domain that has one class alone, or one that no other domain has."""
    of_classes = [
        name
        for name, head in resolved.heads.items()
        if name in resolved.labels and head.offer.spec.baseline == "classification" and name not in resolved.per_unit
    ]
    for head in of_classes:
        classes: dict[str, set[str]] = {}
        for name, label in zip(names, examples.labels[head], strict=True):
            classes.setdefault(name, set()).add(class_name(label))
        for name in numbered(names)[0]:
            others = set().union(*(own for other, own in classes.items() if other != name))
            _check_domain(name, classes[name], others, column_name(resolved.labels[head]))


def _check_domain(name: str, own: set[str], others: set[str], label: str) -> None:
    instead = "leave it out, by naming the others as data.only"
    if len(own) < 2:
        raise DataError(
            f"domain '{name}' has rows of one class of '{label}' alone, '{min(own)}', so that nothing can be measured on it: "
            f"{instead}"
        )
    if len(others) < 2:
        raise DataError(
            f"without domain '{name}', all rows are of one class of '{label}', '{min(others)}': there is nothing to learn"
        )
    if own - others:
        raise DataError(
            f"domain '{name}' has the class '{min(own - others)}' of '{label}', which no other domain has to learn it from: "
            f"{instead}, or leave out rows of that class"
        )


def _adapted(recipe: Recipe, place: Path | None, device: str, listeners: Sequence[Listener]) -> Adapted:
    if place is not None and (place / MANIFEST).is_file():
        # It was learned, and the run ended before it was measured.
        return load(place, device=device)
    return run(recipe, place, resume=place is not None, device=device, listeners=listeners)


def _measured(adapted: Adapted, name: str, resolved: Resolved | None) -> dict[str, Any]:
    """Return the metric on a domain: read as ``resolved`` says or, without it, as it was measured at the end of the run."""
    first = next(iter(adapted.model.heads))
    own = adapted.model.head(first).metric
    metric = adapted.resolved.training.metric or (own if len(adapted.model.heads) == 1 else f"{first}.{own}")
    values = adapted.metrics["target"] if resolved is None else _elsewhere(adapted, name, resolved)
    if metric not in values:
        raise RecipeError(
            f"the metric '{metric}' is undefined on domain '{name}': name another in training.metric, or leave the domain "
            "out, by naming the others as data.only"
        )
    return {"metric": metric, "value": values[metric], "source": adapted.metrics["test"].get(metric)}


def _elsewhere(adapted: Adapted, name: str, resolved: Resolved) -> dict[str, float]:
    # Not as the adapter was learned: of one that was loaded, the table's place is not known any more.
    options = resolved.recipe.data.model_copy(update={"only": (name,)})
    examples, _ = read_examples(options, resolved.labels, per_unit=resolved.per_unit)
    return adapted.evaluate(examples)["all"]


class GeneralisationFolder:
    """Where adapters and results of domains are kept, so that an interrupted run can go on; without a path, nowhere."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.identity: Mapping[str, Any] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Take up what is there. Raises ``OutputError`` if that is of another recipe or of another kind altogether."""
        self.identity = json.loads(json.dumps(identity))
        if self.path is None:
            return
        if not (self.path / RESULTS).is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise OutputError(f"'{self.path}' exists already; name another folder")
            self._write()
            return
        try:
            held = json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
            there, self.results = held["of"], held["results"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"'{self.path / RESULTS}' cannot be read ({error}); name another folder") from None
        if there != self.identity:
            raise OutputError(f"'{self.path}' holds domains of another recipe or table; name another folder")

    def place(self, number: int, name: str) -> Path | None:
        """Return the folder of the adapter that one domain was left out of."""
        return None if self.path is None else self.path / f"{number}-{_UNFIT.sub('_', name)}"

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """Write down what one domain gave."""
        self.results[name] = dict(result)
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        assert self.path is not None
        held = {"format": FORMAT, "of": self.identity, "results": self.results}
        place = self.path / RESULTS
        draft = place.with_name(f".{RESULTS}.draft")
        with writing(place):
            self.path.mkdir(exist_ok=True)
            draft.write_text(json.dumps(held, indent=1, ensure_ascii=False), encoding="utf-8")
            draft.replace(place)
