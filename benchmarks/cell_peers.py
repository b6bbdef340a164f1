"""The peers of the models of cells: tokens as they are published to be made, cell by cell, and torch's own transformers.

The loops are written for this benchmark from what is known of the published programs, with the steps and the memory of
these; they are not the original programs. ``lean`` leaves out what a careful author would: it is the faster peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from exapt.cells import Cell
from exapt.parts import Encoding

_CHUNK = 512
_TARGET = 10_000
_PAD_VALUE = -2.0

Rows = list[Sequence[int]]


@dataclass(frozen=True)
class RankedLoop:
    """Geneformer V2's tokens: a chunk of cells brought to levels as a sparse matrix, then each cell sorted on its own.

    ``known`` are the columns of the table that the model knows, ``tokens`` and ``medians`` [known] what they stand for.
    """

    known: np.ndarray
    tokens: np.ndarray
    medians: np.ndarray
    size: int
    cls: int
    eos: int

    def __call__(self, counts: sparse.csr_matrix, lean: bool = False, kind: Any = None) -> list[np.ndarray]:
        """Return the ids of each cell of ``counts`` [cells, genes]; a ``kind`` of sorting that is stable fixes ties."""
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64)
        ids: list[np.ndarray] = []
        for start in range(0, counts.shape[0], _CHUNK):
            chunk = counts[start : start + _CHUNK][:, self.known]
            levels = sparse.csr_matrix(chunk / totals[start : start + _CHUNK] * _TARGET / self.medians)
            cells = parts(levels) if lean else _rows(levels)
            ids += [self._ranked(data, places, kind) for data, places in cells]
        return ids

    def _ranked(self, levels: np.ndarray, places: np.ndarray, kind: Any) -> np.ndarray:
        tokens = self.tokens[places][np.argsort(-levels, kind=kind)]
        framed = np.insert(tokens[: self.size - 2], 0, self.cls)
        return np.insert(framed, len(framed), self.eos)


def _rows(matrix: sparse.csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    # Each row is taken out of the matrix twice, as it is published.
    return ((matrix[row].data, matrix[row].indices) for row in range(matrix.shape[0]))


def parts(matrix: sparse.csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the values and the columns of each row, as views of the matrix."""
    for start, stop in pairwise(matrix.indptr.tolist()):
        yield matrix.data[start:stop], matrix.indices[start:stop]


@dataclass(frozen=True)
class BinnedLoop:
    """scGPT's tokens: of each cell the non-zero values, their quantiles, the bins on both sides, and a draw where they differ.

    ``known`` are the columns of the table that the vocabulary has, ``tokens`` [known] their ids.
    """

    known: np.ndarray
    tokens: np.ndarray
    cls: int
    most: int = 1200
    bins: int = 51

    def __call__(self, counts: sparse.csr_matrix, lean: bool = False) -> list[dict[str, Tensor]]:
        """Return ids and values of each cell of ``counts`` [cells, genes], a table that is held with all its zeros."""
        chosen = counts[:, self.known]
        if lean:
            return [self._read(values, places) for values, places in parts(chosen)]
        return [self._read(row[there], there) for row in chosen.toarray() for there in [np.nonzero(row)[0]]]

    def _read(self, values: np.ndarray, places: np.ndarray) -> dict[str, Tensor]:
        genes = torch.from_numpy(np.insert(self.tokens[places], 0, self.cls)).long()
        found = torch.from_numpy(np.insert(values, 0, _PAD_VALUE)).float()
        low, high = self.bounds(found[1:].numpy())
        drawn = np.ceil(np.random.rand(len(low)) * (low - high) + high)
        found[1:] = torch.from_numpy(drawn.astype(np.int64)).float()
        if len(genes) > self.most:
            kept = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(len(genes) - 1)[: self.most - 1] + 1])
            genes, found = genes[kept], found[kept]
        return {"genes": genes, "values": found}

    def bounds(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bins [genes] between which one is drawn for each value: above the first, up to the second."""
        edges = np.quantile(values, np.linspace(0, 1, self.bins - 1))
        return np.digitize(values, edges, right=True), np.digitize(values, edges)


class BinnedTransformer(nn.Module):
    """scGPT out of torch's own transformer, packed projections and all, under the published names."""

    def __init__(
        self, genes: int, pad: int, width: int = 512, heads: int = 8, inner: int = 512, layers: int = 12
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"embedding": nn.Embedding(genes, width, padding_idx=pad), "enc_norm": nn.LayerNorm(width)}
        )
        linears = {"linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width)}
        self.value_encoder = nn.ModuleDict({**linears, "norm": nn.LayerNorm(width)})
        self.transformer_encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, heads, inner, 0.2, batch_first=True), layers
        )

    def forward(self, ids: Tensor, values: Tensor, there: Tensor) -> Tensor:
        """Return states [batch, tokens, width]."""
        genes, said = self.encoder, self.value_encoder
        hidden = said["linear2"](functional.relu(said["linear1"](values.unsqueeze(-1).clamp(max=512))))
        embedded = genes["enc_norm"](genes["embedding"](ids)) + said["norm"](hidden)
        states: Tensor = self.transformer_encoder(embedded, src_key_padding_mask=~there)
        return states


States = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""From arrays and the mask of what is no padding, all [batch, tokens], to states [batch, tokens, width]."""


@dataclass(frozen=True)
class Peer:
    """A model that is fed padded batches, as most scripts do; a cell's vector is the mean over genes, or that of <cls>."""

    states: States
    encode: Callable[[Cell], Encoding]
    pooling: str

    def embed(self, cells: Sequence[Cell], batches: Callable[[Sequence[Encoding]], Rows]) -> np.ndarray:
        """Return the vectors [cells, width], batch by batch."""
        encodings = [self.encode(cell) for cell in cells]
        vectors: list[Any] = [None] * len(cells)
        for rows in batches(encodings):
            with torch.inference_mode():
                pooled = self._pooled([encodings[row] for row in rows])
            for row, vector in zip(rows, pooled.numpy(), strict=True):
                vectors[row] = vector
        return np.stack(vectors)

    def _pooled(self, encodings: Sequence[Encoding]) -> Tensor:
        padded = {
            name: nn.utils.rnn.pad_sequence([torch.from_numpy(one.arrays[name]) for one in encodings], True, pad)
            for name, pad in encodings[0].pads.items()
        }
        lengths = torch.tensor([encoding.tokens for encoding in encodings])
        there = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        hidden = self.states(padded, there)
        if self.pooling == "cls":
            return hidden[:, 0]
        spans = [torch.from_numpy(encoding.spans[:, 0] >= 0) for encoding in encodings]
        genes = nn.utils.rnn.pad_sequence(spans, True, False)[..., None].float()
        return (hidden * genes).sum(1) / genes.sum(1)
