"""Adapters that stand upon others: what the one below learned becomes part of the backbone, and stays as it is.

So a model that went on with its pretraining (Gururangan et al. 2020, arXiv:2004.10964) is tuned to a question by a second
small adapter, which holds the first one whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exapt import peft_folder
from exapt.adapter import BASE, put_backbone, read_tensors
from exapt.building import build
from exapt.errors import AdapterError, RecipeError
from exapt.manifest import BACKBONE, MANIFEST, read_manifest
from exapt.model import Model, apply_strategies
from exapt.parts import Backbone, Strategy
from exapt.plugins import Plugins
from exapt.recipe import Recipe, read_recipe, validated
from exapt.resolve import Chosen
from exapt.specs import StrategySpec


class Base:
    """An adapter to stand upon, and those that it stands upon itself."""

    def __init__(self, folder: Path) -> None:
        if not (folder / MANIFEST).is_file():
            raise RecipeError(
                f"'{folder}' is no adapter of exapt to stand upon: base names a folder with {MANIFEST}; to go on from an "
                "adapter of PEFT, name it as start"
            )
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.files = read_tensors(folder, self.manifest)
        self.below = Base(folder / BASE) if (folder / BASE).is_dir() else None

    @property
    def fresh(self) -> bool:
        """Whether it was learned from fresh weights, so that no pretrained ones are needed."""
        return self.manifest["backbone"]["fingerprint"] is None

    @property
    def digest(self) -> str:
        """A sha256 of all that it changed, with what it stands upon."""
        facts = [self.manifest["tensors"], self.manifest["recipe"]["strategies"], self.below and self.below.digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def check(self, name: str, fingerprint: str, architecture: str) -> None:
        """Raise ``AdapterError`` if it was learned on other weights than those of the backbone ``name``."""
        facts = self.manifest["backbone"]
        said, found = facts["fingerprint"], fingerprint
        if said is None:
            said, found = facts["architecture"], architecture
        if said != found:
            raise AdapterError(
                f"base '{self.folder.name}' was learned on {facts['name']} with fingerprint {said[:12]}, but '{name}' here "
                f"has {found[:12]}"
            )

    def lay(self, backbone: Backbone, plugins: Plugins) -> None:
        """Make what it learned part of the backbone. Raises ``RecipeError`` if a strategy's part cannot be merged."""
        if self.below is not None:
            self.below.lay(backbone, plugins)
        recipe = read_recipe(self.manifest["recipe"])
        strategies = _built(recipe, plugins)
        model = Model(backbone, {}, {}, recipe.layer)
        apply_strategies(model, strategies)
        put_backbone(model, self.files.get(BACKBONE, {}), self.folder.name)
        if peft_folder.WEIGHTS in self.files:
            peft_folder.load_state(backbone.module, self.files[peft_folder.WEIGHTS], f"'{self.folder.name}'")
        for strategy in strategies.values():
            strategy.merge(backbone)
        backbone.requires_grad_(False).eval()


def _built(recipe: Recipe, plugins: Plugins) -> dict[str, Strategy]:
    found = {}
    for named in recipe.strategies:
        offer = plugins.get(StrategySpec, named.name)
        # Companions change nothing of what a backbone is made of, and may name what is no more, such as a teacher.
        if offer.spec.selects:
            options = validated(offer.spec.options, named.options, f"strategy '{offer.spec.name}' of the base")
            found[offer.spec.name] = build(Chosen(offer, options))
    return found


def base_of(folder: Path, manifest: Mapping[str, Any]) -> Base | None:
    """Return what an adapter stands upon. Raises ``AdapterError`` unless it is what the adapter was learned with."""
    said = manifest.get("base")
    if not said:
        return None
    if not (folder / BASE / MANIFEST).is_file():
        raise AdapterError(
            f"'{folder.name}' stands upon '{said['name']}', which is not in '{folder / BASE}': copy it there"
        )
    base = Base(folder / BASE)
    if base.digest != said["digest"]:
        raise AdapterError(
            f"'{folder.name}' was learned upon '{said['name']}' with digest {said['digest'][:12]}, but '{folder / BASE}' has "
            f"{base.digest[:12]}"
        )
    return base


def named_base(base: str, start: str) -> Base | None:
    """Return the adapter that a recipe stands upon: the one that it names, else that of the adapter that it starts from."""
    held = Path(start) / BASE if start else None
    inner = Base(held) if held is not None and held.is_dir() else None
    outer = Base(Path(base)) if base else None
    began = bool(start) and (Path(start) / MANIFEST).is_file()
    if outer is not None and began and (inner is None or inner.digest != outer.digest):
        upon = f"upon '{inner.folder}'" if inner is not None else "upon the published weights"
        raise RecipeError(
            f"'{Path(start).name}' to start from was learned {upon}, not upon '{base}': leave base out, which the start brings"
        )
    return outer or inner
