"""The module of the head ``contact``: a symmetric bilinear form on projected features of units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt import metrics
from exapt.builtin._trunk import Trunk, Units
from exapt.builtin.contact import ContactOptions
from exapt.data.pair_labels import Matrix, Pairs, check_inside, pairs_or_rows
from exapt.errors import DataError
from exapt.parts import Array, Head, HeadContext

_KNOWN = -1
"""What stands for a unit itself, on the diagonal, where anything is known of it: it is no pair, but is counted."""
_RARE = -3.0
"""Logit at the start: of the pairs of a protein that are 6 or more residues apart, about one in twenty is in contact."""


class Contact(Head):
    """Whether two units are in contact: one logit for each pair, the same in both orders, and binary cross-entropy.

    Each unit's features are projected to two vectors of ``rank``, and the logit of a pair is the mean of the two products
    of one unit's first vector with the other's second, so that no array is larger than [batch, units, units].
    """

    reads = "tokens"
    answers = "pair"
    metric = "long_precision_L"

    def __init__(self, options: ContactOptions, context: HeadContext) -> None:
        super().__init__()
        self.options = options
        self.trunk = Trunk(options, Units(options, context), 2 * options.rank)
        self.bias = nn.Parameter(torch.tensor(_RARE))

    def adjust(self, features: Mapping[str, Any]) -> None:
        """Fit the scaling of the features."""
        self.trunk.adjust(features)

    def encode(self, label: Any, length: int) -> Array:
        """Return 1 for each pair in contact, else 0, ``pad`` for pairs that are too near or not known [units, units].

        On the diagonal -1 stands for a unit of which anything is known.
        """
        pairs, rows = pairs_or_rows(label)
        target = _of_pairs(pairs, length) if rows is None else self._of_matrix(rows, length)
        known = (target != self.pad).any(1)
        target[_separation(length) < self.options.min_separation] = self.pad
        target[known, known] = _KNOWN
        return target

    def _of_matrix(self, rows: Matrix, length: int) -> Array:
        values = np.array(rows, dtype=np.float64)
        if len(values) != length:
            raise DataError(f"is a matrix of {len(values)} x {len(values)} for {length} units")
        below, known = self.options.below, ~np.isnan(values)
        if not below and not np.isin(values[known], (0, 1)).all():
            row, column = np.argwhere(known & ~np.isin(values, (0, 1)))[0]
            raise DataError(
                f"has {values[row, column]:g} in row {row + 1}, column {column + 1} of its matrix, which holds 0 and 1; of "
                "distances, say with head.below which are contacts"
            )
        contact = values < below if below else values == 1
        both = known & known.T
        if (both & (contact != contact.T)).any():
            row, column = np.argwhere(both & contact & ~contact.T)[0]
            raise DataError(f"has a contact {row + 1}-{column + 1} in its matrix, but none {column + 1}-{row + 1}")
        return np.where(both, contact, self.pad).astype(np.int8)

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Return logits [batch, units, units], each equal to that of the pair in the other order, bit by bit."""
        one, other = self.trunk(features).chunk(2, -1)
        products: Tensor = one @ other.mT
        return (products + products.mT) / (2 * math.sqrt(self.options.rank)) + self.bias

    def weigh(self, target: Tensor) -> Tensor:
        """Return the summed weight of the pairs that are known."""
        contacts = (target == 1).sum()
        return (target == 0).sum() + self.options.positive_weight * contacts

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy, summed over all known pairs, in both orders."""
        real = target >= 0
        logits, truth = output.float()[real], target[real].float()
        weight = truth.new_tensor(self.options.positive_weight)
        return functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight, reduction="sum")

    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Return ``prediction``, pairs such as ``3-17`` from the threshold on, likeliest first, and each ``probability``."""
        found = [self._named(output) for output in outputs]
        return {"prediction": [pairs for pairs, _ in found], "probability": [shares for _, shares in found]}

    def _named(self, output: Array) -> tuple[list[str], list[float]]:
        first, second = np.nonzero(np.triu(np.ones(output.shape, dtype=bool), self.options.min_separation))
        logits = output[first, second].astype(np.float64)
        # Through tanh, because exp overflows, with a warning, at large negative logits.
        shares = 0.5 * (1 + np.tanh(0.5 * logits))
        chosen = np.flatnonzero(shares >= self.options.threshold)
        chosen = chosen[np.argsort(-logits[chosen], kind="stable")]
        pairs = [f"{i}-{j}" for i, j in zip((first[chosen] + 1).tolist(), (second[chosen] + 1).tolist(), strict=True)]
        return pairs, shares[chosen].tolist()

    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the precision of the likeliest pairs of medium and long range."""
        # One by one: all pairs of all inputs as numbers of 64 bits would fill the memory.
        known = (np.where(target == self.pad, np.nan, target) for target in targets)
        return metrics.contacts(outputs, known, self.options.min_separation)


def _separation(length: int) -> Array:
    """Return how far apart the units of each pair stand along the sequence [units, units]."""
    units = np.arange(length)
    return np.abs(np.subtract.outer(units, units))


def _of_pairs(pairs: Pairs, length: int) -> Array:
    check_inside(pairs, length)
    target = np.zeros((length, length), dtype=np.int8)
    for one, other in pairs:
        target[one - 1, other - 1] = target[other - 1, one - 1] = 1
    return target
