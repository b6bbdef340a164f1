"""The adapter on disk: what learning changed, who it belongs to, and how to tell on the next machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from exapt import peft_folder
from exapt.errors import AdapterError, OutputError, listed
from exapt.fingerprint import tensor_sha256
from exapt.manifest import BACKBONE, HEADS, MANIFEST, card, dumped
from exapt.model import Model, backbone_state
from exapt.places import BACKBONES, TOKENIZERS, remember
from exapt.plugins import Plugins
from exapt.resolve import Resolved

CARD = "README.md"
BASE = "base"
"""Where an adapter holds the one that it stands upon."""
_QUESTIONS = "heads"


def learned_files(model: Model) -> dict[str, dict[str, Tensor]]:
    """Return what learning changed, by file: heads; PEFT's tensors under PEFT's names; everything else of the backbone."""
    files = {HEADS: dict(model.heads.state_dict())}
    peft_names: set[str] = set()
    if peft_folder.has_peft(model.backbone.module):
        files[peft_folder.WEIGHTS] = peft_folder.state_of(model.backbone.module)
        peft_names = _peft_names(model)
    rest = sorted(model.changed - peft_names)
    if rest:
        state = backbone_state(model.backbone)
        files[BACKBONE] = {canonical(name): state[name] for name in rest}
    return {file: _apart(tensors) for file, tensors in files.items()}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, each in memory of its own: safetensors holds no tensor under two names, a tied head does."""
    own: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        own[name] = plain.clone() if plain.data_ptr() in places else plain
        places.add(plain.data_ptr())
    return own


def canonical(name: str) -> str:
    """Return a parameter's name as it is where PEFT has not wrapped its layer."""
    return name.replace(".base_layer.", ".")


def _peft_names(model: Model) -> set[str]:
    ours = {tensor.data_ptr() for tensor in peft_folder.state_of(model.backbone.module).values()}
    return {name for name, tensor in backbone_state(model.backbone).items() if tensor.data_ptr() in ours}


def describe_tensors(files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Return shape, type and sha256 of every tensor, by file."""
    return {
        file: {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "sha256": tensor_sha256(tensor)}
            for name, tensor in tensors.items()
        }
        for file, tensors in files.items()
    }


def check_free(folder: Path) -> None:
    """Raise ``OutputError`` if an adapter cannot be written to ``folder``: asked before training, not after it."""
    if folder.exists():
        raise OutputError(f"'{folder}' exists already; choose another folder, or remove it")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"there is no folder '{parent}' to write '{folder.name}' in")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in '{parent}'")


def write(folder: Path, model: Model, manifest: Mapping[str, Any]) -> None:
    """Write an adapter."""
    with written(folder) as under_way:
        _fill(under_way, model, manifest)


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, beside its place and then renamed, so that a reader never sees half of one.

    Raises ``OutputError`` if it cannot be written; then nothing is left.
    """
    check_free(folder)
    try:
        under_way = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be written: {error.strerror}") from None
    try:
        yield under_way
        _open_to_others(under_way)
        under_way.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"'{folder}' cannot be written: {reason}") from None
    finally:
        shutil.rmtree(under_way, ignore_errors=True)


def _fill(folder: Path, model: Model, manifest: Mapping[str, Any]) -> None:
    for file, tensors in learned_files(model).items():
        # The questions stand with the answers' weights too: class names put in another order would turn every answer.
        # One fact only, because safetensors writes several in any order.
        facts = questions(manifest) if file == HEADS else {"format": "pt"}
        save_file(tensors, folder / file, metadata=facts)
    if peft_folder.has_peft(model.backbone.module):
        backbone = manifest["backbone"]
        config = peft_folder.config_of(model.backbone.module, backbone["source"], backbone["revision"])
        (folder / peft_folder.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if model.base is not None:
        shutil.copytree(model.base, folder / BASE)
    (folder / MANIFEST).write_text(dumped(manifest), encoding="utf-8")
    (folder / CARD).write_text(card(manifest), encoding="utf-8")


def _open_to_others(folder: Path) -> None:
    # safetensors writes with mode 0600, and mkdtemp 0700: a colleague under the same umask could not read it.
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.iterdir():
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def read_tensors(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of an adapter by file.

    Raises ``AdapterError`` unless names, shapes, types, finiteness and sha256 are what the manifest says.
    """
    files = {}
    for file, described in manifest["tensors"].items():
        try:
            tensors = load_file(folder / file)
        except (OSError, SafetensorError) as error:
            raise AdapterError(f"'{folder / file}' cannot be read: {error}") from None
        _check_tensors(f"'{folder.name}/{file}'", tensors, described)
        files[file] = tensors
    _check_questions(folder, manifest)
    return files


def questions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands beside the tensors of the heads: what they were asked."""
    return {_QUESTIONS: _questions(manifest)}


def _questions(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest["recipe"]["heads"], sort_keys=True)


def _check_questions(folder: Path, manifest: Mapping[str, Any]) -> None:
    with safe_open(folder / HEADS, framework="pt") as file:
        kept = json.loads((file.metadata() or {}).get(_QUESTIONS, "{}"))
    for name, said in json.loads(_questions(manifest)).items():
        there = kept.get(name, {})
        for key in sorted(said.keys() | there.keys()):
            if said.get(key) != there.get(key):
                raise AdapterError(
                    f"head '{name}' of '{folder.name}' was learned with {key} {there.get(key)!r}, "
                    f"but {MANIFEST} says {said.get(key)!r}"
                )


def _check_tensors(what: str, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    missing, extra = sorted(described.keys() - tensors.keys()), sorted(tensors.keys() - described.keys())
    if missing:
        raise AdapterError(f"{what} lacks the tensor '{missing[0]}' that {MANIFEST} lists")
    if extra:
        raise AdapterError(f"{what} holds the tensor '{extra[0]}', which {MANIFEST} does not list")
    for name, tensor in tensors.items():
        said = described[name]
        found = {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}
        for fact, value in found.items():
            if value != said[fact]:
                raise AdapterError(f"{what}: '{name}' has {fact} {value}, but {MANIFEST} says {said[fact]}")
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{what}: '{name}' holds values that are not finite")
        if tensor_sha256(tensor) != said["sha256"]:
            raise AdapterError(
                f"{what}: '{name}' has sha256 {tensor_sha256(tensor)[:12]}, but {MANIFEST} says {said['sha256'][:12]}"
            )


def plugins_for(manifest: Mapping[str, Any], name: str, present: Plugins | None) -> Plugins:
    """Return the plugins that an adapter names, loaded alone. Raises ``AdapterError`` if one is not installed."""
    wanted = manifest["plugins"]
    plugins = present or Plugins.named(wanted)
    there = {plugin.info.distribution for plugin in plugins.loaded}
    for distribution in sorted(wanted.keys() - there):
        raise AdapterError(
            f"'{name}' needs the plugin {distribution} {wanted[distribution]}, which is not installed (or disabled): "
            f"pip install {distribution}"
        )
    return plugins


def put_learned(model: Model, files: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    """Put an adapter's tensors into a model. Raises ``AdapterError`` if they are not exactly those that it can take."""
    check_fit(f"'{name}/{HEADS}'", files[HEADS], model.heads.state_dict())
    model.heads.load_state_dict(dict(files[HEADS]))
    module, given = model.backbone.module, files.get(BACKBONE, {})
    with_peft = peft_folder.has_peft(module)
    if with_peft != (peft_folder.WEIGHTS in files):
        raise AdapterError(
            f"'{name}' has {'no' if with_peft else 'a'} {peft_folder.WEIGHTS}, which its strategies "
            f"{'need' if with_peft else 'have no use for'}"
        )
    learned = {canonical(full) for full in model.changed - (_peft_names(model) if with_peft else set())}
    if not learned <= given.keys():
        raise AdapterError(f"'{name}/{BACKBONE}' does not fit the model: missing {listed(learned - given.keys())}")
    put_backbone(model, given, name)
    if with_peft:
        check_fit(f"'{name}/{peft_folder.WEIGHTS}'", files[peft_folder.WEIGHTS], peft_folder.state_of(module))
        peft_folder.load_state(module, files[peft_folder.WEIGHTS], f"'{name}'")


def put_backbone(model: Model, tensors: Mapping[str, Tensor], name: str) -> None:
    """Overwrite parameters and buffers of the backbone, and remember that they changed."""
    names = {canonical(full): full for full in backbone_state(model.backbone)}
    state = backbone_state(model.backbone)
    check_fit(f"'{name}/{BACKBONE}'", tensors, {short: state[names[short]] for short in tensors if short in names})
    with torch.no_grad():
        for short, tensor in tensors.items():
            state[names[short]].copy_(tensor)
            model.changed.add(names[short])


def check_fit(what: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ``AdapterError`` unless the tensors ``given`` have the names, shapes and types of those ``wanted``."""
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or extra:
        raise AdapterError(f"{what} does not fit the model: missing {listed(missing)}; left over {listed(extra)}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise AdapterError(
                f"{what} does not fit the model: '{name}' is {list(tensor.shape)}, not {list(wanted[name].shape)}"
            )
        if tensor.dtype != wanted[name].dtype:
            raise AdapterError(
                f"{what} does not fit the model: '{name}' is of {tensor.dtype}, not {wanted[name].dtype}"
            )


def remember_places(weights: str, tokenizer: str, resolved: Resolved) -> None:
    """Note, on this machine only, where the files of these fingerprints, of weights and of a tokenizer, stand."""
    remember(BACKBONES, weights, {"source": resolved.folder} if resolved.folder else {})
    remember(TOKENIZERS, tokenizer, resolved.tokenizer.files)
