"""Rows ready to learn from: encoded inputs (or kept features) and encoded labels, handed out as micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from exapt.data.batching import collate, padded
from exapt.features import TOKENS, KeptFeatures
from exapt.model import Kept, MicroBatch
from exapt.parts import Array, Batch, Encoding, Head


@dataclass(frozen=True)
class Inputs:
    """All values of one input: their encodings and, where the backbone is frozen, the features kept of them.

    ``kept`` maps readings to features of the *distinct* encodings; ``distinct`` [rows] says which of them a row has.
    """

    encodings: Sequence[Encoding]
    kept: Mapping[str, KeptFeatures]
    distinct: Array

    def subset(self, rows: Array) -> Inputs:
        """Return some rows; kept features stay where they are."""
        return Inputs([self.encodings[row] for row in rows], self.kept, self.distinct[rows])

    def take(self, rows: Array, device: torch.device) -> Batch | Kept:
        """Return some rows, padded, on a device."""
        if self.kept:
            return {reading: kept.take(self.distinct[rows], device) for reading, kept in self.kept.items()}
        return collate([self.encodings[row] for row in rows]).to(device)

    @cached_property
    def tokens(self) -> Array:
        """What each row costs: its tokens, or one where pooled features are kept."""
        if self.kept and TOKENS not in self.kept:
            return np.ones(len(self.distinct), dtype=np.int64)
        return np.array([encoding.tokens for encoding in self.encodings], dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Inputs by name, and targets by head; every list has one entry per row."""

    inputs: Mapping[str, Inputs]
    targets: Mapping[str, Sequence[Array]]
    heads: Mapping[str, Head]
    answered: Mapping[str, str]
    """The input whose units each head answers for."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())).encodings)

    @cached_property
    def tokens(self) -> Array:
        """The cost of each row, over all its inputs."""
        total: Array = np.stack([inputs.tokens for inputs in self.inputs.values()]).sum(0)
        return total

    def lengths(self, head: str) -> list[int]:
        """Return each row's length, in units, of the input that a head answers for."""
        return [encoding.length for encoding in self.inputs[self.answered[head]].encodings]

    def subset(self, rows: Array) -> Rows:
        """Return some rows, such as one part of a split."""
        targets = {name: [values[row] for row in rows] for name, values in self.targets.items()}
        inputs = {name: inputs.subset(rows) for name, inputs in self.inputs.items()}
        return Rows(inputs, targets, self.heads, self.answered)

    def take(self, rows: Array, device: torch.device) -> MicroBatch:
        """Return some rows as one micro-batch."""
        inputs = {name: values.take(rows, device) for name, values in self.inputs.items()}
        targets = {name: self._targets(name, rows).to(device) for name in self.targets}
        return MicroBatch(inputs, targets, len(rows))

    def _targets(self, head: str, rows: Array) -> Tensor:
        arrays = [self.targets[head][row] for row in rows]
        if not self.heads[head].per_unit:
            return torch.from_numpy(np.stack(arrays))
        longest = max(len(array) for array in arrays)
        return torch.from_numpy(padded(arrays, longest, self.heads[head].pad))
