"""DNABERT-2's modules, under the names of its published weights, over tokens without padding.

Linear biases: Press et al. 2022, arXiv:2108.12409. Gated layers: Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt_dna.dnabert.modules import BertShape, Output


def slopes(heads: int) -> list[float]:
    """Return each head's slope: 2^(-8 i / heads) where there is a power of two of them.

    Other numbers of heads take the slopes of the next lower power of two, and then every other one of twice as many.
    """
    whole = 1 << (heads.bit_length() - 1)
    even = [2 ** (-8 * head / whole) for head in range(1, whole + 1)]
    between = [2 ** (-8 * (head - 0.5) / whole) for head in range(1, whole + 1)]
    return even + between[: heads - whole]


def distances(heads: int, longest: int, device: torch.device) -> Tensor:
    """Return the biases [heads, 2 x longest - 1] of each distance from ``1 - longest`` to ``longest - 1``."""
    apart = torch.arange(1 - longest, longest, device=device).abs()
    return -torch.tensor(slopes(heads), device=device)[:, None] * apart


def square(table: Tensor, length: int) -> Tensor:
    """Return the biases [heads, length, length] of queries against keys *in reversed order*, as a view of ``table``.

    With the keys reversed, the bias of query i and key j depends on i + j alone, so that the square is the table itself
    read again and again, each row from one entry further on: it takes no memory of its own.
    """
    heads, width = table.shape
    view = table.as_strided((heads, length, length), (width, 1, 1), width // 2 + 1 - length)
    # Other devices' kernels ask for aligned rows: there one square serves all layers of a pass.
    return view if table.device.type == "cpu" else view.contiguous()


@dataclass(frozen=True)
class Run:
    """Consecutive inputs of one length, with the ``biases`` [heads, length, length] of their attention."""

    inputs: int
    length: int
    biases: Tensor


class Packing:
    """The tokens of a batch one after another, without padding. ``present`` [batch, tokens] says where there is none."""

    def __init__(self, present: Tensor, heads: int) -> None:
        self._present = None if bool(present.all()) else present
        self._shape = present.shape
        lengths = present.sum(1).tolist()
        table = distances(heads, max(lengths), present.device)
        squares = {length: square(table, length) for length in set(lengths)}
        same = [(length, len(list(rows))) for length, rows in groupby(lengths)]
        self.runs = [Run(rows, length, squares[length]) for length, rows in same]

    def pack(self, hidden: Tensor) -> Tensor:
        """Return the states [tokens that are there, width] of ``hidden`` [batch, tokens, width]."""
        return hidden.flatten(0, 1) if self._present is None else hidden[self._present]

    def unpack(self, packed: Tensor) -> Tensor:
        """Return packed states as [batch, tokens, width], zero where there is padding."""
        if self._present is None:
            return packed.view(*self._shape, packed.shape[-1])
        hidden = packed.new_zeros(*self._shape, packed.shape[-1])
        hidden[self._present] = packed
        return hidden


class SelfAttention(nn.Module):
    """Attention within each input, nearer tokens first. ``Wqkv`` holds query, key and value, one above the other."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size)
        self.heads = shape.num_attention_heads
        self.dropout = shape.attention_probs_dropout_prob

    def forward(self, packed: Tensor, packing: Packing) -> Tensor:
        """Return what each token [tokens, width] gathers."""
        parts = self.Wqkv(packed).split([run.inputs * run.length for run in packing.runs])
        gathered = [self._within(part, run) for part, run in zip(parts, packing.runs, strict=True)]
        return gathered[0] if len(gathered) == 1 else torch.cat(gathered)

    def _within(self, part: Tensor, run: Run) -> Tensor:
        states = part.view(run.inputs, run.length, 3, self.heads, -1)
        # On a CPU attention in half precision is slower than in single, and rounds the biases of far tokens.
        exact = states.float() if part.device.type == "cpu" else states
        query, key, value = (each.transpose(1, 2) for each in exact.unbind(2))
        with torch.autocast(part.device.type, enabled=False):
            gathered = functional.scaled_dot_product_attention(
                query,
                key.flip(2),
                value.flip(2),
                attn_mask=run.biases[None].to(query.dtype),
                dropout_p=self.dropout if self.training else 0.0,
            )
        return gathered.transpose(1, 2).flatten(2).flatten(0, 1).to(part.dtype)


class Attention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.self = SelfAttention(shape)
        self.output = Output(shape.hidden_size, shape)

    def forward(self, packed: Tensor, packing: Packing) -> Tensor:
        """Return ``packed`` [tokens, width] after attention."""
        attended: Tensor = self.output(self.self(packed, packing), packed)
        return attended


class GatedMlp(nn.Module):
    """The feed-forward layer: one half of what is widened, through GELU, gates the other."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.wo = nn.Linear(shape.intermediate_size, shape.hidden_size)
        self.layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, packed: Tensor) -> Tensor:
        """Return ``packed`` [tokens, width] after the layer."""
        gate, passed = self.gated_layers(packed).chunk(2, -1)
        after: Tensor = self.layernorm(self.wo(self.dropout(functional.gelu(gate) * passed)) + packed)
        return after


class Layer(nn.Module):
    """One block."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.mlp = GatedMlp(shape)

    def forward(self, packed: Tensor, packing: Packing) -> Tensor:
        """Return ``packed`` [tokens, width] after the block."""
        after: Tensor = self.mlp(self.attention(packed, packing))
        return after


class Encoder(nn.Module):
    """All blocks."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))


class Embeddings(nn.Module):
    """Word pieces and the first of the token types, summed and normalised; there are no positions."""

    def __init__(self, shape: BertShape, pad: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings [batch, tokens, width] of ``ids`` [batch, tokens]."""
        words = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(words))
        return embedded


class Bert(nn.Module):
    """Embeddings and blocks, without the pooler."""

    def __init__(self, shape: BertShape, pad: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape, pad)
        self.encoder = Encoder(shape)
