"""What a search is about, and that it can be searched: the space, the metric that chooses, the rows to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from exapt.building import bare_head, build_backbone, inferred_tokenizer
from exapt.data.files import table_sha256
from exapt.errors import RecipeError
from exapt.metrics import LOWER_IS_BETTER
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import Resolved, resolve
from exapt.searching.comparable import check_comparable
from exapt.searching.outcome import whole
from exapt.searching.section import completed, default_section, read_space
from exapt.searching.space import Space
from exapt.specs import Options
from exapt.tasks import read_table

IN_SIGHT = ("train", "valid")
"""The parts that a search sees."""


class SearchOptions(Options):
    """How much is searched, and how."""

    trials: int = Field(20, ge=1, description="Trials in all, those of an interrupted search included.")
    budget: float | None = Field(None, gt=0, description="Minutes after which no trial goes on, once one is complete.")
    prune: Literal["halving", "median", "none"] = Field("halving", description="How poor trials end early.")


@dataclass(frozen=True)
class Plan:
    """What is searched, checked: the space, the metric that chooses, and facts of the data."""

    space: Space
    metric: str
    data: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The metric as it stands in events."""
        return f"valid.{self.metric}"

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better."""
        return self.metric.rpartition(".")[2] in LOWER_IS_BETTER

    @property
    def seed(self) -> int:
        """The seed of the trials, and of what is tried."""
        return int(self.space.base.get("seed", 0))

    @property
    def rows(self) -> dict[str, int]:
        """How many rows the parts in sight have."""
        return {part: self.data["rows"][part] for part in IN_SIGHT}

    def whole(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe of some choices with all its defaults, and with the metric that chose it."""
        found = whole(self.space.recipe(choices))
        return {**found, "training": {**found["training"], "metric": self.metric}}

    def identity(self, options: SearchOptions) -> dict[str, Any]:
        """Return all on which trials depend: a search goes on only with the same."""
        return {
            "recipe": self.space.base,
            "space": self.space.plain(),
            "metric": self.metric,
            "data": self.data,
            "prune": options.prune,
        }


def planned(given: Mapping[str, Any], section: Mapping[str, Any] | None, final: bool) -> Plan:
    """Return what is searched about a recipe, as plain tables, in the space that a section spans, or a common one.

    Raises ``RecipeError`` for a space that is none and without rows to choose by or, if it is ``final``, to measure on.
    """
    if "stages" in given:
        raise RecipeError("a search is of one run: search the stages of this recipe one after the other")
    space = read_space(given, _default(given) if section is None else section)
    resolved = inferred_tokenizer(resolve(read_recipe(space.base), current()))
    # Its rows are counted before hours of search, and no more is asked of the test part.
    if final and not read_table(resolved).facts["rows"]["test"]:
        raise RecipeError("the best recipe cannot be measured at the end: this split has no test part")
    table = read_table(resolved, IN_SIGHT)
    if not table.facts["rows"]["valid"]:
        raise RecipeError(
            "a search chooses by the valid part, and this split leaves none: give split.column or split.fractions one"
        )
    others = {name: getattr(resolved.recipe, name) for name in ("target", "reference")}
    beside = {name: table_sha256(data.path, data.format) for name, data in others.items() if data is not None}
    metric = _metric(resolved.infer(table.labels("train")))
    check_comparable(space, metric)
    return Plan(space, metric, {**table.facts, **beside})


def _default(given: Mapping[str, Any]) -> dict[str, Any]:
    resolved = resolve(read_recipe(completed(given, {"strategy": ["probe"]})), current())
    backbone = build_backbone(resolved.backbone, pretrained=False)
    layers = len(backbone.blocks()) if backbone.stepwise else 0
    return default_section(resolved, layers, layers if backbone.features_layer == -1 else backbone.features_layer)


def _metric(resolved: Resolved) -> str:
    first = next(iter(resolved.heads))
    own = bare_head(resolved, first).metric
    return resolved.training.metric or (own if len(resolved.heads) == 1 else f"{first}.{own}")
