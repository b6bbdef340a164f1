"""Recipes of several stages, one after the other on one backbone: each stands upon what the one before it learned.

A model goes on with its pretraining on unlabelled data of a domain, then learns a question (Gururangan et al. 2020,
arXiv:2004.10964); any other sequence is written the same way.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.adapter import check_free
from exapt.errors import ExaptError, OutputError, RecipeError, listed
from exapt.events import Event, Listener, Run
from exapt.identity import identity
from exapt.manifest import MANIFEST
from exapt.plugins import current
from exapt.recipe import Recipe, parsed, read_recipe
from exapt.rehearsal import rehearse
from exapt.resolve import resolve
from exapt.training import run

KEY = "stages"
_MERGED = ("data", "split", "training", "target", "reference")
"""Sections of which a stage says only what differs; components it names whole."""


@dataclass(frozen=True)
class Stage:
    """One run of several, under a name."""

    name: str
    recipe: Recipe


def staged(given: Any) -> list[Stage] | None:
    """Return the stages of a recipe (a mapping, or a TOML or JSON file); None if it is of one run.

    Raises ``RecipeError``, naming the stage, for one that is no recipe together with what stands above all stages.
    """
    table = given if isinstance(given, Mapping) else None
    if isinstance(given, (str, Path)):
        table = parsed(Path(given))
    if not isinstance(table, Mapping) or KEY not in table:
        return None
    stages = table[KEY]
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise RecipeError(f"'{KEY}' is a list of tables, [[{KEY}]] in TOML, each with what differs in that stage")
    above = {key: value for key, value in table.items() if key != KEY}
    names = [
        str(stage.get("name", place)) if isinstance(stage, Mapping) else "" for place, stage in enumerate(stages, 1)
    ]
    for place, (name, stage) in enumerate(zip(names, stages, strict=True), 1):
        if not isinstance(stage, Mapping):
            raise RecipeError(f"stage {place} is no table of keys")
        if names.count(name) > 1 or not name.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(
                f"stage {place} is called '{name}': each has a name of its own, of letters, digits, '-' and '_'"
            )
        if place > 1 and {"start", "base"} & stage.keys():
            raise RecipeError(f"stage '{name}' stands upon the one before it: leave start and base out")
    # What the whole begins with is of the first stage: the others begin with what the one before them learned.
    later = {key: value for key, value in above.items() if key not in ("start", "base")}
    recipes = [
        _recipe(name, later if place else above, stage)
        for place, (name, stage) in enumerate(zip(names, stages, strict=True))
    ]
    return [Stage(name, recipe) for name, recipe in zip(names, recipes, strict=True)]


def _recipe(name: str, above: Mapping[str, Any], stage: Mapping[str, Any]) -> Recipe:
    full = _without_rivals(above, stage) | {key: value for key, value in stage.items() if key != "name"}
    for key in _MERGED:
        if isinstance(above.get(key), Mapping) and isinstance(stage.get(key), Mapping):
            full[key] = {**above[key], **stage[key]}
    try:
        return read_recipe(full)
    except RecipeError as error:
        raise RecipeError(f"stage '{name}': {error}") from None


def _without_rivals(above: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands above all stages, without what a stage says in the other of two ways."""
    rivals = [("head", "heads"), ("strategy", "strategies"), ("augmentation", "augmentations")]
    gone = {key for pair in rivals if stage.keys() & set(pair) for key in pair}
    return {key: value for key, value in above.items() if key not in gone}


def run_stages(
    stages: Sequence[Stage],
    out: Path | None = None,
    *,
    resume: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Adapted:
    """Run all stages, and return the last one's model; the adapters before it are kept in ``OUT.stages`` and inside it."""
    _check(stages, devices.choose(device))
    if out is None:
        scratch = Path(tempfile.mkdtemp(prefix="exapt-stages-"))
        try:
            adapted = _run(stages, scratch, None, False, device, listeners)
        except BaseException:
            shutil.rmtree(scratch)
            raise
        # What the model stands upon is copied where it is saved, be that long from now.
        weakref.finalize(adapted, shutil.rmtree, scratch, ignore_errors=True)
        return adapted
    check_free(out)
    folder = out.with_name(f"{out.name}.stages")
    if folder.exists() and not resume:
        raise OutputError(f"'{folder}' holds the stages of an earlier run: go on with --resume, or remove it")
    folder.mkdir(exist_ok=True)
    return _run(stages, folder, out, resume, device, listeners)


def _check(stages: Sequence[Stage], where: torch.device) -> None:
    names = {stage.recipe.backbone.name for stage in stages}
    if len(names) > 1:
        raise RecipeError(f"all stages learn on one backbone; these name {listed(names)}")
    for stage in stages:
        # Every stage, before hours go into the first.
        with _told_of(stage.name):
            rehearse(stage.recipe, where)
    for stage in stages[:-1]:
        for chosen in resolve(stage.recipe, current()).strategies:
            if not chosen.offer.spec.merges:
                raise RecipeError(
                    f"stage '{stage.name}': what strategy '{chosen.offer.spec.name}' learns stays beside the weights, so that no "
                    "stage can stand upon it: use it in the last one, or another such as 'lora' here"
                )
    for stage in stages[1:]:
        if any(strategy.name == "scratch" for strategy in stage.recipe.strategies):
            raise RecipeError(
                f"stage '{stage.name}': strategy 'scratch' would forget what the stages before it learned"
            )


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Say of which stage it is that goes wrong."""
    try:
        yield
    except ExaptError as error:
        # Some kinds of error are made of other things than a text; what they are a kind of takes one.
        kind = next(kind for kind in type(error).__mro__ if "__init__" not in vars(kind))
        raise kind(f"stage '{name}': {error}") from error


def _run(
    stages: Sequence[Stage], folder: Path, out: Path | None, resume: bool, device: str, listeners: Sequence[Listener]
) -> Adapted:
    below = ""
    for place, stage in enumerate(stages[:-1], 1):
        here = folder / f"{place}-{stage.name}"
        recipe = _upon(stage.recipe, below)
        _tell(listeners, f"stage {place} of {len(stages)}, '{stage.name}'")
        if not (resume and _done(here, recipe)):
            # Before the run: that it is over is told by the adapter itself, which is written at one stroke.
            _mark(here).write_text(json.dumps(identity(recipe), sort_keys=True), encoding="utf-8")
            with _told_of(stage.name):
                run(recipe, here, resume=resume, device=device, listeners=listeners)
        below = str(here)
    last = stages[-1]
    _tell(listeners, f"stage {len(stages)} of {len(stages)}, '{last.name}'")
    with _told_of(last.name):
        return run(_upon(last.recipe, below), out, resume=resume, device=device, listeners=listeners)


def _upon(recipe: Recipe, below: str) -> Recipe:
    return recipe.model_copy(update={"base": below}) if below else recipe


def _mark(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _done(folder: Path, recipe: Recipe) -> bool:
    """Whether a stage is behind. Raises ``RecipeError``, naming what differs, if it was of another recipe."""
    if not (folder / MANIFEST).is_file():
        return False
    if not _mark(folder).is_file():
        raise RecipeError(
            f"'{_mark(folder)}', which says what '{folder.name}' was learned from, is missing: remove '{folder}' to learn that "
            "stage anew"
        )
    said, here = json.loads(_mark(folder).read_text(encoding="utf-8")), json.loads(json.dumps(identity(recipe)))
    for key in sorted(said.keys() | here.keys()):
        if said.get(key) != here.get(key):
            raise RecipeError(
                f"'{folder}' was learned with another {key}: remove '{folder.parent}', or give back the recipe it had"
            )
    return True


def _tell(listeners: Sequence[Listener], text: str) -> None:
    for listener in listeners:
        listener(Run(None, {}), Event("note", {"text": text}))
