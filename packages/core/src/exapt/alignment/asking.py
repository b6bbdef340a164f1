"""Retrieval and classification from file to file, by an alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt import metrics
from exapt.alignment.aligned import Alignment, Embedded, nearest, prototypes
from exapt.building import Tallies
from exapt.data.columns import check_column
from exapt.data.files import open_table, open_writer, reader_of
from exapt.data.labels import class_name, is_unlabelled
from exapt.data.tables import stream_examples
from exapt.errors import DataError
from exapt.prediction import Stdout, as_batch
from exapt.recipe import DataOptions

_CHUNK = 1024
_PIECE = 4096


@dataclass(frozen=True)
class Asked:
    """A table that is asked about or looked in: its columns, unless they are called as those that were learned from."""

    path: Path
    input: str = ""
    id: str = ""
    reader: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the reader, put over those that were learned with."""


@dataclass(frozen=True)
class Destination:
    """Where rows go: a file, or stdout as CSV."""

    out: Path | None = None
    format: str = ""
    overwrite: bool = False

    def open(self, about: Mapping[str, Any] | None = None) -> AbstractContextManager[Any]:
        """Return the writer."""
        if self.out is None:
            return nullcontext(Stdout())
        return open_writer(self.out, self.format, overwrite=self.overwrite, about=about)


def retrieve_rows(
    alignment: Alignment,
    queries: Asked,
    among: Asked,
    k: int = 5,
    *,
    tower: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Return the ``k`` nearest rows of ``among`` for each row of ``queries``: query, rank, match and similarity.

    ``tower`` is that of the queries; without it, the kind of their inputs has to tell.
    """
    own, other = tower_of(alignment, queries, tower)
    looked_in = _embedded(alignment, other, among, tell)
    asking = _embedded(alignment, own, queries, tell)
    return pa.table(nearest(asking, looked_in, k))


def write_rows(table: pa.Table, where: Destination, about: Mapping[str, Any] | None = None) -> int:
    """Write a table; returns the number of its rows. ``about`` is for writers that put answers back beside their table."""
    with where.open(about) as writer:
        for batch in table.to_batches(_PIECE):
            writer.write(batch)
    return int(table.num_rows)


def classify_rows(
    alignment: Alignment,
    data: Asked,
    by: Asked,
    label: str,
    *,
    tower: str = "",
    truth: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[pa.Table, dict[str, float]]:
    """Return the class of each row of ``data`` by the examples in ``by``, whose classes stand in the column ``label``.

    ``tower`` is that of ``data``. With ``truth``, its column of classes, also return metrics. Raises ``DataError`` for a
    row of ``by`` without a class and for a true class that has no example.
    """
    own, other = tower_of(alignment, data, tower)
    examples = _by_class(alignment, other, by, label, tell)
    prompts = prototypes(examples)
    known: list[Any] = []
    inputs = _embedded(alignment, own, data, tell, truth, known)
    table = pa.Table.from_batches([as_batch(alignment.answers(inputs, prompts))])
    return table, _measured(alignment, inputs, known, prompts, data.path.name) if truth else {}


def _by_class(
    alignment: Alignment, tower: str, by: Asked, label: str, tell: Callable[[str], None]
) -> dict[str, np.ndarray[Any, Any]]:
    labels: list[Any] = []
    found = _embedded(alignment, tower, by, tell, label, labels)
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(labels):
        if is_unlabelled(value):
            raise DataError(f"{by.path.name}: id '{found.ids[row]}' has no '{label}': examples need a class")
        rows.setdefault(class_name(value), []).append(row)
    return {name: found.vectors[rows[name]] for name in sorted(rows)}


def _measured(
    alignment: Alignment,
    inputs: Embedded,
    truth: Sequence[Any],
    prompts: Mapping[str, np.ndarray[Any, Any]],
    name: str,
) -> dict[str, float]:
    """Return the metrics of rows of which the tower sees anything, and whose true class is known."""
    classes = list(prompts)
    kept, targets = [], []
    for row, value in enumerate(truth):
        if is_unlabelled(value) or np.isnan(inputs.vectors[row]).any():
            continue
        if class_name(value) not in prompts:
            raise DataError(
                f"{name}: id '{inputs.ids[row]}' is '{class_name(value)}', of which there is no example; classes are "
                f"{', '.join(classes)}"
            )
        kept.append(row)
        targets.append(classes.index(class_name(value)))
    if not kept:
        raise DataError(f"{name}: no row has a true class: there is nothing to measure")
    found = metrics.classification(alignment.shares(inputs.vectors[kept], prompts), np.array(targets))
    return {"rows": float(len(kept)), **found, "chance.accuracy": 1 / len(classes)}


def tower_of(alignment: Alignment, asked: Asked, tower: str) -> tuple[str, str]:
    """Return the tower that reads a table, as named or by the columns that there are, and the other one.

    A table of structures or cells may have sequences beside them: it is one of structures or cells.
    """
    if tower:
        return alignment.sides([alignment.tower(tower).name], "", "")
    batch = next(iter(open_table(asked.path, asked.reader, options=asked.settings)), None)
    if batch is None:
        raise DataError(f"{asked.path.name} has no rows.")
    columns = {name: _column(alignment, name, asked) for name in alignment.towers}
    fits = [name for name, column in columns.items() if column in batch.schema.names]
    if asked.input in batch.schema.names:
        texts = pa.types.is_string(batch.schema.field(asked.input).type)
        fits = [name for name in fits if (alignment.tower(name).chosen.accepts == "sequence") == texts]
    rich = [name for name in fits if alignment.tower(name).chosen.accepts != "sequence"]
    return alignment.sides(rich if len(rich) == 1 else fits, asked.path.name, f"--tower {next(iter(alignment.towers))}")


def _column(alignment: Alignment, tower: str, asked: Asked) -> str:
    chosen = alignment.tower(tower).chosen
    return asked.input or chosen.options.data.input or chosen.accepts


def _embedded(
    alignment: Alignment,
    tower: str,
    asked: Asked,
    tell: Callable[[str], None],
    column: str = "",
    values: list[Any] | None = None,
) -> Embedded:
    """Return all rows of a table in the common space, and put those of a ``column`` into ``values``."""
    tallies = Tallies(alignment.tower(tower).embedder.tokenizer)
    ids: list[str] = []
    vectors = []
    for examples in stream_examples(asked.path, _options(alignment, tower, asked), _CHUNK, tell):
        (inputs,) = examples.inputs.values()
        if column and values is not None:
            check_column(examples.table, column, asked.path.name)
            values += examples.table.column(column).to_pylist()
        vectors.append(alignment.vectors(tower, inputs, examples.ids, tallies))
        ids += examples.ids
    if not ids:
        raise DataError(f"{asked.path.name} has no rows.")
    for line in tallies.lines():
        tell(f"{asked.path.name}: {line}")
    return Embedded(ids, np.concatenate(vectors))


def _options(alignment: Alignment, tower: str, asked: Asked) -> DataOptions:
    """Return how to read a table: with the columns that the tower learned from, unless others are named."""
    chosen = alignment.tower(tower).chosen
    learned = chosen.options.data
    known = reader_of(asked.path, asked.reader).options.model_fields if learned.reader else {}
    options = {key: value for key, value in learned.reader.items() if key in known} | dict(asked.settings)
    inputs = {chosen.accepts: _column(alignment, tower, asked)}
    return DataOptions(path=str(asked.path), format=asked.reader, reader=options, id=asked.id, inputs=inputs)


def about(alignment: Alignment, table: Path, label: str) -> dict[str, Any]:
    """Return what a writer is told that puts classes of the column ``label`` back into their ``table``."""
    facts = {key: alignment.manifest[key] for key in ("exapt", "plugins", "towers", "data", "recipe")}
    return {"source": table, "answers": "prediction", "names": {"": label}, "facts": facts}
