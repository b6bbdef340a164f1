"""The sets: on which data, with which weights, and how long; each is a recipe without its way to transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OWN = "pretrained here"
"""What is said of weights that this benchmark made itself: see ``pretrain.py``."""


@dataclass(frozen=True)
class Set:
    """A question with few labels.

    ``rates`` are the peak learning rates of ways that change all weights, of ways that add or change few, of learned
    vectors, and of fresh weights. ``target`` is the table of unlabelled rows of another domain, of which the test part is as
    well. ``few`` labelled rows are learned from, 0 for all; with the head ``language`` the
    pretraining goes on.
    """

    title: str
    weights: str
    recipe: Mapping[str, Any]
    metric: str
    language: str
    few: int
    rates: Mapping[str, float]
    target: Mapping[str, Any] | None = None
    lower: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    first: Mapping[str, Any] = field(default_factory=dict)


_SMALL = {"whole": 3e-4, "part": 2e-3, "vectors": 1e-2, "fresh": 1e-3}
_NORMALISED = {"reader": {"values": "normalised"}}


@dataclass(frozen=True)
class _Model:
    """Weights of which classes are asked, and how they learn."""

    weights: str
    backbone: str
    language: str = "masked-lm"
    rates: Mapping[str, float] = field(default_factory=lambda: _SMALL)
    batch_size: int = 8
    epochs: int = 6
    head_rate: float | None = 5e-3


_SAPIENS = _Model("Sapiens VH, 0.57 M parameters, as published", "sapiens-vh")
_NUCLEOTIDES = _Model(f"a Nucleotide Transformer of 4 layers, {OWN}", "nucleotide-transformer:{models}/dna")
_SCGPT = _Model(f"a scGPT of 4 layers, {OWN}", "scgpt:{models}/cell", "masked-expression")
_ANTIBERTY = _Model(
    "AntiBERTy, 26 M parameters, as published",
    "antiberty",
    rates={"whole": 3e-5, "part": 1e-3, "vectors": 1e-2, "fresh": 3e-4},
    batch_size=10,
    epochs=3,
    head_rate=None,
)


def _classes(
    title: str,
    model: _Model,
    table: str,
    label: str,
    few: int,
    valid_size: int = 30,
    reader: Mapping[str, Any] | None = None,
    **tables: Mapping[str, Any],
) -> Set:
    """Return a set that asks for classes, judged by the mean of their recalls, however rare they are."""
    training = {"metric": "balanced_accuracy", "batch_size": model.batch_size, "epochs": model.epochs}
    if model.head_rate is not None:
        training["head_learning_rate"] = model.head_rate
    return Set(
        title,
        model.weights,
        {
            "backbone": model.backbone,
            "data": {"path": table, **(reader or {})},
            "split": {"column": "split", "valid_size": valid_size},
            "head": {"name": "sequence-classification", "label": label, "class_weights": "balanced"},
        },
        "balanced_accuracy",
        model.language,
        few,
        model.rates,
        training=training,
        **tables,
    )


SETS = {
    "germline": _classes(
        "protein: species of a germline V gene, 3 classes", _SAPIENS, "{tables}/germline.csv", "organism", 45
    ),
    "chains": _classes(
        "protein, shifted: chain of a germline V gene, 4 classes, learned of human genes and asked of those of mice",
        _SAPIENS,
        "{tables}/chains.csv",
        "chain",
        40,
        target={"path": "{tables}/chains_target.csv"},
    ),
    "bacteria": _classes(
        "DNA: of which of 6 bacteria are these 250 bases?", _NUCLEOTIDES, "{tables}/bacteria.csv", "label", 48
    ),
    "reads": _classes(
        "DNA, shifted: of which of 6 bacteria are these bases? Learned of pieces of 250, asked of reads of 120",
        _NUCLEOTIDES,
        "{tables}/reads.csv",
        "label",
        48,
        target={"path": "{tables}/reads_target.csv"},
    ),
    "cells": _classes("cells: type of a cell, 3 classes", _SCGPT, "{tables}/cells.h5ad", "type", 30),
    "types": _classes(
        "cells, shifted: type of a cell, 3 classes, learned of one set and asked of another",
        _SCGPT,
        "{tables}/types.h5ad",
        "type",
        30,
        reader=_NORMALISED,
        target={"path": "{tables}/types_target.h5ad", **_NORMALISED},
    ),
    "fingers": Set(
        "structure: sequences of zinc fingers from their backbones, 9 to learn from",
        "ProteinMPNN v_48_020, as published",
        {
            "backbone": "proteinmpnn-vanilla-020",
            "data": {"path": "{tables}/zinc_fingers", "labels": "{tables}/zinc_fingers.csv"},
            "split": {"column": "split"},
            "head": "inverse-folding",
        },
        "perplexity",
        "inverse-folding",
        0,
        {"whole": 1e-4, "part": 1e-3, "vectors": 1e-2, "fresh": 1e-3},
        lower=True,
        training={"metric": "perplexity", "batch_size": 3, "epochs": 6},
    ),
    "antibodies": _classes(
        "protein: species of a germline V gene, 3 classes",
        _ANTIBERTY,
        "{tables}/antibodies.csv",
        "organism",
        30,
        valid_size=20,
    ),
    "genes in turn": _classes(
        "protein, in turn: human or mouse? Learned of T-cell receptor genes, then of antibody genes, asked of the former",
        _SAPIENS,
        "{tables}/genes_second.csv",
        "organism",
        60,
        first={"path": "{tables}/genes_first.csv"},
    ),
    "cells in turn": _classes(
        "cells, in turn: type of a cell, learned of one set, then of another, asked of the former",
        _SCGPT,
        "{tables}/types_second.h5ad",
        "type",
        60,
        reader=_NORMALISED,
        first={"path": "{tables}/types_first.h5ad"},
    ),
}
