"""Gradient x input: how much each letter's embedding, as it stands, contributes to the answer in first order.

After Simonyan et al. 2013 (arXiv:1312.6034) and Shrikumar et al. 2017 (arXiv:1605.01713).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import collate
from exapt.errors import DataError, RecipeError
from exapt.model import Model
from exapt.outcome import UNSEEN, Counted, Outcome, Wild
from exapt.parts import NO_UNIT, Array, Backbone, Batch, Features
from exapt.rows import Rows


def check_gradient(outcome: Outcome) -> None:
    """Raise ``RecipeError`` for a backbone that cannot be run on from its embeddings."""
    backbone = outcome.adapted.model.backbone
    if not backbone.stepwise or type(backbone).stem is Backbone.stem:
        raise RecipeError(
            f"'{outcome.adapted.name}' cannot be run on from its embeddings, where gradients are taken: use --method "
            "mutagenesis"
        )


def saliency(wild: Wild, positions: Sequence[int], left_out: Counter[Counted]) -> pa.RecordBatch:
    """Return the attribution of some positions: gradient of the answer by their tokens' embeddings, times these.

    A token's number is shared equally among the units that it stands for, and a unit has the sum of its shares, so that
    units sum to what their tokens do. Positions that no token stands for are counted in ``left_out``.
    """
    seen = [position for position in positions if wild.covered[position - 1]]
    if len(seen) < len(positions):
        left_out[UNSEEN] += len(positions) - len(seen)
    sides = _sides(wild)
    if wild.outcome.per_unit and wild.outcome.at is None:
        numbers = [_attributed(wild, sides, position)[position - 1] for position in seen]
    else:
        every = _attributed(wild, sides, 1) if seen else np.empty(0)
        numbers = [every[position - 1] for position in seen]
    letters = wild.outcome.bare(wild.text)
    return pa.record_batch(
        {
            **wild.columns(seen),
            "letter": pa.array([letters[position - 1] for position in seen], pa.string()),
            "attribution": pa.array(numbers, pa.float64()),
        }
    )


@dataclass(frozen=True)
class _Side:
    """An input as it is, or a view of it, over which answers are averaged: its embeddings, and what is answered to them.

    ``stands`` [units] tells where units of the input that varies stand in the input itself, ``answered`` those that are
    answered for; None where all stay.
    """

    embeddings: Tensor
    output: Tensor
    spans: Array
    stands: Array | None
    answered: Array | None

    def outputs(self, place: int | None) -> list[Tensor]:
        """Return what is answered [outcomes] for the unit at a place, or for the whole input."""
        if place is None:
            return [self.output]
        places = [place] if self.answered is None else np.flatnonzero(self.answered == place).tolist()
        return [self.output[unit] for unit in places]

    def per_unit(self, gradient: Tensor, units: int) -> Array:
        """Return gradient x input of each unit [units] of the input itself."""
        numbers = (gradient * self.embeddings).sum(-1)[0].detach().cpu().numpy().astype(np.float64)
        token, unit = self._shares
        moved = unit if self.stands is None else self.stands[unit]
        known = moved != NO_UNIT
        total = np.zeros(units)
        counts = np.bincount(token, minlength=len(numbers))
        np.add.at(total, moved[known], (numbers[token] / counts[token])[known])
        return total

    @cached_property
    def _shares(self) -> tuple[Array, Array]:
        """Tokens and the units that they stand for, pair by pair."""
        tokens = np.flatnonzero(self.spans[:, 0] != NO_UNIT)
        first, last = self.spans[tokens].T
        units = [np.arange(start, stop + 1) for start, stop in zip(first, last, strict=True)]
        return np.repeat(tokens, last - first + 1), np.concatenate([np.empty(0, dtype=np.int64), *units])


def _sides(wild: Wild) -> list[_Side]:
    answered = wild.rows.answered[wild.outcome.name]
    views = [(view.rows, {name: units[0] for name, units in view.units.items()}) for view in wild.rows.views()]
    still = dict.fromkeys(wild.rows.inputs)
    return [
        _side(wild, rows, units[wild.outcome.input], units[answered]) for rows, units in [(wild.rows, still), *views]
    ]


def _side(wild: Wild, rows: Rows, stands: Array | None, answered: Array | None) -> _Side:
    outcome, model = wild.outcome, wild.outcome.adapted.model
    encoding = rows.inputs[outcome.input].encodings[0]
    limit = model.backbone.max_tokens
    if limit is not None and encoding.tokens > limit:
        raise DataError(
            f"'{wild.who}' is read in windows, through which no one gradient goes: use --method mutagenesis"
        )
    model.eval()
    device = next(model.parameters()).device
    batches = {name: collate(given.encodings[:1]).to(device) for name, given in rows.inputs.items()}
    batch = batches.pop(outcome.input)
    with devices.resting():
        embeddings = model.backbone.stem(batch)
        features = {name: model.features(given)[outcome.head.reads] for name, given in batches.items()}
    embeddings = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        output = outcome.head({**features, outcome.input: _above(model, embeddings, batch).float()})[0]
    return _Side(embeddings, output, encoding.spans, stands, answered)


def _above(model: Model, embeddings: Tensor, batch: Batch) -> Features:
    backbone, last = model.backbone, len(model.backbone.blocks())
    if model.layer in (-1, last):
        return backbone.finish(backbone.run(embeddings, batch, 0, last), batch)
    return backbone.between(backbone.run(embeddings, batch, 0, model.layer), batch)


def _attributed(wild: Wild, sides: Sequence[_Side], position: int) -> Array:
    """Return the attribution of every unit [units] to the answer that is asked for while ``position`` is looked at."""
    outcome = wild.outcome
    place = outcome.place(position) if outcome.per_unit else None
    with torch.enable_grad():
        # Averaged before it is told, as answers are: a probability is that of the mean logit.
        raw = torch.stack([output for side in sides for output in side.outputs(place)]).mean(0)
        number = outcome.told(raw)[wild.target(position)]
    embeddings = [side.embeddings for side in sides]
    gradients = torch.autograd.grad(number, embeddings, retain_graph=True, materialize_grads=True)
    units = wild.encoding.length
    parts = [side.per_unit(one, units) for side, one in zip(sides, gradients, strict=True)]
    return np.asarray(np.sum(parts, axis=0))
