"""Embeddings: the features of a backbone as it was published, from list to arrays or from file to file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from exapt import device as devices
from exapt.building import build_backbone, build_tokenizer, encode, refuse_mistaken, refuse_too_long
from exapt.data.files import open_writer, table_sha256
from exapt.data.tables import Examples, stream_examples
from exapt.errors import DataError, OutputError, RecipeError
from exapt.features import forward_all
from exapt.fingerprint import fingerprint, fingerprint_tokenizer
from exapt.parts import Array, Backbone, Features, Tokenizer
from exapt.plugins import current
from exapt.recipe import Component, DataOptions
from exapt.resolve import portable, resolve_backbone

PER_UNIT = "none"
# Rows that are embedded, and kept for a restart, together; per unit they take a hundred times the room.
_ROWS, _ROWS_PER_UNIT = 1024, 128


@dataclass(frozen=True)
class Embedder:
    """A backbone, as it was published, with a choice of layer and pooling (``none`` for one vector per unit)."""

    name: str
    backbone: Backbone
    tokenizer: Tokenizer
    pooling: str
    layer: int
    device: torch.device
    key: Mapping[str, Any]
    licence: str

    @classmethod
    def of(cls, backbone: str, pooling: str = "mean", layer: int = -1, device: str = "") -> Embedder:
        """Load a backbone by name. Raises ``RecipeError`` for a pooling or a layer that there is not."""
        if pooling not in ("mean", "max", "cls", PER_UNIT):
            raise RecipeError(f"unknown pooling '{pooling}' for embeddings; poolings are mean, max, cls and none")
        chosen, checkpoint, reads = resolve_backbone(current(), Component(name=backbone))
        tokenizer, model, where = build_tokenizer(reads), build_backbone(chosen), devices.choose(device)
        last = len(model.blocks())
        if not -1 <= layer <= last:
            raise RecipeError(f"there is no layer {layer}: '{backbone}' has layers 0 to {last}")
        options = reads.options.model_dump(mode="json")
        key = {
            "backbone": portable({"name": backbone, "source": getattr(chosen.options, "source", "")})["name"],
            "weights": fingerprint(model),
            "tokenizer": fingerprint_tokenizer(tokenizer, options, chosen.offer.spec.probes),
            "pooling": pooling,
            "layer": last if layer == -1 else layer,
            "precision": devices.resolve_precision("auto", where),
        }
        free = checkpoint is None or checkpoint.commercial
        licence = "" if free or checkpoint is None else f"{backbone}: {checkpoint.licence}, no commercial use"
        return cls(backbone, model.to(where), tokenizer, pooling, key["layer"], where, key, licence)

    def arrays(self, inputs: Sequence[Any], ids: Sequence[str] | None = None) -> Any:
        """Return one array [inputs, width], or a list of arrays [units, width] where pooling is ``none``."""
        names = ids or [f"input {number + 1}" for number in range(len(inputs))]
        encodings = encode(self.tokenizer, inputs, names, self.name)
        refuse_too_long(encodings, names, self.backbone.max_tokens, self.name)
        vectors: list[Array] = [np.empty(0)] * len(encodings)
        budget = devices.token_budget(self.device)
        for rows, features in forward_all(self.backbone, encodings, self.layer, self.key["precision"], budget):
            for row, vector in zip(rows, self._vectors(features), strict=True):
                vectors[row] = vector
        if self.pooling == PER_UNIT:
            return vectors
        return np.stack(vectors) if vectors else np.empty((0, self.backbone.width), dtype=np.float32)

    def _vectors(self, features: Features) -> list[Array]:
        if self.pooling != PER_UNIT:
            return list(features.pool(self.pooling).numpy())
        units, _ = features.per_unit()
        return [row[:length].numpy() for row, length in zip(units, features.lengths.tolist(), strict=True)]

    def batch(self, examples: Examples) -> pa.RecordBatch:
        """Return a record batch of ``id`` and ``embedding``: a vector, or a list of one vector per unit."""
        (values,) = examples.inputs.values()
        answers = self.arrays(values, examples.ids)
        width = self.backbone.width
        if self.pooling == PER_UNIT:
            offsets = np.concatenate([[0], np.cumsum([len(answer) for answer in answers])]).astype(np.int32)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(answers).ravel()), width)
            column = pa.ListArray.from_arrays(pa.array(offsets), flat)
        else:
            column = pa.FixedSizeListArray.from_arrays(pa.array(answers.ravel()), width)
        return pa.record_batch({"id": pa.array(list(examples.ids), pa.string()), "embedding": column})


def embed_file(
    embedder: Embedder,
    path: Path,
    out: Path,
    *,
    data: DataOptions | None = None,
    format: str = "",  # noqa: A002 - the field's word
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Embed a table into a file, in constant memory; returns the number of rows.

    What is done is kept in ``OUT.parts`` until the end, so that the same call goes on where it was interrupted. Raises
    ``OutputError`` if ``OUT.parts`` belongs to another embedding.
    """
    options = data or DataOptions(path=str(path))
    if len(options.inputs) != 1:
        raise RecipeError("embeddings are of one input: name one column")
    parts = Path(f"{out}.parts")
    with open_writer(out, format, overwrite=overwrite) as writer:
        _claim(parts, {**embedder.key, "table": table_sha256(path), "inputs": dict(options.inputs), "id": options.id})
        rows = 0
        try:
            for part in _parts(embedder, path, options, parts):
                batch = pa.ipc.open_file(part).get_batch(0)
                writer.write(batch)
                rows += batch.num_rows
                progress(rows)
        except DataError:
            # The table must change before it can be embedded, and then what is done belongs to another.
            shutil.rmtree(parts)
            raise
    shutil.rmtree(parts)
    return rows


def _claim(parts: Path, key: Mapping[str, Any]) -> None:
    note = parts / "key.json"
    if not note.is_file():
        parts.mkdir(exist_ok=True)
        note.write_text(json.dumps(key, indent=1), encoding="utf-8")
        return
    held = json.loads(note.read_text(encoding="utf-8"))
    if held != json.loads(json.dumps(key)):
        name = next(name for name in key if held.get(name) != key[name])
        raise OutputError(
            f"'{parts}' holds part of another embedding: its {name} is {held.get(name)!r}, not {key[name]!r}; remove it"
        )


def _parts(embedder: Embedder, path: Path, options: DataOptions, folder: Path) -> Iterator[Path]:
    chunk = _ROWS_PER_UNIT if embedder.pooling == PER_UNIT else _ROWS
    for number, examples in enumerate(stream_examples(path, options, chunk)):
        part = folder / f"{number:08d}.arrow"
        if not part.is_file():
            if number == 0:
                for values in examples.inputs.values():
                    refuse_mistaken(embedder.tokenizer, values, embedder.name)
            _write_part(part, embedder.batch(examples))
        yield part


def _write_part(part: Path, batch: pa.RecordBatch) -> None:
    under_way = part.with_suffix(".under-way")
    with pa.OSFile(str(under_way), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    under_way.rename(part)
