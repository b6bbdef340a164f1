"""The modules of both versions, under the names of the published weights: ESM's.

Version 1 has learned positions and GELU, version 2 rotary positions and gated layers with SiLU (Shazeer 2020,
arXiv:2002.05202).
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from exapt.parts import Batch
from exapt_dna.attention import Rotary, SelfAttention, Tables
from exapt_dna.configs import Shape

_HIDDEN_IN_PRETRAINING = 0.15 * 0.8


class NucleotideShape(Shape):
    """What a ``config.json`` says beside the common keys."""

    max_position_embeddings: PositiveInt = 1026
    emb_layer_norm_before: bool | None = False
    token_dropout: bool | None = False
    add_bias_fnn: bool = True
    is_folding_model: bool | None = False

    @property
    def version(self) -> int:
        """Version 1 or 2, which the kind of positions tells."""
        return 2 if self.position_embedding_type == "rotary" else 1

    @property
    def biased(self) -> bool:
        """Whether the feed-forward layers have biases."""
        return self.version == 1 or self.add_bias_fnn


class Embeddings(nn.Module):
    """Words, and in version 1 learned positions, which are counted from the padding token's id plus one."""

    def __init__(self, shape: NucleotideShape, pad: int, mask: int) -> None:
        super().__init__()
        width = shape.hidden_size
        self.word_embeddings = nn.Embedding(shape.vocab_size, width, padding_idx=pad)
        self.position_embeddings = (
            nn.Embedding(shape.max_position_embeddings, width, padding_idx=pad) if shape.version == 1 else None
        )
        self.layer_norm = nn.LayerNorm(width, eps=shape.layer_norm_eps) if shape.emb_layer_norm_before else None
        self._pad, self._mask = pad, mask
        self._token_dropout = bool(shape.token_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return the embeddings [batch, tokens, width]."""
        ids = batch["input_ids"]
        hidden: Tensor = self.word_embeddings(ids)
        if self._token_dropout:
            hidden = self._rescaled(hidden, ids == self._mask, batch.present)
        if self.position_embeddings is not None:
            first = self._pad + 1
            hidden = hidden + self.position_embeddings.weight[first : first + ids.shape[1]]
        return hidden if self.layer_norm is None else self.layer_norm(hidden)

    def _rescaled(self, hidden: Tensor, masked: Tensor, present: Tensor) -> Tensor:
        """Leave masked tokens out, and keep the sum of the rest at what it was in pretraining, as ESM's do."""
        share = masked.sum(1, keepdim=True) / present.sum(1, keepdim=True)
        scale = (1 - _HIDDEN_IN_PRETRAINING) / (1 - share)
        return torch.where(masked.unsqueeze(-1), 0, hidden * scale.unsqueeze(-1).to(hidden.dtype))


class Dense(nn.Module):
    """A linear layer, under the name that the published weights give to each that stands alone."""

    def __init__(self, before: int, after: int, bias: bool = True) -> None:
        super().__init__()
        self.dense = nn.Linear(before, after, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [..., after] for ``hidden`` [..., before]."""
        changed: Tensor = self.dense(hidden)
        return changed


class Widened(Dense):
    """The widening half of the feed-forward layer; in version 2 its first half gates the second."""

    def __init__(self, shape: NucleotideShape) -> None:
        gated = shape.version == 2
        super().__init__(shape.hidden_size, shape.intermediate_size * (2 if gated else 1), shape.biased)
        self._gated = gated

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [batch, tokens, intermediate width]."""
        wide = super().forward(hidden)
        if not self._gated:
            return functional.gelu(wide)
        gate, passed = wide.chunk(2, -1)
        return functional.silu(gate) * passed


class Attention(nn.Module):
    """Self-attention, its norm before it and its output layer behind it."""

    def __init__(self, shape: NucleotideShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.LayerNorm = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.self = SelfAttention(width, shape.num_attention_heads, shape.attention_probs_dropout_prob)
        self.output = Dense(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None, tables: Tables | None) -> Tensor:
        """Return what attention adds to ``hidden`` [batch, tokens, width]."""
        added: Tensor = self.output(self.self(self.LayerNorm(hidden), mask, tables))
        return added


class Layer(nn.Module):
    """One block: attention, then the feed-forward layer, each normalised in front."""

    def __init__(self, shape: NucleotideShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.intermediate = Widened(shape)
        self.output = Dense(shape.intermediate_size, shape.hidden_size, shape.biased)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None, tables: Tables | None) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after the block."""
        hidden = hidden + self.dropout(self.attention(hidden, mask, tables))
        after: Tensor = hidden + self.dropout(self.output(self.intermediate(self.LayerNorm(hidden))))
        return after


class Encoder(nn.Module):
    """All blocks, and the final norm."""

    def __init__(self, shape: NucleotideShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)


class Esm(nn.Module):
    """Embeddings, blocks, and in version 2 the rotary positions that all blocks share."""

    def __init__(self, shape: NucleotideShape, pad: int, mask: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape, pad, mask)
        self.encoder = Encoder(shape)
        head_width = shape.hidden_size // shape.num_attention_heads
        self.rotary_embeddings = Rotary(head_width) if shape.version == 2 else None


class LanguageHead(nn.Module):
    """The masked language model's head."""

    def __init__(self, shape: NucleotideShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.layer_norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.decoder = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocabulary] for ``hidden`` [..., width]."""
        logits: Tensor = self.decoder(self.layer_norm(functional.gelu(self.dense(hidden)))) + self.bias
        return logits
