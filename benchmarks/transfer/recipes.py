"""The recipe of each way to transfer, on each set, with a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sets import SETS, Set
from ways import WAYS, Way


def recipe(name: str, way: str, seed: int) -> dict[str, Any]:
    """Return the recipe of a way on a set; ``{tables}``, ``{models}`` and ``{work}`` stand for folders.

    Under ``first`` stands the recipe of a run before, whose adapter is to be ``{work}/first``.
    Raises ``ValueError`` for a way that needs rows of another domain on a set that has none.
    """
    asked, how = SETS[name], WAYS[way]
    one: dict[str, Any] = {**asked.recipe, "strategies": [dict(strategy) for strategy in how.strategies], "seed": seed}
    one["training"] = {**asked.training, "learning_rate": asked.rates[how.rate], **how.training}
    if isinstance(one["head"], Mapping):
        one["head"] = _over(one["head"], how.head)
    if how.beside:
        one["heads"] = {"head": one.pop("head"), **{key: dict(head) for key, head in how.beside.items()}}
        one["training"]["metric"] = metric(name, way)
    if name in how.views:
        one["augmentations"] = [how.views[name]]
    if how.target:
        if asked.target is None:
            raise ValueError(f"'{way}' needs rows of another domain, which the set '{name}' has not")
        one["target"] = dict(asked.target)
    if how.continues:
        return _staged(one, asked, how)
    one = _with_few(one, asked)
    if how.teacher:
        return {**one, "first": _teaching(one, asked, how)}
    return {**one, "start": "{work}/first", "first": _first(one, asked, how)} if asked.first else one


def _teaching(one: Mapping[str, Any], asked: Set, how: Way) -> dict[str, Any]:
    """Return the teacher's run, of the same labels."""
    training = {**asked.training, "learning_rate": asked.rates["whole"]}
    strategies = [{"name": how.teacher["strategy"]}]
    return {**one, "backbone": how.teacher["backbone"], "strategies": strategies, "training": training}


def _first(one: Mapping[str, Any], asked: Set, how: Way) -> dict[str, Any]:
    """Return the run on the earlier task, which every way learns with all weights."""
    training = {**asked.training, "learning_rate": asked.rates["whole"]}
    strategies = [dict(strategy) for strategy in how.first] or [{"name": "full"}]
    return {**one, "data": {**one["data"], **asked.first}, "strategies": strategies, "training": training}


def metric(name: str, way: str) -> str:
    """Return what the metric of a set is called in the runs of a way, which may have several heads."""
    return f"head.{SETS[name].metric}" if WAYS[way].beside else SETS[name].metric


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**below, **above}.items() if value is not None}


def _with_few(one: Mapping[str, Any], asked: Set) -> dict[str, Any]:
    return {**one, "split": {**one["split"], "train_size": asked.few}} if asked.few else dict(one)


def _staged(one: Mapping[str, Any], asked: Set, how: Way) -> dict[str, Any]:
    """Return two stages: the pretraining goes on, on all rows without labels, then the few labels are learned from."""
    above = {key: value for key, value in one.items() if key not in ("head", "strategies", "training")}
    further = {"epochs": 2, "batch_size": 16, "learning_rate": asked.rates["whole"]}
    first = {"name": "go-on", "head": asked.language, "strategy": "full", "training": further}
    if asked.target is not None:
        first["data"] = dict(asked.target)
    last = {"name": "learn", **{key: one[key] for key in ("head", "strategies", "training")}}
    return {**above, "split": {"column": "split"}, "stages": [first, _with_few({**last, "split": one["split"]}, asked)]}


def digest(one: Mapping[str, Any]) -> str:
    """Return a word for a recipe, by which its result is known again."""
    return hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:12]
