"""Sequences sampled residue after residue, and what a model thinks of them.

Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from exapt.parts import Array, Batch, Encoding
from exapt_esm.designing.plan import Plan
from exapt_esm.proteinmpnn.backbone import ProteinMpnn
from exapt_esm.proteinmpnn.network import State
from exapt_esm.proteinmpnn.stepping import Stepper

# Of the keys by which residues are put in order: so much later come those that are designed.
_FIRST = 1e-4
# Residues that are scored at a time.
_RESIDUES = 4096


@dataclass(frozen=True)
class Draws:
    """The random numbers of one sample: normal ``order`` [units] and uniform ``letters`` [units]."""

    order: Array
    letters: Array

    @classmethod
    def of(cls, encoding: Encoding, seed: int, sample: int) -> Draws:
        """Return what the seed, the structure without its letters and the sample's number tell."""
        digest = hashlib.sha256()
        for name in ("atoms", "resolved", "residue_index", "chain"):
            digest.update(np.ascontiguousarray(encoding.arrays[name]).tobytes())
        rng = np.random.default_rng([seed, sample, int.from_bytes(digest.digest()[:8], "little")])
        return cls(rng.standard_normal(encoding.tokens), rng.random(encoding.tokens))

    def rank(self, plan: Plan) -> tuple[Array, list[Array]]:
        """Return the place [units] of each residue in the order, what is kept first, and the turns of what is designed."""
        keys = (plan.designed + _FIRST) * np.abs(self.order)
        kept = np.argsort(keys, kind="stable")
        turns = plan.turns(keys)
        order = np.concatenate([kept[~plan.designed[kept]], *turns])
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank, turns


@dataclass(frozen=True)
class Sample:
    """A sequence ``ids`` [units], and minus the log-likelihoods [units] of its letters in the order it was sampled in."""

    ids: Array
    losses: Array


class Canvas:
    """A structure as a model knows it, whose sequence is to be sampled. ``out`` tells letters of the model's last states."""

    def __init__(self, model: ProteinMpnn, out: nn.Module, encoding: Encoding, plan: Plan) -> None:
        self._model, self._out, self._plan = model, out, plan
        self._device = next(model.parameters()).device
        self._ids = encoding.arrays["input_ids"]
        with torch.inference_mode():
            self._state: State = model.encode(_alone(encoding).to(self._device))

    def samples(self, draws: Sequence[Draws], temperature: float) -> list[Sample]:
        """Return the sequence that each of the draws leads to, all of them sampled side by side."""
        with torch.inference_mode():
            ranks, turns = zip(*(one.rank(self._plan) for one in draws), strict=True)
            ids = self._sampled(draws, np.stack(ranks), turns, temperature)
            return list(self._scored(ids, np.stack(ranks)))

    def native(self, draws: Sequence[Draws]) -> Sample:
        """Return the structure's own sequence, with the mean of what it is scored by in several orders."""
        with torch.inference_mode():
            ranks = np.stack([one.rank(self._plan)[0] for one in draws])
            scored = list(self._scored(np.tile(self._ids, (len(ranks), 1)), ranks))
        return Sample(self._ids, np.mean([one.losses for one in scored], 0))

    def _sampled(
        self, draws: Sequence[Draws], ranks: Array, turns: Sequence[Sequence[Array]], temperature: float
    ) -> Array:
        copies, plan = np.arange(len(draws)), self._plan
        stepper = Stepper(self._model.mpnn, self._state, len(draws))
        ids = np.tile(self._ids, (len(draws), 1))
        if not plan.designed.all():
            stepper.fill(*map(self._tensor, (self._ids, ranks, ~plan.designed)))
        for groups in zip(*turns, strict=True):
            first = np.array([group[0] for group in groups])
            shares = np.array([one.letters[place] for one, place in zip(draws, first, strict=True)])
            logits = self._logits(stepper, groups)
            letters = _chosen(logits, plan.bias, plan.allowed[first], temperature, shares)
            for places in _abreast(groups):
                ids[copies, places] = letters
                stepper.put(self._tensor(places), self._tensor(letters))
        return ids

    def _logits(self, stepper: Stepper, groups: Sequence[Array]) -> Array:
        """Return the mean logits [copies, letters] over the residues of each copy's group."""
        total, counts = 0.0, np.array([len(group) for group in groups])
        for turn, places in enumerate(_abreast(groups)):
            logits = self._out(stepper.states(self._tensor(places))).cpu().double().numpy()
            total = total + logits * (turn < counts)[:, None]
        mean: Array = total / counts[:, None]
        return mean

    def _scored(self, ids: Array, ranks: Array) -> Iterator[Sample]:
        at_once = max(1, _RESIDUES // ids.shape[1])
        for start in range(0, len(ids), at_once):
            rows = slice(start, start + at_once)
            some, order = self._tensor(ids[rows]), self._tensor(ranks[rows])
            states = self._model.decode(self._state.repeated(len(some)), some, order)
            told = torch.log_softmax(self._out(states).float(), -1)
            losses = -told.gather(-1, some[..., None])[..., 0].cpu().double().numpy()
            yield from map(Sample, ids[rows], losses)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _alone(encoding: Encoding) -> Batch:
    arrays = {name: torch.from_numpy(array)[None] for name, array in encoding.arrays.items()}
    present = torch.ones(1, encoding.tokens, dtype=torch.bool)
    return Batch(arrays, present, torch.from_numpy(encoding.spans)[None], torch.tensor([encoding.length]))


def _abreast(groups: Sequence[Array]) -> Iterator[Array]:
    """Yield one place of each group at a time; of smaller groups the first comes again, which changes nothing."""
    for turn in range(max(map(len, groups))):
        yield np.array([group[turn] if turn < len(group) else group[0] for group in groups])


def _chosen(logits: Array, bias: Array, allowed: Array, temperature: float, shares: Array) -> Array:
    """Return the letter [copies] of each row of ``logits`` [copies, letters] that its share of all probability falls on."""
    wanted = np.where(allowed, logits + bias, -np.inf)
    # Below the highest first: what is then too far below it for a number is as unlikely as can be.
    with np.errstate(over="ignore"):
        warm = (wanted - wanted.max(-1, keepdims=True)) / temperature
    heights = np.exp(warm).cumsum(-1)
    letters: Array = (heights <= (shares * heights[:, -1])[:, None]).sum(-1)
    return letters
