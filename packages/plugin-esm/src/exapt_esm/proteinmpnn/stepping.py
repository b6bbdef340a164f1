"""Decoding residue after residue: a step costs one residue, not all of them.

Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from exapt_esm.proteinmpnn.layers import DecoderLayer, part_of
from exapt_esm.proteinmpnn.network import Network, State


class Stepper:
    """Sequences of one structure, side by side, each filled in an order of its own.

    ``state`` is what the encoder knows of the structure; all ``copies`` share it.
    """

    def __init__(self, network: Network, state: State, copies: int) -> None:
        self.network, self.state = network, state
        self._layers = cast("list[DecoderLayer]", list(network.decoder_layers))
        width = state.nodes.shape[1]
        self._copies = torch.arange(copies, device=state.nodes.device)
        # Of each layer: its part of an edge, and of a residue as others meet it, first without a letter.
        self._edges = [part_of(layer.W1, state.edges, width, 2 * width) for layer in self._layers]
        self._met = [
            self._as_met(number, torch.zeros_like(state.nodes), state.nodes).repeat(copies, 1, 1)
            for number in range(len(self._layers))
        ]
        # What went into each layer.
        self._nodes = [state.nodes.repeat(copies, 1, 1) for _ in self._layers]

    def fill(self, ids: Tensor, rank: Tensor, known: Tensor) -> None:
        """Tell the letters ``ids`` [tokens] of the tokens that are ``known`` [tokens], all at once.

        They are the first of each copy's order ``rank`` [copies, tokens].
        """
        letters = functional.embedding(ids[known], self.network.W_s.weight)
        for copy, order in enumerate(rank):
            nodes = self.state.nodes
            for number in range(len(self._layers)):
                self._met[number][copy, known] = self._as_met(number, letters, nodes[known])
                nodes = self.network.decode(self.state, nodes, ids, order, number, number + 1)

    def states(self, places: Tensor) -> Tensor:
        """Return the last states [copies, width] at one of the ``places`` [copies] of each copy, by the letters put so far.

        Several places may be asked for before any of them is put: then none of them sees another.
        """
        state, real = self.state, self.state.graph.real
        near, nodes, resolved = state.graph.places[places], state.nodes[places], state.resolved[places]
        some = None if real is None else real[places]
        for number, layer in enumerate(self._layers):
            self._nodes[number][self._copies, places] = nodes
            entered = self._edges[number][places] + self._met[number][self._copies[:, None], near]
            nodes = layer.at(nodes, entered, some) * resolved
        return nodes

    def put(self, places: Tensor, ids: Tensor) -> None:
        """Tell the letters ``ids`` [copies] at the ``places`` [copies], which later places see; ``states`` was asked there."""
        letters = functional.embedding(ids, self.network.W_s.weight)
        for number, nodes in enumerate(self._nodes):
            met = self._as_met(number, letters, nodes[self._copies, places])
            self._met[number][self._copies, places] = met

    def _as_met(self, number: int, letters: Tensor, nodes: Tensor) -> Tensor:
        return part_of(self._layers[number].W1, torch.cat((letters, nodes), -1), 2 * nodes.shape[1], 0)
