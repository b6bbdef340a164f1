"""Inputs longer than a model takes, read in overlapping windows.

A window holds the special tokens that began and ended the whole input, and as many of its other tokens as there is room
for. A token's state is taken from the window in which it stands farthest from both ends, where it sees most; under a
causal model, which sees to the left alone, from the one in which it stands farthest from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.errors import RecipeError
from exapt.parts import NO_UNIT, Array, Backbone, Batch, Encoding, Features

if TYPE_CHECKING:
    from exapt.data.tables import Examples


@dataclass(frozen=True)
class Plan:
    """Where the windows of a batch come from.

    ``owner`` [windows] is the row of each window; ``place`` [batch, tokens, 2] the window and the position in it that
    each token's state is taken from.
    """

    owner: Tensor
    place: Tensor


def starts(tokens: int, room: int, overlap: float) -> Array:
    """Return the first token [windows] of each window of ``room`` tokens over ``tokens`` of them.

    The windows are spread evenly: neighbours share at least ``overlap`` of a window, and the last one ends at the end.
    """
    step = max(1, int(room * (1 - overlap)))
    count = 1 + max(0, -(-(tokens - room) // step))
    return np.round(np.linspace(0, max(0, tokens - room), count)).astype(np.int64)


def _ends(spans: Array) -> tuple[int, int]:
    """Return how many special tokens an input [tokens, 2] begins and ends with."""
    inner = np.flatnonzero(spans[:, 0] != NO_UNIT)
    return (int(inner[0]), len(spans) - 1 - int(inner[-1])) if len(inner) else (len(spans), 0)


def _positions(spans: Array, limit: int, overlap: float) -> list[Array]:
    """Return the positions [tokens of a window] in the whole input of each window's tokens."""
    tokens = len(spans)
    if tokens <= limit:
        return [np.arange(tokens)]
    before, after = _ends(spans)
    room = limit - before - after
    if room < 1:
        raise RecipeError(f"{before + after} special tokens leave no room in windows of {limit} tokens")
    first, last = np.arange(before), np.arange(tokens - after, tokens)
    return [
        np.concatenate([first, np.arange(start, start + room) + before, last])
        for start in starts(tokens - before - after, room, overlap)
    ]


def pooled(backbone: Backbone, batch: Batch, run: Callable[[Batch], Features]) -> Features:
    """Return the features of a batch with inputs longer than a backbone takes; ``run`` gives those of their windows."""
    assert backbone.windows is not None
    assert backbone.max_tokens is not None
    language = backbone.language
    causal = language is not None and language.objective == "causal"
    windows, plan = cut(batch, backbone.max_tokens, backbone.windows.overlap, causal)
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in backbone.parameters()):
        return merged(run(windows), batch, plan)
    # A chromosome has thousands of windows, of which nothing but the last states need be held together.
    return merged(_joined([run(some) for some in _few(windows)]), batch, plan)


def _few(windows: Batch) -> Iterator[Batch]:
    count, tokens = windows.present.shape
    step = max(1, devices.token_budget(windows.present.device) // tokens)
    for start in range(0, count, step):
        some = slice(start, start + step)
        arrays = {name: array[some] for name, array in windows.arrays.items()}
        yield Batch(arrays, windows.present[some], windows.spans[some], windows.lengths[some], windows.whole)


def _joined(parts: Sequence[Features]) -> Features:
    if len(parts) == 1:
        return parts[0]
    summaries = [part.summary for part in parts if part.summary is not None]
    hidden, mask, spans, lengths = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("hidden", "mask", "spans", "lengths")
    )
    return Features(hidden, mask, spans, lengths, torch.cat(summaries) if summaries else None)


def cut(batch: Batch, limit: int, overlap: float, causal: bool = False) -> tuple[Batch, Plan]:
    """Cut a batch into windows of at most ``limit`` tokens; returns them as a batch, with the plan to put them together."""
    spans, present = batch.spans.cpu().numpy(), batch.present.sum(1).cpu().numpy()
    width = batch.present.shape[1]
    owner: list[int] = []
    index: list[Array] = []
    place = np.zeros((*batch.present.shape, 2), dtype=np.int64)
    for row, tokens in enumerate(present):
        windows = _positions(spans[row, :tokens], limit, overlap)
        place[row, :tokens] = _places(windows, int(tokens), len(owner), causal)
        owner += [row] * len(windows)
        # A short row is one window, filled up with its own padding, of which a batch this wide has enough.
        index += [np.concatenate([window, np.arange(tokens, width)])[:limit] for window in windows]
    device = batch.present.device
    rows, tokens_at = torch.tensor(owner, device=device), torch.from_numpy(np.stack(index)).to(device)
    at = (rows[:, None], tokens_at)
    arrays = {name: array[rows] if name in batch.whole else array[at] for name, array in batch.arrays.items()}
    windowed = Batch(arrays, batch.present[at], batch.spans[at], batch.lengths[rows], batch.whole)
    return windowed, Plan(rows, torch.from_numpy(place).to(device))


def _places(windows: list[Array], tokens: int, first: int, causal: bool) -> Array:
    """Return the window and the position in it [tokens, 2] where the model sees most around each token."""
    best, place = np.full(tokens, -1), np.zeros((tokens, 2), dtype=np.int64)
    for number, window in enumerate(windows):
        position = np.arange(len(window))
        margin = position if causal else np.minimum(position, len(window) - 1 - position)
        # What ends the whole input stands equally far in all windows, and in the last one behind its own neighbours.
        better = margin >= best[window] if causal else margin > best[window]
        best[window[better]] = margin[better]
        place[window[better], 0] = first + number
        place[window[better], 1] = position[better]
    return place


def merged(features: Features, batch: Batch, plan: Plan) -> Features:
    """Put the features of windows together: the features [batch, tokens, width] of the whole inputs.

    A whole-input vector is the mean of those of the windows.
    """
    hidden = features.hidden[plan.place[..., 0], plan.place[..., 1]]
    if features.summary is None:
        return batch.features(hidden)
    rows = len(batch.lengths)
    total = features.summary.new_zeros(rows, features.summary.shape[1]).index_add(0, plan.owner, features.summary)
    count = torch.bincount(plan.owner, minlength=rows)
    return batch.features(hidden, total / count.unsqueeze(1))


@dataclass(frozen=True)
class Piece:
    """A window as an input of its own, and the units ``first`` to ``last`` (from 0, inclusive) of the whole that it holds."""

    encoding: Encoding
    first: int
    last: int


def pieces(encoding: Encoding, limit: int, overlap: float) -> list[Piece]:
    """Cut one encoding into windows that are inputs of their own: units count from each window's first."""
    windows = _positions(encoding.spans, limit, overlap)
    if len(windows) == 1:
        return [Piece(encoding, 0, encoding.length - 1)]
    return [_piece(encoding, window) for window in windows]


def _piece(encoding: Encoding, window: Array) -> Piece:
    spans = encoding.spans[window]
    real = spans[:, 0] != NO_UNIT
    first, last = int(spans[real].min()), int(spans[real].max())
    arrays = {name: array[window] if name in encoding.pads else array for name, array in encoding.arrays.items()}
    moved = np.where(real[:, None], spans - first, NO_UNIT)
    return Piece(replace(encoding, arrays=arrays, spans=moved, length=last - first + 1), first, last)


@dataclass(frozen=True)
class Cuts:
    """The inputs of a table, cut: ``owner`` [pieces] is the row that each piece is of."""

    pieces: Sequence[Piece]
    owner: Array

    @classmethod
    def of(cls, encodings: Sequence[Encoding], limit: int, overlap: float) -> Cuts:
        """Cut every encoding that is longer than ``limit`` tokens."""
        parts = [pieces(encoding, limit, overlap) for encoding in encodings]
        owner = np.repeat(np.arange(len(parts)), [len(several) for several in parts])
        return cls([piece for several in parts for piece in several], owner)

    @property
    def encodings(self) -> list[Encoding]:
        """The encodings of the pieces."""
        return [piece.encoding for piece in self.pieces]

    @property
    def places(self) -> dict[str, list[int]]:
        """The columns ``start`` and ``end``: first and last unit of each piece, counted from 1."""
        return {"start": [piece.first + 1 for piece in self.pieces], "end": [piece.last + 1 for piece in self.pieces]}

    def examples(self, examples: Examples, columns: Iterable[str]) -> Examples:
        """Return an example for each piece, with its part of the input; ``columns``, those of the inputs, are left out.

        An input that is not text stays whole beside each of its pieces.
        """
        # Repeated with every window of it, a chromosome would fill the memory.
        narrow = replace(
            examples, table=examples.table.drop_columns(sorted(set(columns) & set(examples.table.column_names)))
        )
        cut_up = narrow.take(self.owner)
        inputs = {
            name: [self._part(value, piece) for value, piece in zip(values, self.pieces, strict=True)]
            for name, values in cut_up.inputs.items()
        }
        return replace(cut_up, inputs=inputs)

    def _part(self, value: Any, piece: Piece) -> Any:
        return value[piece.first : piece.last + 1] if isinstance(value, str) else value


def in_windows(encodings: Mapping[str, Sequence[Encoding]], backbone: Backbone) -> Cuts | None:
    """Return how the one input is cut where each window is to be an input of its own; None where none is."""
    if not backbone.windows or backbone.windows.mode != "score" or not backbone.max_tokens:
        return None
    (only,) = encodings.values()
    return Cuts.of(only, backbone.max_tokens, backbone.windows.overlap)
