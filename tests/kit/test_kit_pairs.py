"""Each check of a head that answers for pairs of units fails on a head that was made to have the fault."""

import numpy as np
import pytest
import torch
from torch import nn

from exapt import HeadSpec, Options
from exapt.errors import DataError
from exapt.parts import Head
from exapt.testing import ConformanceError, check_head

LABELS = ("1-3", "2-5", "1-2;3-4", "4-6", "2-4", "1-5")
UNITS = [4, 5, 4, 6, 5, 7]


class Bonds(Head):
    """Which units are bound, as plainly as can be: all pairs, by the products of what two layers make of each unit."""

    answers = "pair"
    metric = "accuracy"

    def __init__(self, width):
        super().__init__()
        self.one, self.other = (nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 16)) for _ in range(2))

    def encode(self, label, length):
        target = np.zeros((length, length), dtype=np.float32)
        for pair in label.split(";") if isinstance(label, str) else label:
            try:
                i, j = (int(place) - 1 for place in pair.split("-"))
                target[i, j] = target[j, i] = 1
            except (ValueError, IndexError):
                raise DataError(f"names {pair!r}, which is no pair among {length} units") from None
        return target

    def forward(self, features):
        units = features["sequence"].per_unit()[0]
        products = self.one(units) @ self.other(units).mT
        return products + products.mT

    def weigh(self, target):
        return (target != self.pad).sum().float()

    def loss(self, output, target):
        real = target != self.pad
        return nn.functional.binary_cross_entropy_with_logits(output[real], target[real], reduction="sum")

    def decode(self, outputs):
        found = [np.argwhere(np.triu(output, 1) > 0) + 1 for output in outputs]
        return {"prediction": [[f"{i}-{j}" for i, j in pairs] for pairs in found]}

    def metrics(self, outputs, targets):
        right = [((o > 0) == (t == 1)).mean() for o, t in zip(outputs, targets, strict=True)]
        return {"accuracy": float(np.mean(right))}


def spec(kind, **fields):
    def build(_options, context):
        return kind(context.widths["sequence"])

    return HeadSpec(name="bonds", summary="Bonds.", options=Options, build=build, **{"answers": "pair"} | fields)


def fault(kind, **fields):
    with pytest.raises(ConformanceError) as error:
        check_head(spec(kind, **fields), labels=LABELS, lengths=UNITS)
    return str(error.value)


def test_a_plain_head_of_pairs_passes():
    check_head(spec(Bonds), labels=LABELS, lengths=UNITS)


class AnyPair(Bonds):
    def encode(self, label, length):
        inside = [pair for pair in label.split(";") if max(map(int, pair.split("-"))) <= length]
        return super().encode(inside, length)


class SaidToBePerUnit(Bonds):
    answers = "unit"


class OneRow(Bonds):
    def forward(self, features):
        return super().forward(features)[:, 0]


class PaddingCounts(Bonds):
    def weigh(self, target):
        return torch.tensor(float(target.numel()))


class PaddingOfColumns(Bonds):
    """Leaves out rows that only fill up, but not what stands beyond the end of the others."""

    def loss(self, output, target):
        real = (target != self.pad).any(2)
        known = torch.where(target[real] == self.pad, 0, target[real])
        return nn.functional.binary_cross_entropy_with_logits(output[real], known, reduction="sum")


class ReadsItsNeighbours(Bonds):
    def forward(self, features):
        output = super().forward(features)
        return output - output.mean((1, 2), keepdim=True)


class OneProbability(Bonds):
    def decode(self, outputs):
        return super().decode(outputs) | {"probability": [[0.5] * 9 for _ in outputs]}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            SaidToBePerUnit,
            "head 'bonds' fails as-specified: the specification answers for each pair, the module for each unit",
        ),
        (OneRow, "head 'bonds' fails as-specified: it answers [6, 7] for pairs among 7 units of 6 inputs"),
        (PaddingCounts, "head 'bonds' fails padding-left-out: weigh is 294, but 384 with a column of padding"),
        (PaddingOfColumns, "head 'bonds' fails padding-left-out: loss is"),
        (ReadsItsNeighbours, "head 'bonds' fails reads-real-tokens: the answer for input 0 differs by"),
        (OneProbability, "head 'bonds' fails one-answer-each: column 'probability' has [9, 9, 9, 9, 9, 9] values for"),
    ],
)
def test_faults_of_heads_of_pairs_are_found(kind, line):
    assert fault(kind).startswith(line)


def test_pairs_that_lie_outside_are_refused():
    class Passing(AnyPair):
        def encode(self, label, length):
            if not isinstance(label, str):
                raise DataError("is no text")
            return super().encode(label, length)

    assert fault(Passing).startswith(
        "head 'bonds' fails unknown-label-refused: the too long label '1-3' for 1 units becomes the target [[0.0]]"
    )
