"""The layers of ProteinMPNN: messages along the edges of a graph, in the encoder and in the decoder.

Dauparas et al. 2022, doi:10.1126/science.add2187. Names of parameters are those of the published weights.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt_esm.proteinmpnn.geometry import Graph

DROPOUT = 0.1
"""The dropout with which the published weights were trained."""
# By which summed messages are divided, however many there are.
_SCALE = 30


class FeedForward(nn.Module):
    """Two linear layers at each node."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.W_in = nn.Linear(width, inner)
        self.W_out = nn.Linear(inner, width)

    def forward(self, nodes: Tensor) -> Tensor:
        """Return what ``nodes`` [tokens, width] become."""
        out: Tensor = self.W_out(functional.gelu(self.W_in(nodes)))
        return out


def _plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    # A low-rank update, or whatever else is put around a linear layer, has to be called as a whole.
    return type(layer) is nn.Linear


def _entered(first: nn.Module, own: Tensor, edges: Tensor, others: Tensor, places: Tensor) -> Tensor:
    """Return ``first`` [tokens, k, width] of residue, edge and neighbour joined, which stands at ``places`` of ``others``.

    The layer is taken apart: what depends on a residue alone is computed once for each, not for each of its edges.
    """
    if not _plain(first):
        return _joined(first, own, edges, _at(others, places))
    mine, between, theirs = torch.split(first.weight, [own.shape[-1], edges.shape[-1], others.shape[-1]], 1)
    entered = functional.linear(edges, between) + functional.linear(own, mine, first.bias)[:, None]
    return entered + _at(functional.linear(others, theirs), places)


def _joined(first: nn.Module, own: Tensor, edges: Tensor, others: Tensor) -> Tensor:
    entered: Tensor = first(torch.cat((own[:, None].expand(-1, edges.shape[1], -1), edges, others), -1))
    return entered


def part_of(first: nn.Module, values: Tensor, before: int, after: int) -> Tensor:
    """Return what a linear layer makes of ``values`` [..., n] alone, ``before`` and ``after`` which so many others go in.

    The sum over all parts is what it makes of the whole; the first of them has the bias.
    """
    if _plain(first):
        weight = first.weight[:, before : before + values.shape[-1]]
        return functional.linear(values, weight, None if before else first.bias)
    # Whatever is put around a linear layer is linear as well: all but the part is left 0.
    padded = functional.pad(values, (before, after))
    made: Tensor = first(padded)
    return made - first(torch.zeros_like(padded[..., :1, :])) if before else made


def _at(nodes: Tensor, places: Tensor) -> Tensor:
    return nodes.index_select(0, places.flatten()).view(*places.shape, -1)


def _summed(last: nn.Module, messages: Tensor, counts: Tensor | None) -> Tensor:
    """Return the sum [tokens, width] of ``last`` of ``messages`` [tokens, k, width] that count [tokens, k]."""
    if not _plain(last):
        each: Tensor = last(messages)
        return each.sum(1) if counts is None else torch.where(counts.unsqueeze(-1), each, 0).sum(1)
    # The last layer of a sum is that layer of the summed.
    if counts is None:
        return functional.linear(messages.sum(1), last.weight) + last.bias * messages.shape[1]
    total = torch.where(counts.unsqueeze(-1), messages, 0).sum(1)
    return functional.linear(total, last.weight) + last.bias * counts.sum(1, keepdim=True)


class EncoderLayer(nn.Module):
    """Messages to each residue from its neighbours, and then to each edge from the residues at its ends."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.W1, self.W2, self.W3 = nn.Linear(3 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.W11, self.W12, self.W13 = nn.Linear(3 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dense = FeedForward(width, inner)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph, resolved: Tensor) -> tuple[Tensor, Tensor]:
        """Return nodes [tokens, width] and edges [tokens, k, width]; nodes that are not ``resolved`` [tokens, 1] are 0."""
        messages = functional.gelu(_entered(self.W1, nodes, edges, nodes, graph.places))
        messages = functional.gelu(self.W2(messages))
        nodes = self.norm1(nodes + self.dropout(_summed(self.W3, messages, graph.attends) / _SCALE))
        nodes = self.norm2(nodes + self.dropout(self.dense(nodes))) * resolved
        messages = functional.gelu(_entered(self.W11, nodes, edges, nodes, graph.places))
        messages = self.W13(functional.gelu(self.W12(messages)))
        return nodes, self.norm3(edges + self.dropout(messages))


class DecoderLayer(nn.Module):
    """Messages to each residue from its neighbours: with letter and state from those decoded before it, else without."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.W1, self.W2, self.W3 = nn.Linear(4 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dense = FeedForward(width, inner)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, nodes: Tensor, edges: Tensor, seen: Tensor, unseen: Tensor, places: Tensor, real: Tensor | None
    ) -> Tensor:
        """Return the nodes [tokens, width], those that nothing is asked of included.

        ``seen`` and ``unseen`` [others, 2 * width] are letters and states as those who come later, and earlier, meet them;
        ``places`` [tokens, k] counts through both, one behind the other; ``real`` [tokens, k] as a ``Graph`` has it.
        """
        entered = _entered(self.W1, nodes, edges, torch.cat((seen, unseen)), places)
        return self._after(nodes, entered, real)

    def at(self, nodes: Tensor, entered: Tensor, real: Tensor | None) -> Tensor:
        """Return some nodes [some, width] alone, as ``forward`` does.

        ``entered`` [some, k, width] is what ``part_of`` W1 makes of their edges and of their neighbours.
        """
        return self._after(nodes, entered + part_of(self.W1, nodes, 0, 3 * nodes.shape[-1])[:, None], real)

    def _after(self, nodes: Tensor, entered: Tensor, real: Tensor | None) -> Tensor:
        messages = functional.gelu(self.W2(functional.gelu(entered)))
        nodes = self.norm1(nodes + self.dropout(_summed(self.W3, messages, real) / _SCALE))
        out: Tensor = self.norm2(nodes + self.dropout(self.dense(nodes)))
        return out
