"""Strategies that end with other weights than those of any one epoch: averages, and points between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exapt.builtin._regularised import low_rank
from exapt.builtin.regularised import AveragingOptions, InterpolationOptions
from exapt.errors import RecipeError
from exapt.metrics import better
from exapt.parts import Learner, Strategy, Training


class Averages(nn.Module):
    """The mean of all states so far, of each tensor that a run can change; ``count`` of them, and the ``steps`` since."""

    count: Tensor
    steps: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: f"mean{number}" for number, name in enumerate(sorted(state))}
        for name, key in self.names.items():
            self.register_buffer(key, torch.zeros_like(state[name]))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Take in one more state, with the weight of each before it; of whole numbers the last are kept."""
        self.count += 1
        for name, key in self.names.items():
            mean, value = self.get_buffer(key), state[name].to(self.count.device)
            mean.copy_(mean + (value - mean) / self.count if mean.is_floating_point() else value)

    def state(self) -> dict[str, Tensor]:
        """Return the mean of each tensor, by name."""
        return {name: self.get_buffer(key) for name, key in self.names.items()}


class Averaging(Strategy):
    """The weights of several points of one run are averaged: they lie around a flat minimum, and their mean inside of it.

    SWA: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, arXiv:1803.05407. Running
    statistics, where a backbone moves any, are averaged like weights and not taken anew.
    """

    replaces = 1

    def __init__(self, options: AveragingOptions) -> None:
        self.options = options

    def attach(self, model: Learner) -> nn.Module:
        """Return the means."""
        self._averages = Averages(model.learned())
        return self._averages

    def begin(self, run: Training) -> None:
        """Find when averaging begins."""
        self._first = self.options.epoch - 1 if self.options.epoch else math.floor(self.options.share * run.epochs)
        self._in_cycle = self.options.cycle * math.ceil(len(run.train) / run.batch_size)
        self._epoch = self._first

    def epoch_begins(self, run: Training, epoch: int) -> None:
        """Take note of the epoch."""
        self._epoch = epoch

    def rate(self, epoch: int) -> float:
        """Return the multiple of the backbone's rates: as chosen, from the first epoch that is averaged on."""
        if epoch < self._first or self.options.rate == "scheduled":
            return 1.0
        if self.options.rate == "constant":
            return self.options.factor
        done = (int(self._averages.steps) % self._in_cycle + 1) / self._in_cycle
        return 1 - done * (1 - self.options.factor)

    def stepped(self, run: Training) -> None:
        """Count a step, and take in the state if it is its turn."""
        if self._epoch < self._first:
            return
        self._averages.steps += 1
        every = self._in_cycle if self.options.rate == "cyclic" else self.options.steps
        if every and int(self._averages.steps) % every == 0:
            self._averages.add(run.model.learned())

    def epoch_ends(self, run: Training, epoch: int) -> None:
        """Take in the state at the end of an epoch."""
        if epoch >= self._first and not self.options.steps and self.options.rate != "cyclic":
            self._averages.add(run.model.learned())

    def end(self, run: Training) -> Mapping[str, Any]:
        """Put the average in place of the best epoch, and return the metrics of both on the valid part."""
        count = int(self._averages.count)
        if not count:
            run.note("swa: training ended before any state was averaged: the best epoch is kept")
            return {"averaged": 0, "kept": "best"}
        best, before = run.model.learned(), run.evaluate(run.valid)
        run.model.restore(self._averages.state())
        run.settle()
        after = run.evaluate(run.valid)
        kept = "average"
        if self.options.keep == "better" and beats(before, after, run.metric):
            run.model.restore(best)
            kept = "best"
        return {"averaged": count, "kept": kept, "best": before, "average": after}


def beats(one: Mapping[str, float], other: Mapping[str, float], metric: str) -> bool:
    """Whether a report is better than another: by the metric, and by the loss where that is the same or undefined."""
    for name in (metric, "loss"):
        mine, theirs = one.get(name), other.get(name)
        if better(name, mine, theirs) or better(name, theirs, mine):
            return better(name, mine, theirs)
    return False


class Interpolation(Strategy):
    """The backbone's weights are those of a point between the pretrained and the tuned model; the heads are as trained.

    WiSE-FT: Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903. A low-rank update is scaled, so
    that 0 is the model without it; of a run that started from an adapter, 0 is otherwise where it started.
    """

    anchored = True
    replaces = 2

    def __init__(self, options: InterpolationOptions) -> None:
        self.options = options

    def begin(self, run: Training) -> None:
        """Raise ``RecipeError`` if there are no rows to choose a point by."""
        if self.options.alpha is None and not len(run.valid):
            raise RecipeError("strategy 'wise-ft' chooses its alpha by the valid part, which has no rows: say alpha")

    def end(self, run: Training) -> Mapping[str, Any]:
        """Put the chosen point in place; return it, and the metrics of all points on valid and, with labels, on target."""
        tuned = run.model.learned()
        ends = {name: value for name, value in run.pretrained.items() if f"backbone.{name}" in tuned}
        for update in low_rank(run.model.backbone):
            if update.b in ends:
                ends |= {update.a: tuned[f"backbone.{update.a}"], update.b: torch.zeros_like(ends[update.b])}
        fixed = self.options.alpha
        alphas = sorted({*self.options.alphas, *([] if fixed is None else [fixed])})
        curve = [self._measured(run, alpha, tuned, ends) for alpha in alphas]
        chosen = fixed if fixed is not None else _best(curve, run.metric)
        run.model.restore(_between(chosen, tuned, ends))
        return {"alpha": chosen, "curve": curve}

    def _measured(
        self, run: Training, alpha: float, tuned: Mapping[str, Tensor], ends: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        run.model.restore(_between(alpha, tuned, ends))
        run.settle()
        valid = run.evaluate(run.valid)
        return {"alpha": alpha, **({"valid": valid} if valid else {}), **run.elsewhere()}


def _between(alpha: float, tuned: Mapping[str, Tensor], ends: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state at ``alpha`` of the way from the pretrained ``ends`` to what was ``tuned``."""
    points = {}
    for name, value in tuned.items():
        end = ends.get(name.removeprefix("backbone.")) if name.startswith("backbone.") else None
        # At its ends the line is to be what it joins, bit by bit.
        if end is None or alpha == 1 or not value.is_floating_point():
            points[name] = value
        else:
            points[name] = end if alpha == 0 else torch.lerp(end, value, alpha)
    return points


def _best(curve: list[dict[str, Any]], metric: str) -> float:
    best = curve[0]
    for point in curve[1:]:
        if beats(point["valid"], best["valid"], metric):
            best = point
    return float(best["alpha"])
