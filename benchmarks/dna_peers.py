"""The peers of the DNA families: stock transformers where it knows a family, else its published operations, plainly.

The second kind is written from the papers, with the operations and memory of the programs that were published with them:
the same products, nothing fused, one bias or filter for each layer and pass. Their weights are drawn here, and saved
under the published names, so that exapt reads them as it reads a downloaded checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.parts import Encoding

States = Callable[[Tensor, Tensor], Tensor]
"""From ids and mask, both [batch, tokens], to states [batch, tokens, width]."""


class Peer:
    """A model that is fed padded batches, as most scripts do, and pools by the mean over tokens of the sequence."""

    def __init__(self, states: States, encode: Callable[[str], Encoding], pad: int) -> None:
        self.states, self.encode, self.pad = states, encode, pad

    def batch(self, encodings: Sequence[Encoding]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask of what is no padding and mask of what stands for bases, each [batch, longest]."""
        longest = max(encoding.tokens for encoding in encodings)
        ids = torch.full((len(encodings), longest), self.pad)
        there, bases = torch.zeros(2, len(encodings), longest, dtype=torch.bool)
        for row, encoding in enumerate(encodings):
            ids[row, : encoding.tokens] = torch.from_numpy(encoding.arrays["input_ids"])
            there[row, : encoding.tokens] = True
            bases[row, : encoding.tokens] = torch.from_numpy(encoding.spans[:, 0] >= 0)
        return ids, there, bases

    def embed(
        self, sequences: Sequence[str], batches: Callable[[Sequence[Encoding]], list[Sequence[int]]]
    ) -> np.ndarray:
        """Return the means [sequences, width], batch by batch."""
        encodings = [self.encode(sequence) for sequence in sequences]
        vectors: list[Any] = [None] * len(sequences)
        for rows in batches(encodings):
            ids, there, bases = self.batch([encodings[row] for row in rows])
            with torch.inference_mode():
                hidden, weights = self.states(ids, there), bases[..., None].float()
                means = (hidden * weights).sum(1) / weights.sum(1)
            for row, vector in zip(rows, means.numpy(), strict=True):
                vectors[row] = vector
        return np.stack(vectors)


class Gated(nn.Module):
    """The widening layer of Nucleotide Transformer 2, to be put in the place of stock ESM's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 2 * inner, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, passed = self.dense(hidden).chunk(2, -1)
        gated: Tensor = functional.silu(gate) * passed
        return gated


def _inside(**children: nn.Module) -> nn.Module:
    outer = nn.Module()
    for name, child in children.items():
        outer.add_module(name, child)
    return outer


class AlibiBert(nn.Module):
    """DNABERT-2: linear layers over tokens without padding, attention by hand over padded ones with a square of biases."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, vocabulary: int) -> None:
        super().__init__()
        norm = nn.LayerNorm(width, eps=1e-12)
        words, types = nn.Embedding(vocabulary, width), nn.Embedding(2, width)
        embeddings = _inside(word_embeddings=words, token_type_embeddings=types, LayerNorm=norm)
        blocks = nn.ModuleList(AlibiLayer(width, heads, inner) for _ in range(layers))
        self.bert = _inside(embeddings=embeddings, encoder=_inside(layer=blocks))
        self.heads = heads

    def forward(self, ids: Tensor, there: Tensor) -> Tensor:
        embeddings: Any = self.bert.embeddings
        hidden = embeddings.LayerNorm(embeddings.word_embeddings(ids) + embeddings.token_type_embeddings.weight[0])
        packed, places = hidden[there], torch.arange(ids.shape[1])
        slopes = torch.tensor([2.0**-power for power in _powers(self.heads)])
        # Once a pass for all layers, and with each layer's mask a tensor of its own.
        alibi = -slopes[:, None, None] * (places[:, None] - places).abs()
        bias = alibi + torch.where(there, 0.0, -10000.0)[:, None, None, :]
        for layer in self.bert.encoder.layer:  # type: ignore[union-attr]
            packed = layer(packed, there, bias)
        padded: Tensor = hidden.new_zeros(hidden.shape).index_put((there,), packed)
        return padded


def _powers(heads: int) -> list[float]:
    whole = 2 ** int(math.log2(heads))
    return [8 * i / whole for i in range(1, whole + 1)] + [8 * (i - 0.5) / whole for i in range(1, heads - whole + 1)]


class AlibiLayer(nn.Module):
    """One block, normalised behind its two halves."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        output = _inside(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))
        self.attention = _inside(output=output)
        self.attention.add_module("self", _inside(Wqkv=nn.Linear(width, 3 * width)))
        self.mlp = _inside(
            gated_layers=nn.Linear(width, 2 * inner, bias=False),
            wo=nn.Linear(inner, width),
            layernorm=nn.LayerNorm(width, eps=1e-12),
        )
        self.heads = heads

    def forward(self, packed: Tensor, there: Tensor, bias: Tensor) -> Tensor:
        attention, mlp = self.attention, self.mlp
        projected = attention.get_submodule("self.Wqkv")(packed)
        padded = packed.new_zeros(*there.shape, projected.shape[-1]).index_put((there,), projected)
        query, key, value = padded.view(*there.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        gathered = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)[there]
        packed = attention.output.LayerNorm(attention.output.dense(gathered) + packed)  # type: ignore[union-attr, operator]
        wide = mlp.gated_layers(packed)  # type: ignore[operator]
        gate, passed = wide.chunk(2, -1)
        added: Tensor = mlp.wo(functional.gelu(gate) * passed)  # type: ignore[operator]
        return mlp.layernorm(added + packed)  # type: ignore[operator, no-any-return]


class PlainHyena(nn.Module):
    """HyenaDNA: each operator by whole-length transforms, its filter computed anew in each pass."""

    def __init__(self, width: int, layers: int, longest: int, order: int = 64, features: int = 5) -> None:
        super().__init__()
        blocks = nn.ModuleList(HyenaBlock(width, longest, order, features) for _ in range(layers))
        embeddings = _inside(word_embeddings=nn.Embedding(16, width))
        self.hyena = _inside(backbone=_inside(embeddings=embeddings, layers=blocks, ln_f=nn.LayerNorm(width)))

    def forward(self, ids: Tensor, there: Tensor) -> Tensor:
        backbone: Any = self.hyena.backbone
        hidden = backbone.embeddings.word_embeddings(ids)
        for block in backbone.layers:
            hidden = block(hidden)
        normed: Tensor = backbone.ln_f(hidden)
        return normed


class HyenaBlock(nn.Module):
    """Operator and feed-forward layer, each normalised in front."""

    def __init__(self, width: int, longest: int, order: int, features: int) -> None:
        super().__init__()
        self.mixer = HyenaOperator(width, longest, order, features)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _inside(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.mixer(self.norm1(hidden))
        wide = functional.gelu(self.mlp.fc1(self.norm2(hidden)), approximate="tanh")  # type: ignore[operator]
        added: Tensor = self.mlp.fc2(wide)  # type: ignore[operator]
        return hidden + added


class HyenaOperator(nn.Module):
    """Two gates around a long convolution, with the buffers that published files hold."""

    def __init__(self, width: int, longest: int, order: int, features: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, 3, padding=2, groups=3 * width)
        linears = {"0": nn.Linear(features, order), "2": nn.Linear(order, order), "4": nn.Linear(order, order)}
        sine = nn.Module()
        sine.freq = nn.Parameter(torch.full((1, order), 10.0))
        network = _inside(**linears, **{"1": sine, "6": nn.Linear(order, width, bias=False)})
        positions, decay = nn.Module(), nn.Module()
        for name, table in zip(("z", "t"), _positions(longest, features), strict=True):
            positions.register_buffer(name, table)
        decays = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, width)
        decay.register_buffer("deltas", decays[None, None])
        self.filter_fn = _inside(implicit_filter=network, pos_emb=positions, modulation=decay)
        self.filter_fn.bias = nn.Parameter(torch.randn(width))

    def forward(self, hidden: Tensor) -> Tensor:
        tokens, filters = hidden.shape[1], self.filter_fn
        mixed = self.short_filter(self.in_proj(hidden).transpose(1, 2))[..., :tokens]
        last, first, value = mixed.chunk(3, 1)
        signal = value * first
        spectrum = torch.fft.rfft(signal, n=2 * tokens) * torch.fft.rfft(self._filter(tokens), n=2 * tokens)
        convolved = torch.fft.irfft(spectrum, n=2 * tokens)[..., :tokens] + signal * filters.bias[:, None]  # type: ignore[index]
        projected: Tensor = self.out_proj((convolved * last).transpose(1, 2))
        return projected

    def _filter(self, tokens: int) -> Tensor:
        parts: Any = self.filter_fn
        states, network = parts.pos_emb.z[:, :tokens], parts.implicit_filter
        for name in ("0", "2", "4"):
            states = torch.sin(network.get_submodule("1").freq * network.get_submodule(name)(states))
        decay = torch.exp(-parts.pos_emb.t[:, :tokens] * parts.modulation.deltas.abs())
        weights: Tensor = network.get_submodule("6")(states) * (decay + 0.05)
        return weights[0].T


def _positions(longest: int, features: int) -> tuple[Tensor, Tensor]:
    bands, time = (features - 1) // 2, torch.linspace(0, 1, longest)[:, None]
    angles = 2 * math.pi * torch.arange(longest)[:, None] / longest * torch.linspace(1e-4, bands - 1, bands)
    return torch.cat([time, angles.cos(), -angles.sin()], -1)[None], time[None]
