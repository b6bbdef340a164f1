"""What a search found: its trials, and the best recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exapt.plugins import current
from exapt.recipe import Recipe
from exapt.resolve import Chosen, resolve

STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "unfinished",
    "WAITING": "unfinished",
}
"""How a trial ended, by Optuna's word for it."""
_FEW_ROWS = 200


@dataclass(frozen=True)
class Tried:
    """One trial: what was chosen, its metric on the valid part (the best so far where it ended early) and what it cost."""

    number: int
    state: str
    value: float | None
    choices: Mapping[str, Any]
    epochs: int
    seconds: float
    reason: str

    @property
    def shown(self) -> str:
        """What was chosen, in one line."""
        return shown(self.choices)


@dataclass(frozen=True)
class Search:
    """The outcome of a search."""

    metric: str
    rows: Mapping[str, int]
    trials: tuple[Tried, ...]
    best: Tried
    recipe: Mapping[str, Any]
    """The best recipe, whole."""
    test: Mapping[str, float] | None = None
    """What the best recipe reaches on the test part, if that was asked for."""

    @property
    def counts(self) -> dict[str, int]:
        """How many trials ended in which way."""
        states = [tried.state for tried in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(STATES.values()) if state in states}

    @property
    def caution(self) -> str:
        """What a reader of the best metric should know, in a sentence or two."""
        known = f"valid {self.metric} is the best of {len(self.trials)} trials, and for that alone too good"
        few = self.rows["valid"]
        if few >= _FEW_ROWS:
            return f"{known}."
        return f"{known}; {few} valid rows tell recipes apart by chance as much as by merit."

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "metric": self.metric,
            "rows": dict(self.rows),
            "counts": self.counts,
            "best": vars(self.best),
            "recipe": dict(self.recipe),
            "test": self.test and dict(self.test),
            "trials": [vars(tried) for tried in self.trials],
            "caution": self.caution,
        }


def shown(choices: Mapping[str, Any]) -> str:
    """Return what a trial chose, in one line."""
    return ", ".join(f"{key} {cell(value)}" for key, value in choices.items())


def cell(value: Any) -> str:
    """Return a choice as it stands in a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def whole(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe with every default of its strategies, heads and training written out, and paths as they are."""
    resolved = resolve(recipe, current())
    plain = recipe.model_dump(mode="json", exclude_unset=True)
    several = {"strategies": resolved.strategies, "augmentations": resolved.augmentations}
    for key, chosen in several.items():
        named = getattr(resolved.recipe, key)
        plain[key] = [{"name": one.name, **_options(part)} for one, part in zip(named, chosen, strict=True)]
    for name, head in resolved.heads.items():
        kept = {key: plain["heads"][name][key] for key in ("name", "label", "data") if key in plain["heads"][name]}
        plain["heads"][name] = {**kept, "weight": head.weight, **_options(head)}
    plain["training"] = resolved.training.model_dump(mode="json")
    # What belongs to the recipe alone comes first, then the tables.
    return {"seed": recipe.seed, "layer": recipe.layer, **plain}


def meaning(recipe: Recipe) -> str:
    """Return what a recipe says, every option as its type has it: the same for two that differ in how they are written."""
    resolved = resolve(recipe, current())
    parts = {"backbone": (recipe.backbone.name, resolved.backbone), "tokenizer": ("", resolved.tokenizer)}
    read = {
        key: [name or one.offer.spec.name, one.options.model_dump(mode="json")] for key, (name, one) in parts.items()
    }
    return json.dumps({**whole(recipe), **read}, sort_keys=True)


def _options(chosen: Chosen) -> dict[str, Any]:
    return {key: value for key, value in chosen.options.model_dump(mode="json").items() if value is not None}
