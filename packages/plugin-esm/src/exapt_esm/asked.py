"""ESM-2 where few of its answers are wanted: of the last layer the asked tokens alone, of the first what copies share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exapt.parts import Batch
from exapt_esm.layers import Tables, attend, rotate

# Where more of the tokens are asked for, or differ, leaving work out costs as much as it saves.
_FEW = 0.25


def few_asked(batch: Batch, rows: Tensor) -> bool:
    """Return whether so few tokens of each input are asked for that the others are worth leaving out."""
    inputs, tokens = batch.present.shape
    return bool(len(rows)) and int(torch.bincount(rows, minlength=inputs).max()) <= _FEW * tokens


def unlike_the_first(batch: Batch, hidden: Tensor) -> Tensor | None:
    """Return where [inputs, tokens] copies of one input differ from the first of them; None if they are no copies.

    ``hidden`` [inputs, tokens, width] are their embeddings: a scan hides another token of each copy.
    """
    unlike: Tensor = batch["input_ids"] != batch["input_ids"][:1]
    if len(unlike) == 1 or unlike.sum() > _FEW * unlike.numel() or not bool(batch.present.all()):
        return None
    # Token dropout scales an input by how many of its tokens are hidden: copies are alike where as many are.
    unlike |= (hidden != hidden[:1]).any(-1)
    return None if unlike.sum() > _FEW * unlike.numel() else unlike


def first_layer(layer: Any, hidden: Tensor, unlike: Tensor, tables: Tables) -> Tensor:
    """Return ``hidden`` [inputs, tokens, width] after the first layer, with keys, queries and values of copies made once."""
    norm, attention = layer.attention.LayerNorm, layer.attention.self
    shared, own = norm(hidden[:1]), norm(hidden[unlike])
    places = unlike.nonzero()[:, 1]
    turns = tables[0][:, places], tables[1][:, places]
    states = []
    for linear, turned in ((attention.query, True), (attention.key, True), (attention.value, False)):
        common, others = (linear(some).unflatten(-1, (attention.heads, -1)) for some in (shared, own[None]))
        if turned:
            common, others = rotate(common, tables), rotate(others, turns)
        copies = common.repeat(len(hidden), 1, 1, 1)
        copies[unlike] = others[0]
        states.append(copies)
    return _after(layer, attend(*states).flatten(2), hidden)


def last_layer(layer: Any, hidden: Tensor, mask: Tensor | None, tables: Tables, rows: Tensor, places: Tensor) -> Tensor:
    """Return the states [asked, width] after the last layer of the tokens at ``places`` of the inputs ``rows`` alone.

    All tokens are looked at: only what looks, and what becomes of it, is left out.
    """
    attention, inputs = layer.attention.self, len(hidden)
    counts = torch.bincount(rows, minlength=inputs)
    ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    # Inputs of which fewer tokens are asked for look from their first token as well, which is left out again.
    asked = places.new_zeros(inputs, int(counts.max()))
    asked[rows, ranks] = places
    normed = layer.attention.LayerNorm(hidden)
    every = torch.arange(inputs, device=rows.device)[:, None]
    query, key, value = (
        linear(some).unflatten(-1, (attention.heads, -1))
        for linear, some in (
            (attention.query, normed[every, asked]),
            (attention.key, normed),
            (attention.value, normed),
        )
    )
    turns = tables[0][0][asked], tables[1][0][asked]
    gathered = attend(rotate(query, turns), rotate(key, tables), value, mask)
    return _after(layer, gathered.flatten(2)[rows, ranks], hidden[rows, places])


def _after(layer: Any, gathered: Tensor, hidden: Tensor) -> Tensor:
    """Return what a layer makes of tokens and of what they gathered, both [..., width]."""
    states: Tensor = layer.feed_forward_chunk(layer.attention.output(gathered, hidden))
    return states
