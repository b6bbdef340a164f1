"""Bottleneck adapters: small layers of their own behind, or beside, the blocks of a model.

Houlsby et al. 2019, arXiv:1902.00751; one behind each block: Pfeiffer et al. 2021, arXiv:2005.00247; beside it: He et al.
2022, arXiv:2110.04366.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from exapt.builtin._lora import matches
from exapt.builtin.efficient import BottleneckOptions
from exapt.errors import RecipeError, listed
from exapt.parts import Backbone, Learns, Strategy, Training

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
_NAME = "bottlenecks"


class Adapter(nn.Module):
    """Two linear layers with a narrow place between them. The second begins at zero: at first it adds nothing."""

    def __init__(self, before: int, after: int, options: BottleneckOptions) -> None:
        super().__init__()
        narrow = options.width or max(1, round(after / options.reduction))
        self.down, self.up = nn.Linear(before, narrow), nn.Linear(narrow, after)
        self.activation, self.dropout = _ACTIVATIONS[options.activation](), nn.Dropout(options.dropout)
        self.scale = options.scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return what is added [..., after] for ``states`` [..., before]."""
        added: Tensor = self.up(self.dropout(self.activation(self.down(states))))
        return added * self.scale


class _Hook:
    """Adds what an adapter says to what a layer says.

    An object and not a function, so that in a copy of the model it calls the copy's own adapter.
    """

    def __init__(self, adapter: Adapter, beside: bool, layer: str) -> None:
        self.adapter, self.beside, self.layer = adapter, beside, layer
        self.called = False

    def __call__(self, _layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """Return ``output``, a tensor [..., width] or a tuple that begins with one, with the adapter's share in it."""
        self.called = True
        states = _first(output)
        read = _first((*given, *named.values())) if self.beside else states
        for what, tensor, width in (("reads", read, self.adapter.down.in_features), ("gives", states, None)):
            wanted = width or self.adapter.up.out_features
            if tensor is None or tensor.shape[-1] != wanted:
                found = "no states" if tensor is None else f"states of width {tensor.shape[-1]}"
                raise RecipeError(
                    f"strategy 'bottleneck': layer '{self.layer}' {what} {found}, not of {wanted}; name other layers as "
                    "its targets"
                )
        assert states is not None
        assert read is not None
        changed = states + self.adapter(read)
        return changed if isinstance(output, Tensor) else type(output)((changed, *output[1:]))


def _first(values: Any) -> Tensor | None:
    if isinstance(values, Tensor):
        return values
    return next((value for value in values if isinstance(value, Tensor)), None) if isinstance(values, tuple) else None


class Bottleneck(Strategy):
    """Small layers that are put into the model learn; the pretrained weights stay as they are.

    Houlsby et al. 2019, arXiv:1902.00751.
    """

    def __init__(self, options: BottleneckOptions) -> None:
        self.options = options
        self._hooks: list[_Hook] = []

    def prepare(self, backbone: Backbone) -> None:
        """Put adapters at the layers. Raises ``RecipeError`` if there are none."""
        layers = _layers(backbone, self.options.targets)
        adapters = nn.ModuleList()
        for name, layer in layers:
            before, after = _widths(layer, backbone.width)
            adapter = Adapter(before if self._beside else after, after, self.options)
            adapters.append(adapter)
            self._hooks.append(_Hook(adapter, self._beside, name))
            layer.register_forward_hook(self._hooks[-1], with_kwargs=True)
        backbone.add_module(_NAME, adapters)
        # Shortcuts of a model to some of its states call its layers in part, and would pass the adapters by.
        setattr(backbone, "at_places", MethodType(Backbone.at_places, backbone))  # noqa: B010

    @property
    def _beside(self) -> bool:
        return self.options.placement == "beside"

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the parameters of the adapters."""
        yield Learns(frozenset(name for name, _ in backbone.named_parameters() if name.startswith(f"{_NAME}.")))

    def begin(self, run: Training) -> None:
        """Answer for one row. Raises ``RecipeError`` if the model passes an adapter by."""
        run.predict(run.train.subset(np.arange(1)).settled())
        for hook in self._hooks:
            if not hook.called:
                raise RecipeError(
                    f"strategy 'bottleneck': this backbone never calls its layer '{hook.layer}' as a whole; name other "
                    "layers as its targets"
                )


def _layers(backbone: Backbone, targets: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """Return the layers, with their names, on which what the heads read depends and at which adapters stand."""
    blocks = backbone.reached()
    if not blocks:
        raise RecipeError(
            "strategy 'bottleneck' puts layers at the blocks of a model, and "
            + ("this backbone has none" if not backbone.blocks() else "what the heads read lies before all of them")
        )
    inside = list(_inside(backbone, blocks))
    wanted = targets or backbone.bottleneck_targets
    if not wanted:
        whole = {id(block) for block in blocks}
        return [(name, module) for name, module in inside if id(module) in whole]
    for want in wanted:
        if not any(matches(name, want) for name, _ in inside):
            last = {name.rpartition(".")[2] for name, module in inside if module not in set(blocks)}
            raise RecipeError(
                f"strategy 'bottleneck': no layer '{want}' in the backbone's blocks. There are: {listed(last)}"
            )
    return [(name, module) for name, module in inside if any(matches(name, want) for want in wanted)]


def _inside(backbone: Backbone, blocks: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    parts = {id(module) for block in blocks for module in block.modules()}
    # What PEFT put in is reached through the layer that it stands around.
    added = (".lora_", ".base_layer", ".ia3_")
    for name, module in backbone.named_modules():
        if id(module) in parts and not any(part in name for part in added):
            yield name, module


def _widths(layer: nn.Module, width: int) -> tuple[int, int]:
    """Return the widths of what a layer reads and gives; those of the states unless it says so."""
    shape = getattr(layer, "normalized_shape", (width,))
    before, after = getattr(layer, "in_features", shape[-1]), getattr(layer, "out_features", shape[-1])
    return int(before), int(after)
