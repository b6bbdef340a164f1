"""From a table to the same table with a column of parts, and what leaks between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.data.files import open_writer
from exapt.data.leakage import NAMES, Leakage, band_of, leakage
from exapt.data.relatives import Relatives, rule_of
from exapt.data.splits import PARTS, Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError
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
    overwrite: bool = False,
) -> Splitting:
    """Split a table as the options of a recipe's ``[split]`` say, and write it with one more column, called ``name``.

    ``kind``, ``dna`` or ``protein``, says how its sequences are compared; without it nothing is said of what leaks.
    Raises ``RecipeError`` for options that do not go together, ``DataError`` for a table that cannot be split.
    """
    options = validated(SplitOptions, {key: value for key, value in given.items() if value}, "split")
    if options.homology and not kind:
        raise DataError("--homology compares sequences: say with --kind whether they are dna or protein")
    examples, report = read_examples(data, {}, keep_labels=False)
    if name in examples.table.column_names:
        raise DataError(
            f"{Path(data.path).name} has a column '{name}' already: call the new one otherwise with --name."
        )
    relatives = Relatives(examples.inputs, examples.ids, rule_of(options, kind)) if kind else None
    families = relatives.families() if relatives and options.homology else None
    parts = split(options, examples, None, 0, families)
    _write(examples, parts, out, name, overwrite)
    notes = [*report.lines(), *parts.notes]
    if relatives and families is not None:
        notes.append(relatives.noted(families))
    leaks = [leakage(relatives, part, getattr(parts, part), parts.train) for part in PARTS[1:]] if relatives else []
    return Splitting(
        rows={part: len(getattr(parts, part)) for part in PARTS},
        leaks={found.part: _counts(found) for found in leaks},
        families=None if families is None else len(np.unique(families)),
        notes=(*notes, *(line for found in leaks for line in found.lines())),
    )


def _counts(found: Leakage) -> dict[str, int]:
    names = band_of(found.identity)
    return {name: int((names == name).sum()) for name in NAMES}


def _write(examples: Examples, parts: Split, out: Path, name: str, overwrite: bool) -> None:
    assigned = np.empty(len(examples), np.int64)
    for number, part in enumerate(PARTS):
        assigned[getattr(parts, part)] = number
    column = pa.array([PARTS[number] for number in assigned.tolist()])
    with open_writer(out, overwrite=overwrite) as writer:
        for batch in examples.table.append_column(name, column).combine_chunks().to_batches():
            writer.write(batch)
