"""A model's own answers as labels: which of them, and how they are learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exapt.builtin._domains import set_in
from exapt.builtin.domains import SelfTrainingOptions
from exapt.parts import Array, Head, Learner, Step, Strategy, Training

_SURE = 9.0
"""A logit that, given to all classes, tells probabilities that add up to 1 from those of labels each for itself."""


def classes_of(head: Head, answers: Sequence[str]) -> Sequence[str]:
    """Return the classes of a head that gives exactly one of them, of what ``answers`` names; none of any other head."""
    outcomes = head.outcomes
    if head.fits or not head.labelled or head.answers not in answers or outcomes is None or not outcomes.probabilities:
        return ()
    shares = outcomes.probabilities(torch.full((len(outcomes.names),), _SURE))
    return outcomes.names if abs(float(shares.sum()) - 1) < 1e-3 else ()


def probabilities_of(head: Head, output: Tensor) -> Tensor:
    """Return the probabilities [..., classes] of a head's output."""
    assert head.outcomes is not None
    assert head.outcomes.probabilities is not None
    return head.outcomes.probabilities(output.float())


class _Round(nn.Module):
    """The labels [rows, or units of all rows] of the last round of each head, end to end, and the epoch that it was made in.

    As a module it is kept in checkpoints: a run that goes on in the middle of an epoch does so with the same labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = -1
        self.labels: Array = np.empty(0, dtype=np.int64)

    def get_extra_state(self) -> Tensor:
        """Return the epoch, then the labels."""
        return torch.from_numpy(np.concatenate([[self.epoch], self.labels]).astype(np.int64))

    def set_extra_state(self, state: Tensor) -> None:
        """Put back what was kept."""
        epoch, *_ = state.tolist()
        self.epoch, self.labels = epoch, state[1:].numpy().copy()


class SelfTraining(Strategy):
    """Answers of the model about the target domain, if they are sure, are learned from as labels (Lee 2013, ICML workshop on
    challenges in representation learning).

    In each round all labels are made anew. Their balance follows Zou et al. 2018 (arXiv:1810.07911), whose thresholds
    differ by class so that the easy ones do not drown the others; here each class gives as many labels, its surest
    answers, all of them beyond the one threshold.
    """

    streams = ("target",)
    over = "target"

    def __init__(self, options: SelfTrainingOptions) -> None:
        self.options = options
        self.round = _Round()
        self.heads: dict[str, Head] = {}

    def attach(self, model: Learner) -> nn.Module:
        """Return what is kept of a round."""
        every = {name: model.head(name) for name in model.heads}
        self.heads = {name: head for name, head in every.items() if classes_of(head, ("input", "unit"))}
        return self.round

    def begin(self, run: Training) -> None:
        """Put the labels of a round that was kept in place; say so if training ends before the first."""
        if self.round.epoch >= 0:
            self._put(run)
        if run.epochs <= self.options.begin:
            epochs = f"{self.options.begin} epoch{'s' if self.options.begin > 1 else ''}"
            run.note(f"self-training begins after {epochs}, when training is over: no label will be made")

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether there has been a round, and half of the training is behind."""
        return epochs <= self.options.begin or (epoch >= self.options.begin and set_in(epoch, epochs))

    def epoch_begins(self, run: Training, epoch: int) -> None:
        """Make the labels of a round, if one is due, and put them beside the rows of the target domain."""
        since = epoch - self.options.begin
        if since >= 0 and since % self.options.every == 0 and self.round.epoch != epoch:
            found = {name: self._found(name, run) for name in self.heads}
            labels = {name: self._taken(name, *answers) for name, answers in found.items()}
            self.round.epoch, self.round.labels = epoch, np.concatenate(list(labels.values()))
            run.note(f"self-training, epoch {epoch + 1}: {self._said(labels, found)}")
            self._put(run)

    def _found(self, name: str, run: Training) -> tuple[Array, Array, Array]:
        """Return a head's answers [rows, or units of all rows]: the class, how probable it is, and whether that is enough."""
        rows, head = run.streams["target"], self.heads[name]
        outputs = [answers[name] for answers in run.predict(rows)]
        shares = probabilities_of(head, torch.from_numpy(np.concatenate([np.atleast_2d(one) for one in outputs])))
        sureness, label = (found.numpy() for found in shares.max(-1))
        sure = sureness >= self.options.threshold
        if head.ragged:
            # Of a unit that no token covers there is an answer, but nothing that it is made of.
            sure &= np.concatenate([encoding.covered for encoding in rows.inputs[rows.answered[name]].encodings])
        return label, sureness, sure

    def _taken(self, name: str, label: Array, sureness: Array, sure: Array) -> Array:
        """Return a head's labels [answers], its ``pad`` where an answer is not taken."""
        chosen = sure
        if self.options.balance:
            chosen = sure & ~sure if self._lone(name, label, sure) else balanced(label, sureness, sure)
        return np.where(chosen, label, int(self.heads[name].pad)).astype(np.int64)

    def _lone(self, name: str, label: Array, sure: Array) -> str:
        """Return the one class of several that all sure answers are of; nothing if they are of more, or there are none."""
        names, kinds = classes_of(self.heads[name], ("input", "unit")), np.unique(label[sure])
        return names[int(kinds[0])] if len(names) > 1 and len(kinds) == 1 else ""

    def _put(self, run: Training) -> None:
        streams: Any = run.streams
        rows, targets, start = streams["target"], {}, 0
        for name, head in self.heads.items():
            sizes = rows.lengths(name) if head.ragged else [1] * len(rows)
            ends = start + np.cumsum(sizes)
            several = np.split(self.round.labels[start : ends[-1]], ends[:-1] - start)
            targets[name] = several if head.ragged else [one.reshape(()) for one in several]
            start = int(ends[-1])
        # Beside the rows, labels of units go where an augmentation moves their units.
        streams["target"] = replace(rows, targets={**rows.targets, **targets})

    def loss(self, step: Step) -> Tensor | None:
        """Return the heads' mean loss [] on the labels of a step's rows; None where there is none."""
        seen = step.streams["target"]
        found = []
        for name in [name for name in self.heads if name in seen.targets]:
            # Not the weight of these rows: another process may hold most of the labels of this step.
            weight = seen.even[name]
            if weight > 0:
                found.append(self.heads[name].loss(seen.outputs[name].float(), seen.targets[name]) / weight)
        return self.options.weight * torch.stack(found).sum() if found else None

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return how many rounds there were, and of each head how many labels the last one gave by class."""
        if self.round.epoch < 0:
            return {"rounds": 0}
        rounds = (self.round.epoch - self.options.begin) // self.options.every + 1
        targets = run.streams["target"].targets
        labels = {name: np.concatenate([np.atleast_1d(one) for one in targets[name]]) for name in self.heads}
        told = {name: {"of": len(values), "labels": self._counts(name, values)} for name, values in labels.items()}
        return {"rounds": rounds, "threshold": self.options.threshold, **told}

    def _counts(self, name: str, labels: Array) -> dict[str, int]:
        names = classes_of(self.heads[name], ("input", "unit"))
        return {kind: int((labels == place).sum()) for place, kind in enumerate(names)}

    def _said(self, labels: Mapping[str, Array], found: Mapping[str, tuple[Array, Array, Array]]) -> str:
        said = []
        for name, values in labels.items():
            counts = self._counts(name, values)
            what = f"{sum(counts.values()):,} of {len(values):,} answers are labels now"
            each = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
            label, _, sure = found[name]
            lone = self._lone(name, label, sure) if self.options.balance else ""
            why = (
                f": all {int(sure.sum()):,} sure ones are '{lone}', and one class alone cannot be balanced"
                if lone
                else ""
            )
            said.append(f"{name}: {what} ({each}){why}" if len(labels) > 1 else f"{what} ({each}){why}")
        return "; ".join(said)


def balanced(label: Array, sureness: Array, sure: Array) -> Array:
    """Return which of the ``sure`` answers [answers] are taken: of each class that has any as many, its surest ones."""
    counts = np.bincount(label[sure]) if sure.any() else np.zeros(1, dtype=np.int64)
    few = counts[counts > 0].min(initial=len(label))
    taken = np.zeros(len(label), dtype=bool)
    for kind in np.flatnonzero(counts):
        own = np.flatnonzero(sure & (label == kind))
        taken[own[np.argsort(-sureness[own], kind="stable")][:few]] = True
    return taken
