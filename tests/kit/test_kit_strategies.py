"""Each check of a strategy fails on a strategy that was made to have the fault."""

import pytest
import torch
from torch import nn

from exapt import StrategySpec
from exapt.parts import Learns, Strategy
from exapt.testing import CHECKS, ConformanceError, check_strategy


class Biases(Strategy):
    """Only biases learn, and a shift that is added to what the last block says."""

    slope = 0.0
    named = frozenset({"shift"})
    rate = 1.0

    def prepare(self, backbone):
        backbone.shift = nn.Parameter(self.slope * torch.arange(float(backbone.width)))
        backbone.layers[-1].register_forward_hook(lambda _block, _given, hidden: hidden + backbone.shift)

    def learns(self, backbone):
        biases = {name for name, _ in backbone.named_parameters() if name.endswith("value.bias")}
        yield Learns(frozenset(biases) | self.named, self.rate)


class NamesAnother(Biases):
    named = frozenset({"shift", "shifts"})


class Backwards(Biases):
    rate = -1.0


class MatchesNothing(Strategy):
    def learns(self, backbone):
        yield Learns(frozenset(name for name, _ in backbone.named_parameters() if name.endswith("bais")))


class NamesTwice(Biases):
    def learns(self, backbone):
        yield from super().learns(backbone)
        yield Learns(self.named, 0.1)


class DropsBiases(Biases):
    def arrange(self, backbone, learns):
        return [Learns(group.names - {"norm.bias"}, group.rate, group.since) for group in learns]


class ArrangesAnother(Biases):
    def arrange(self, backbone, learns):
        return [*learns, Learns(frozenset({"shifts"}))]


class ArrangesTwice(Biases):
    def arrange(self, backbone, learns):
        return [*learns, Learns(frozenset({"norm.bias"}), 0.1)]


class Stops(Biases):
    def arrange(self, backbone, learns):
        return [Learns(group.names, 0.0, group.since) for group in learns]


class BeginsBefore(Biases):
    def arrange(self, backbone, learns):
        return [Learns(group.names, group.rate, -1) for group in learns]


class ShiftsAtOnce(Biases):
    slope = 0.5


class StartsAnywhere(Biases):
    """Not pretrained, and drawn from a generator that no seed reaches."""

    pretrained = False
    generator = torch.Generator().manual_seed(0)

    def prepare(self, backbone):
        super().prepare(backbone)
        nn.init.normal_(backbone.shift, generator=self.generator)


class Unused(Biases):
    """Adds a parameter that features do not use."""

    def prepare(self, backbone):
        super().prepare(backbone)
        backbone.prompt = nn.Parameter(torch.zeros(4))
        self.named = frozenset({"shift", "prompt"})


class Thaws(Biases):
    """Lets the final norm learn behind core's back."""

    def prepare(self, backbone):
        super().prepare(backbone)

        def thaw(norm, _given):
            norm.weight.requires_grad_(True)

        backbone.norm.register_forward_pre_hook(thaw)


class ChangesTheRest(Biases):
    """Pulls the embeddings along with every pass that learns."""

    def prepare(self, backbone):
        super().prepare(backbone)

        def pull(*_):
            if torch.is_grad_enabled():
                backbone.places.weight.data.mul_(0.9)

        backbone.register_forward_pre_hook(pull)


class Stands(Biases):
    """Lets something learn whose gradient is always zero."""

    def prepare(self, backbone):
        backbone.shift = nn.Parameter(torch.zeros(backbone.width))
        backbone.layers[-1].register_forward_hook(lambda _block, _given, hidden: hidden + 0 * backbone.shift)

    def learns(self, backbone):
        yield Learns(self.named)


class KeepsToItself(Biases):
    """Learns something that is no part of the backbone, so that no adapter can hold it."""

    def prepare(self, backbone):
        super().prepare(backbone)
        scale = [1.0]

        def grow(_block, _given, hidden):
            scale[0] += 0.1 * torch.is_grad_enabled()
            return hidden * scale[0]

        backbone.layers[0].register_forward_hook(grow)


def of(kind, **facts):
    return StrategySpec(name="biases", summary="Only biases learn.", build=lambda _options: kind(), **facts)


FAULTS = [
    (
        of(Biases, training={"learning_rate": -1}),
        "training-defaults: its training default 'learning_rate' cannot be used: Input should be greater than 0",
    ),
    (
        of(Biases, training={"epoch": 3}),
        "training-defaults: its training default 'epoch' cannot be used: Extra inputs are not permitted",
    ),
    (of(NamesAnother), "names-exist: it lets 'shifts' learn, which the backbone does not have"),
    (of(Backwards), "names-exist: it lets 3 parameters learn at a rate of -1.0"),
    (of(MatchesNothing), "names-exist: it matches no parameter of the backbone, and does not say so"),
    (of(NamesTwice), "names-exist: it names 'shift' in 2 groups"),
    (of(DropsBiases), "arranges-what-learns: it leaves out 'norm.bias', which another lets learn"),
    (of(ArrangesAnother), "arranges-what-learns: it arranges 'shifts', which nothing lets learn"),
    (of(ArrangesTwice), "arranges-what-learns: it names 'norm.bias' in 2 groups"),
    (of(Stops), "arranges-what-learns: it lets parameters learn at a rate of 0.0 from epoch 0"),
    (of(BeginsBefore), "arranges-what-learns: it lets parameters learn at a rate of 1.0 from epoch -1"),
    (
        of(ShiftsAtOnce),
        "starts-from-pretrained: features differ by 0.86 before anything is learned; at most 1e-05 is allowed",
    ),
    (
        of(StartsAnywhere),
        "starts-from-pretrained: features before learning differ when it is prepared again under the same seed",
    ),
    (of(Unused), "learns-what-it-names: it lets 'prompt' learn, but features do not use it"),
    (of(Thaws), "learns-what-it-names: 'norm.weight' gets a gradient, but is not let learn"),
    (of(ChangesTheRest), "learns-what-it-names: a step changes 'places.weight', which is not let learn"),
    (of(Stands), "learns-what-it-names: a step changes nothing"),
    (of(KeepsToItself), "saved-and-loaded: features differ by 0.063 after what learned was saved and loaded"),
]


@pytest.mark.parametrize(
    ("spec", "message"), FAULTS, ids=lambda value: value.partition(":")[0] if isinstance(value, str) else ""
)
def test_a_strategy_with_a_fault_is_told_of_it(spec, message):
    with pytest.raises(ConformanceError) as caught:
        check_strategy(spec)
    assert str(caught.value) == f"strategy 'biases' fails {message}"


def test_a_strategy_that_adds_a_parameter_keeps_every_promise():
    check_strategy(of(Biases))


def test_every_check_of_a_strategy_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["strategy"]}
