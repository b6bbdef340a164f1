"""LoRA and its relatives, through PEFT, on the backbone's bare module.

LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA: Liu et al. 2024, arXiv:2402.09353. IA3: Liu et al. 2022, arXiv:2205.05638.
rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import peft
from torch import nn

from exapt.builtin.strategies import LoraOptions
from exapt.errors import RecipeError, listed
from exapt.parts import Backbone, Learns, Strategy
from exapt.peft_folder import merge, plain, read_config

# What a folder may say without changing what its tensors mean, or what is taken up below or checked against the tensors.
_UNDERSTOOD = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
_UNDERSTOOD |= {"task_type", "exclude_modules", "modules_to_save", "target_modules", "init_ia3_weights"}
_UNDERSTOOD |= {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora"}
# Ways to begin a LoRA that leave the pretrained weights alone; others, such as PiSSA, replace them.
_BEGINNINGS = (True, False, "eva", "gaussian", "orthogonal")


class Lora(Strategy):
    """A small trainable update on chosen linear layers; the pretrained weights stay as they are."""

    def __init__(self, options: LoraOptions, name: str = "lora") -> None:
        self.options, self.name = options, name
        self._learns: frozenset[str] = frozenset()

    def prepare(self, backbone: Backbone) -> None:
        """Let PEFT put its layers into ``backbone.module``. Raises ``RecipeError`` if no layer of a block matches."""
        before = {id(parameter) for parameter in backbone.parameters()}
        peft.inject_adapter_in_model(self._config(backbone), backbone.module)
        self._learns = frozenset(name for name, value in backbone.named_parameters() if id(value) not in before)

    def merge(self, backbone: Backbone) -> None:
        """Add the update to the weights that it goes with."""
        merge(backbone.module)

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the parameters that PEFT added."""
        yield Learns(self._learns)

    def _config(self, backbone: Backbone) -> peft.PeftConfig:
        targets = linear_targets(backbone, self.options.targets or backbone.lora_targets, self.name)
        if self.options.variant == "ia3":
            return peft.IA3Config(target_modules=targets, feedforward_modules=[])
        # PEFT's annotation says int; it divides by it all the same.
        alpha: Any = self.options.alpha
        return peft.LoraConfig(
            r=self.options.rank,
            lora_alpha=alpha,
            lora_dropout=self.options.dropout,
            use_dora=self.options.variant == "dora",
            use_rslora=self.options.rank_stabilised,
            target_modules=targets,
        )


def linear_targets(backbone: Backbone, wanted: tuple[str, ...], strategy: str) -> list[str]:
    """Return full names, under ``backbone.module``, of the linear layers inside ``blocks()`` that a strategy wants by name.

    No name wants all of them. Raises ``RecipeError`` if one matches nothing: PEFT would go on without it.
    """
    inside = {id(module) for block in backbone.blocks() for module in block.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in backbone.module.named_modules() if id(module) in inside]
    for want in wanted:
        if not any(matches(name, want) for name in names):
            last = {name.rpartition(".")[2] for name in names}
            raise RecipeError(
                f"strategy '{strategy}': no linear layer '{want}' in the backbone's blocks. There are: {listed(last)}"
            )
    found = sorted(name for name in names if not wanted or any(matches(name, want) for want in wanted))
    if not found:
        raise RecipeError(f"strategy '{strategy}' finds no linear layer: this backbone has no blocks")
    return found


def matches(name: str, want: str) -> bool:
    """Whether a layer's full name is the one that is wanted, or ends with it."""
    return name == want or name.endswith(f".{want}")


def adopt(options: LoraOptions, folder: Path, strategy: str = "lora") -> LoraOptions:
    """Return the options that a PEFT folder was written with. Raises ``RecipeError`` if a chosen option disagrees."""
    config = read_config(folder)
    theirs = _as_options(config, folder, strategy)
    for name in options.model_fields_set:
        if getattr(options, name) != theirs[name]:
            raise RecipeError(
                f"strategy '{strategy}': {name} is {getattr(options, name)!r}, but '{folder.name}' to start from has "
                f"{theirs[name]!r}"
            )
    return LoraOptions(**theirs)


def _refuse_more(config: Mapping[str, Any], folder: Path, strategy: str) -> None:
    # What PEFT can say and exapt's options cannot is refused rather than passed over.
    kind = peft.IA3Config if config["peft_type"] == "IA3" else peft.LoraConfig
    usual = {name: plain(value) for name, value in kind().to_dict().items()}
    for name in sorted(config.keys() - _UNDERSTOOD):
        value = config[name]
        begins = name == "init_lora_weights" and value in _BEGINNINGS
        if value and not begins and value != usual.get(name):
            raise RecipeError(f"'{folder.name}' has {name} = {value!r}, which strategy '{strategy}' does not do")


def _as_options(config: Mapping[str, Any], folder: Path, strategy: str) -> dict[str, Any]:
    kind = config.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise RecipeError(f"'{folder.name}' is a PEFT adapter of type {kind}; exapt starts from LORA and IA3")
    _refuse_more(config, folder, strategy)
    targets = config.get("target_modules") or []
    if isinstance(targets, str):
        raise RecipeError(f"'{folder.name}' names its target_modules by a pattern, '{targets}'; exapt needs a list")
    variant = "ia3" if kind == "IA3" else "dora" if config.get("use_dora") else "lora"
    shape = {"variant": variant, "targets": tuple(sorted(targets))}
    if kind == "IA3":
        return {**LoraOptions().model_dump(), **shape}
    return {
        **shape,
        "rank": config["r"],
        "alpha": float(config["lora_alpha"]),
        "rank_stabilised": bool(config.get("use_rslora")),
        "dropout": float(config.get("lora_dropout", 0.0)),
    }
