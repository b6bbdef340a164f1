"""PEFT's own two files: ``adapter_config.json`` and ``adapter_model.safetensors``, as plain PEFT writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from exapt.errors import AdapterError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_ROOT = "base_model.model."


def is_peft_folder(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``adapter_config.json``. Raises ``AdapterError`` if it is missing or no JSON object."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"'{folder / CONFIG}' cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"'{folder / CONFIG}' holds no JSON object")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a PEFT folder. Raises ``AdapterError`` if its safetensors file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"'{folder / WEIGHTS}' cannot be read: {error}") from None


def has_peft(module: nn.Module) -> bool:
    """Whether PEFT put layers into a module."""
    return bool(getattr(module, "peft_config", None))


def config_of(module: nn.Module, base: str, revision: str) -> dict[str, Any]:
    """Return what goes into ``adapter_config.json``, in an order that is the same every time."""
    config: dict[str, Any] = _peft_config(module).to_dict()
    config |= {"base_model_name_or_path": base, "revision": revision or None, "inference_mode": True}
    return {name: plain(value) for name, value in sorted(config.items())}


# What may differ between two machines, or two versions of PEFT, without a change to what the adapter answers.
_OF_NO_EFFECT = frozenset({"base_model_name_or_path", "inference_mode", "peft_version", "revision"})


def check_config(folder: Path, module: nn.Module) -> None:
    """Raise ``AdapterError`` if ``adapter_config.json`` says other than what PEFT put into the module.

    Plain PEFT goes by the file: with another alpha it would answer otherwise than exapt.
    """
    said, here = read_config(folder), config_of(module, "", "")
    for name in sorted((said.keys() & here.keys()) - _OF_NO_EFFECT):
        if said[name] != here[name]:
            raise AdapterError(
                f"'{folder.name}/{CONFIG}' says {name} = {said[name]!r}, but the adapter's recipe makes it {here[name]!r}"
            )


def plain(value: Any) -> Any:
    """Return a value of a PEFT config as JSON has it, in an order that is the same every time."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in sorted(value.items())}
    return getattr(value, "value", value)


def _peft_config(module: nn.Module) -> Any:
    configs: Any = module.peft_config
    return configs["default"]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return PEFT's tensors under the names that ``PeftModel.from_pretrained`` expects."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(module)
    return {f"{_ROOT}{name}": tensor for name, tensor in sorted(state.items())}


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Put PEFT's tensors into a module that PEFT prepared.

    Raises ``AdapterError`` if a tensor is missing, left over or of another shape: PEFT alone would only warn.
    """
    from peft import set_peft_model_state_dict

    expected, given = state_of(module), state
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or unexpected:
        name, side = (missing[0], "lacks") if missing else (unexpected[0], "has besides")
        raise AdapterError(f"{what} does not fit the backbone: it {side} '{name.removeprefix(_ROOT)}'")
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise AdapterError(
                f"{what} does not fit the backbone: '{name.removeprefix(_ROOT)}' is {list(tensor.shape)}, "
                f"not {list(expected[name].shape)}"
            )
    set_peft_model_state_dict(module, {name.removeprefix(_ROOT): tensor for name, tensor in given.items()})


def rooted(
    state: Mapping[str, Tensor], module: nn.Module, saved_whole: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return PEFT's tensors as named under the bare ``module``, and the names of those that lie outside of it.

    An adapter made on a model with a task head has one more prefix (``esm.``, ``bert.``), which is taken off; the head
    itself, which PEFT lists in ``modules_to_save``, lies outside.
    """
    expected = state_of(module)
    prefix = "" if expected.keys() & state.keys() else _prefix(state, expected)
    bare = {name.removeprefix(_ROOT): tensor for name, tensor in state.items()}
    left_out = sorted(name for name in bare if not name.startswith(prefix) and name.partition(".")[0] in saved_whole)
    kept = {name: tensor for name, tensor in bare.items() if name not in left_out}
    return {f"{_ROOT}{name.removeprefix(prefix)}": tensor for name, tensor in kept.items()}, left_out


def _prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    for name in state:
        first, _, rest = name.removeprefix(_ROOT).partition(".")
        if f"{_ROOT}{rest}" in expected:
            return f"{first}."
    return ""


def merge(module: nn.Module) -> None:
    """Fold the layers that PEFT put into a module into its own weights, and take them away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in tuned:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
    if has_peft(module):
        del module.peft_config
