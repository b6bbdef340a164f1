"""The model that learns: one backbone under one or more heads, with every gradient path inside one ``forward``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exapt import device as devices
from exapt.errors import RecipeError
from exapt.parts import Backbone, Batch, Features, Head, Pooled, Strategy

Kept = Mapping[str, "Features | Pooled"]
"""Features that were computed earlier, by what heads read: a pooling, or ``tokens``."""


@dataclass
class MicroBatch:
    """What one forward pass sees: per input a ``Batch``, or features kept from an earlier pass; and targets per head."""

    inputs: Mapping[str, Batch | Kept]
    targets: Mapping[str, Tensor]
    rows: int


class Model(nn.Module):
    """A backbone and its heads.

    ``changed`` names the backbone's parameters and buffers that may differ from the pretrained ones; together with the
    heads they are all that a run learns.
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head], weights: Mapping[str, float], layer: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.weights = dict(weights)
        self.layer = layer
        self.precision = "fp32"
        self.changed: set[str] = set()
        self.watched: dict[str, Tensor] = {}

    def forward(self, micro: MicroBatch, totals: Mapping[str, Tensor]) -> Tensor:
        """Return this micro-batch's share [] of the step's loss; ``totals`` holds each head's weight of the whole step."""
        outputs = self.answer(micro)
        losses = [
            self.weights[name] * self.head(name).loss(output.float(), micro.targets[name]) / totals[name]
            for name, output in outputs.items()
        ]
        return torch.stack(losses).sum()

    def answer(self, micro: MicroBatch, heads: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the output of some heads, or of all."""
        features = {name: self.features(given) for name, given in micro.inputs.items()}
        return {
            name: self.head(name)({key: kept[self.head(name).reads] for key, kept in features.items()})
            for name in (self.heads if heads is None else heads)
        }

    def measured(self, micro: MicroBatch, heads: Iterable[str]) -> dict[str, Tensor]:
        """Return what of some heads' outputs is kept to be measured."""
        return {
            name: output if self.head(name).labelled else self.head(name).condense(output, micro.targets[name])
            for name, output in self.answer(micro, heads).items()
        }

    def features(self, given: Batch | Kept) -> Kept:
        """Return features by what heads read, from the backbone unless they were kept."""
        if not isinstance(given, Batch):
            return given
        with devices.autocast(self.precision, given.present.device):
            features = self.backbone.at_layer(given, self.layer)
        # Heads answer in full precision: rounded to bf16, many of their answers would be the same.
        return _AnyReading(features.float())

    def head(self, name: str) -> Head:
        """Return a head by name."""
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone learns, so that its features can be computed once."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def train(self, mode: bool = True) -> Model:
        """Set training mode; what does not learn stays in evaluation mode, without dropout.

        A module without parameters, such as a dropout, goes with the module that it stands in.
        """
        if self.frozen and not self.backbone.training:
            # A backbone at rest stays so, and need not be walked through twice an epoch.
            self.training = mode
            self.heads.train(mode)
            return self
        super().train(mode)
        for module in self.backbone.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def watch(self) -> None:
        """Note the persistent buffers that training may move without a gradient: those of modules in training mode."""
        self.train()
        state = backbone_state(self.backbone)
        for prefix, module in self.backbone.named_modules():
            names = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers(recurse=False)]
            if module.training:
                self.watched |= {name: state[name].detach().cpu().clone() for name in names if name in state}
        self.eval()

    def settle(self) -> None:
        """Count the watched buffers that did move among what changed: batch statistics, but no table of constants."""
        state = backbone_state(self.backbone)
        self.changed |= {name for name, before in self.watched.items() if not torch.equal(state[name].cpu(), before)}
        self.watched = {}

    def learned(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of everything that a run can change: ``heads.<name>.<key>`` and ``backbone.<key>``."""
        state = {f"heads.{key}": value for key, value in self.heads.state_dict().items()}
        everything = backbone_state(self.backbone)
        state |= {f"backbone.{name}": everything[name] for name in sorted(self.changed | self.watched.keys())}
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}

    def restore(self, learned: Mapping[str, Tensor]) -> None:
        """Put back what ``learned`` returned."""
        heads = {name.removeprefix("heads."): value for name, value in learned.items() if name.startswith("heads.")}
        self.heads.load_state_dict(heads)
        everything = backbone_state(self.backbone)
        with torch.no_grad():
            for name in self.changed | self.watched.keys():
                everything[name].copy_(learned[f"backbone.{name}"])


class _AnyReading(dict[str, Any]):
    """Features of a whole pass serve every reading: each head pools them as it wishes."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self._features = features

    def __missing__(self, reading: str) -> Features:
        return self._features


def backbone_state(backbone: Backbone) -> dict[str, Tensor]:
    """Return the backbone's parameters and persistent buffers by name, tied ones once, not detached."""
    state = backbone.state_dict(keep_vars=True)
    seen: dict[int, str] = {}
    for name, _ in backbone.named_parameters():
        seen.setdefault(id(state[name]), name)
    return {name: value for name, value in state.items() if seen.get(id(value), name) == name}


def apply_strategies(model: Model, strategies: list[Strategy]) -> dict[str, float]:
    """Let each strategy prepare the backbone, then set ``requires_grad`` once, to the union of what they let learn.

    Returns the learning-rate multiple of each backbone parameter that learns. Raises ``RecipeError`` if a strategy names
    a parameter that there is not, or two name one at different rates.
    """
    backbone = model.backbone
    for strategy in strategies:
        strategy.prepare(backbone)
    rates: dict[str, float] = {}
    for learns in (learns for strategy in strategies for learns in strategy.learns(backbone)):
        for name in learns.names:
            if rates.setdefault(name, learns.rate) != learns.rate:
                raise RecipeError(
                    f"two strategies let '{name}' learn at different rates, {rates[name]} and {learns.rate}"
                )
    parameters = dict(backbone.named_parameters())
    unknown = sorted(set(rates) - set(parameters))
    if unknown:
        raise RecipeError(f"a strategy lets '{unknown[0]}' learn, which the backbone does not have")
    rates = _reached(rates, parameters, model)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in rates)
    model.changed |= set(rates)
    if rates:
        model.watch()
    return rates


def _reached(rates: Mapping[str, float], parameters: Mapping[str, nn.Parameter], model: Model) -> dict[str, float]:
    """Leave out the parameters of blocks above the layer that the heads read: no loss ever reaches them."""
    above = model.backbone.blocks()[model.layer :] if model.layer >= 0 else ()
    out_of_reach = {id(parameter) for block in above for parameter in block.parameters()}
    reached = {name: rate for name, rate in rates.items() if id(parameters[name]) not in out_of_reach}
    if rates and not reached:
        raise RecipeError(f"all that the strategies let learn lies above layer {model.layer}, which the heads read")
    return reached
