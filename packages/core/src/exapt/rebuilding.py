"""An adapted model, built again from an adapter and from what it was learned on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exapt import peft_folder
from exapt.adapter import BASE, put_learned, read_tensors, remember_places
from exapt.building import build_backbone, build_model, build_strategies, build_tokenizer, encode_one
from exapt.errors import AdapterError, DataError
from exapt.fingerprint import architecture, fingerprint, fingerprint_tokenizer
from exapt.golden import check_probe, probe
from exapt.manifest import BACKBONE
from exapt.model import Model
from exapt.parts import Backbone, Tokenizer
from exapt.resolve import Chosen, Resolved

Read = Callable[[Chosen, bool, Collection[str] | None], tuple[Backbone, str]]
"""``read(backbone, pretrained, own)`` gives a backbone as it was published, or fresh, and its fingerprint; the tensors named
``own``, None for all, are about to be written to.
"""


def read_backbone(chosen: Chosen, pretrained: bool, own: Collection[str] | None) -> tuple[Backbone, str]:
    """Return a backbone as it was published, and its fingerprint; of fresh weights nothing but their shapes has one."""
    backbone = build_backbone(chosen, pretrained)
    return backbone, fingerprint(backbone) if pretrained else architecture(backbone)


@dataclass(frozen=True)
class Ground:
    """What an adapter is put upon: a backbone, of which ``lay`` makes another adapter part where it stands upon one."""

    read: Read = read_backbone
    lay: Callable[[Backbone], None] | None = None


def rebuild(
    folder: Path,
    manifest: Mapping[str, Any],
    resolved: Resolved,
    device: torch.device,
    ground: Ground,
) -> tuple[Model, Tokenizer]:
    """Build the adapted model again, checking at each step that it is the one that was saved."""
    tensors = read_tensors(folder, manifest)
    tokenizer = build_tokenizer(resolved.tokenizer)
    # The inputs that the adapter was saved with: the plugin may have others by now.
    probes = manifest["probe"]["inputs"]
    _check_readable(folder, tokenizer, probes, resolved)
    found = fingerprint_tokenizer(tokenizer, probes)
    _same("tokenizer", folder, manifest["tokenizer"]["fingerprint"], found, resolved)
    strategies = build_strategies(resolved)
    pretrained = all(strategy.pretrained for strategy in strategies.values())
    # Upon weights that were learned from fresh ones even what transfers needs no pretrained ones.
    pretrained = pretrained and manifest["backbone"]["fingerprint"] is not None
    own = tensors.get(BACKBONE, {}).keys() if ground.lay is None else None
    backbone, found = ground.read(resolved.backbone, pretrained, own)
    said = manifest["backbone"]["fingerprint" if pretrained else "architecture"]
    _same("backbone", folder, said, found, resolved)
    if ground.lay is not None:
        ground.lay(backbone)
    model, _ = build_model(resolved, backbone, tokenizer, strategies, device, seed=0)
    model.base = folder / BASE if ground.lay is not None else None
    put_learned(model, tensors, folder.name)
    if peft_folder.has_peft(model.backbone.module):
        peft_folder.check_config(folder, model.backbone.module)
    model.eval()
    found_probe = probe(model, tokenizer, probes, list(resolved.recipe.data.inputs))
    check_probe(folder.name, manifest["probe"], found_probe)
    remember_places(said, manifest["tokenizer"]["fingerprint"], resolved)
    return model, tokenizer


def _check_readable(folder: Path, tokenizer: Tokenizer, probes: Sequence[Any], resolved: Resolved) -> None:
    for number, value in enumerate(probes, 1):
        try:
            encode_one(tokenizer, value, f"probe {number}", resolved.backbone, resolved.tokenizer)
        except DataError as error:
            raise AdapterError(
                f"'{folder.name}' holds a probe that the tokenizer here does not read: {error}"
            ) from None


def _same(what: str, folder: Path, said: str, found: str, resolved: Resolved) -> None:
    if said != found:
        raise AdapterError(
            f"'{folder.name}' was learned on a {what} with fingerprint {said[:12]}, but the {what} of "
            f"'{resolved.recipe.backbone.name}' here has {found[:12]}"
        )
