"""Rows ready to learn from: encoded inputs (or kept features) and targets, handed out as micro-batches.

Where inputs are changed at random or heads pose questions of their own, training rows are made anew each time they are
seen. All chance is a function of the run's seed, the epoch and the row, never of what is batched beside it. Outside
training heads with labels see inputs as they are; questions are posed once, by the seed and what the input holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from exapt.data.batching import collate, padded
from exapt.errors import PluginError
from exapt.features import TOKENS, KeptFeatures
from exapt.model import Kept, MicroBatch, Midway
from exapt.parts import NO_UNIT, Array, Batch, Encoding, Head
from exapt.source import Source
from exapt.trunk import Trunk


@dataclass(frozen=True)
class Inputs:
    """All values of one input: their encodings and, where the backbone is frozen, the features kept of them.

    ``kept`` maps readings to features of the *distinct* encodings; ``distinct`` [rows] says which of them a row has. Where
    the lower part alone is frozen, ``trunk`` keeps what it makes of them.
    """

    encodings: Sequence[Encoding]
    kept: Mapping[str, KeptFeatures]
    distinct: Array
    trunk: Trunk | None = None

    @classmethod
    def bare(cls, encodings: Sequence[Encoding]) -> Inputs:
        """Return inputs of which no features are kept."""
        return cls(encodings, {}, np.arange(len(encodings)))

    def subset(self, rows: Array) -> Inputs:
        """Return some rows; kept features stay where they are."""
        return Inputs([self.encodings[row] for row in rows], self.kept, self.distinct[rows], self.trunk)

    def take(self, rows: Array, device: torch.device) -> Batch | Midway | Kept:
        """Return some rows, padded, on a device."""
        if self.kept:
            return {reading: kept.take(self.distinct[rows], device) for reading, kept in self.kept.items()}
        batch = collate([self.encodings[row] for row in rows]).to(device)
        return self.trunk.take(self.distinct[rows], batch) if self.trunk else batch

    @cached_property
    def tokens(self) -> Array:
        """What each row costs: its tokens, or one where pooled features are kept."""
        if self.kept and TOKENS not in self.kept:
            return np.ones(len(self.distinct), dtype=np.int64)
        return np.array([encoding.tokens for encoding in self.encodings], dtype=np.int64)


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
    asked: Mapping[str, Inputs] | None = None
    """The inputs as heads without labels are to see them outside training."""
    domains: Array | None = None
    """The number [rows] of each row's domain among ``Learner.domains``, where the recipe names their column."""

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

    def known(self, head: str) -> Array:
        """Return which rows [rows] have a target of a head of which anything counts."""
        return np.array([says_anything(target, self.heads[head].pad) for target in self.targets[head]], dtype=bool)

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
        asked = self.asked and {name: inputs.subset(rows) for name, inputs in self.asked.items()}
        source = self.source and self.source.subset(rows)
        domains = None if self.domains is None else self.domains[rows]
        return replace(self, inputs=inputs, targets=targets, source=source, asked=asked, domains=domains)

    def take(self, rows: Array, device: torch.device) -> MicroBatch:
        """Return some rows as one micro-batch."""
        inputs = {name: values.take(rows, device) for name, values in self.inputs.items()}
        targets = {name: self._targets(name, rows).to(device) for name in self.targets}
        return MicroBatch(inputs, targets, len(rows), torch.from_numpy(np.asarray(rows)))

    def seen(self, rows: Array, epoch: int) -> Rows:
        """Return some rows as training sees them in an epoch: changed by augmentations, then posed by heads."""
        part = self.subset(rows)
        if not self.renewed:
            return part
        assert part.source is not None
        chances = [part.source.chance(row, epoch) for row in range(len(part))]
        if part.source.changes:
            part = part._changed(chances)
        inputs, targets = part._posed(lambda row, _: chances[row])
        return replace(part, inputs=inputs, targets=targets)

    def settled(self) -> Rows:
        """Return the rows as they are measured: never changed, and posed once and for all, by what each of them holds."""
        if not self.posed:
            return self
        assert self.source is not None
        lasting = self.source.lasting
        asked, targets = self._posed(lambda _, encoding: lasting(encoding))
        return replace(self, asked=asked, targets=targets)

    def passes(self) -> list[Rows]:
        """Return the rows once for each way in which heads see them outside training, with the heads that do.

        Heads with labels see inputs as they are, those without as they ask of them.
        """
        posed = set(self.posed)
        plain = self._for(self.heads.keys() - posed, self.inputs)
        asking = self._for(posed, self.inputs if self.asked is None else self.asked)
        return [rows for rows in (plain, asking) if rows.heads]

    def _for(self, names: Collection[str], inputs: Mapping[str, Inputs]) -> Rows:
        heads = {name: head for name, head in self.heads.items() if name in names}
        targets = {name: values for name, values in self.targets.items() if name in names}
        return replace(self, inputs=inputs, heads=heads, targets=targets, asked=None)

    def _posed(
        self, chance: Callable[[int, Encoding], np.random.Generator]
    ) -> tuple[dict[str, Inputs], dict[str, Sequence[Array]]]:
        """Return the inputs as heads ask of them, and all targets with theirs."""
        encodings = {name: list(inputs.encodings) for name, inputs in self.inputs.items()}
        targets: dict[str, Sequence[Array]] = dict(self.targets)
        for name in self.posed:
            answered = encodings[self.answered[name]]
            posed = [self.heads[name].pose(encoding, chance(row, encoding)) for row, encoding in enumerate(answered)]
            answered[:] = [encoding for encoding, _ in posed]
            targets[name] = [target for _, target in posed]
        return {name: Inputs.bare(values) for name, values in encodings.items()}, targets

    def _changed(self, chances: Sequence[np.random.Generator]) -> Rows:
        encodings = {name: list(inputs.encodings) for name, inputs in self.inputs.items()}
        targets = {name: list(values) for name, values in self.targets.items()}
        for row, rng in enumerate(chances):
            self._change(row, rng, encodings, targets)
        return replace(self, inputs={name: Inputs.bare(values) for name, values in encodings.items()}, targets=targets)

    def _change(
        self, row: int, rng: np.random.Generator, encodings: dict[str, list[Encoding]], targets: dict[str, list[Array]]
    ) -> None:
        assert self.source is not None
        moved = {}
        for name, values in encodings.items():
            values[row], moved[name] = self.source.changed(name, row, rng, values[row])
        for name, head in self.heads.items():
            if name in targets and head.labelled and head.ragged:
                units = _stand(moved[self.answered[name]], encodings[self.answered[name]][row])
                for axis in range(head.axes):
                    targets[name][row] = _moved(targets[name][row], units, head.pad, axis)

    def views(self) -> list[View]:
        """Return the rows as each augmentation sees them, for answers to be averaged over.

        None where heads pose, whose answers are of what they hid.
        """
        if self.source is None or not self.source.augmentations or self.posed:
            return []
        seen = {
            name: [self.source.views(name, row, encoding) for row, encoding in enumerate(inputs.encodings)]
            for name, inputs in self.inputs.items()
        }
        found = []
        for place, held in enumerate(self.source.augmentations):
            of = {name: [views[place] for views in values] for name, values in seen.items()}
            counts = {len(views) for values in of.values() for views in values}
            if len(counts) > 1:
                raise PluginError(f"{held.name} gives {min(counts)} views of one input and {max(counts)} of another")
            found += [self._view(of, number) for number in range(max(counts, default=0))]
        return found

    def _view(self, seen: Mapping[str, Sequence[Sequence[tuple[Encoding, Array | None]]]], number: int) -> View:
        inputs = {name: Inputs.bare([views[number][0] for views in values]) for name, values in seen.items()}
        units = {
            name: [_stand(units, encoding) for encoding, units in (views[number] for views in values)]
            for name, values in seen.items()
        }
        return View(replace(self, inputs=inputs, targets={}, source=None), units)

    def _targets(self, head: str, rows: Array) -> Tensor:
        arrays = [self.targets[head][row] for row in rows]
        if not self.heads[head].ragged:
            return torch.from_numpy(np.stack(arrays))
        longest = max(len(array) for array in arrays)
        return torch.from_numpy(padded(arrays, longest, self.heads[head].pad, self.heads[head].axes))


def says_anything(target: Array, pad: float) -> bool:
    """Whether a target has a part that counts; one of nothing at all, such as of an empty input, is let be."""
    return not target.size or not bool(np.all(np.isnan(target) if np.isnan(pad) else target == pad))


def _stand(units: Array | None, encoding: Encoding) -> Array | None:
    """Return where the ``units`` of a changed input stood before, nowhere if no token covers them; None if all stay."""
    covered = encoding.covered
    if covered.all():
        return units
    return np.where(covered, np.arange(encoding.length) if units is None else units, NO_UNIT)


def _moved(target: Array, units: Array | None, pad: float, axis: int) -> Array:
    """Return labels, of which one ``axis`` runs over units that stood elsewhere before; new ones have none."""
    if units is None:
        return target
    known = units != NO_UNIT
    moved = np.moveaxis(target.take(np.where(known, units, 0), axis), axis, 0)
    moved[~known] = pad
    return np.moveaxis(moved, 0, axis)
