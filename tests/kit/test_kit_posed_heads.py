"""Each check of a head without labels fails on a head that was made to have the fault."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from exapt import HeadSpec, hookimpl
from exapt.errors import DataError, RecipeError
from exapt.parts import Head, LanguageModel
from exapt.plugins import Plugins
from exapt.testing import CHECKS, ConformanceError, check_head, check_plugin

BUILT_IN = Plugins([])


class Hides(Head):
    """Hides every other letter, written as plainly as can be."""

    answers = "token"
    labelled = False
    metric = "accuracy"

    def __init__(self, context):
        super().__init__()
        self.mask = context.tokenizer.mask
        self.decoder = copy.deepcopy(context.language["sequence"].head).requires_grad_(True)

    @property
    def language(self):
        return LanguageModel(self.decoder, "masked")

    def pose(self, encoding, rng):
        ids = encoding.arrays["input_ids"]
        asked = np.arange(len(ids)) % 2 == rng.integers(2)
        asked[0] = False
        seen = np.where(asked, self.mask, ids)
        return replace(encoding, arrays={"input_ids": seen}), np.where(asked, ids, self.pad).astype(np.int64)

    def forward(self, features):
        return self.decoder(features["sequence"].hidden)

    def weigh(self, target):
        return (target != self.pad).sum()

    def loss(self, output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="sum")

    def decode(self, outputs):
        return {"surest": [float(output.max()) for output in outputs]}

    def metrics(self, outputs, targets):
        pairs = [(o.argmax(-1)[t != self.pad], t[t != self.pad]) for o, t in zip(outputs, targets, strict=True)]
        told, true = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        return {"accuracy": float((told == true).mean())} if len(true) else {}


def of(kind, **changes):
    spec = HeadSpec(
        name="hides",
        summary="Every other letter.",
        build=lambda options, context: kind(context),
        answers="token",
        labelled=False,
    )
    return replace(spec, **changes)


class SaysLabelled(Hides):
    labelled = True


class OwnChance(Hides):
    turns = itertools.count()

    def pose(self, encoding, rng):
        return super().pose(encoding, np.random.default_rng(next(self.turns) // 3))


class HidesForGood(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        encoding.arrays["input_ids"][:] = seen.arrays["input_ids"]
        return encoding, target


class TakesOut(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return replace(seen, arrays={"input_ids": seen.arrays["input_ids"][1:]}, spans=seen.spans[1:]), target


class MovesSpans(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return replace(seen, spans=seen.spans[::-1]), target


class OtherNumbers(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return replace(seen, arrays={"input_ids": seen.arrays["input_ids"].astype(np.float32)}), target


class OtherMask(Hides):
    def __init__(self, context):
        super().__init__(context)
        self.mask = 40


class TargetsOfHidden(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return seen, target[target != self.pad]


class OtherPad(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return seen, np.where(target == self.pad, -1, target)

    def weigh(self, target):
        return (target >= 0).sum()


class AsksNothing(Hides):
    def pose(self, encoding, rng):
        return encoding, np.full(encoding.tokens, -100)


class HidesNothing(Hides):
    def pose(self, encoding, rng):
        return encoding, super().pose(encoding, rng)[1]


class AsksForAnother(Hides):
    def pose(self, encoding, rng):
        seen, target = super().pose(encoding, rng)
        return seen, np.where(target == self.pad, target, 2 + (target - 1) % 26)


class AsksForTheFirst(Hides):
    """Asks for ``<cls>``, which is always the same."""

    def pose(self, encoding, rng):
        ids = encoding.arrays["input_ids"]
        first = np.arange(len(ids)) == 0
        return replace(encoding, arrays={"input_ids": np.where(first, self.mask, ids)}), np.where(first, ids, self.pad)


class AsksWhereItStands(Hides):
    """Takes a causal model and asks of each token the token itself."""

    def __init__(self, context):
        if context.language["sequence"].objective != "causal":
            raise RecipeError("a causal model")
        super().__init__(context)

    @property
    def language(self):
        return LanguageModel(self.decoder, "causal")

    def pose(self, encoding, rng):
        ids = encoding.arrays["input_ids"]
        return encoding, np.where(encoding.spans[:, 0] >= 0, ids, self.pad).astype(np.int64)


class AlwaysPerfect(Hides):
    def metrics(self, outputs, targets):
        return {"accuracy": 1.0}


class Measures(Hides):
    """Asks for a number for each token, as of a gene; it is no language model."""

    language = None
    pad = float("nan")
    metric = "mse"

    def __init__(self, context):
        super().__init__(context)
        self.decoder = nn.Linear(16, 1)

    def pose(self, encoding, rng):
        ids = encoding.arrays["input_ids"]
        asked = (rng.random(len(ids)) < 0.5) & (encoding.spans[:, 0] >= 0)
        seen = np.where(asked, self.mask, ids)
        return replace(encoding, arrays={"input_ids": seen}), np.where(asked, ids / 30, np.nan).astype(np.float32)

    def forward(self, features):
        return self.decoder(features["sequence"].hidden)

    def weigh(self, target):
        return (~target.isnan()).sum()

    def loss(self, output, target):
        known = ~target.isnan()
        return (output[..., 0][known] - target[known]).square().sum()

    def metrics(self, outputs, targets):
        pairs = [(o[:, 0], t) for o, t in zip(outputs, targets, strict=True)]
        told, true = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        known = ~np.isnan(true)
        return {"mse": float(np.square(told - true)[known].mean())} if known.any() else {}


class MeanLoss(Hides):
    def loss(self, output, target):
        return super().loss(output, target) / self.weigh(target)


class LearnsPadding(Hides):
    def weigh(self, target):
        return torch.tensor(float(target.numel()))

    def loss(self, output, target):
        return super().loss(output, target.clamp(min=0))


class AtRest(Hides):
    def __init__(self, context):
        super().__init__(context)
        self.decoder.requires_grad_(False)


class LearnsInVain(Hides):
    def __init__(self, context):
        super().__init__(context)
        self.unused = nn.Linear(1, 1)


class MeanOfBatch(Hides):
    def forward(self, features):
        hidden = features["sequence"].hidden
        return self.decoder(hidden - hidden.mean((0, 1)))


class KeepsLikeliest(Hides):
    """Keeps the logit of the likeliest token alone."""

    def condense(self, output, target):
        return torch.where(output == output.amax(-1, keepdim=True), output, 0)


class KeepsNaN(Hides):
    def condense(self, output, target):
        return output.masked_fill((target == self.pad).unsqueeze(-1), float("nan"))


class LearnsOnTheOriginal(Hides):
    def __init__(self, context):
        super().__init__(context)
        self.decoder = context.language["sequence"].head.requires_grad_(True)


class GivesTheOriginal(Hides):
    def __init__(self, context):
        super().__init__(context)
        self.original = (context.language["sequence"],)

    @property
    def language(self):
        return self.original[0]


class GivesAnother(Hides):
    @property
    def language(self):
        return LanguageModel(self.decoder, "causal")


class GivesNone(Hides):
    language = None


class GivesFewer(Hides):
    @property
    def language(self):
        return LanguageModel(nn.Linear(16, 4), "masked")


class RowLost(Hides):
    def decode(self, outputs):
        return super().decode(outputs[1:])


class MetricMissing(Hides):
    metric = "perplexity"


class MeanOfNone(Hides):
    def metrics(self, outputs, targets):
        asked = np.concatenate(targets) != self.pad
        return {"accuracy": float(asked.sum() / asked.sum()) if asked.any() else float("nan")}


class LossOfEmpty(Hides):
    """Divides by what is asked of each input."""

    def loss(self, output, target):
        each = nn.functional.cross_entropy(output.transpose(1, 2), target, reduction="none").sum(1)
        asked = (target != self.pad).sum(1)
        return (each / asked * asked).sum()


class ScaleForgotten(Hides):
    """Divides by what it has learned, and does not keep it."""

    scale = 1.0

    def loss(self, output, target):
        if self.training:
            self.scale = 2.0
        return super().loss(output, target)

    def forward(self, features):
        return self.decoder(features["sequence"].hidden) / self.scale


FAULTS = [
    (of(SaysLabelled), "as-specified: the specification says labelled = False, the module says True"),
    (
        of(Hides, answers="unit"),
        "as-specified: the specification answers for each unit, the module for each token; "
        "without labels both answer for each token",
    ),
    (of(OwnChance), "chance-from-the-generator: it asks otherwise of input 0 under the same seed 1"),
    (of(HidesForGood), "input-left-as-it-was: input 0 itself is changed when something is asked of it"),
    (
        of(TakesOut),
        "input-left-as-it-was: input 0 is to be seen with 14 tokens and 14 units, after 15 tokens and 14 units",
    ),
    (of(MovesSpans), "input-left-as-it-was: input 0 is to be seen with other spans"),
    (
        of(OtherNumbers),
        "input-left-as-it-was: input 0 is to be seen as input_ids float32[15], after input_ids int64[15]",
    ),
    (of(OtherMask), "input-left-as-it-was: input 0 is to be seen with token 40, which is not in the vocabulary"),
    (of(TargetsOfHidden), "one-target-per-token: input 0 of 15 tokens has targets of shape [7]"),
    (of(OtherPad), "one-target-per-token: a target of input 0 that does not count is -1, not -100"),
    (of(AsksNothing), "one-target-per-token: nothing is asked of input 0 in 20 tries"),
    (of(HidesNothing), "asks-what-is-hidden: of 491 tokens that it asks for 491 are left in sight"),
    (
        of(AsksForAnother),
        "asks-what-is-hidden: token 1 of input 0 has the target 15, and the one to be told there is 14",
    ),
    (of(AsksForTheFirst), "asks-what-is-hidden: token 0 of input 0 is asked for, and 1 is a special token"),
    (
        of(AsksWhereItStands),
        "asks-what-is-hidden: token 1 of input 0 has the target 14, and the one to be told there is 12",
    ),
    (of(AlwaysPerfect), "metrics-tell: its metrics are the same before and after it has learned: accuracy 1"),
    (of(MeanLoss), "loss-adds-up: loss of all inputs is 3.451, but 6.918 as the sum of two parts"),
    (of(LearnsPadding), "padding-left-out: loss is 3.528e+04, but 3.928e+04 with a column of padding"),
    (of(AtRest), "all-of-it-learns: nothing of it learns: its loss depends on no parameter that may"),
    (of(LearnsInVain), "all-of-it-learns: 'unused.weight' gets no gradient"),
    (of(MeanOfBatch), "same-beside-others: the answer for input 0 differs by 50 alone; at most 1e-05 is allowed"),
    (of(KeepsLikeliest), "same-when-condensed: the loss is 86.27, but 86.04 of what is kept"),
    (of(KeepsNaN), "same-when-condensed: what is kept of input 0 is not finite"),
    (of(LearnsOnTheOriginal), "language-learned: learning changes the pretrained language model"),
    (of(GivesTheOriginal), "language-learned: the language model that it gives has not learned"),
    (of(GivesAnother), "language-learned: it learned on a masked language model, and gives a causal one"),
    (of(GivesFewer), "language-learned: its language model has 4 logits for 29 tokens of the vocabulary"),
    (of(RowLost), "one-value-each: column 'surest' has 3 values for 4 inputs"),
    (of(MetricMissing), "metrics-finite: there is no 'perplexity' among its metrics: accuracy"),
    (of(MeanOfNone), "empty-input: 'accuracy' is nan with an input without units alone"),
    (of(LossOfEmpty), "empty-input: 'loss' is nan with an input without units beside others"),
    (of(ScaleForgotten), "saved-and-loaded: answers differ by 1 after the head was saved and loaded"),
]


@pytest.mark.parametrize(
    ("spec", "message"), FAULTS, ids=lambda value: value.partition(":")[0] if isinstance(value, str) else ""
)
def test_a_head_without_labels_with_a_fault_is_told_of_it(spec, message):
    with pytest.raises(ConformanceError) as caught:
        check_head(spec)
    assert str(caught.value) == f"head 'hides' fails {message}"


def test_a_plainly_written_head_without_labels_keeps_every_promise():
    check_head(of(Hides))
    check_head(of(Hides), inputs=["ACD", "MKTAYIAK"])
    check_head(of(GivesNone))
    check_head(of(Measures))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked-lm", {"probability": 0.6, "masked": 0, "random": 0.5}),
        ("masked-lm", {"inputs": ["heavy"]}),
        ("causal-lm", {"inputs": ["light"]}),
    ],
)
def test_an_objective_of_core_keeps_every_promise_with_other_options(name, options):
    check_head(BUILT_IN.get(HeadSpec, name).spec, options)


def test_a_head_that_takes_no_language_model_says_why():
    def build(options, context):
        raise RecipeError(f"no {context.language['sequence'].objective} model will do")

    with pytest.raises(ConformanceError) as caught:
        check_head(of(Hides, build=build))
    assert str(caught.value) == (
        "head 'hides' fails as-specified: it raises RecipeError: over a masked language model: no masked model will do; "
        "over a causal language model: no causal model will do; over a values language model: no values model will do; "
        "over an ordered language model: no ordered model will do"
    )


def test_a_head_that_learns_from_labels_is_not_checked_without_them():
    with pytest.raises(DataError) as caught:
        check_head(BUILT_IN.get(HeadSpec, "sequence-regression").spec)
    assert str(caught.value) == (
        "head 'sequence-regression' learns from labels: give check_head some of all kinds, as labels=[...]"
    )


class OfAPlugin:
    """A plugin written inside a test."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_heads():
        yield of(Hides)


def test_a_head_without_labels_is_checked_with_its_plugin():
    assert check_plugin(OfAPlugin) == {"head 'hides'": "checked"}


def test_every_check_of_a_head_without_labels_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {
        check.name for check in CHECKS["head without labels"]
    }
