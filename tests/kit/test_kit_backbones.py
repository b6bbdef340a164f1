"""Each check of a backbone fails on a backbone that was made to have the fault."""

import pickle
import socket
import sys
from collections import Counter
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import nn

from exapt import Checkpoint, Sourced
from exapt.testing import CHECKS, LETTERS, TINY, ConformanceError, check_backbone
from exapt.testing.tiny import TinyBackbone, seeded


def built(build):
    """The tiny backbone, built in another way."""
    return replace(TINY, build=lambda _options, weights: build(weights))


def of(kind):
    """The tiny backbone with another class."""
    return built(lambda weights: seeded(kind, weights))


def published(**facts):
    """The tiny backbone with a checkpoint; facts replace those that are true."""
    true = {
        "name": "tiny-1", "source": "tiny", "licence": "Apache-2.0", "commercial": True, "width": 16,
        "parameters": sum(value.numel() for value in TinyBackbone().parameters()), "paper": "https://doi.org/10.1000/182",
    }  # fmt: skip
    return replace(TINY, options=Sourced, checkpoints=(Checkpoint(**{**true, **facts}),))


def with_deed(deed):
    """The tiny backbone, built by way of something that no build may do."""

    def build(weights):
        deed()
        return seeded(TinyBackbone, weights)

    return built(build)


def swallowed():
    try:
        socket.create_connection(("weights.example.org", 443))
    except RuntimeError:
        return


def remote_code():
    sys.modules["transformers_modules.somebody.model"] = ModuleType("model")


@pytest.fixture(autouse=True)
def _without_remote_code():
    yield
    sys.modules.pop("transformers_modules.somebody.model", None)


class PoolerAtRandom(TinyBackbone):
    """A pooler of which the weights know nothing."""

    def __init__(self):
        super().__init__()
        self.pooler = nn.Linear(self.width, self.width)

    def finish(self, hidden, batch):
        features = super().finish(hidden, batch)
        return replace(features, summary=self.pooler(features.summary))


def missing_keys(weights):
    backbone = PoolerAtRandom()
    if weights:
        backbone.load_state_dict(seeded(TinyBackbone, True).state_dict(), strict=False)
    return backbone


def not_finite(weights):
    backbone = seeded(TinyBackbone, weights)
    with torch.no_grad():
        backbone.norm.weight[3] = torch.inf
    return backbone


def own_device(weights):
    return seeded(TinyBackbone, weights).to("meta")


def secretly_pretrained(weights):
    backbone, pretrained = seeded(TinyBackbone, weights), seeded(TinyBackbone, True)
    backbone.letters.load_state_dict(pretrained.letters.state_dict())
    return backbone


def never_seeded(weights):
    backbone = seeded(TinyBackbone, weights)
    if not weights:
        nn.init.normal_(backbone.letters.weight, generator=UNSEEDED)
    return backbone


UNSEEDED = torch.Generator().manual_seed(1)


class Narrow(TinyBackbone):
    def finish(self, hidden, batch):
        return batch.features(hidden[..., :8])


class SpecialTokensCount(TinyBackbone):
    def finish(self, hidden, batch):
        return replace(super().finish(hidden, batch), mask=batch.present)


class Counting(TinyBackbone):
    """Counts its predictions, in its weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def stem(self, batch):
        self.seen += 1
        return super().stem(batch)


class WritesIntoTheBatch(TinyBackbone):
    def stem(self, batch):
        batch["input_ids"].masked_fill_(~batch.present, 1)
        return super().stem(batch)


class PaddingSeen(TinyBackbone):
    """Attends to padding."""

    def run(self, hidden, batch, start, stop):
        return super().run(hidden, replace(batch, present=torch.ones_like(batch.present)), start, stop)


class PaddingInTheSummary(TinyBackbone):
    """Averages over padding."""

    def finish(self, hidden, batch):
        features = super().finish(hidden, batch)
        return replace(features, summary=features.hidden.mean(1))


class LeftPadded(TinyBackbone):
    """Counts positions from the end of the batch, as left-padded models do."""

    def stem(self, batch):
        return super().stem(batch) + self.places(torch.arange(batch["input_ids"].shape[1]).flip(0))


class DropoutLeftOn(TinyBackbone):
    def stem(self, batch):
        return nn.functional.dropout(super().stem(batch), 0.1)


class StateLeaks(TinyBackbone):
    """Begins a longer input with what it remembers of the shorter one above it."""

    def stem(self, batch):
        hidden = super().stem(batch)
        longer = batch.lengths.diff(prepend=batch.lengths[:1]) > 0
        return hidden + hidden[:, :1].roll(1, 0) * longer.view(-1, 1, 1)


class CutOff(TinyBackbone):
    """Reads the first eight tokens only."""

    def stem(self, batch):
        ids = batch["input_ids"]
        return super().stem(replace(batch, arrays={"input_ids": torch.where(torch.arange(ids.shape[1]) < 8, ids, 0)}))


class EmptyBreaks(TinyBackbone):
    """Scales by the number of units."""

    def finish(self, hidden, batch):
        features = super().finish(hidden, batch)
        scale = batch.lengths.clamp(max=1)[:, None]
        return replace(features, summary=features.summary * (scale / scale))


class FinalNormForgotten(TinyBackbone):
    """Leaves out, layer by layer, what ``forward`` does at the end."""

    def at_layer(self, batch, layer):
        return batch.features(self.run(self.stem(batch), batch, 0, layer))


class LayersOffByOne(TinyBackbone):
    def at_layer(self, batch, layer):
        return super().at_layer(batch, max(layer, 1))


class PlacesOffByOne(TinyBackbone):
    def at_places(self, batch, rows, places):
        return super().at_places(batch, rows, places - 1)


class AlwaysFromTheStart(TinyBackbone):
    """Cannot resume: runs one block more when it does not begin at the first."""

    def run(self, hidden, batch, start, stop):
        return super().run(hidden, batch, max(start - 1, 0), stop)


class BlocksElsewhere(TinyBackbone):
    @property
    def module(self):
        return self.letters


class BlocksShared(TinyBackbone):
    def blocks(self):
        return [self.layers[0], self.layers]

    def run(self, hidden, batch, start, stop):
        for layer in self.layers[start:stop]:
            hidden = layer(hidden, batch.present)
        return hidden


class TargetMisspelt(TinyBackbone):
    lora_targets = ("query", "q_proj")


class ContactHead(TinyBackbone):
    """Holds a part that no feature uses."""

    def __init__(self):
        super().__init__()
        self.contacts = nn.Linear(self.width, 1)


class ThawsItself(TinyBackbone):
    """Lets its final norm learn, whatever was decided."""

    def finish(self, hidden, batch):
        self.norm.weight.requires_grad_(True)
        return super().finish(hidden, batch)


class OnePrecisionOnly(TinyBackbone):
    """Packs tokens into a place made for single precision."""

    def finish(self, hidden, batch):
        packed = torch.zeros(*hidden.shape)
        packed[batch.present] = self.layers[0].query(hidden)[batch.present]
        return super().finish(hidden + packed, batch)


class TooLargeForHalf(TinyBackbone):
    """Passes through numbers above 65504."""

    def finish(self, hidden, batch):
        return super().finish(self.layers[0].query(hidden * 1e6).float() * 1e-6, batch)


class OtherSecondTime(TinyBackbone):
    """Learns something else whenever it is run again with gradients."""

    runs = 0

    def finish(self, hidden, batch):
        self.runs += torch.is_grad_enabled()
        return super().finish(hidden if self.runs < 2 else hidden * 2, batch)


class OutsideTheState(TinyBackbone):
    """Keeps weights where neither state nor fingerprint sees them."""

    def __init__(self):
        super().__init__()
        self.scale = torch.randn(self.width)

    def finish(self, hidden, batch):
        return super().finish(hidden * self.scale, batch)


class SavedInHalf(TinyBackbone):
    """Comes in half precision, and is saved so after it has learned in full."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(self.state_dict())

    def state_dict(self, *args, **named):
        return {name: value.bfloat16().float() for name, value in super().state_dict(*args, **named).items()}


LENGTHS = "input 1 (6 tokens, padded to 11)"

FAULTS = [
    (with_deed(lambda: torch.load("no file")), "safe-build: building it calls torch.load without weights_only=True"),
    (with_deed(lambda: pickle.loads(pickle.dumps(1))), "safe-build: building it calls pickle.loads"),
    (
        with_deed(lambda: pickle.Unpickler(__import__("io").BytesIO(pickle.dumps(Counter()))).load()),
        "safe-build: building it unpickles collections.Counter",
    ),
    (with_deed(swallowed), "safe-build: building it uses the network, weights.example.org"),
    (
        with_deed(remote_code),
        "safe-build: building it runs code that came with the weights, transformers_modules.somebody.model",
    ),
    (
        built(missing_keys),
        "weights-loaded: 'pooler.weight' differs between two builds with the same weights: it is left at random",
    ),
    (built(not_finite), "weights-loaded: 'norm.weight' is not finite"),
    (built(own_device), "weights-loaded: 'letters.weight' is built on meta; core alone moves models"),
    (built(secretly_pretrained), "fresh-weights: 'letters.weight' is pretrained in a build without weights"),
    (built(never_seeded), "fresh-weights: two builds without weights differ under the same seed"),
    (
        built(lambda _weights: seeded(TinyBackbone, True)),
        "fresh-weights: two builds without weights are the same under two seeds",
    ),
    (
        built(lambda weights: seeded(TinyBackbone if weights else PoolerAtRandom, weights)),
        "fresh-weights: fresh and pretrained weights differ in name or shape: pooler.bias, pooler.weight",
    ),
    (replace(TINY, modality=""), "metadata: it does not say which modality it reads"),
    (replace(TINY, probes=()), "metadata: it has no probe inputs, so that no adapter of it could be verified"),
    (published(licence="GPL"), "metadata: checkpoint 'tiny-1' has licence 'GPL', which is no SPDX identifier"),
    (published(licence=""), "metadata: checkpoint 'tiny-1' has licence '', which is no SPDX identifier"),
    (
        published(paper="Smith et al."),
        "metadata: checkpoint 'tiny-1' has paper 'Smith et al.', which is neither a DOI nor a URL",
    ),
    (published(parameters=0), "metadata: checkpoint 'tiny-1' has 0 parameters and width 16"),
    (published(parameters=9000), "metadata: checkpoint 'tiny-1' says 9000 parameters, but is built with 3136"),
    (published(width=32), "metadata: checkpoint 'tiny-1' says width 32, but is built with 16"),
    (
        published(source="somebody/tiny"),
        "metadata: checkpoint 'tiny-1' comes from 'somebody/tiny' without a revision, so that its weights may change",
    ),
    (of(Narrow), "shapes: hidden is [3, 11, 8], not [batch, tokens, width] = [3, 11, 16]"),
    (of(SpecialTokensCount), "shapes: mask is wrong at 3 tokens: it is True exactly at tokens that stand for units"),
    (of(Counting), "no-trace: a prediction changes 'seen'"),
    (of(WritesIntoTheBatch), "no-trace: a prediction changes the batch's 'input_ids'"),
    (of(PaddingSeen), f"padding-invariance: {LENGTHS} differs by 0.15 alone; at most 1e-05 is allowed"),
    (
        of(PaddingInTheSummary),
        f"padding-invariance: the summary of {LENGTHS} differs by 0.46 alone; at most 1e-05 is allowed",
    ),
    (of(LeftPadded), f"padding-invariance: {LENGTHS} differs by 0.59 alone; at most 1e-05 is allowed"),
    (of(DropoutLeftOn), "repeatable: features differ by 0.71 when the same batch is asked again"),
    (
        of(StateLeaks),
        "batch-invariance: input 0 (11 tokens, padded to 11) differs by 1 in reversed order; at most 1e-05 is allowed",
    ),
    (of(CutOff), "input-matters: input 0 has the same features with 'R' and 'A' at position 10"),
    (of(EmptyBreaks), "empty-input: an empty input has a summary that is not finite"),
    (of(FinalNormForgotten), "layers: layer 2, the last, differs by 1 from forward"),
    (
        of(PlacesOffByOne),
        "places: states of one token of each input, asked for alone, differ by 1.6; at most 1e-05 is allowed",
    ),
    (of(LayersOffByOne), "layers: layer 1 is the same as layer 0"),
    (of(AlwaysFromTheStart), "layers: features resumed after block 1 differ by 0.23; at most 1e-05 is allowed"),
    (of(BlocksElsewhere), "blocks: block 0 is no part of module"),
    (of(BlocksShared), "blocks: blocks 0 and 1 share parameters"),
    (of(TargetMisspelt), "blocks: no block has the linear layer 'q_proj' of lora_targets, but key, query, value"),
    (of(ContactHead), "gradients: 'contacts.weight' of module gets no gradient: features do not use it"),
    (of(ThawsItself), "gradients: 'norm.weight' is frozen, but gets a gradient"),
    (
        of(OnePrecisionOnly),
        "half-precision: it does not run in fp16: RuntimeError: Index put requires the source and destination dtypes "
        "match, got Float for the destination and Half for the source.",
    ),
    (of(TooLargeForHalf), "half-precision: features in fp16 are not finite"),
    (
        of(OtherSecondTime),
        "recomputed: with gradient checkpointing the gradient of 'letters.weight' differs by 0.5",
    ),
    (
        of(OutsideTheState),
        "told-by-fingerprint: features of the same state differ by 1.9: they depend on something outside the state",
    ),
    (of(SavedInHalf), "saved-and-loaded: features differ by 0.0026 after weights were saved and loaded"),
]


@pytest.mark.parametrize(
    ("spec", "message"), FAULTS, ids=lambda value: value.partition(":")[0] if isinstance(value, str) else ""
)
def test_a_backbone_with_a_fault_is_told_of_it(spec, message):
    torch.manual_seed(0)
    with pytest.raises(ConformanceError) as caught:
        check_backbone(spec, tokenizer=LETTERS, inputs=("MKTAYIAKQR", "ACDEF"))
    assert str(caught.value) == f"backbone 'tiny' fails {message}"


def test_every_check_of_a_backbone_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["backbone"]}
