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


def _classes(label: str, **options: Any) -> dict[str, Any]:
    return {"name": "sequence-classification", "label": label, "class_weights": "balanced", **options}


_SAPIENS = "Sapiens VH, 0.57 M parameters, as published"
_NUCLEOTIDES = f"a Nucleotide Transformer of 4 layers, {OWN}"
_SCGPT = f"a scGPT of 4 layers, {OWN}"
_SMALL = {"whole": 3e-4, "part": 2e-3, "vectors": 1e-2, "fresh": 1e-3}
_COUNTED = {"metric": "balanced_accuracy", "batch_size": 8, "epochs": 6, "head_learning_rate": 5e-3}

SETS = {
    "germline": Set(
        "protein: species of a germline V gene, 3 classes",
        _SAPIENS,
        {
            "backbone": "sapiens-vh",
            "data": {"path": "{tables}/germline.csv"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("organism"),
        },
        "balanced_accuracy",
        "masked-lm",
        45,
        _SMALL,
        training=_COUNTED,
    ),
    "chains": Set(
        "protein, shifted: chain of a germline V gene, 4 classes, learned of human genes and asked of those of mice",
        _SAPIENS,
        {
            "backbone": "sapiens-vh",
            "data": {"path": "{tables}/chains.csv"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("chain"),
        },
        "balanced_accuracy",
        "masked-lm",
        40,
        _SMALL,
        target={"path": "{tables}/chains_target.csv"},
        training=_COUNTED,
    ),
    "bacteria": Set(
        "DNA: of which of 6 bacteria are these 250 bases?",
        _NUCLEOTIDES,
        {
            "backbone": "nucleotide-transformer:{models}/dna",
            "data": {"path": "{tables}/bacteria.csv"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("label"),
        },
        "balanced_accuracy",
        "masked-lm",
        48,
        _SMALL,
        training=_COUNTED,
    ),
    "reads": Set(
        "DNA, shifted: of which of 6 bacteria are these bases? Learned of pieces of 250, asked of reads of 120",
        _NUCLEOTIDES,
        {
            "backbone": "nucleotide-transformer:{models}/dna",
            "data": {"path": "{tables}/reads.csv"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("label"),
        },
        "balanced_accuracy",
        "masked-lm",
        48,
        _SMALL,
        target={"path": "{tables}/reads_target.csv"},
        training=_COUNTED,
    ),
    "cells": Set(
        "cells: type of a cell, 3 classes",
        _SCGPT,
        {
            "backbone": "scgpt:{models}/cell",
            "data": {"path": "{tables}/cells.h5ad"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("type"),
        },
        "balanced_accuracy",
        "masked-expression",
        30,
        _SMALL,
        training=_COUNTED,
    ),
    "types": Set(
        "cells, shifted: type of a cell, 3 classes, learned of one set and asked of another",
        _SCGPT,
        {
            "backbone": "scgpt:{models}/cell",
            "data": {"path": "{tables}/types.h5ad", "reader": {"values": "normalised"}},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("type"),
        },
        "balanced_accuracy",
        "masked-expression",
        30,
        _SMALL,
        target={"path": "{tables}/types_target.h5ad", "reader": {"values": "normalised"}},
        training=_COUNTED,
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
    "antibodies": Set(
        "protein: species of a germline V gene, 3 classes",
        "AntiBERTy, 26 M parameters, as published",
        {
            "backbone": "antiberty",
            "data": {"path": "{tables}/antibodies.csv"},
            "split": {"column": "split", "valid_size": 20},
            "head": _classes("organism"),
        },
        "balanced_accuracy",
        "masked-lm",
        30,
        {"whole": 3e-5, "part": 1e-3, "vectors": 1e-2, "fresh": 3e-4},
        training={"metric": "balanced_accuracy", "batch_size": 10, "epochs": 3},
    ),
    "genes in turn": Set(
        "protein, in turn: human or mouse? Learned of T-cell receptor genes, then of antibody genes, asked of the former",
        _SAPIENS,
        {
            "backbone": "sapiens-vh",
            "data": {"path": "{tables}/genes_second.csv"},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("organism"),
        },
        "balanced_accuracy",
        "masked-lm",
        60,
        _SMALL,
        training=_COUNTED,
        first={"path": "{tables}/genes_first.csv"},
    ),
    "cells in turn": Set(
        "cells, in turn: type of a cell, learned of one set, then of another, asked of the former",
        _SCGPT,
        {
            "backbone": "scgpt:{models}/cell",
            "data": {"path": "{tables}/types_second.h5ad", "reader": {"values": "normalised"}},
            "split": {"column": "split", "valid_size": 30},
            "head": _classes("type"),
        },
        "balanced_accuracy",
        "masked-expression",
        60,
        _SMALL,
        training=_COUNTED,
        first={"path": "{tables}/types_first.h5ad"},
    ),
}
