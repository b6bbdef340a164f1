"""A run that starts from an adapter, exapt's or PEFT's, instead of from the pretrained weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from exapt import adapter, peft_folder
from exapt.errors import RecipeError
from exapt.manifest import BACKBONE, HEADS, MANIFEST, read_manifest
from exapt.model import Model
from exapt.resolve import Resolved


def adopted(resolved: Resolved, start: Path) -> Resolved:
    """Fit the strategies to the adapter to start from. Raises ``RecipeError`` if none of them can take it."""
    if not start.is_dir():
        raise RecipeError(f"there is no folder '{start}' to start from")
    if not peft_folder.is_peft_folder(start):
        if not (start / MANIFEST).is_file():
            raise RecipeError(f"'{start}' is neither an exapt adapter nor a PEFT one")
        return resolved
    takers = [chosen for chosen in resolved.strategies if chosen.offer.spec.adopt]
    if not takers:
        raise RecipeError(
            f"'{start.name}' holds a PEFT adapter, which none of the strategies takes up: use strategy 'lora'"
        )
    fitted = tuple(
        replace(chosen, options=chosen.offer.spec.adopt(chosen.options, start)) if chosen in takers else chosen
        for chosen in resolved.strategies
    )
    return replace(resolved, strategies=fitted)


class Start:
    """An adapter to start from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
        self.files: Mapping[str, Mapping[str, Tensor]] = (
            adapter.read_tensors(folder, self.manifest)
            if self.manifest
            else {peft_folder.WEIGHTS: peft_folder.read_weights(folder)}
        )

    def check(self, name: str, fingerprint: str | None, architecture: str) -> None:
        """Raise ``RecipeError`` if the adapter was learned on other weights than those of the backbone ``name``.

        Weights without a ``fingerprint`` are fresh ones: of them only the architecture can be the same.
        """
        if self.manifest is None:
            return
        facts = self.manifest["backbone"]
        said, found = facts["fingerprint"], fingerprint
        if said is None:
            # What was learned from scratch replaces all weights: it fits wherever the shapes do.
            said, found = facts["architecture"], architecture
        if found is None:
            raise RecipeError(
                f"'{self.folder.name}' was learned on the pretrained weights of {facts['name']}; strategy 'scratch' has none"
            )
        if said != found:
            raise RecipeError(
                f"'{self.folder.name}' was learned on weights {said[:12]}, but '{name}' here has {found[:12]}"
            )

    def put_backbone(self, model: Model) -> list[str]:
        """Put what the adapter changed of the backbone into a model; returns the tensors that were left out."""
        adapter.put_backbone(model, self.files.get(BACKBONE, {}), self.folder.name)
        if peft_folder.WEIGHTS not in self.files:
            return []
        state, left_out = peft_folder.rooted(
            self.files[peft_folder.WEIGHTS], model.backbone.module, self._saved_whole()
        )
        peft_folder.load_state(model.backbone.module, state, f"'{self.folder.name}'")
        return left_out

    def _saved_whole(self) -> tuple[str, ...]:
        return tuple(peft_folder.read_config(self.folder).get("modules_to_save") or ())

    def put_heads(self, model: Model, ours: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Take up the heads that ask the very same question, and return their names; others start afresh."""
        if self.manifest is None:
            return set()
        theirs = self.manifest["recipe"]["heads"]
        same = {name for name in ours if name in theirs and question(theirs[name]) == question(ours[name])}
        for name in same:
            tensors = self.files[HEADS].items()
            head = {key.removeprefix(f"{name}."): value for key, value in tensors if key.startswith(f"{name}.")}
            adapter.check_fit(f"head '{name}' of '{self.folder.name}'", head, model.head(name).state_dict())
            model.head(name).load_state_dict(head)
        return same


# How a head learns is no part of what it was asked.
_LEARNED_BY = ("weight", "label", "class_weights", "loss", "gamma")


def question(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a head asks, of how it stands in a recipe: heads that ask the same can take up each other's weights."""
    return {key: value for key, value in head.items() if key not in _LEARNED_BY}
