"""ProteinMPNN in exapt's steps: encoder layers, then decoder layers.

Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exapt.parts import Backbone, Batch, Features, LanguageModel
from exapt.weights import fill, refuse_missing
from exapt_esm.proteinmpnn.asked import Encoded, decoded
from exapt_esm.proteinmpnn.network import Network, Shape, State, fresh, names
from exapt_esm.proteinmpnn.weights import DROPPED, files, read, refuse_other_sizes


class ProteinMpnn(Backbone):
    """``mpnn``, the model without its last layer, and ``W_out``, which tells letters.

    Between blocks ``hidden`` [batch, tokens, 2 * width + k * width] holds the states of the layer, those of the encoder
    and the edges of each residue's k neighbours.
    """

    lora_targets = ("W1", "W2", "W3", "W11", "W12", "W13")
    # The last of a layer that works on residues: decoding residue by residue comes through it too.
    bottleneck_targets = ("norm2",)

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.width = shape.width
        self.features_layer = shape.encoders
        self.mpnn = Network(shape)
        self.W_out = nn.Linear(shape.width, shape.letters)
        self._encoded = Encoded()

    @property
    def module(self) -> nn.Module:
        """The model without its last layer: each of its parameters is used."""
        return self.mpnn

    @property
    def language(self) -> LanguageModel:
        """What letter stands at a place, by the backbone and the letters of lower rank."""
        return LanguageModel(self.W_out, "ordered")

    def blocks(self) -> Sequence[nn.Module]:
        """Return the layers of the encoder, and behind them those of the decoder."""
        return [*self.mpnn.encoder_layers, *self.mpnn.decoder_layers]

    def encode(self, batch: Batch) -> State:
        """Return what the encoder knows of a batch, whatever its letters: once for each structure."""
        return self.mpnn.encode(self.mpnn.start(batch, self.mpnn.graph(batch)), 0, self.features_layer)

    def decode(self, state: State, ids: Tensor, rank: Tensor) -> Tensor:
        """Return the last states [batch, tokens, width] with letters ``ids`` in the order ``rank``, each [batch, tokens]."""
        layers = len(self.mpnn.decoder_layers)
        nodes = self.mpnn.decode(state, state.nodes, ids.flatten(), rank.flatten(), 0, layers)
        return nodes.view(*ids.shape, self.width)

    def at_places(self, batch: Batch, rows: Tensor, places: Tensor) -> Tensor:
        """Return the last states [asked, width] at ``places`` [asked] of the inputs ``rows`` [asked].

        The graph of inputs that differ in letters and orders alone is encoded once, and kept for the next batch as long as
        nothing of the model changes.
        """
        known = self._encoded.under(self.mpnn, batch)

        def state_of(key: bytes, one: Batch) -> State:
            return known.of(key, lambda: self.encode(one))

        device = batch.present.device
        return decoded(batch, rows.to(device), places.to(device), state_of, self.decode)

    def stem(self, batch: Batch) -> Tensor:
        """Return states of nothing, and the edges that atoms tell."""
        state = self.mpnn.start(batch, self.mpnn.graph(batch))
        return self._packed(state, state.nodes, batch)

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the blocks ``start`` to ``stop`` (exclusive)."""
        turn = self.features_layer
        nodes, state = self._unpacked(hidden, batch)
        if start < min(stop, turn):
            state = self.mpnn.encode(state, start, min(stop, turn))
            nodes = state.nodes
        if stop > max(start, turn):
            ids, rank = batch["input_ids"].flatten(), batch["rank"].flatten()
            nodes = self.mpnn.decode(state, nodes, ids, rank, max(start, turn) - turn, stop - turn)
        return self._packed(state, nodes, batch)

    def between(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the states of a layer."""
        return batch.features(hidden[..., : self.width])

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the states of the last layer."""
        return self.between(hidden, batch)

    def _packed(self, state: State, nodes: Tensor, batch: Batch) -> Tensor:
        joined = torch.cat((nodes, state.nodes, state.edges.flatten(1)), -1)
        return joined.view(*batch.present.shape, -1)

    def _unpacked(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, State]:
        nodes, encoded, edges = hidden.flatten(0, 1).tensor_split((self.width, 2 * self.width), -1)
        resolved = batch["resolved"].flatten()[:, None].to(torch.float32)
        return nodes, State(self.mpnn.graph(batch), resolved, encoded, edges.view(len(edges), -1, self.width))


def build(source: str, weights: bool) -> ProteinMpnn:
    """Return the model of a checkpoint, with its weights or with fresh ones from torch's generator.

    Raises ``DataError`` if the file is missing, damaged, or none of ProteinMPNN.
    """
    shape, given = read(source)
    backbone = ProteinMpnn(shape)
    if not weights:
        fresh(backbone.mpnn, backbone.W_out)
        return backbone.eval()
    wanted, checkpoint = names(backbone.mpnn, backbone.W_out), files(source)
    refuse_other_sizes(source, wanted, given)
    refuse_missing(fill(wanted, given.items(), checkpoint, DROPPED) - {"num_edges"}, checkpoint)
    aside = sum(name.startswith(tuple(DROPPED)) for name in given)
    if aside:
        backbone.notes = (
            f"{aside} tensors of '{source}', on which no output of the published model depends, are left aside",
        )
    return backbone.eval()
