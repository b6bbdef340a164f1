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
