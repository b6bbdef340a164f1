"""The one place where inputs are put side by side: the order of training, micro-batches under a token budget, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exapt.parts import NO_UNIT, Array, Batch, Encoding


def training_steps(rows: int, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the rows of each optimiser step of an epoch: every row once, shuffled by seed and epoch alone.

    The order depends on nothing that ran before, so that a run can be resumed at any step.
    """
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    return [order[start : start + batch_size] for start in range(0, rows, batch_size)]


def balanced_steps(classes: Array, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the rows of each optimiser step of an epoch of as many rows in all, of each class equally many.

    ``classes`` [rows] are below 0 where none is known: such a row comes once. Rows of a class come equally often, give or
    take one; of a frequent class, other epochs draw others. Like ``training_steps``, it depends on seed and epoch alone.
    """
    rng = np.random.default_rng((seed, epoch))
    rows = [np.flatnonzero(classes == one) for one in np.unique(classes[classes >= 0])]
    without = np.flatnonzero(classes < 0)
    shares = np.full(len(rows), (len(classes) - len(without)) // max(1, len(rows)))
    shares[rng.permutation(len(rows))[: len(classes) - len(without) - shares.sum()]] += 1
    drawn = [_drawn(rng, of_class, share) for of_class, share in zip(rows, shares.tolist(), strict=True)]
    order = rng.permutation(np.concatenate([without, *drawn]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def steps_of_tasks(known: Sequence[Array], temperature: float, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """Return the rows of each optimiser step of an epoch of as many rows in all, tasks by size ** (1 / temperature).

    ``known`` [rows] says of each task which rows have a label of it. Rows that serve several tasks alike are drawn for one
    of them, and learned from for all; rows without any label, for heads without labels, are a task too. Raffel et al. 2020,
    arXiv:1910.10683 (temperature-scaled mixing).
    """
    rng = np.random.default_rng((seed, epoch))
    rest = ~np.logical_or.reduce(known)
    rows = [found for found in map(np.flatnonzero, [*known, rest]) if len(found)]
    weights = np.array([float(len(one)) for one in rows]) ** (1 / temperature)
    total = len(rest)
    shares = np.floor(total * weights / weights.sum()).astype(np.int64)
    shares[rng.permutation(len(rows))[: total - shares.sum()]] += 1
    drawn = [_drawn(rng, of_task, share) for of_task, share in zip(rows, shares.tolist(), strict=True)]
    order = rng.permutation(np.concatenate(drawn))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _drawn(rng: np.random.Generator, rows: Array, count: int) -> Array:
    times = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(times)] or [rows])[:count]


def micro_batches(tokens: Array, rows: Array, budget: int) -> list[Array]:
    """Split ``rows`` into batches of similar length, each of at most ``budget`` padded tokens (or of one row).

    ``tokens`` [all rows] is the length of every row. On a CPU small batches are the fast ones: padding costs work, and
    what a batch activates should stay in the cache.
    """
    ordered = rows[np.argsort(tokens[rows], kind="stable")]
    batches: list[Array] = []
    start = 0
    for stop in range(1, len(ordered) + 1):
        # Ascending order: the next row would be the longest, and sets the width of all.
        if stop == len(ordered) or tokens[ordered[stop]] * (stop + 1 - start) > budget:
            batches.append(ordered[start:stop])
            start = stop
    return batches


def collate(encodings: Sequence[Encoding]) -> Batch:
    """Pad encodings to the longest of them; arrays become [batch, tokens, ...]."""
    longest = max(encoding.tokens for encoding in encodings)
    arrays = {name: _side_by_side(encodings, name, longest) for name in encodings[0].arrays}
    spans = torch.from_numpy(padded([encoding.spans for encoding in encodings], longest, NO_UNIT))
    tokens = torch.tensor([encoding.tokens for encoding in encodings])
    present = torch.arange(longest)[None] < tokens[:, None]
    whole = frozenset(arrays) - frozenset(encodings[0].pads)
    return Batch(arrays, present, spans, torch.tensor([encoding.length for encoding in encodings]), whole)


def _side_by_side(encodings: Sequence[Encoding], name: str, longest: int) -> torch.Tensor:
    arrays, pads = [encoding.arrays[name] for encoding in encodings], encodings[0].pads
    return torch.from_numpy(padded(arrays, longest, pads[name]) if name in pads else np.stack(arrays))


def padded(arrays: Sequence[Array], longest: int, pad: float, axes: int = 1) -> Array:
    """Stack arrays [n, ...] of unequal n into [arrays, longest, ...], filled up with ``pad``.

    Where the first two ``axes`` run over n, arrays [n, n, ...] become [arrays, longest, longest, ...]; of none, all are alike.
    """
    first = arrays[0]
    stacked = np.full((len(arrays), *(longest,) * axes, *first.shape[axes:]), pad, dtype=first.dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(count) for count in array.shape[:axes])] = array
    return stacked
