"""What a model answers, averaged over views of its inputs, and how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from exapt import device as devices
from exapt.data.batching import micro_batches, padded
from exapt.model import Model
from exapt.parts import NO_UNIT, Array
from exapt.rows import Rows

Report = dict[str, float]

_SCORED_TOGETHER = 256
_PAIRS_TOGETHER = 2**23


def predict(model: Model, rows: Rows, chosen: Array, budget: int, *, views: bool = True) -> dict[int, dict[str, Array]]:
    """Return each chosen row's outputs by head, as fp32 arrays with padding cut off.

    Outputs are averaged over the ``views`` of augmentations, unless they are left out.
    """
    answers: dict[int, dict[str, Array]] = {row: {} for row in chosen.tolist()}
    for part in rows.passes():
        outputs = _outputs(model, part, chosen, budget)
        if views:
            _average(model, part.subset(chosen), chosen, outputs, budget)
        for row, answer in outputs.items():
            answers[row] |= answer
    return answers


def _average(model: Model, rows: Rows, numbers: Array, answers: Mapping[int, dict[str, Array]], budget: int) -> None:
    """Average ``answers``, by the ``numbers`` of the rows, over the views of augmentations."""
    everything = np.arange(len(rows))
    others = [(view, _outputs(model, view.rows, everything, budget)) for view in rows.views()]
    for place, row in enumerate(numbers.tolist() if others else ()):
        for name, own in answers[row].items():
            head, units = model.head(name), rows.answered[name]
            moved = [(answer[place][name], view.units[units][place]) for view, answer in others]
            others_of = moved if head.ragged else [(answer, None) for answer, _ in moved]
            answers[row][name] = averaged(own, others_of, max(head.axes, 1))


def averaged(own: Array, others: Sequence[tuple[Array, Array | None]], axes: int = 1) -> Array:
    """Return the mean of a row's output and those of its views, each unit brought to where it stands.

    The first ``axes`` run over units: [units, ...], or [units, units, ...] of their pairs.
    """
    total, count = own.astype(np.float64), np.ones(own.shape[:axes])
    for output, units in others:
        if units is None:
            total, count = total + output, count + 1
            continue
        known = np.flatnonzero(units != NO_UNIT)
        here, there = (np.ix_(*[index] * axes) for index in (units[known], known))
        np.add.at(total, here, output[there])
        np.add.at(count, here, 1)
    return np.asarray(total / count.reshape(count.shape + (1,) * (total.ndim - count.ndim)), dtype=own.dtype)


def _outputs(model: Model, rows: Rows, chosen: Array, budget: int) -> dict[int, dict[str, Array]]:
    model.eval()
    device = next(model.parameters()).device
    lengths = {name: rows.lengths(name) for name in rows.heads}
    answers: dict[int, dict[str, Array]] = {}
    for part in micro_batches(rows.tokens, chosen, budget):
        micro = rows.take(part, device)
        with devices.resting():
            outputs = {name: out.float().cpu().numpy() for name, out in model.measured(micro, rows.heads).items()}
        for place, row in enumerate(part):
            answers[int(row)] = {
                # A copy, so that the answers of short inputs do not hold on to the padding of long ones.
                name: output[place][(slice(lengths[name][row]),) * model.head(name).axes].copy()
                for name, output in outputs.items()
            }
    return answers


def score(model: Model, rows: Rows, outputs: list[dict[str, Array]]) -> Report:
    """Return loss and metrics of the heads of the rows; each name is prefixed by its head's where the model has several."""
    report: Report = {}
    total = 0.0
    for name in rows.heads:
        head = model.head(name)
        # Of rows that lack all labels of a head, as another task's may, there is nothing to measure.
        known = np.flatnonzero(rows.known(name)).tolist() if name in rows.targets else []
        if not known:
            continue
        answers, targets = [outputs[row][name] for row in known], [rows.targets[name][row] for row in known]
        loss = _mean_loss(model, name, answers, targets)
        total += model.weights[name] * loss
        prefix = f"{name}." if len(model.heads) > 1 else ""
        report |= {f"{prefix}{metric}": value for metric, value in head.metrics(answers, targets).items()}
    return {"loss": total, **report}


def _mean_loss(model: Model, name: str, outputs: list[Array], targets: Sequence[Array]) -> float:
    head = model.head(name)
    device = next(model.parameters()).device
    total, weight = 0.0, 0.0
    step = _together(outputs, head.axes)
    for start in range(0, len(outputs), step):
        part = slice(start, start + step)
        with devices.resting():
            answers = torch.from_numpy(_stacked(outputs[part], head.axes, 0)).to(device)
            known = torch.from_numpy(_stacked(targets[part], head.axes, head.pad)).to(device)
            total += float(head.loss(answers, known))
            weight += float(head.weigh(known))
    return total / weight if weight else 0.0


def _together(outputs: Sequence[Array], axes: int) -> int:
    """Return how many rows are scored at once: of long inputs, few have more pairs of units than fit into memory."""
    longest = max((len(output) for output in outputs), default=0) if axes > 1 else 0
    return min(_SCORED_TOGETHER, max(1, _PAIRS_TOGETHER // max(1, longest**2)))


def _stacked(arrays: Sequence[Array], axes: int, pad: float) -> Array:
    return padded(arrays, max(len(array) for array in arrays), pad, axes) if axes else np.stack(arrays)
