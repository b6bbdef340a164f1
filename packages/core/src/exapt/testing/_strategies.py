# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a strategy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from exapt.model import Model
from exapt.parts import Backbone, Learns, Strategy, cast_features
from exapt.recipe import TrainingOptions
from exapt.specs import Options, StrategySpec
from exapt.testing._backbone_case import TOLERANCE, BackboneCase, gap, learn_from, read
from exapt.testing._check import Check, Faults


@dataclass(frozen=True)
class StrategyCase:
    """A strategy under test, and the backbone that it is tried on."""

    spec: StrategySpec
    options: Options
    on: BackboneCase

    def prepared(self, seed: int = 0) -> tuple[Strategy, Backbone]:
        """Return the strategy and a backbone, in evaluation mode, to which it has done its part."""
        strategy = self.spec.build(self.options)
        backbone = self.on.build(weights=strategy.pretrained, seed=7)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            strategy.prepare(backbone)
        return strategy, backbone.eval()


def training_defaults(case: StrategyCase) -> Faults:
    """The training options that the strategy prefers exist and are in range."""
    try:
        TrainingOptions.model_validate(dict(case.spec.training_of(case.options)))
    except ValidationError as error:
        fault = error.errors()[0]
        yield f"its training default '{fault['loc'][0]}' cannot be used: {fault['msg']}"


def names_exist(case: StrategyCase) -> Faults:
    """What the strategy lets learn exists, is named once, and is something, unless all stays frozen."""
    strategy, backbone = case.prepared()
    groups = list(strategy.learns(backbone))
    known = {name for name, _ in backbone.named_parameters()}
    for group in groups:
        yield from (f"it lets '{name}' learn, which the backbone does not have" for name in sorted(group.names - known))
        if group.rate <= 0:
            yield f"it lets {len(group.names)} parameters learn at a rate of {group.rate}"
    if groups and not any(group.names for group in groups):
        yield "it matches no parameter of the backbone, and does not say so"
    yield from (f"it names '{name}' in {times} groups" for name, times in _named(groups).items() if times > 1)


def arranges_what_learns(case: StrategyCase) -> Faults:
    """Of what others let learn the strategy changes rates and epochs, and leaves nothing out."""
    strategy, backbone = case.prepared()
    every = frozenset(name for name, _ in backbone.named_parameters())
    groups = list(strategy.arrange(backbone, [Learns(every)]))
    found = {name for group in groups for name in group.names}
    yield from (f"it leaves out '{name}', which another lets learn" for name in sorted(every - found)[:1])
    yield from (f"it arranges '{name}', which nothing lets learn" for name in sorted(found - every)[:1])
    yield from (f"it names '{name}' in {times} groups" for name, times in _named(groups).items() if times > 1)
    for group in groups:
        if group.rate <= 0 or group.since < 0:
            yield f"it lets parameters learn at a rate of {group.rate} from epoch {group.since}"


def _named(groups: list[Learns]) -> Counter[str]:
    return Counter(name for group in groups for name in group.names)


def starts_from_pretrained(case: StrategyCase) -> Faults:
    """Before anything is learned, features are still those of the pretrained model, and repeat themselves."""
    strategy, backbone = case.prepared()
    features = read(backbone, case.on.batch)
    if strategy.pretrained and strategy.neutral:
        mask = features.mask
        difference = gap(case.on.features.hidden[mask], features.hidden[mask])
        if not difference <= TOLERANCE:
            yield f"features differ by {difference:.2g} before anything is learned; at most {TOLERANCE} is allowed"
    if not torch.equal(features.hidden, read(case.prepared()[1], case.on.batch).hidden):
        yield "features before learning differ when it is prepared again under the same seed"


def learns_what_it_names(case: StrategyCase) -> Faults:
    """Everything named gets a gradient, and a step changes nothing else."""
    strategy, backbone = case.prepared()
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    names = _step(strategy, backbone, case)
    gradients = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    yield from (f"it lets '{name}' learn, but features do not use it" for name in sorted(names - gradients))
    yield from (f"'{name}' gets a gradient, but is not let learn" for name in sorted(gradients - names))
    changed = {name for name, value in backbone.named_parameters() if not torch.equal(value, before[name])}
    yield from (f"a step changes '{name}', which is not let learn" for name in sorted(changed - names))
    if names and not changed & names:
        yield "a step changes nothing"


def _step(strategy: Strategy, backbone: Backbone, case: StrategyCase) -> set[str]:
    names = {name for group in strategy.learns(backbone) for name in group.names}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)
    model = Model(backbone, {}, {}, -1).train()
    # Twice, because a low-rank update starts with one factor at zero: the first step moves only that one.
    for _ in range(2 if names else 0):
        model.zero_grad()
        learn_from(cast_features(backbone(case.on.batch)))
        torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-3).step()
    backbone.eval()
    return names


def saved_and_loaded(case: StrategyCase) -> Faults:
    """What was added and what learned is all that an adapter has to hold to bring features back."""
    strategy, backbone = case.prepared()
    names = _step(strategy, backbone, case)
    pretrained = case.on.build(weights=strategy.pretrained, seed=7).state_dict()
    state = backbone.state_dict()
    kept: dict[str, Tensor] = {name: value for name, value in state.items() if name in names or name not in pretrained}
    _, again = case.prepared(seed=1)
    missing = again.load_state_dict(kept, strict=False)
    yield from (f"'{name}' was learned, but has no place when loaded" for name in missing.unexpected_keys)
    difference = gap(read(backbone, case.on.batch).hidden, read(again, case.on.batch).hidden)
    if difference != 0:
        yield f"features differ by {difference:.2g} after what learned was saved and loaded"


STRATEGY_CHECKS: tuple[Check[StrategyCase], ...] = (
    Check("training-defaults", "a default that no recipe can hold", training_defaults),
    Check("names-exist", "a strategy that matches nothing, or one parameter twice", names_exist),
    Check("arranges-what-learns", "a parameter that never learns, or at no rate", arranges_what_learns),
    Check("starts-from-pretrained", "an update that is not nothing before it has learned", starts_from_pretrained),
    Check("learns-what-it-names", "frozen parameters that learn, trainable ones that do not", learns_what_it_names),
    Check("saved-and-loaded", "learned parameters left out of the adapter", saved_and_loaded),
)
