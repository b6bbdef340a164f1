"""That trials of a space can be compared: they answer the same question, and what chooses measures the same in all."""

from __future__ import annotations

import json
from typing import Any

from exapt.errors import RecipeError
from exapt.plugins import current
from exapt.resolve import ChosenHead, Resolved, resolve
from exapt.searching.space import Space
from exapt.specs import loss_options


def check_comparable(space: Space, metric: str) -> None:
    """Raise ``RecipeError`` for choices by which other labels or rows are learned, or ``metric`` would measure another thing."""
    base = resolve(space.recipe({}), current())
    for key, one in space.dimensions.items():
        for value in one.tried:
            place = f"search.{key}, {json.dumps(value, ensure_ascii=False)}"
            _check(place, base, resolve(space.recipe({key: value}), current()), metric)


def _check(place: str, base: Resolved, chosen: Resolved, metric: str) -> None:
    for name, head in base.heads.items():
        for option, what in (("label", "labels"), ("data", "rows")):
            if getattr(head, option) != getattr(chosen.heads[name], option):
                raise RecipeError(
                    f"{place}: '{option}' of head '{name}' stays as it is, for trials on other {what} cannot be compared"
                )
    if chosen.training.metric != base.training.metric:
        raise RecipeError(
            f"{place}: 'training.metric' stays as it is, for trials that are measured by other metrics cannot be compared"
        )
    _check_measure(place, base, chosen, metric)


def _check_measure(place: str, base: Resolved, chosen: Resolved, metric: str) -> None:
    if _measured(base, metric, True) != _measured(chosen, metric, True):
        raise RecipeError(
            f"{place}: this changes what is asked of the head, and with it what '{metric}' is measured on, so that trials could "
            "not be compared"
        )
    if metric.rpartition(".")[2] == "loss" and _measured(base, metric, False) != _measured(chosen, metric, False):
        raise RecipeError(
            f"{place}: this changes what the loss measures, and '{metric}' is to choose between trials: name another metric "
            "as training.metric"
        )


def _measured(resolved: Resolved, metric: str, metrics: bool) -> list[Any]:
    """Return all that says what a loss measures, or what all ``metrics`` are measured on: of one head, if ``metric`` is of it,
    else of all; of the loss with their weights.
    """
    own = metric.rpartition(".")[0]
    heads = {own: resolved.heads[own]} if own in resolved.heads else resolved.heads
    found: list[Any] = [
        (name, *_of_head(head, metrics), 1.0 if own or metrics else head.weight) for name, head in heads.items()
    ]
    # What is asked without labels is asked of tokens.
    if any(not head.offer.spec.labelled for head in heads.values()):
        found.append((resolved.tokenizer.offer.spec.name, resolved.tokenizer.options))
    return found


def _of_head(head: ChosenHead, metrics: bool) -> tuple[str, dict[str, Any]]:
    spec, options = head.offer.spec, head.options
    # Heads of another name may well be compared, by a metric that they share.
    name = "" if metrics and spec.labelled else spec.name
    return name, {option: getattr(options, option) for option in loss_options(type(options), metrics)}
