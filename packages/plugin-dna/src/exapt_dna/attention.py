"""Self-attention with its three projections apart, as BERT and ESM name them, and rotary positions.

Rotary positions: Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.parts import Batch

Tables = tuple[Tensor, Tensor]
"""Cosines and signed sines of the rotary positions, each [1, tokens, 1, head width]."""


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of one input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.heads = heads
        self.dropout = dropout

    def forward(self, hidden: Tensor, mask: Tensor | None, tables: Tables | None = None) -> Tensor:
        """Return what each token [batch, tokens, width] gathers; ``mask`` is that of ``attention_mask``."""
        query, key, value = (
            linear(hidden).unflatten(-1, (self.heads, -1)) for linear in (self.query, self.key, self.value)
        )
        if tables is not None:
            query, key = rotate(query, tables), rotate(key, tables)
        gathered = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return gathered.transpose(1, 2).flatten(2)


def attention_mask(batch: Batch) -> Tensor | None:
    """Return the mask [batch, 1, 1, tokens] that hides padding, or None where there is none: that is faster."""
    return None if bool(batch.present.all()) else batch.present[:, None, None, :]


class Rotary(nn.Module):
    """The rotary positions of all layers, computed once per forward pass."""

    inv_freq: Tensor

    def __init__(self, head_width: int, base: float = 10000.0) -> None:
        super().__init__()
        # The device is named, so that the table has its values even where parameters are built without memory.
        even = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu")
        self.register_buffer("inv_freq", 1.0 / base ** (even / head_width))

    def forward(self, hidden: Tensor) -> Tables:
        """Return the tables for ``hidden`` [batch, tokens, width]."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        angles = positions[None, :, None, None].float() * self.inv_freq
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
