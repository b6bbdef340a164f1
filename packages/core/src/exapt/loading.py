"""An adapter, from its folder to a model that answers: where its parts stand on this machine, and whether they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exapt import adapter
from exapt import device as devices
from exapt.adapted import Adapted
from exapt.base import base_of
from exapt.errors import AdapterError, RecipeError, listed
from exapt.manifest import read_manifest
from exapt.places import BACKBONES, TOKENIZERS, found_here, remembered
from exapt.plugins import Plugins, overridden, using
from exapt.rebuilding import Ground, Read, read_backbone, rebuild
from exapt.recipe import Component, read_recipe
from exapt.resolve import Resolved, resolve
from exapt.specs import TokenizerSpec, local_paths, settable


def load(
    folder: str | Path,
    *,
    backbone: str = "",
    device: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Adapted:
    """Load an adapter, and with it only the plugins that it names.

    ``backbone`` (``FAMILY:PATH``, a folder or a file) says where the weights stand, if they are not where they were or
    this machine has not seen them yet; ``settings`` holds options of the ``tokenizer``: where its files stand, and limits
    to what it refuses. Raises ``AdapterError`` unless tensors, backbone, tokenizer and answers are those that were saved,
    and ``RecipeError`` for an option that there is not, or that stays as it was learned.
    """
    return load_upon(read_backbone, Path(folder), backbone, device, settings or {})


def load_upon(
    read: Read, folder: Path, backbone: str, device: str, settings: Mapping[str, Mapping[str, Any]]
) -> Adapted:
    """Load an adapter, as ``load`` does, upon the backbone that ``read`` gives."""
    manifest = read_manifest(folder)
    plugins = adapter.plugins_for(manifest, folder.name, overridden())
    with using(plugins):
        resolved = _resolved(folder, manifest, backbone, settings, plugins)
        base = base_of(folder, manifest)
        lay = (lambda backbone: base.lay(backbone, plugins)) if base else None
        model, tokenizer = rebuild(folder, manifest, resolved, devices.choose(device), Ground(read, lay))
    return Adapted(model, tokenizer, resolved, manifest)


def _resolved(
    folder: Path,
    manifest: Mapping[str, Any],
    backbone: str,
    settings: Mapping[str, Mapping[str, Any]],
    plugins: Plugins,
) -> Resolved:
    recipe = read_recipe(manifest["recipe"])
    own = recipe.tokenizer or Component(name=manifest["tokenizer"]["name"])
    given = given_here(folder, settings, own, plugins)
    source = source_here(folder, manifest, backbone, plugins)
    here = tokenizer_here(folder, manifest, own, source, given, plugins)
    return resolve(recipe.model_copy(update={"tokenizer": here}), plugins, source)


def tokenizer_here(
    folder: Path,
    manifest: Mapping[str, Any],
    tokenizer: Component,
    source: str,
    given: Mapping[str, Any],
    plugins: Plugins,
    tower: str = "",
) -> Component:
    """Return a tokenizer with the options that are ``given``, and its files where they stand on this machine."""
    files = local_paths(plugins.get(TokenizerSpec, tokenizer.name).spec.options)
    lost = {key: str(said) for key in files if (said := tokenizer.options.get(key)) and key not in given}
    return tokenizer.model_copy(update={**_files(folder, manifest, lost, source, tower), **given})


def given_here(
    folder: Path, settings: Mapping[str, Mapping[str, Any]], tokenizer: Component, plugins: Plugins
) -> Mapping[str, Any]:
    """Return the options of the tokenizer. Raises ``RecipeError`` for any that would change what the adapter learned from."""
    unknown = settings.keys() - {"tokenizer"}
    if unknown:
        raise RecipeError(f"of an adapter only options of its tokenizer can be set, not of '{min(unknown)}'")
    given = settings.get("tokenizer", {})
    if not isinstance(given, Mapping) or "name" in given:
        raise RecipeError(f"'{folder.name}' has its own tokenizer: name an option of it, tokenizer.KEY=VALUE")
    options = plugins.get(TokenizerSpec, tokenizer.name).spec.options
    saved, free = tokenizer.options, settable(options)
    for key, value in given.items():
        if key in options.model_fields and key not in free and saved.get(key) != value:
            can = f"what can be set is {listed(free)}" if free else "nothing of it can be set"
            raise RecipeError(f"'{folder.name}' keeps tokenizer.{key} as it was learned: {can}")
    return given


def _files(
    folder: Path, manifest: Mapping[str, Any], files: Mapping[str, str], weights: str, tower: str
) -> dict[str, str]:
    """Return where files of the tokenizer stand here; the adapter knows their last names alone."""
    here = found_here(files, TOKENIZERS, manifest["tokenizer"]["fingerprint"], weights)
    for key, file in files.items():
        if key not in here:
            raise AdapterError(
                f"'{folder.name}' was learned with tokenizer.{key} '{Path(file).name}', which this machine has not seen: "
                f"say where it is with --set {f'{tower}.' if tower else ''}tokenizer.{key}=PATH"
            )
    return here


def source_here(folder: Path, manifest: Mapping[str, Any], backbone: str, plugins: Plugins, tower: str = "") -> str:
    """Return where the weights stand, ``backbone`` (``FAMILY:PATH``) or where they were last seen; nothing if they have a name.

    Raises ``AdapterError`` for another family, and for weights that this machine has not seen. Of an alignment, ``tower``
    is the one whose weights they are.
    """
    facts = manifest["backbone"]
    if backbone:
        offer, _, source = plugins.checkpoint(backbone)
        if offer.spec.name != facts["family"]:
            raise AdapterError(
                f"'{folder.name}' was learned on {facts['name']}, not on a model of the family '{offer.spec.name}'"
            )
        return source
    if not facts["local"]:
        return ""
    source = remembered(BACKBONES, facts["fingerprint"] or facts["architecture"]).get("source", "")
    if not source:
        asked = f"{tower}=" if tower else ""
        raise AdapterError(
            f"'{folder.name}' was learned on the local weights '{facts['name']}', which are not where they were, or "
            f"which this machine has not seen: say where they are with --backbone {asked}{facts['family']}:PATH"
        )
    return source
