"""scGPT's modules, under the names of its published weights but for the attention's projections, which stand apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.parts import Batch
from exapt_singlecell.scgpt.files import Shape

_LARGEST = 512.0


class GeneEncoder(nn.Module):
    """One normalised vector for each gene."""

    def __init__(self, tokens: int, width: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=pad)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Return [batch, tokens, width] for ``ids`` [batch, tokens]."""
        normed: Tensor = self.enc_norm(self.embedding(ids))
        return normed


class ValueEncoder(nn.Module):
    """One vector for each value, however fine; values above 512 count as 512."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Return [batch, tokens, width] for ``values`` [batch, tokens]."""
        hidden = functional.relu(self.linear1(values.unsqueeze(-1).clamp(max=_LARGEST)))
        encoded: Tensor = self.dropout(self.norm(self.linear2(hidden)))
        return encoded


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of one cell."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.heads = heads
        self.dropout = dropout

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return what each token [batch, tokens, width] gathers; ``mask`` is that of ``attention_mask``."""
        query, key, value = (
            linear(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        gathered = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        projected: Tensor = self.out_proj(gathered.transpose(1, 2).flatten(2))
        return projected


class Layer(nn.Module):
    """One block: attention, then a feed-forward layer, each normalised behind (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.embsize
        self.self_attn = SelfAttention(width, shape.nheads, shape.dropout)
        self.linear1 = nn.Linear(width, shape.d_hid)
        self.linear2 = nn.Linear(shape.d_hid, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``hidden`` [batch, tokens, width] after the block."""
        hidden = self.norm1(hidden + self.dropout(self.self_attn(hidden, mask)))
        widened = self.dropout(functional.relu(self.linear1(hidden)))
        after: Tensor = self.norm2(hidden + self.dropout(self.linear2(widened)))
        return after


class Layers(nn.Module):
    """All blocks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.nlayers))


class CellTransformer(nn.Module):
    """Genes and values, added, and the blocks above them."""

    def __init__(self, shape: Shape, tokens: int, pad: int) -> None:
        super().__init__()
        self.encoder = GeneEncoder(tokens, shape.embsize, pad)
        self.value_encoder = ValueEncoder(shape.embsize, shape.dropout)
        self.transformer_encoder = Layers(shape)


class ExpressionDecoder(nn.Module):
    """The pretrained answer to how much of a gene is expressed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = [nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU()]
        self.fc = nn.Sequential(*wide, nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return bins [..., 1], as numbers and not rounded, for ``hidden`` [..., width]."""
        values: Tensor = self.fc(hidden)
        return values


def attention_mask(batch: Batch) -> Tensor | None:
    """Return the mask [batch, 1, 1, tokens] that hides padding, or None where there is none: that is faster."""
    return None if bool(batch.present.all()) else batch.present[:, None, None, :]


@torch.no_grad()
def draw(model: CellTransformer) -> None:
    """Give fresh gene vectors as scGPT does, evenly between -0.1 and 0.1; torch has drawn all else."""
    model.encoder.embedding.weight.uniform_(-0.1, 0.1)
