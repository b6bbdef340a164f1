"""Rows ready to learn from: encoded inputs (or kept features) and targets, handed out as micro-batches.

Where inputs are changed at random or heads pose questions of their own, training rows are made anew each time they are
seen. All chance is a function of the run's seed, the epoch and the row, never of what is batched beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt.data.batching import collate, padded
from exapt.errors import DataError, PluginError
from exapt.features import TOKENS, KeptFeatures
from exapt.model import Kept, MicroBatch
from exapt.parts import NO_UNIT, Array, Augmentation, Batch, Encoding, Head


@dataclass(frozen=True)
class Inputs:
    """All values of one input: their encodings and, where the backbone is frozen, the features kept of them.

    ``kept`` maps readings to features of the *distinct* encodings; ``distinct`` [rows] says which of them a row has.
    """

    encodings: Sequence[Encoding]
    kept: Mapping[str, KeptFeatures]
    distinct: Array

    @classmethod
    def bare(cls, encodings: Sequence[Encoding]) -> Inputs:
        """Return inputs of which no features are kept."""
        return cls(encodings, {}, np.arange(len(encodings)))

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
class Source:
    """What rows are made of anew: ``values`` of each input, one per row, and the ``numbers`` [rows] that chance goes by.

    ``encode(id, value)`` encodes a changed value of a row; ``limit`` is the most tokens that the model then takes.
    """

    ids: Sequence[str]
    values: Mapping[str, Sequence[Any]]
    numbers: Array
    encode: Callable[[str, Any], Encoding]
    limit: int | None
    augmentations: Sequence[Augmentation]
    seed: int

    def subset(self, rows: Array) -> Source:
        """Return some rows."""
        values = {name: [given[row] for row in rows] for name, given in self.values.items()}
        return replace(self, ids=[self.ids[row] for row in rows], values=values, numbers=self.numbers[rows])

    def fits(self, encoding: Encoding) -> bool:
        """Return whether the model takes an encoding whole."""
        return self.limit is None or encoding.tokens <= self.limit

    @property
    def changes(self) -> bool:
        """Whether training rows are changed at random."""
        return any(augmentation.trains for augmentation in self.augmentations)

    def chance(self, row: int, *moment: int) -> np.random.Generator:
        """Return the generator of a row at a moment, such as an epoch."""
        return np.random.default_rng((self.seed, *moment, int(self.numbers[row])))

    def changed(self, name: str, row: int, rng: np.random.Generator) -> tuple[Encoding, Array | None]:
        """Return an input, changed at random, and where its units [units] stood before (None: where they stand)."""
        value, units = self.values[name][row], None
        for augmentation in self.augmentations:
            step = augmentation.change(value, rng)
            value = step.value
            units = _composed(units, step.units)
        return self.encode(self.ids[row], value), units


def _composed(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    return np.where(second == NO_UNIT, NO_UNIT, first[second])


@dataclass(frozen=True)
class View:
    """Rows as an augmentation sees them, and of each row where its units [units] stand in the row itself (None: there)."""

    rows: Rows
    units: Mapping[str, Sequence[Array | None]]


@dataclass(frozen=True)
class Rows:
    """Inputs by name, and targets by head; every list has one entry per row."""

    inputs: Mapping[str, Inputs]
    targets: Mapping[str, Sequence[Array]]
    heads: Mapping[str, Head]
    answered: Mapping[str, str]
    """The input whose units or tokens each head answers for."""
    source: Source | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())).encodings)

    @cached_property
    def tokens(self) -> Array:
        """The cost of each row, over all its inputs."""
        total: Array = np.stack([inputs.tokens for inputs in self.inputs.values()]).sum(0)
        return total

    @property
    def posed(self) -> list[str]:
        """The heads that pose questions of their own."""
        return [name for name, head in self.heads.items() if not head.labelled]

    @property
    def renewed(self) -> bool:
        """Whether training rows differ each time they are seen."""
        return bool(self.posed) or (self.source is not None and self.source.changes)

    def lengths(self, head: str) -> list[int]:
        """Return each row's length, in units or tokens, of the input that a head answers for."""
        encodings = self.inputs[self.answered[head]].encodings
        if self.heads[head].answers == "token":
            return [encoding.tokens for encoding in encodings]
        return [encoding.length for encoding in encodings]

    def subset(self, rows: Array) -> Rows:
        """Return some rows, such as one part of a split."""
        targets = {name: [values[row] for row in rows] for name, values in self.targets.items()}
        inputs = {name: inputs.subset(rows) for name, inputs in self.inputs.items()}
        return replace(self, inputs=inputs, targets=targets, source=self.source and self.source.subset(rows))

    def take(self, rows: Array, device: torch.device) -> MicroBatch:
        """Return some rows as one micro-batch."""
        inputs = {name: values.take(rows, device) for name, values in self.inputs.items()}
        targets = {name: self._targets(name, rows).to(device) for name in self.targets}
        return MicroBatch(inputs, targets, len(rows))

    def seen(self, rows: Array, epoch: int) -> Rows:
        """Return some rows as training sees them in an epoch: changed by augmentations, then posed by heads."""
        part = self.subset(rows)
        if not self.renewed:
            return part
        return part._made(epoch, changes=True)

    def settled(self) -> Rows:
        """Return the rows as they are measured: never changed, and posed once and for all."""
        return self._made(changes=False) if self.posed else self

    def _made(self, *moment: int, changes: bool) -> Rows:
        assert self.source is not None
        encodings = {name: list(inputs.encodings) for name, inputs in self.inputs.items()}
        targets: dict[str, list[Array]] = {name: list(values) for name, values in self.targets.items()}
        targets |= {name: [] for name in self.posed}
        for row in range(len(self)):
            rng = self.source.chance(row, *moment)
            if changes and self.source.changes:
                self._change(row, rng, encodings, targets)
            for name in self.posed:
                answered = encodings[self.answered[name]]
                answered[row], target = self.heads[name].pose(answered[row], rng)
                targets[name].append(target)
        inputs = {name: Inputs.bare(values) for name, values in encodings.items()}
        return replace(self, inputs=inputs, targets=targets)

    def _change(
        self, row: int, rng: np.random.Generator, encodings: dict[str, list[Encoding]], targets: dict[str, list[Array]]
    ) -> None:
        assert self.source is not None
        moved = {}
        for name, values in encodings.items():
            changed, units = self.source.changed(name, row, rng)
            # A point mutation can break a long word of the vocabulary in two: an input at the limit stays as it was.
            fits = self.source.fits(changed)
            values[row], moved[name] = (changed, units) if fits else (values[row], None)
        for name, head in self.heads.items():
            units = moved[self.answered[name]]
            if head.labelled and head.answers == "unit" and units is not None:
                targets[name][row] = _moved(targets[name][row], units, head.pad)

    @property
    def has_views(self) -> bool:
        """Whether augmentations have views of the rows; not where heads pose, whose answers are of tokens."""
        return bool(self.source and self.source.augmentations) and not self.posed

    def views(self) -> list[View]:
        """Return the rows as each augmentation sees them, for answers to be averaged over."""
        if self.source is None or not self.has_views:
            return []
        found = []
        for augmentation in self.source.augmentations:
            seen = {
                name: [augmentation.views(value) for value in values] for name, values in self.source.values.items()
            }
            counts = {len(views) for values in seen.values() for views in values}
            if len(counts) > 1:
                raise PluginError(
                    f"{type(augmentation).__name__} has {min(counts)} views of one input, {max(counts)} of another"
                )
            found += [self._view(seen, number) for number in range(max(counts, default=0))]
        return found

    def _view(self, seen: Mapping[str, Sequence[Any]], number: int) -> View:
        inputs = {
            name: Inputs.bare([self._encoded_view(row, views[number].value) for row, views in enumerate(values)])
            for name, values in seen.items()
        }
        units = {name: [views[number].units for views in values] for name, values in seen.items()}
        return View(replace(self, inputs=inputs, targets={}, source=None), units)

    def _encoded_view(self, row: int, value: Any) -> Encoding:
        assert self.source is not None
        encoding = self.source.encode(self.source.ids[row], value)
        if not self.source.fits(encoding):
            raise DataError(
                f"'{self.source.ids[row]}' has {encoding.tokens:,} tokens as an augmentation sees it, more than the "
                f"{self.source.limit:,} that the model takes; shorten it"
            )
        return encoding

    def _targets(self, head: str, rows: Array) -> Tensor:
        arrays = [self.targets[head][row] for row in rows]
        if not self.heads[head].ragged:
            return torch.from_numpy(np.stack(arrays))
        longest = max(len(array) for array in arrays)
        return torch.from_numpy(padded(arrays, longest, self.heads[head].pad))


def _moved(target: Array, units: Array, pad: float) -> Array:
    """Return the labels [units, ...] of units that stood elsewhere before; new ones have none."""
    known = units != NO_UNIT
    moved = target[np.where(known, units, 0)]
    moved[~known] = pad
    return moved
