"""The names of ESM-2's tensors, as files of all ages spell them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from exapt.weights import Files

DROPPED = {
    "esm.embeddings.position_embeddings.weight": "left in old files, unused beside rotary positions",
    "esm.embeddings.position_ids": "a count from 0, written by old releases",
    "esm.pooler.": "no part of the published model; nothing reads it",
    "esm.contact_head.": "predicts contacts from attention maps, so that no loss on features ever reaches it",
}
"""Tensors that files may hold and the backbone leaves out, by name or beginning of the name, with the reason."""

_BARE = re.compile(r"(embeddings|encoder|pooler|contact_head|rotary_embeddings)\.")
# transformers 5 writes that one table back under the pattern itself, with a star for the layer.
_LAYER_ROTARY = re.compile(r"encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq$")


def files(source: str, revision: str) -> Files:
    """Return the files of an ESM-2 checkpoint."""
    return Files(source, revision, "esm2", "ESM-2")


def read(checkpoint: Files) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint under today's names; raises ``DataError`` as ``Files.tensors`` does."""
    for name, tensor in checkpoint.tensors():
        yield _renamed(name), tensor


def _renamed(name: str) -> str:
    full = f"esm.{name}" if _BARE.match(name) else name
    # Each layer used to keep its own copy of the one table of frequencies.
    full = _LAYER_ROTARY.sub("rotary_embeddings.inv_freq", full)
    # What transformers 5 saves of a model that it built afresh has the oldest names of a norm's two vectors.
    return full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
