"""The model that learns: one backbone under one or more heads, with every gradient path inside one ``forward``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exapt import device as devices
from exapt.acting import Acting, readings_of
from exapt.errors import RecipeError
from exapt.parts import Backbone, Batch, Features, Head, Learns, Pooled, Seen, Step, Strategy

Kept = Mapping[str, "Features | Pooled"]
"""Features that were computed earlier, by what heads read: a pooling, or ``tokens``."""


@dataclass(frozen=True)
class Midway:
    """A batch, and its states ``hidden`` [batch, tokens, ...] after the first ``blocks`` blocks, kept from an earlier pass."""

    batch: Batch
    hidden: Tensor
    blocks: int


@dataclass
class MicroBatch:
    """What one forward pass sees: per input a ``Batch``, or what was kept from an earlier pass; and targets per head.

    ``numbers`` [batch] are those of the rows in their part. In training, ``share`` is the part of the step's rows that
    these are, over all processes, ``streams`` holds rows that come beside them, and ``progress`` and ``epoch`` say how far
    training is. Of a stream, ``even`` holds that share of each head's weight of all targets of the step.
    """

    inputs: Mapping[str, Batch | Midway | Kept]
    targets: Mapping[str, Tensor]
    rows: int
    numbers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    share: float = 1.0
    even: Mapping[str, Tensor] = field(default_factory=dict)
    streams: Mapping[str, MicroBatch] = field(default_factory=dict)
    progress: float = 0.0
    epoch: int = 0


class Model(nn.Module):
    """A backbone and its heads.

    ``changed`` names the backbone's parameters and buffers that may differ from the pretrained ones; together with the
    heads they are all that a run learns. ``base`` is the folder of the adapter that all stands upon, if there is one.
    ``tokenizer`` is the fingerprint of what encodes the inputs that it learns from.
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head], weights: Mapping[str, float], layer: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.weights = dict(weights)
        self.layer = layer
        self.questions: Mapping[str, Mapping[str, Any]] = {}
        self.tokenizer = ""
        self.precision = "fp32"
        # How many of the lowest blocks rest while it learns. The trainer says so of each epoch.
        self.resting = 0
        self.changed: set[str] = set()
        self.domains: Sequence[str] = ()
        self.targeted = False
        self.acting: Acting | None = None
        self.base: Path | None = None
        self.watched: dict[str, Tensor] = {}

    def forward(self, micro: MicroBatch, totals: Mapping[str, Tensor]) -> Tensor:
        """Return this micro-batch's share [] of the step's loss; ``totals`` holds each head's weight of the whole step."""
        features = self._features(micro)
        if self.acting is None:
            losses = self._losses(self._answers(features), micro.targets, totals)
            return torch.stack(list(losses.values())).sum()
        outputs, losses = self._blended(features, micro, totals)
        total = torch.stack(list(self.acting.combine(losses).values())).sum()
        added = self.acting.loss(
            Step(
                Seen(features, outputs, micro.targets, micro.numbers, micro.share, micro.even),
                {name: self._seen(stream) for name, stream in micro.streams.items()},
                micro.progress,
                micro.epoch,
            )
        )
        return total if added is None else total + added

    def _blended(
        self, features: Mapping[str, Kept], micro: MicroBatch, totals: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return outputs and losses of the heads, of features that a strategy may have blended."""
        assert self.acting is not None
        blend = self.acting.blend(features, micro.targets, readings_of([self.head(name) for name in self.heads]))
        if blend is None:
            outputs = self._answers(features)
            return outputs, self._losses(outputs, micro.targets, totals)
        outputs = self._answers(blend.features)
        own = self._losses(outputs, micro.targets, totals)
        others = {name: target[blend.partner] for name, target in micro.targets.items()}
        rest = self._losses(outputs, others, totals)
        return outputs, {name: blend.share * own[name] + (1 - blend.share) * rest[name] for name in own}

    def _losses(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], totals: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {
            name: self.weights[name] * self.head(name).loss(output.float(), targets[name]) / totals[name]
            for name, output in outputs.items()
        }

    def _seen(self, stream: MicroBatch) -> Seen:
        features = self._features(stream)
        answering = [name for name in self.heads if self.head(name).labelled]
        outputs = self._answers(features, answering)
        return Seen(features, outputs, stream.targets, stream.numbers, stream.share, stream.even)

    def answer(self, micro: MicroBatch, heads: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the output of some heads, or of all."""
        return self._answers(self._features(micro), heads)

    def _features(self, micro: MicroBatch) -> dict[str, Kept]:
        return {name: self.features(given) for name, given in micro.inputs.items()}

    def _answers(self, features: Mapping[str, Kept], heads: Iterable[str] | None = None) -> dict[str, Tensor]:
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

    def features(self, given: Batch | Midway | Kept) -> Kept:
        """Return features by what heads read, from the backbone unless they were kept."""
        if not isinstance(given, (Batch, Midway)):
            return given
        device = (given if isinstance(given, Batch) else given.batch).present.device
        with devices.autocast(self.precision, device):
            features = self._computed(given)
        # Heads answer in full precision: rounded to bf16, many of their answers would be the same.
        return _AnyReading(features.float())

    def _computed(self, given: Batch | Midway) -> Features:
        if isinstance(given, Midway):
            return self.backbone.onward(given.hidden, given.batch, given.blocks, self.layer)
        if not (self.training and self.resting) or self.backbone.in_windows(given):
            return self.backbone.at_layer(given, self.layer)
        return self.backbone.onward(self.below(given, self.resting), given, self.resting, self.layer)

    def below(self, batch: Batch, blocks: int) -> Tensor:
        """Return the states [batch, tokens, ...] of a batch after the first ``blocks`` blocks, at rest and without gradients."""
        with devices.resting(), at_rest(self.backbone), devices.autocast(self.precision, batch.present.device):
            return self.backbone.run(self.backbone.stem(batch), batch, 0, blocks)

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
            if self.acting is not None:
                self.acting.train(mode)
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


@contextmanager
def at_rest(backbone: Backbone) -> Iterator[None]:
    """Let no module of the backbone be in training mode for a while: also not what only stands around blocks, as dropout."""
    astir = [module for module in backbone.modules() if module.training]
    for module in astir:
        module.training = False
    try:
        yield
    finally:
        for module in astir:
            module.training = True


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


def apply_strategies(model: Model, strategies: Mapping[str, Strategy], epochs: float = math.inf) -> dict[str, Learns]:
    """Let each strategy prepare the backbone, then set ``requires_grad`` once, to the union of what they let learn.

    Returns how each backbone parameter that learns does. Raises ``RecipeError`` if a strategy names a parameter that there
    is not, or lets one learn only after all ``epochs``, or two name one at different rates.
    """
    backbone = model.backbone
    for strategy in strategies.values():
        strategy.prepare(backbone)
    learns = [learns for strategy in strategies.values() for learns in strategy.learns(backbone)]
    # Two that disagree are told so before any rearranges them.
    _by_name(learns)
    for name, strategy in strategies.items():
        learns = list(strategy.arrange(backbone, learns))
        last = max((one.since for one in learns), default=0)
        if last >= epochs:
            raise RecipeError(
                f"strategy '{name}': what learns last begins with epoch {last + 1}, and training.epochs is {epochs}: train for "
                "longer, or let it begin earlier"
            )
    rates = _by_name(learns)
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


def _by_name(learns: Iterable[Learns]) -> dict[str, Learns]:
    found: dict[str, Learns] = {}
    for one in learns:
        for name in one.names:
            before = found.setdefault(name, one)
            if before.rate != one.rate:
                raise RecipeError(f"two strategies let '{name}' learn at different rates, {before.rate} and {one.rate}")
            if one.since < before.since:
                found[name] = one
    return found


def _reached(rates: Mapping[str, Learns], parameters: Mapping[str, nn.Parameter], model: Model) -> dict[str, Learns]:
    """Leave out the parameters of blocks above the layer that the heads read: no loss ever reaches them."""
    above = model.backbone.blocks()[model.layer :] if model.layer >= 0 else ()
    out_of_reach = {id(parameter) for block in above for parameter in block.parameters()}
    reached = {name: rate for name, rate in rates.items() if id(parameters[name]) not in out_of_reach}
    if rates and not reached:
        raise RecipeError(f"all that the strategies let learn lies above layer {model.layer}, which the heads read")
    return reached
