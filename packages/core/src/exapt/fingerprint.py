"""Fingerprints: one word for the weights that an adapter was learned on, and one for its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exapt.model import backbone_state
from exapt.parts import Backbone, Tokenizer


def tensor_sha256(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    # Viewed as bytes, because numpy has no bfloat16.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def fingerprint(backbone: Backbone) -> str:
    """Return the sha256 over name, type, shape and bytes of every pretrained tensor, taken before any strategy."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone_state(backbone).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor_sha256(tensor)}\n".encode())
    return digest.hexdigest()


def architecture(backbone: Backbone) -> str:
    """Return the sha256 over name and shape of every tensor: what fresh weights have in common with pretrained ones."""
    shapes = {name: list(tensor.shape) for name, tensor in backbone_state(backbone).items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def fingerprint_tokenizer(tokenizer: Tokenizer, probes: Sequence[Any]) -> str:
    """Return the sha256 over vocabulary, rules and what becomes of the probe inputs, in which other options show."""
    digest = hashlib.sha256(json.dumps(sorted(tokenizer.vocabulary.items())).encode())
    if tokenizer.rules:
        digest.update(json.dumps(tokenizer.rules, sort_keys=True).encode())
    for probe in probes:
        encoding = tokenizer.encode(probe)
        for name, array in sorted(encoding.arrays.items()):
            digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
        digest.update(encoding.spans.tobytes())
    return digest.hexdigest()
