"""Each check of a head fails on a head that was made to have the fault."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from exapt import HeadSpec, Options
from exapt.errors import DataError
from exapt.parts import Head
from exapt.testing import CHECKS, ConformanceError, check_head

LABELS = ("lung", "gut", "skin", "gut", "lung", "skin")
UNITS = ("HHE", "EHC", "CCHE", "HE", "EEHC", "CHE")


class ClassOptions(Options):
    classes: tuple[str, ...] = ()


class Plain(Head):
    """Classes by the mean of tokens, written as plainly as can be."""

    reads = "mean"
    metric = "accuracy"

    def __init__(self, classes, width):
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(width, len(classes))

    def encode(self, label, length):
        if label not in self.classes:
            raise DataError(f"'{label}' is none of {', '.join(self.classes)}")
        return np.array(self.classes.index(label))

    def forward(self, features):
        return self.linear(features["sequence"].pool("mean"))

    def weigh(self, target):
        return torch.tensor(float(len(target)))

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target, reduction="sum")

    def decode(self, outputs):
        return {"prediction": [self.classes[int(output.argmax())] for output in outputs]}

    def metrics(self, outputs, targets):
        right = [output.argmax() == target for output, target in zip(outputs, targets, strict=True)]
        return {"accuracy": float(np.mean(right))}


class PlainUnits(Plain):
    """The same, per unit."""

    reads = "tokens"
    answers = "unit"

    def encode(self, label, length):
        if len(label) != length:
            raise DataError(f"has {len(label)} labels for {length} units")
        return np.array([int(super(PlainUnits, self).encode(one, 1)) for one in label])

    def forward(self, features):
        return self.linear(features["sequence"].per_unit()[0])

    def weigh(self, target):
        return (target != -100).sum()

    def loss(self, output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="sum")

    def decode(self, outputs):
        return {"prediction": [[self.classes[at] for at in output.argmax(-1)] for output in outputs]}

    def metrics(self, outputs, targets):
        right = [(o.argmax(-1) == t).mean() for o, t in zip(outputs, targets, strict=True)]
        return {"accuracy": float(np.mean(right))}


class Means(Plain):
    """Classes by the mean of each, fitted to all rows at once."""

    fits = True

    def __init__(self, classes, width):
        super().__init__(classes, width)
        del self.linear
        self.register_buffer("means", torch.zeros(len(classes), width))

    def fit(self, features, targets):
        chosen = nn.functional.one_hot(targets, len(self.classes)).float()
        return {"means": chosen.T @ features["sequence"].pool("mean") / chosen.sum(0)[:, None]}

    def forward(self, features):
        return -(features["sequence"].pool("mean")[:, None] - self.means).square().sum(-1)


def classes_sorted(options, labels):
    return options.model_copy(update={"classes": tuple(sorted({one for label in labels for one in _names(label)}))})


def classes_as_they_come(options, labels):
    return options.model_copy(update={"classes": tuple(dict.fromkeys(labels))})


def _names(label):
    return [label] if label in LABELS else label


def of(kind, infer=classes_sorted):
    """A specification of a head of a class, which learns ``LABELS`` or, per unit, ``UNITS``."""
    return HeadSpec(
        name="plain",
        summary="Classes.",
        options=ClassOptions,
        infer=infer,
        build=lambda options, context: kind(options.classes, context.widths["sequence"]),
        answers="unit" if issubclass(kind, PlainUnits) else "input",
        fits=issubclass(kind, Means),
        learns=not issubclass(kind, Means) or kind is MeansAndMore,
    )


class SaysUnlabelled(Plain):
    labelled = False


class SaysFitted(Plain):
    fits = True


class FittedToTokens(Means):
    reads = "tokens"


class MeansAndMore(Means):
    """Says that it learns, and has nothing that steps could move."""


class MeansRunOn(Means):
    """Adds the means of each fit to those of the fits before."""

    def fit(self, features, targets):
        return {"means": self.means + super().fit(features, targets)["means"]}


class AnswersForTokens(PlainUnits):
    answers = "token"


class AnswersForInputs(PlainUnits):
    answers = "input"


class TakesAnyLabel(Plain):
    def encode(self, label, length):
        return np.array(self.classes.index(label) if label in self.classes else 0)


class TakesAnyLength(PlainUnits):
    def encode(self, label, length):
        return super().encode(label, len(label))


class LoadsAnything(Plain):
    def load_state_dict(self, state, strict=True):
        return None


class MeanLoss(Plain):
    def loss(self, output, target):
        return super().loss(output, target) / len(target)


class LossPerInput(Plain):
    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target, reduction="none")


class WeighsTwice(Plain):
    def weigh(self, target):
        return super().weigh(target) ** 2


class LearnsPadding(PlainUnits):
    def weigh(self, target):
        return torch.tensor(float(target.numel()))

    def loss(self, output, target):
        return super().loss(output, target.clamp(min=0))


class MeanOverPadding(Plain):
    reads = "tokens"

    def forward(self, features):
        return self.linear(features["sequence"].hidden.mean(1))


class OtherWhenPooled(Plain):
    reads = "max"

    def forward(self, features):
        given = features["sequence"]
        return self.linear(given.pool("mean" if hasattr(given, "hidden") else "max"))


class EmptyBreaks(Plain):
    reads = "tokens"

    def forward(self, features):
        given = features["sequence"]
        total = torch.where(given.mask[..., None], given.hidden, 0).sum(1)
        return self.linear(total / given.mask.sum(1, keepdim=True))


class LearnsInVain(Plain):
    def __init__(self, classes, width):
        super().__init__(classes, width)
        self.unused = nn.Linear(width, 1)


class LearnsNothing(Plain):
    def forward(self, features):
        return self.linear(features["sequence"].pool("mean")) * 0


class WordsMixedUp(Plain):
    def decode(self, outputs):
        return {"prediction": [self.classes[::-1][int(output.argmax())] for output in outputs]}


class RowLost(Plain):
    def decode(self, outputs):
        return {**super().decode(outputs), "confidence": [float(output.max()) for output in outputs[1:]]}


class OneAnswerForAllUnits(PlainUnits):
    def decode(self, outputs):
        return {**super().decode(outputs), "confidence": [float(output.max()) for output in outputs]}


class MetricMissing(Plain):
    metric = "macro_f1"


class MetricNotANumber(Plain):
    def metrics(self, outputs, targets):
        return {**super().metrics(outputs, targets), "auroc": float("nan")}


class ScaleForgotten(Plain):
    """Scales by what it saw before training, and does not keep it."""

    scale = 1.0

    def adjust(self, features):
        self.scale = float(features["sequence"].pool("mean").std())

    def forward(self, features):
        return self.linear(features["sequence"].pool("mean") / self.scale)


FAULTS = [
    (of(SaysUnlabelled), "as-specified: the specification says labelled = True, the module says False"),
    (of(SaysFitted), "as-specified: the specification says fits = False, the module says True"),
    (
        of(MeansAndMore),
        "as-specified: the specification says learns = True, and the module has no parameters that learn",
    ),
    (of(FittedToTokens), "as-specified: it is fitted to pooled features, and reads all tokens"),
    (
        of(MeansRunOn),
        "fitted-in-any-order: answers differ by 0.96 when it is fitted again to the same rows, the last first; "
        "at most 1e-05 is allowed",
    ),
    (of(AnswersForTokens), "as-specified: it answers for each token, and labels are of inputs or of units"),
    (
        of(AnswersForInputs),
        "as-specified: the specification answers for each unit, the module for each input",
    ),
    (
        of(Plain, classes_as_they_come),
        "order-of-labels: 'classes' is ('lung', 'gut', 'skin'), but ('skin', 'lung', 'gut') of reversed labels",
    ),
    (of(TakesAnyLabel), "unknown-label-refused: the unknown label 'no such label' for 3 units becomes the target 0"),
    (
        of(TakesAnyLength),
        "unknown-label-refused: the too short label 'HHE' for 4 units becomes the target [2, 2, 1]",
    ),
    (of(LoadsAnything), "other-labels-refused: the state of a head of 3 answers loads into one of 2"),
    (of(MeanLoss), "loss-adds-up: loss of all inputs is 1.141, but 2.408 as the sum of two parts"),
    (of(LossPerInput), "loss-adds-up: loss has shape [6], not []"),
    (of(WeighsTwice), "loss-adds-up: weigh of all inputs is 36, but 26 as the sum of two parts"),
    (of(LearnsPadding), "padding-left-out: loss is 27.01, but 35.04 with a column of padding"),
    (
        of(MeanOverPadding),
        "reads-real-tokens: the answer for input 0 differs by 0.69 alone; at most 1e-05 is allowed",
    ),
    (
        of(OtherWhenPooled),
        "same-when-pooled: answers differ by 1.1 over kept features; at most 1e-05 is allowed",
    ),
    (of(LearnsInVain), "all-of-it-learns: 'unused.weight' gets no gradient"),
    (of(LearnsNothing), "all-of-it-learns: the loss is 6.592 before and 6.592 after learning 6 inputs"),
    (of(EmptyBreaks), "empty-input: an input without units makes the answer not finite"),
    (of(WordsMixedUp), "labels-come-back: the label 'gut' comes back as 'skin'"),
    (of(RowLost), "one-answer-each: column 'confidence' has 5 values for 6 inputs"),
    (
        of(OneAnswerForAllUnits),
        "one-answer-each: column 'confidence' has [-1, -1, -1, -1, -1, -1] values for [3, 3, 4, 2, 4, 3] units",
    ),
    (of(MetricMissing), "metrics-finite: there is no 'macro_f1' among its metrics: accuracy"),
    (of(MetricNotANumber), "metrics-finite: the metric 'auroc' is nan"),
    (
        of(ScaleForgotten),
        "saved-and-loaded: answers differ by 0.58 after the head was saved and loaded",
    ),
]


@pytest.mark.parametrize(
    ("spec", "message"), FAULTS, ids=lambda value: value.partition(":")[0] if isinstance(value, str) else ""
)
def test_a_head_with_a_fault_is_told_of_it(spec, message):
    with pytest.raises(ConformanceError) as caught:
        check_head(spec, labels=UNITS if _per_unit(spec) else LABELS)
    assert str(caught.value) == f"head 'plain' fails {message}"


def _per_unit(spec):
    return issubclass(spec.build.__closure__[0].cell_contents, PlainUnits)


@pytest.mark.parametrize(("kind", "labels"), [(Plain, LABELS), (PlainUnits, UNITS), (Means, LABELS)])
def test_a_plainly_written_head_keeps_every_promise(kind, labels):
    check_head(of(kind), labels=labels)


def test_a_head_is_told_of_labels_that_it_cannot_use():
    spec = replace(of(Plain), name="two-only", build=lambda options, context: Plain(options.classes[:2], 16))
    with pytest.raises(ConformanceError) as caught:
        check_head(spec, labels=LABELS)
    assert str(caught.value) == "head 'two-only' fails loss-adds-up: it raises DataError: 'skin' is none of gut, lung"


def test_every_check_of_a_head_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["head"]}
