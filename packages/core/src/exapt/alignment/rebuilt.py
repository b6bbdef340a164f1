"""An alignment, from its folder to two towers that find each other, checked at each step to be those that were saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exapt import adapter
from exapt.alignment.aligned import Alignment, probed
from exapt.alignment.folder import read_manifest, read_tensors
from exapt.alignment.recipe import TowerOptions
from exapt.alignment.towers import ChosenTower, Tower
from exapt.building import build, encode_one
from exapt.errors import AdapterError, DataError, RecipeError, did_you_mean, listed
from exapt.fingerprint import fingerprint_tokenizer
from exapt.loading import given_here, load, source_here, tokenizer_here
from exapt.parts import Head, HeadContext
from exapt.plugins import Plugins, overridden, using
from exapt.recipe import Component, validated
from exapt.resolve import Chosen, resolve_backbone
from exapt.specs import HeadSpec

Settings = Mapping[str, Mapping[str, Any]]
"""Options of a tower's ``tokenizer``."""


def load_alignment(
    folder: str | Path,
    *,
    backbones: Mapping[str, str] | None = None,
    device: str = "",
    settings: Mapping[str, Settings] | None = None,
) -> Alignment:
    """Load an alignment, and with it only the plugins that it names.

    By tower, ``backbones`` (``FAMILY:PATH``) say where weights stand, if they are not where they were or this machine has
    not seen them yet, and ``settings`` hold options of its ``tokenizer``: where its files stand, and limits to what it
    refuses. Raises ``AdapterError`` unless tensors, both backbones, their tokenizers and answers are those that were saved.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    plugins = adapter.plugins_for(manifest, folder.name, overridden())
    given = _Given(folder, manifest, plugins, device, backbones or {}, settings or {})
    with using(plugins):
        towers = {name: given.tower(name) for name in manifest["recipe"]["towers"]}
        head = _head(folder, manifest, towers, plugins)
    for name, tower in towers.items():
        _check_probe(folder, manifest["probes"][name], tower, head)
        tower.remember()
    return Alignment(towers, head, manifest)


@dataclass(frozen=True)
class _Given:
    """What there is to make towers of: the manifest, and what the user says of each tower."""

    folder: Path
    manifest: Mapping[str, Any]
    plugins: Plugins
    device: str
    backbones: Mapping[str, str]
    settings: Mapping[str, Settings]

    def __post_init__(self) -> None:
        known = self.manifest["towers"]
        for name in (*self.backbones, *self.settings):
            if name not in known:
                raise RecipeError(
                    f"'{self.folder.name}' has no tower '{name}'.{did_you_mean(name, known)} Towers: {listed(known)}"
                )

    def tower(self, name: str) -> Tower:
        written = self.manifest["recipe"]["towers"][name]
        if "adapter" in written:
            return self._of_adapter(name, written)
        options = validated(TowerOptions, written, f"'{self.folder.name}': towers.{name}")
        facts, settings = self.manifest["towers"][name], self.settings.get(name, {})
        source = source_here(self.folder, facts, self.backbones.get(name, ""), self.plugins, name)
        own = options.tokenizer or Component(name=facts["tokenizer"]["name"])
        given = given_here(self.folder, settings, own, self.plugins)
        here = tokenizer_here(self.folder, facts, own, source, given, self.plugins, name)
        assert options.backbone is not None
        parts = resolve_backbone(self.plugins, options.backbone, here, source)
        tower = Tower.of(ChosenTower(name, options, parts), self.device)
        self._check(tower)
        return tower

    def _of_adapter(self, name: str, written: Mapping[str, Any]) -> Tower:
        """Return the tower of an adapter whose copy stands in the alignment: it is checked as any adapter is."""
        copy = self.folder / name
        adapted = load(
            copy, backbone=self.backbones.get(name, ""), device=self.device, settings=self.settings.get(name, {})
        )
        said = self.manifest["towers"][name]["backbone"]
        if adapted.manifest["backbone"] != said:
            raise AdapterError(
                f"'{copy}' is an adapter of {adapted.manifest['backbone']['name']}, and '{self.folder.name}' was learned with "
                f"another, of {said['name']}"
            )
        options = validated(TowerOptions, {**written, "adapter": str(copy)}, f"'{self.folder.name}': towers.{name}")
        resolved = adapted.resolved
        parts = (resolved.backbone, resolved.checkpoint, resolved.tokenizer)
        return Tower.of(ChosenTower(name, options, parts, adapted), self.device)

    def _check(self, tower: Tower) -> None:
        """Raise ``AdapterError`` unless backbone and tokenizer are those that were learned with."""
        embedder, said = tower.embedder, self.manifest["towers"][tower.name]
        probes = self.manifest["probes"][tower.name]["inputs"]
        for number, value in enumerate(probes, 1):
            try:
                encode_one(embedder.tokenizer, value, f"probe {number}", *embedder.parts)
            except DataError as error:
                raise AdapterError(
                    f"'{self.folder.name}' holds a probe that the tokenizer of '{tower.name}' here does not read: {error}"
                ) from None
        found = {
            "backbone": embedder.key["weights"],
            "tokenizer": fingerprint_tokenizer(embedder.tokenizer, probes),
        }
        for what, word in found.items():
            if said[what]["fingerprint"] != word:
                raise AdapterError(
                    f"'{self.folder.name}' was learned with a {what} of fingerprint {said[what]['fingerprint'][:12]} as tower "
                    f"'{tower.name}' ({said['backbone']['name']}), but the {what} of '{embedder.name}' here has {word[:12]}"
                )


def _head(folder: Path, manifest: Mapping[str, Any], towers: Mapping[str, Tower], plugins: Plugins) -> Head:
    written = validated(Component, manifest["recipe"]["head"], f"'{folder.name}': recipe.head")
    offer = plugins.get(HeadSpec, written.name)
    chosen = Chosen(offer, validated(offer.spec.options, written.options, f"head '{offer.spec.name}'"))
    head: Head = build(chosen, HeadContext({name: tower.width for name, tower in towers.items()}))
    tensors = read_tensors(folder, manifest)
    adapter.check_fit(f"'{folder.name}'", tensors, head.state_dict())
    head.load_state_dict(tensors)
    device = next(iter(towers.values())).embedder.device
    return head.to(device).eval()


def _check_probe(folder: Path, kept: Mapping[str, Any], tower: Tower, head: Head) -> None:
    here = np.array(probed(tower, head, kept["inputs"])["outputs"])
    there, tolerance = np.array(kept["outputs"]), kept["tolerance"]["fp32"]
    if here.shape != there.shape or not np.allclose(here, there, rtol=tolerance, atol=tolerance):
        gap = f"by {np.abs(here - there).max():.2g}" if here.shape == there.shape else "in shape"
        raise AdapterError(
            f"'{folder.name}' answers otherwise here than where it was saved: tower '{tower.name}' differs {gap} on its probes "
            f"(tolerance {tolerance:g}); compare its versions with 'exapt doctor'"
        )
