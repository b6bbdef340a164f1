"""The bare model of ProteinMPNN, with the names of the published weights.

Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from exapt.parts import Batch
from exapt_esm.proteinmpnn.geometry import Graph, atom_distances, neighbours, offsets, spread, trace_distances
from exapt_esm.proteinmpnn.layers import DecoderLayer, EncoderLayer
from exapt_esm.proteinmpnn.orientations import orientations

_CA = 1
PAIRS = {False: 25, True: 9}
"""The distances that edges are made of, by whether CA atoms are all that is known."""
TURNS = 7
"""What edges hold of orientations where CA atoms are all that is known."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model: widths of nodes and of edge features, of feed-forward layers, numbers of layers and the rest.

    ``classes`` and ``position`` are of the places in the sequence, ``bumps`` the Gaussians of a distance, ``neighbours`` the
    most of each residue; ``alphas`` says that CA atoms are all the model reads.
    """

    width: int
    edge: int
    inner: int
    encoders: int
    decoders: int
    letters: int
    classes: int
    position: int
    bumps: int
    neighbours: int
    alphas: bool

    @property
    def edge_inputs(self) -> int:
        """How many numbers an edge is made of."""
        return self.position + PAIRS[self.alphas] * self.bumps + TURNS * self.alphas


class Positions(nn.Module):
    """The place of a neighbour in the sequence, as a vector."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.classes, shape.position)


class EdgeFeatures(nn.Module):
    """What an edge knows of the residues at its ends, from their atoms."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Positions(shape)
        self.edge_embedding = nn.Linear(shape.edge_inputs, shape.edge, bias=False)
        self.norm_edges = nn.LayerNorm(shape.edge)

    def forward(self, batch: Batch, graph: Graph) -> Tensor:
        """Return the edges [tokens, k, edge]."""
        atoms = batch["atoms"]
        distances = trace_distances(atoms[:, :, _CA], graph) if self.shape.alphas else atom_distances(atoms, graph)
        measured = spread(distances, self.shape.bumps)
        if self.shape.alphas:
            measured = torch.cat((measured, orientations(atoms[:, :, _CA], batch.present, graph)), -1)
        along, across = torch.split(self.edge_embedding.weight, [self.shape.position, measured.shape[-1]], 1)
        # There are but few places in a sequence: each is embedded once.
        table = functional.linear(self.embeddings.linear.weight.T + self.embeddings.linear.bias, along)
        classes = offsets(batch["residue_index"], batch["chain"], graph, self.shape.classes)
        edges: Tensor = self.norm_edges(functional.linear(measured, across) + functional.embedding(classes, table))
        return edges


@dataclass(frozen=True)
class State:
    """What the encoder knows: ``nodes`` [batch * tokens, width] and ``edges`` [batch * tokens, k, width] of a graph.

    ``resolved`` [batch * tokens, 1] is 1 where a residue is, else 0.
    """

    graph: Graph
    resolved: Tensor
    nodes: Tensor
    edges: Tensor

    def repeated(self, copies: int) -> State:
        """Return the same structures ``copies`` times over, one copy behind another."""
        return State(
            self.graph.repeated(copies),
            *(tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for tensor in (self.resolved, self.nodes, self.edges)),
        )


class Network(nn.Module):
    """Encoder and decoder. Tokens of a batch stand one behind another, [batch * tokens, ...], in all that passes between."""

    num_edges: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.features = EdgeFeatures(shape)
        self.W_e = nn.Linear(shape.edge, shape.width)
        self.W_s = nn.Embedding(shape.letters, shape.width)
        self.encoder_layers = nn.ModuleList([EncoderLayer(shape.width, shape.inner) for _ in range(shape.encoders)])
        self.decoder_layers = nn.ModuleList([DecoderLayer(shape.width, shape.inner) for _ in range(shape.decoders)])
        # A buffer, because the fingerprint of the weights is to tell it.
        self.register_buffer("num_edges", torch.tensor(shape.neighbours))

    @property
    def decoders(self) -> list[DecoderLayer]:
        """The layers of the decoder."""
        return [cast(DecoderLayer, layer) for layer in self.decoder_layers]

    def graph(self, batch: Batch) -> Graph:
        """Return the neighbours of all residues of a batch."""
        most = int(self.num_edges)
        return neighbours(batch["atoms"][:, :, _CA], batch["resolved"], batch.present, most)

    def start(self, batch: Batch, graph: Graph) -> State:
        """Return the state before the first layer: nodes know nothing yet."""
        edges: Tensor = self.W_e(self.features(batch, graph))
        resolved = batch["resolved"].flatten()[:, None].to(torch.float32)
        return State(graph, resolved, edges.new_zeros(len(edges), self.shape.width), edges)

    def encode(self, state: State, start: int, stop: int) -> State:
        """Return the state after the encoder layers ``start`` to ``stop`` (exclusive)."""
        nodes, edges = state.nodes, state.edges
        for layer in self.encoder_layers[start:stop]:
            nodes, edges = layer(nodes, edges, state.graph, state.resolved)
        return State(state.graph, state.resolved, nodes, edges)

    def decode(self, state: State, nodes: Tensor, ids: Tensor, rank: Tensor, start: int, stop: int) -> Tensor:
        """Return ``nodes`` [tokens, width] after the decoder layers ``start`` to ``stop`` (exclusive).

        ``ids`` [tokens] are letters, each seen by residues of a higher ``rank`` [tokens] than that of its own.
        """
        letters = self.W_s(ids)
        unseen = torch.cat((torch.zeros_like(letters), state.nodes), -1)
        later = state.graph.of(rank) >= rank[:, None]
        places = state.graph.places + later * len(rank)
        for layer in self.decoder_layers[start:stop]:
            seen = torch.cat((letters, nodes), -1)
            nodes = layer(nodes, state.edges, seen, unseen, places, state.graph.real) * state.resolved
        return nodes


def fresh(network: Network, out: nn.Linear) -> None:
    """Draw weights from torch's generator as the published training does: matrices by Glorot & Bengio 2010, uniform."""
    for parameter in (*network.parameters(), *out.parameters()):
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def names(network: Network, out: nn.Linear) -> Mapping[str, Tensor]:
    """Return all tensors of a model by their published names."""
    return {**network.state_dict(), **{f"W_out.{name}": tensor for name, tensor in out.state_dict().items()}}
