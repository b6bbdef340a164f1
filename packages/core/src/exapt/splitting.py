"""From a table to the same table with a column of parts, and what leaks between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.cells import Cell, CellType
from exapt.data.files import AtomicWriter, open_writer, own_place, table_sha256
from exapt.data.leakage import NAMES, Leakage, band_of, leakage
from exapt.data.relatives import Relatives, rule_of
from exapt.data.sharing import sharing
from exapt.data.splits import PARTS, Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, OutputError, RecipeError
from exapt.recipe import DataOptions, SplitOptions, validated
from exapt.structures import StructureType


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

    The column goes into a copy of the table, which may take its place, where ``out`` is ``Annotating``. Other tables have
    all columns but cells and structures. ``kind``, ``dna`` or ``protein``, says how sequences are compared; without it nothing is
    of what leaks. ``leaks_out`` is where each row of valid and test is written with the nearest row of train.
    Raises ``RecipeError`` for options that do not go together, ``DataError`` for a table that cannot be split.
    """
    _check_given(given, name)
    options = validated(SplitOptions, {key: value for key, value in given.items() if value is not None}, "split")
    facts = {"made_by": "exapt split", "split": options.model_dump(mode="json"), "kind": kind, "reader": data.reader}
    about = {"source": Path(data.path), "answers": "column", "names": {"": name}, "facts": facts}
    # Places are looked at before anything is compared, which may take long.
    writer = _free(out, data, overwrite, about=about)
    leaks_writer = _free(leaks_out, data, overwrite, other=out) if leaks_out else None
    with writer:
        examples, report = read_examples(data, {}, keep_labels=False)
        cells = _check_compared(options, kind, leaks_out, examples, Path(data.path).name)
        _check_name(name, examples.table, Path(data.path).name, writer.annotates and overwrite)
        relatives = Relatives(examples.inputs, examples.ids, rule_of(options, kind)) if kind else None
        families = relatives.families() if relatives and options.homology else None
        parts = split(options, examples, None, 0, families)
        notes = [*report.lines(), *parts.notes, *(relatives.ambiguous() if relatives else ())]
        how = "--group {}" + (" in place of --column" if options.column else "")
        notes += sharing(options, examples, parts, how) if cells or options.origins else ()
        if relatives and families is not None:
            notes.append(relatives.noted(families))
        leaks = [leakage(relatives, part, getattr(parts, part), parts.train) for part in PARTS[1:]] if relatives else []
        rows = {part: len(getattr(parts, part)) for part in PARTS}
        writer.add_facts({"table": table_sha256(data.path, data.format), "rows": rows})
        _write(examples, parts, writer, name)
    if leaks_writer:
        _write_leaks(leaks, leaks_writer)
    return Splitting(
        rows=rows,
        leaks={found.part: _counts(found) for found in leaks},
        families=None if families is None else len(np.unique(families)),
        notes=(*notes, *(line for found in leaks for line in found.lines())),
    )


def _check_given(given: Mapping[str, Any], name: str) -> None:
    # In the words of the command; a recipe says the same of its keys.
    if given.get("column") and given.get("group"):
        raise RecipeError("--column says each row's part, so that --group has no say: give one of them")
    if not name.strip():
        raise RecipeError("--name is empty: the new column needs a name")


def _check_name(name: str, table: pa.Table, of: str, replace: bool) -> None:
    """Raise ``DataError`` for a column that is there already; one may be replaced that is neither the ids nor the inputs."""
    if name not in table.column_names or (replace and name not in ("id", *_inputs(table))):
        return
    raise DataError(f"{of} has a column '{name}' already: call the new one otherwise with --name.")


def _inputs(table: pa.Table) -> list[str]:
    """Return the columns of cells and structures, which no table of text can hold."""
    return [field.name for field in table.schema if isinstance(field.type, (CellType, StructureType))]


def _check_compared(options: SplitOptions, kind: str, leaks_out: Path | None, examples: Examples, table: str) -> bool:
    """Return whether the inputs are cells. Raises ``DataError`` for a comparison that cannot be made."""
    cells = any(isinstance(values[0], Cell) for values in examples.inputs.values())
    if cells and (kind or options.homology or leaks_out):
        raise DataError(
            f"{table} holds cells, which have no homology: leave --kind, --homology and --leakage out; --group keeps the "
            "cells of a donor or a batch together"
        )
    if not kind and (options.homology or leaks_out):
        flag = "--homology" if options.homology else "--leakage"
        raise DataError(f"{flag} compares sequences: say with --kind whether they are dna or protein")
    return cells


def _free(
    out: Path,
    data: DataOptions,
    overwrite: bool,
    *,
    other: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> AtomicWriter:
    """Return the writer of a file. Raises ``OutputError`` for a place that is taken, be it by the table itself."""
    table = Path(data.path)
    if out.exists() and table.exists() and out.samefile(table) and own_place(out) is None:
        raise OutputError(f"'{out}' is the table that is to be split: write to another file")
    if other is not None and out.absolute() == other.absolute():
        raise OutputError(f"both -o and --leakage name '{out}': write to two files")
    return open_writer(out, overwrite=overwrite, about=about)


def _counts(found: Leakage) -> dict[str, int]:
    names = band_of(found.identity)
    return {name: int((names == name).sum()) for name in NAMES}


def _write(examples: Examples, parts: Split, writer: AtomicWriter, name: str) -> None:
    assigned = np.empty(len(examples), np.int64)
    for number, part in enumerate(PARTS):
        assigned[getattr(parts, part)] = number
    column = pa.array([PARTS[number] for number in assigned.tolist()])
    if writer.annotates:
        table = pa.table({"id": pa.array(examples.ids, pa.string())})
    else:
        table = examples.table.drop_columns(_inputs(examples.table))
    for batch in table.append_column(name, column).combine_chunks().to_batches():
        writer.write(batch)


def _write_leaks(leaks: Sequence[Leakage], writer: AtomicWriter) -> None:
    with writer:
        for found in leaks:
            if len(found.ids):
                writer.write(found.batch(part=True))
