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
        gathered = functional.scaled_dot_product_attention(
            rotate(query, position_embeddings).transpose(1, 2),
            rotate(key, position_embeddings).transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=attention_mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return gathered.transpose(1, 2).flatten(2), None


class Intermediate(nn.Module):
    """The widening half of the feed-forward layer, with torch's exact GELU in place of one spelt out in five passes."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.dense = stock.dense

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [batch, tokens, 4 x width] for ``hidden`` [batch, tokens, width]."""
        return functional.gelu(self.dense(hidden))
