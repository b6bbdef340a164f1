"""Faster stand-ins for three of stock ESM's modules, with the same parameters under the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Tables = tuple[Tensor, Tensor]
"""Cosines and signed sines of the rotary positions, each [1, tokens, 1, head width]."""


class Rotary(nn.Module):
    """The rotary positions of all layers, computed once per forward pass."""

    inv_freq: Tensor

    def __init__(self, head_width: int, base: float) -> None:
        super().__init__()
        even = torch.arange(0, head_width, 2, dtype=torch.float32)
        self.register_buffer("inv_freq", 1.0 / base ** (even / head_width))

    def forward(self, hidden: Tensor, positions: Tensor | None = None) -> Tables:
        """Return the tables for ``hidden`` [batch, tokens, width]; the arguments are those of the stock module."""
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        angles = positions[..., None, None].float() * self.inv_freq
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        # Half precision would turn far positions by the wrong angle, so that a change of type passes the table by.
        exact = self.inv_freq
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inv_freq = exact.to(self.inv_freq.device)
        return self


def rotate(states: Tensor, tables: Tables) -> Tensor:
    """Turn ``states`` [batch, tokens, heads, head width] by their positions; halves of a head pair up."""
    cos, sin = tables
    swapped = states.roll(states.shape[-1] // 2, -1)
    return (states * cos + swapped * sin).to(states.dtype)


class Attention(nn.Module):
    """Stock ESM's self-attention on the same linear layers, with fewer passes over memory."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = stock.query, stock.key, stock.value
        self.heads: int = stock.num_attention_heads
        self.dropout: float = stock.dropout

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, *, position_embeddings: Tables, **_: Any
    ) -> tuple[Tensor, None]:
        """Return what each token gathers, and no attention maps; the arguments are those of the stock module."""
        query, key, value = (
            linear(hidden).unflatten(-1, (self.heads, -1)) for linear in (self.query, self.key, self.value)
        )
        query, key = rotate(query, position_embeddings), rotate(key, position_embeddings)
        dropout = self.dropout if self.training else 0.0
        return attend(query, key, value, attention_mask, dropout).flatten(2), None


# Of longer inputs the weights of all heads no longer stay in a core's cache.
_SHORT = 1 << 19


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return what each token gathers [batch, asked, heads, head width] with its ``query``, of the same shape.

    ``key`` and ``value`` are [batch, tokens, heads, head width].
    """
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    short = query.shape[1] * query.shape[2] * key.shape[2] <= _SHORT
    plain = mask is None and not dropout and not torch.is_grad_enabled() and query.dtype == torch.float32
    if short and plain and query.device.type == "cpu" and query.shape[2] > 1:
        return _by_input(query, key, value)
    gathered = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return gathered.transpose(1, 2)


def _by_input(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same, input by input in one piece of memory: at ESM-2's narrow heads torch's own way takes twice as long."""
    inputs, heads, asked, width = query.shape
    gathered = query.new_empty(inputs, asked, heads, width)
    weights = query.new_empty(heads, asked, key.shape[2])
    for row, queries in enumerate(query * width**-0.5):
        torch.bmm(queries, key[row].transpose(1, 2), out=weights)
        torch.softmax(weights, -1, out=weights)
        gathered[row] = torch.bmm(weights, value[row]).transpose(0, 1)
    return gathered


class Intermediate(nn.Module):
    """The widening half of the feed-forward layer, with torch's exact GELU in place of one spelt out in five passes."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.dense = stock.dense

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [batch, tokens, 4 x width] for ``hidden`` [batch, tokens, width]."""
        return functional.gelu(self.dense(hidden))
