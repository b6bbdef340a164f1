"""Embeddings: the features of a backbone as it was published, from list to arrays or from file to file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from exapt import device as devices
from exapt.building import (
    Tallies,
    build_backbone,
    build_tokenizer,
    encode,
    probe_inputs,
    refuse_too_long,
)
from exapt.data.files import open_writer, table_sha256
from exapt.data.tables import stream_examples
from exapt.errors import DataError, OutputError, RecipeError
from exapt.features import forward_all
from exapt.fingerprint import fingerprint, fingerprint_tokenizer
from exapt.parts import Array, Backbone, Encoding, Features, Tokenizer
from exapt.plugins import current
from exapt.recipe import Component, DataOptions
from exapt.resolve import Chosen, portable, read_by, resolve_backbone, weights_folder
from exapt.specs import Checkpoint, Windowed
from exapt.units import names_of_units

PER_UNIT = "none"
# Rows that are embedded, and kept for a restart, together; per unit they take a hundred times the room.
_ROWS, _ROWS_PER_UNIT = 1024, 128
_KEY, _MARK = "key.json", "exapt embed"
_WHERE = ("source", "revision")
_OURS = re.compile(r"key\.json|\d{8}\.(arrow|under-way)")


@dataclass(frozen=True)
class Embedder:
    """A backbone, as it was published, with a choice of layer and pooling (``none`` for one vector per unit)."""

    name: str
    backbone: Backbone
    tokenizer: Tokenizer
    parts: tuple[Chosen, Chosen]
    """What backbone and tokenizer were made of."""
    pooling: str
    layer: int
    device: torch.device
    key: Mapping[str, Any]
    licence: str

    @classmethod
    def of(
        cls,
        backbone: str,
        pooling: str = "mean",
        layer: int = -1,
        device: str = "",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Embedder:
        """Load a backbone by name; ``settings`` holds options of the ``backbone`` and of its ``tokenizer``.

        Raises ``RecipeError`` for a pooling, a layer or an option that there is not.
        """
        if pooling not in ("mean", "max", "cls", PER_UNIT):
            raise RecipeError(f"unknown pooling '{pooling}' for embeddings; poolings are mean, max, cls and none")
        parts = resolve_backbone(current(), *named_parts(backbone, settings or {}))
        return cls.of_parts(backbone, parts, pooling, layer, device)

    @classmethod
    def of_parts(
        cls,
        backbone: str,
        parts: tuple[Chosen, Checkpoint | None, Chosen],
        pooling: str = "mean",
        layer: int = -1,
        device: str = "",
    ) -> Embedder:
        """Load a backbone of which everything was looked up: itself, its checkpoint if it has one, its tokenizer."""
        chosen, checkpoint, reads = parts
        if isinstance(chosen.options, Windowed) and chosen.options.windows == "score":
            raise RecipeError('an embedding is of the whole input: use backbone windows = "pool"')
        tokenizer, model, where = build_tokenizer(reads), build_backbone(chosen), devices.choose(device)
        last = len(model.blocks())
        layer = model.features_layer if layer == -1 else layer
        if not -1 <= layer <= last:
            raise RecipeError(f"there is no layer {layer}: '{backbone}' has layers 0 to {last}")
        info = chosen.offer.info
        folder = weights_folder(checkpoint, chosen.options)
        key = {
            "made_by": _MARK,
            "backbone": portable({"name": backbone, "source": folder}, folder)["name"],
            "weights": fingerprint(model),
            "options": chosen.options.model_dump(mode="json", exclude={"source", "revision"}),
            "tokenizer": fingerprint_tokenizer(tokenizer, probe_inputs(chosen)),
            "tokenizer_options": {key: value for key, value in reads.kept.items() if key not in _WHERE},
            "plugin": f"{info.distribution} {info.version}",
            "pooling": pooling,
            "layer": last if layer == -1 else layer,
            "precision": devices.resolve_precision("auto", where),
            "machine": devices.describe(where),
        }
        free = checkpoint is None or checkpoint.commercial
        licence = "" if free or checkpoint is None else f"{backbone}: {checkpoint.licence}, no commercial use"
        return cls(backbone, model.to(where), tokenizer, (chosen, reads), pooling, key["layer"], where, key, licence)

    @property
    def accepts(self) -> str:
        """The kind of input: a sequence, a structure or a cell."""
        return str(self.parts[0].offer.spec.accepts)

    def arrays(
        self,
        inputs: Sequence[Any],
        ids: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Any:
        """Return one array [inputs, width], or a list of arrays [units, width] where pooling is ``none``.

        ``tell`` hears what there is to note of the inputs.
        """
        encodings = self.encode(inputs, ids or [f"input {number + 1}" for number in range(len(inputs))])
        tallies = Tallies(self.tokenizer)
        tallies.count(self.accepts, inputs, encodings)
        for line in tallies.lines():
            tell(line)
        return self.vectors(encodings)

    @property
    def short_name(self) -> str:
        """The name of the published checkpoint, or of the family where the weights have none."""
        family = str(self.parts[0].offer.spec.name)
        return family if ":" in self.name else self.name

    def encode(self, inputs: Sequence[Any], ids: Sequence[str]) -> list[Encoding]:
        """Return the inputs as the backbone reads them. Raises ``DataError``, with the id, for one that it cannot read."""
        encodings = encode(self.tokenizer, inputs, ids, self.name, *self.parts)
        refuse_too_long(encodings, ids, self.backbone, self.name, self.parts[0])
        return encodings

    def vectors(self, encodings: Sequence[Encoding]) -> Any:
        """Return what ``arrays`` does, of encoded inputs."""
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

    def batch(self, ids: Sequence[str], values: Sequence[Any], encodings: Sequence[Encoding]) -> pa.RecordBatch:
        """Return a record batch of ``id`` and ``embedding``: a vector, or a list of one vector per unit.

        Of cells, ``empty`` tells of which nothing is known, so that their vectors say nothing. Where units have names,
        ``units`` are those of the vectors.
        """
        answers = self.vectors(encodings)
        width = self.backbone.width
        if self.pooling == PER_UNIT:
            offsets = np.concatenate([[0], np.cumsum([len(answer) for answer in answers])]).astype(np.int32)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(answers).ravel()), width)
            column = pa.ListArray.from_arrays(pa.array(offsets), flat)
        else:
            column = pa.FixedSizeListArray.from_arrays(pa.array(answers.ravel()), width)
        known = {"id": pa.array(list(ids), pa.string())}
        if self.accepts == "cell":
            known["empty"] = pa.array([encoding.empty for encoding in encodings])
        units = names_of_units(self.tokenizer, values) if self.pooling == PER_UNIT else None
        if units is not None:
            known["units"] = units
        return pa.record_batch({**known, "embedding": column})


def named_parts(backbone: str, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Component, Component]:
    """Return a backbone and its own tokenizer as a recipe names them, with options. Raises ``RecipeError`` for other parts."""
    unknown = settings.keys() - {"backbone", "tokenizer"}
    if unknown:
        raise RecipeError(f"there are options of backbone and tokenizer here, not of '{min(unknown)}'")
    for part, options in settings.items():
        if not isinstance(options, Mapping):
            raise RecipeError(f"'{part}' is {options!r}: name an option, {part}.KEY=VALUE")
    given = {part: dict(settings.get(part, {})) for part in ("backbone", "tokenizer")}
    return Component(**{**given["backbone"], "name": backbone}), Component(**{**given["tokenizer"], "name": ""})


def embed_file(
    embedder: Embedder,
    path: Path,
    out: Path,
    *,
    data: DataOptions | None = None,
    format: str = "",  # noqa: A002 - the field's word
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Embed a table into a file, in constant memory; returns the number of rows.

    What is done is kept in ``OUT.parts`` until the end, so that the same call goes on where it was interrupted. At the
    end, ``tell`` hears what there is to note of the rows. Raises ``OutputError`` if ``OUT.parts`` is of something else.
    """
    options = read_by(data or DataOptions(path=str(path)), embedder.accepts)
    if len(options.inputs) != 1:
        raise RecipeError("embeddings are of one input: name one column")
    parts, tallies = Path(f"{out}.parts"), Tallies(embedder.tokenizer)
    key = {
        **embedder.key,
        "table": table_sha256(path, options.format),
        "inputs": dict(options.inputs),
        "id": options.id,
    }
    key |= {"reader": dict(options.reader)} if options.reader else {}
    about = {"source": path, "answers": "embedding", "names": {"": embedder.short_name}, "facts": key}
    with open_writer(out, format, overwrite=overwrite, about=about) as writer:
        _claim(parts, key)
        for line in embedder.backbone.notes:
            tell(line)
        rows = 0
        try:
            for part in _parts(embedder, path, options, parts, tallies, tell):
                batch = pa.ipc.open_file(part).get_batch(0)
                writer.write(batch)
                rows += batch.num_rows
                progress(rows)
            lines = tallies.lines()
        except DataError:
            # The table must change before it can be embedded, and then what is done belongs to another.
            _clear(parts)
            raise
    _clear(parts)
    for line in lines:
        tell(line)
    return rows


def _claim(parts: Path, key: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(key))
    if not os.path.lexists(parts):
        with _writing(parts):
            _found(parts, wanted)
        return
    held = _held(parts)
    if held is None:
        raise OutputError(f"'{parts}' exists and is not a part of an embedding; remove or rename it")
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise OutputError(
                f"'{parts}' holds part of another embedding: its {name} is {held.get(name)!r}, "
                f"not {wanted.get(name)!r}; remove it"
            )


def _found(parts: Path, key: Mapping[str, Any]) -> None:
    # The folder comes with its key or not at all: one without a key is the user's.
    under_way = Path(tempfile.mkdtemp(prefix=f".{parts.name}-", dir=parts.parent))
    (under_way / _KEY).write_text(json.dumps(key, indent=1), encoding="utf-8")
    under_way.rename(parts)


def _held(parts: Path) -> dict[str, Any] | None:
    try:
        held = json.loads((parts / _KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) and held.get("made_by") == _MARK else None


def _clear(parts: Path) -> None:
    for path in parts.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    # Whatever else was put there stays, and the folder with it.
    with suppress(OSError):
        parts.rmdir()


def _parts(
    embedder: Embedder,
    path: Path,
    options: DataOptions,
    folder: Path,
    tallies: Tallies,
    tell: Callable[[str], None],
) -> Iterator[Path]:
    chunk = _ROWS_PER_UNIT if embedder.pooling == PER_UNIT else _ROWS
    for number, examples in enumerate(stream_examples(path, options, chunk, tell)):
        part = folder / f"{number:08d}.arrow"
        ((name, values),) = examples.inputs.items()
        # Of a part that is done too, so that what is told counts the whole table.
        encodings = embedder.encode(values, examples.ids)
        tallies.count(name, values, encodings)
        if not part.is_file():
            _write_part(part, embedder.batch(examples.ids, values, encodings))
        yield part


def _write_part(part: Path, batch: pa.RecordBatch) -> None:
    under_way = part.with_suffix(".under-way")
    with _writing(part.parent):
        with pa.OSFile(str(under_way), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        under_way.rename(part)


@contextmanager
def _writing(parts: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"'{parts}' cannot be written: {error.strerror or error}") from None
