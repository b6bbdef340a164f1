"""From a table to the same table with a column of parts, and what leaks between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.data.files import AtomicWriter, open_writer
from exapt.data.leakage import NAMES, Leakage, band_of, leakage
from exapt.data.relatives import Relatives, rule_of
from exapt.data.splits import PARTS, Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, OutputError, RecipeError
from exapt.recipe import DataOptions, SplitOptions, validated


@dataclass(frozen=True)
class Splitting:
    """What a split came to: rows of each part, and by part the rows in each band of identity to train."""

    rows: Mapping[str, int]
    leaks: Mapping[str, Mapping[str, int]]
    families: int | None
    notes: tuple[str, ...]


def split_file(
    data: DataOptions,
    given: Mapping[str, Any],
    out: Path,
    *,
    kind: str = "",
    name: str = "split",
    leaks_out: Path | None = None,
    overwrite: bool = False,
) -> Splitting:
    """Split a table as the options of a recipe's ``[split]`` say, and write it with one more column, called ``name``.

    ``kind``, ``dna`` or ``protein``, says how its sequences are compared; without it nothing is said of what leaks.
    ``leaks_out`` is where each row of valid and test is written with the nearest row of train. Raises ``RecipeError``
    for options that do not go together, ``DataError`` for a table that cannot be split.
    """
    options = validated(SplitOptions, {key: value for key, value in given.items() if value is not None}, "split")
    _check_options(options, kind, name, leaks_out)
    # Places are looked at before anything is compared, which may take long.
    writer = _free(out, data, overwrite)
    leaks_writer = _free(leaks_out, data, overwrite, out) if leaks_out else None
    examples, report = read_examples(data, {}, keep_labels=False)
    if name in examples.table.column_names:
        raise DataError(
            f"{Path(data.path).name} has a column '{name}' already: call the new one otherwise with --name."
        )
    relatives = Relatives(examples.inputs, examples.ids, rule_of(options, kind)) if kind else None
    families = relatives.families() if relatives and options.homology else None
    parts = split(options, examples, None, 0, families)
    notes = [*report.lines(), *parts.notes, *(relatives.ambiguous() if relatives else ())]
    if relatives and families is not None:
        notes.append(relatives.noted(families))
    leaks = [leakage(relatives, part, getattr(parts, part), parts.train) for part in PARTS[1:]] if relatives else []
    _write(examples, parts, writer, name)
    if leaks_writer:
        _write_leaks(leaks, leaks_writer)
    return Splitting(
        rows={part: len(getattr(parts, part)) for part in PARTS},
        leaks={found.part: _counts(found) for found in leaks},
        families=None if families is None else len(np.unique(families)),
        notes=(*notes, *(line for found in leaks for line in found.lines())),
    )


def _check_options(options: SplitOptions, kind: str, name: str, leaks_out: Path | None) -> None:
    if not kind and (options.homology or leaks_out):
        flag = "--homology" if options.homology else "--leakage"
        raise DataError(f"{flag} compares sequences: say with --kind whether they are dna or protein")
    if options.column and options.group:
        raise RecipeError("--column says each row's part, so that --group has no say: give one of them")
    if not name.strip():
        raise RecipeError("--name is empty: the new column needs a name")


def _free(out: Path, data: DataOptions, overwrite: bool, other: Path | None = None) -> AtomicWriter:
    """Return the writer of a file. Raises ``OutputError`` for a place that is taken, be it by the table itself."""
    table = Path(data.path)
    if out.exists() and table.exists() and out.samefile(table):
        raise OutputError(f"'{out}' is the table that is to be split: write to another file")
    if other is not None and out.absolute() == other.absolute():
        raise OutputError(f"both -o and --leakage name '{out}': write to two files")
    return open_writer(out, overwrite=overwrite)


def _counts(found: Leakage) -> dict[str, int]:
    names = band_of(found.identity)
    return {name: int((names == name).sum()) for name in NAMES}


def _write(examples: Examples, parts: Split, writer: AtomicWriter, name: str) -> None:
    assigned = np.empty(len(examples), np.int64)
    for number, part in enumerate(PARTS):
        assigned[getattr(parts, part)] = number
    column = pa.array([PARTS[number] for number in assigned.tolist()])
    with writer:
        for batch in examples.table.append_column(name, column).combine_chunks().to_batches():
            writer.write(batch)


def _write_leaks(leaks: Sequence[Leakage], writer: AtomicWriter) -> None:
    with writer:
        for found in leaks:
            if len(found.ids):
                writer.write(found.batch(part=True))
