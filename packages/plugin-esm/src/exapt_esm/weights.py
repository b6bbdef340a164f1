"""Pretrained weights: read from files that may be damaged, and accounted for to the last tensor."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exapt import DataError
from exapt_esm.source import find, lacking, need, read_json

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


def read(source: str, revision: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint under today's names, one file in memory at a time.

    Raises ``DataError`` if there are no weights, or if a file is not what its name says.
    """
    for path in _files(source, revision):
        for name, tensor in _tensors(path).items():
            yield _renamed(name), tensor


def _files(source: str, revision: str) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        whole = find(source, revision, name)
        if whole is not None:
            return [whole]
        index = find(source, revision, f"{name}.index.json")
        if index is not None:
            shards = read_json(index).get("weight_map", {})
            return [need(source, revision, shard) for shard in sorted(set(shards.values()))]
    raise DataError(lacking(source, "model.safetensors or pytorch_model.bin"))


def _tensors(path: Path) -> Mapping[str, Tensor]:
    _refuse_text(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError):
        raise DataError(f"'{path}' is damaged, cut short, or holds more than tensors; download it again") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise DataError(f"'{path}' holds something else than tensors by name")
    return found


def _refuse_text(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"'{path}' is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder")
    if start.startswith(b"<"):
        raise DataError(f"'{path}' is a web page, not the weights; download it again")


def _renamed(name: str) -> str:
    full = f"esm.{name}" if _BARE.match(name) else name
    # Each layer used to keep its own copy of the one table of frequencies.
    full = _LAYER_ROTARY.sub("rotary_embeddings.inv_freq", full)
    # What transformers 5 saves of a model that it built afresh has the oldest names of a norm's two vectors.
    return full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def fill(wanted: Mapping[str, Tensor], given: Iterable[tuple[str, Tensor]], source: str) -> set[str]:
    """Copy tensors into those of a model by name, and return the names that were not given.

    Raises ``DataError`` for a tensor that the model does not have (``DROPPED`` apart), that has another shape, or that
    is given twice with different values.
    """
    filled: set[str] = set()
    for name, tensor in given:
        if name.startswith(tuple(DROPPED)):
            continue
        if name not in wanted:
            raise DataError(f"the weights of '{source}' hold '{name}', which ESM-2 does not have")
        place = wanted[name]
        if place.shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, where its config.json asks for {list(place.shape)}"
            raise DataError(f"'{name}' in the weights of '{source}' has the shape {shapes}")
        if name in filled and not torch.equal(place, tensor.to(place)):
            raise DataError(f"the weights of '{source}' hold two different tensors for '{name}'")
        place.copy_(tensor)
        filled.add(name)
    return set(wanted) - filled
