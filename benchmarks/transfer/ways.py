"""The ways to transfer, and what each of them is without its effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CLASSES = ("germline", "bacteria", "cells")
SHIFTED = ("chains", "reads", "types")
SEQUENCES = ("genes in turn", "cells in turn")
REAL = ("germline", "antibodies", "bacteria", "cells", "fingers", *SHIFTED)


@dataclass(frozen=True)
class Way:
    """A way to transfer.

    ``against`` is the way that it is without its effect. ``rate`` says which of a set's rates it takes. Options of
    ``training`` and of the ``head`` go over those of the set; heads ``beside`` it learn as well. With ``target`` it sees rows
    of another domain, without their labels; ``views`` are augmentations by set; with ``continues`` the pretraining goes on
    before. ``first`` are the strategies of the run before, of a set that has one, where they are others; a ``teacher`` is a
    run before on another backbone.
    """

    strategies: Sequence[Mapping[str, Any]]
    against: str
    sets: Sequence[str] = CLASSES
    rate: str = "whole"
    training: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    target: bool = False
    continues: bool = False
    first: Sequence[Mapping[str, Any]] = ()
    teacher: Mapping[str, Any] = field(default_factory=dict)


def _way(*named: str | Mapping[str, Any], against: str = "full", **others: Any) -> Way:
    strategies = [{"name": one} if isinstance(one, str) else one for one in named]
    return Way(strategies, against, **others)


def _light(name: str, rate: str = "part", **others: Any) -> Way:
    """Return a way with few parameters of its own; without them it is a probe."""
    return _way(name, against="probe", rate=rate, **others)


def _adapting(name: str, **others: Any) -> Way:
    """Return a way that sees rows of another domain; without them it learns of its own rows alone."""
    return _way(name, sets=SHIFTED, target=True, **others)


def _keeping(name: str) -> Way:
    """Return a way that keeps, in a file, what an earlier task needs of the model while another is learned."""
    first = [{"name": "full"}, {"name": name, "keep": "{work}/memory"}]
    return Way([{"name": "full"}, {"name": name, "memory": "{work}/memory"}], "full", SEQUENCES, first=first)


def _taught(backbone: str, strategy: str, teacher: str, **others: Any) -> Way:
    """Return a way that learns from a teacher, on a backbone, that learned before of the same few labels."""
    told = {"name": "distillation", "teacher": "{work}/first"}
    return _way(strategy, told, against=strategy, teacher={"backbone": backbone, "strategy": teacher}, **others)


def _asked_by(head: str, strategy: str, **training: Any) -> Way:
    """Return a way that is its head; without it the head is a linear layer that learns by gradients."""
    return _way(strategy, against=strategy, head={"name": head, "class_weights": None}, training=training)


_CHAIN = {
    "name": "sequence-classification",
    "label": "chain",
    # All of them: few labelled rows may lack one that others have.
    "classes": ["A", "B", "D", "G", "H", "K", "L"],
    "weight": 0.5,
}
_VIEWS = {"chains": "residue-substitution", "reads": "point-mutation", "types": "gene-dropout"}

WAYS = {
    # What all others are held against.
    "scratch": _way("scratch", against="probe", sets=REAL, rate="fresh"),
    "probe": _way("probe", against="scratch", sets=(*REAL, *SEQUENCES), training={"epochs": 60}),
    "full": _way("full", against="probe", sets=(*REAL, *SEQUENCES)),
    # What learns, when, and how fast.
    "partial": _way({"name": "partial", "blocks": 2}),
    "gradual-unfreezing": _way("gradual-unfreezing", sets=(*CLASSES, "antibodies")),
    "discriminative-rates": _way("discriminative-rates"),
    # Few parameters.
    "lora": _light("lora", sets=(*CLASSES, *SHIFTED, "antibodies", "fingers")),
    "dora": _light("dora"),
    "ia3": _light("ia3"),
    "bottleneck": _light("bottleneck"),
    "bitfit": _light("bitfit", sets=(*CLASSES, "fingers")),
    "layernorm": _light("layernorm"),
    "prompt": _light("prompt", "vectors"),
    "prefix": _light("prefix", "vectors"),
    # Regularised.
    "l2-sp": _way("l2-sp", sets=(*CLASSES, *SEQUENCES)),
    "mixup": _way("mixup"),
    "label-smoothing": _way("label-smoothing"),
    "head-dropout": _way("head-dropout"),
    "weight-decay": _way("weight-decay"),
    "early-stopping": _way({"name": "early-stopping", "patience": 2}),
    "swa": _way("swa"),
    "wise-ft": _way("wise-ft", sets=(*CLASSES, *SHIFTED)),
    # Unlabelled rows: of the same domain, or of another.
    "continued pretraining": _way("full", sets=("germline", *SHIFTED), continues=True),
    "adversarial": _adapting("adversarial"),
    "coral": _adapting("coral"),
    "mmd": _adapting("mmd"),
    "self-training": _adapting("self-training"),
    "consistency": _adapting("consistency", views=_VIEWS),
    "gradual-mixing": _adapting("gradual-mixing"),
    # Heads, and several of them.
    "prototypes": _asked_by("prototypes", "probe", epochs=1),
    "nearest-neighbours": _asked_by("nearest-neighbours", "probe", epochs=1),
    "ridge": _asked_by("ridge", "probe", epochs=1),
    "contrastive": _asked_by("contrastive", "full"),
    "two heads": _way("full", sets=("germline",), beside={"chain": _CHAIN}),
    "two heads, weighed": _way(
        "full", "uncertainty-weights", against="two heads", sets=("germline",), beside={"chain": _CHAIN}
    ),
    # Many small tasks, a teacher, and earlier tasks.
    "maml": _way(
        {"name": "maml", "ways": 3, "shots": 3, "queries": 3, "batch": 2, "inner_steps": 2}, sets=("bacteria",)
    ),
    "distillation": _taught("antiberty", "full", "probe", sets=("germline",)),
    "distillation to fresh weights": _taught(
        "nucleotide-transformer:{models}/dna", "scratch", "full", sets=("bacteria",), rate="fresh"
    ),
    "ewc": _keeping("ewc"),
    "replay": _keeping("replay"),
    # Several strategies at once.
    "lora + adversarial + l2-sp": _way(
        *("lora", "adversarial", "l2-sp"), against="lora", sets=SHIFTED, rate="part", target=True
    ),
}

LEFT_OUT: dict[str, str] = {}
"""Strategies that no way of the table has, and why."""
