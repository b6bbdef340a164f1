"""Answers from file to file: predictions as a stream, and metrics of labelled tables."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.adapted import Adapted
from exapt.building import Tallies
from exapt.builtin._writers import csv_rows
from exapt.data.files import open_writer, reader_of, table_sha256
from exapt.data.leakage import Leakage, band_of
from exapt.data.leakage import leakage as compare_rows
from exapt.data.mutants import told_wild_type
from exapt.data.relatives import Relatives, rule_of
from exapt.data.splits import PARTS, by_column
from exapt.data.tables import Examples, read_examples, stream_examples
from exapt.errors import DataError
from exapt.plugins import current
from exapt.recipe import DataOptions
from exapt.units import column_of

_CHUNK = 1024
_CHUNK_OF_PAIRS = 32
_IDENTITY = "identity"


def data_options(
    adapted: Adapted,
    path: Path,
    input_: str | None = None,
    id_: str | None = None,
    *,
    labels: str = "",
    masks: str = "",
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    mutations: str = "",
    wild_type: str = "",
) -> DataOptions:
    """Return how to read new data: with the columns that were learned from, unless others are named.

    ``labels`` and ``masks`` are tables of their own, ``reader`` is the reader of the first where its suffix does not tell;
    ``settings`` are put over the options of the reader that was learned with. ``mutations`` and ``wild_type`` take the
    place of what the adapter's own inputs are made of.
    Raises ``DataError`` if one column is named for an adapter that reads several inputs.
    """
    learned = adapted.resolved.recipe.data
    known = reader_of(path, reader).options.model_fields if learned.reader else {}
    options = {key: value for key, value in learned.reader.items() if key in known} | dict(settings or {})
    # The column of ids is a matter of each table; the one that was learned from need not be there.
    given = DataOptions(
        path=str(path),
        format=reader,
        reader=options,
        inputs=_named(learned, input_),
        id=id_ or "",
        labels=labels,
        masks=masks,
        # One in a table of masks is nothing to look for where there is no such table.
        mask=learned.mask if masks or not learned.masks else "",
        missing_labels=learned.missing_labels,
        **_made(learned, mutations, wild_type),
    )
    given = told_wild_type(given, current())
    return given.model_copy(update={"inputs": {name: given.inputs[name] for name in learned.inputs}})


def _named(learned: DataOptions, column: str | None) -> dict[str, str]:
    """Return the inputs that stand in columns of their own, the only one of them in ``column`` if that is named."""
    inputs = {name: of for name, of in learned.inputs.items() if name not in learned.made}
    if column and len(inputs) != 1:
        several = ", ".join(learned.inputs)
        raise DataError(f"this adapter reads several inputs, {several}; --input names one column only")
    return dict.fromkeys(inputs, column) if column else inputs


def _made(learned: DataOptions, mutations: str, wild_type: str) -> dict[str, str]:
    """Return of what an adapter's inputs are made, by the keys of a recipe's data."""
    for key, given in (("mutations", mutations), ("wild_type", wild_type)):
        if given and not getattr(learned, key):
            raise DataError(
                f"this adapter reads {', '.join(learned.inputs)}, and makes nothing of {key.replace('_', ' ')}: leave "
                f"--{key.replace('_', '-')} out"
            )
    return {
        "mutations": mutations or learned.mutations,
        "wild_type": wild_type or learned.wild_type,
        # What was learned with was seen by the table of then.
        "wild_type_is": "" if wild_type else learned.wild_type_is,
    }


def predict_file(
    adapted: Adapted,
    path: Path,
    out: Path | None,
    *,
    format_: str = "",
    input_: str | None = None,
    id_: str | None = None,
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    mutations: str = "",
    wild_type: str = "",
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Answer for each row of a table, chunk by chunk in its order; returns the number of rows.

    Without ``out`` the answers go to stdout as CSV. At the end, ``tell`` hears what there is to note of the rows.
    """
    made = {"mutations": mutations, "wild_type": wild_type}
    options = data_options(adapted, path, input_, id_, reader=reader, settings=settings, **made)
    chunks = stream_examples(path, options, _chunk(adapted), tell)
    tallies = Tallies(adapted.tokenizer)
    about = {"source": path, "answers": "prediction", "names": adapted.tasks, "facts": _facts(adapted, options)}
    writing = open_writer(out, format_, overwrite=overwrite, about=about) if out else nullcontext(Stdout())
    rows = 0
    with writing as writer:
        for columns in adapted.stream(chunks, tallies):
            batch = as_batch(columns)
            writer.write(batch)
            rows += batch.num_rows
        lines = tallies.lines()
    for line in lines:
        tell(line)
    return rows


def _chunk(adapted: Adapted) -> int:
    # Of a long input, all pairs of units are held together until they are put into words.
    pairs = any(adapted.model.head(name).answers == "pair" for name in adapted.model.heads)
    return _CHUNK_OF_PAIRS if pairs else _CHUNK


def _facts(adapted: Adapted, options: DataOptions) -> dict[str, Any]:
    told = ("exapt", "plugins", "backbone", "tokenizer", "data", "metrics", "recipe")
    # The recipe has the options that were learned with, which others may have replaced.
    return {key: adapted.manifest[key] for key in told} | {"reader": dict(options.reader)}


class Stdout:
    """Writes CSV to stdout."""

    def __init__(self) -> None:
        self._table = csv.writer(sys.stdout, lineterminator="\n")
        self._begun = False

    def write(self, batch: pa.RecordBatch) -> None:
        """Print rows, below the header."""
        if not self._begun:
            self._table.writerow(batch.schema.names)
            self._begun = True
        self._table.writerows(csv_rows(batch))


def as_batch(columns: Mapping[str, list[Any] | pa.Array]) -> pa.RecordBatch:
    """Return columns as a record batch whose types depend on the kind of answer, not on the values of one chunk."""
    return pa.record_batch({name: column_of(values) for name, values in columns.items()})


def evaluate_file(
    adapted: Adapted,
    path: Path,
    *,
    by: str = "",
    part: str = "",
    input_: str | None = None,
    id_: str | None = None,
    labels: str = "",
    masks: str = "",
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    mutations: str = "",
    wild_type: str = "",
    against: Path | None = None,
    leakage: Path | None = None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return metrics of a labelled table, and notes on its rows; ``part`` keeps one part of the recipe's split.

    ``against`` is a table that was learned from: metrics are given by identity to its nearest row, and ``leakage`` is
    where those rows are written. Raises ``DataError`` if they do not go together with the rest.
    """
    if (leakage and not against) or (by and against):
        raise DataError("--leakage needs --against" if leakage and not against else "give --by or --against, not both")
    made = {"mutations": mutations, "wild_type": wild_type}
    made |= {"labels": labels, "masks": masks}
    options = data_options(adapted, path, input_, id_, reader=reader, settings=settings, **made)
    examples, report = read_examples(options, adapted.resolved.labels, per_unit=adapted.resolved.per_unit)
    notes = report.lines()
    if part:
        examples = _part(adapted, examples, part)
        notes.append(f"part '{part}': {len(examples)} rows")
    else:
        notes += _learned_from(adapted, options, report.rows)
    if against:
        found, said = _compared(adapted, examples, against, options)
        notes += [*said, *found.lines()]
        names = pa.array(band_of(found.identity).tolist(), pa.string())
        kept = examples.table.drop_columns([name for name in examples.table.column_names if name == _IDENTITY])
        examples, by = replace(examples, table=kept.append_column(_IDENTITY, names)), _IDENTITY
        if leakage:
            found.write(leakage)
    tallies = Tallies(adapted.tokenizer)
    metrics = adapted.evaluate(examples, by, tallies)
    return metrics, [*notes, *tallies.lines()]


def _learned_from(adapted: Adapted, options: DataOptions, rows: int) -> list[str]:
    """Say of the table that was learned from that it is: a model knows the answers to rows of train."""
    path, learned = Path(options.path), adapted.manifest["data"]
    # A pipe can be read only once.
    if not (path.is_file() or path.is_dir()) or table_sha256(path, options.format) != learned["sha256"]:
        return []
    by_column = bool(adapted.resolved.recipe.split.column)
    how = "--part test does" if by_column else "--part test does after 'exapt split', or a file of their own"
    return [
        f"{path.name} is the table that was learned from: {learned['rows']['train']:,} of its {rows:,} rows are training rows, "
        f"which flatter; measure rows that were held out ({how})"
    ]


def _compared(adapted: Adapted, examples: Examples, against: Path, options: DataOptions) -> tuple[Leakage, list[str]]:
    """Compare labelled rows with the table that was learned from, which has the same columns of inputs; with notes."""
    kind = adapted.resolved.backbone.offer.spec.modality
    if kind not in ("dna", "protein"):
        raise DataError(f"--against compares sequences of DNA or protein, but '{adapted.name}' reads {kind}")
    learned = options.model_copy(
        update={"path": str(against), "format": "", "id": "", "labels": "", "masks": "", "mask": ""}
    )
    train, _ = read_examples(learned, {}, keep_labels=False)
    inputs = {name: [*train.inputs[name], *values] for name, values in examples.inputs.items()}
    rule = rule_of(adapted.resolved.recipe.split, kind)
    relatives = Relatives(inputs, [*train.ids, *examples.ids], rule)
    rows = np.arange(len(train), len(train) + len(examples))
    return compare_rows(relatives, "evaluated", rows, np.arange(len(train))), relatives.ambiguous()


def _part(adapted: Adapted, examples: Examples, part: str) -> Examples:
    if part not in PARTS:
        raise DataError(f"unknown part '{part}'; parts are train, valid and test")
    options = adapted.resolved.recipe.split
    if not options.column:
        raise DataError("--part needs a recipe whose split is a column of the data")
    rows = np.flatnonzero(by_column(options, examples, whole=False) == PARTS.index(part))
    if not len(rows):
        raise DataError(f"no row of the data is in part '{part}'")
    return examples.take(rows)
