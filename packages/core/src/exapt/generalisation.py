"""Does it hold elsewhere? Each domain is left out in turn: learned on the others, measured on it.

What is reported is the mean over the domains left out, which a random split of all rows would make too good (Gulrajani
and Lopez-Paz 2021, arXiv:2007.01434).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from exapt.adapted import Adapted
from exapt.data.domains import domain_names, numbered
from exapt.data.labels import class_name
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, RecipeError
from exapt.events import Event, Listener, Run
from exapt.generalisation_folder import GeneralisationFolder
from exapt.identity import identity
from exapt.loading import load
from exapt.manifest import MANIFEST
from exapt.plugins import current
from exapt.recipe import Recipe
from exapt.resolve import Resolved, column_name, read_by, resolve
from exapt.specs import StrategySpec
from exapt.training import run


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
    tables = _tables(recipe, resolved)
    rounds = {
        name: _left_out(recipe, tuple(other for other in known if other != name), name, adapt, tables) for name in known
    }
    folder.begin({**identity(recipe), "adapt": adapt})
    found = []
    for place, name in enumerate(known, 1):
        if name not in folder.results:
            for listener in listeners:
                text = f"domain {place} of {len(known)}, '{name}', is left out"
                listener(Run(None, {}), Event("note", {"text": text}))
            adapted = _adapted(rounds[name], folder.place(place, name), device, listeners)
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
    return _changed(recipe, {"domain": column}, {head: {"domain": column} for head in recipe.heads})


def _changed(recipe: Recipe, data: Mapping[str, Any], heads: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """Return a recipe with some keys changed of its table and of those that single heads have."""
    several = {
        name: head if head.data is None else head.model_copy(update={"data": head.data.model_copy(update=heads[name])})
        for name, head in recipe.heads.items()
    }
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data), "heads": several})


def _left_out(
    recipe: Recipe, others: tuple[str, ...], name: str, adapt: bool, tables: Mapping[str, Sequence[str]] | None = None
) -> Recipe:
    """Return a recipe that learns from no row of a domain; ``tables`` hold the domains in those that single heads have.

    Raises ``DataError`` for a head's table of that domain alone.
    """
    only = {}
    for head in recipe.heads:
        kept = others if tables is None else tuple(other for other in tables.get(head, others) if other != name)
        if not kept:
            raise DataError(
                f"the table of heads.{head} has rows of domain '{name}' alone, so that without it there is nothing to learn "
                f"from: leave the domain out, by naming the others as data.only, or leave out the head"
            )
        only[head] = {"only": kept}
    target = recipe.data.model_copy(update={"only": (name,)}) if adapt else None
    return _changed(recipe, {"only": others}, only).model_copy(update={"target": target})


def _tables(recipe: Recipe, resolved: Resolved) -> dict[str, tuple[str, ...]]:
    """Return, of each head with a table of its own, the domains that are in it. Raises ``DataError`` if it does not tell."""
    found = {}
    for name, head in resolved.heads.items():
        if head.data is None:
            continue
        own = recipe.heads[name].data
        options = read_by(head.data, resolved.backbone.offer.spec.accepts).model_copy(
            update={"only": own.only if own else ()}
        )
        try:
            examples, _ = read_examples(options, {}, keep_labels=False)
            names = domain_names(examples.table, options.domain, examples.ids, Path(options.path).name)
        except DataError as error:
            raise DataError(f"heads.{name}: {error}") from None
        found[name] = numbered(names)[0]
    return found


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
