"""Tables of several tasks, one after the other: each row has the labels of its own table, and of other heads none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.building import Tallies
from exapt.data.splits import Split
from exapt.data.tables import Examples
from exapt.errors import DataError, RecipeError, listed
from exapt.features import encodings_digest
from exapt.labelled import PARTS, Table
from exapt.labelled import read_table as read_one
from exapt.recipe import DataOptions
from exapt.resolve import ChosenHead, Resolved, read_by

__all__ = ["read_table"]


def read_table(resolved: Resolved, kept: Sequence[str] = PARTS) -> Table:
    """Read and split the data of a recipe: its own table and those of single heads, each by itself.

    Raises ``DataError`` as reading one does, naming the heads whose table it is.
    """
    groups = _groups(resolved)
    if len(groups) == 1:
        return read_one(groups[0], kept)
    tables = {}
    for group in groups:
        name = listed(group.heads)
        try:
            tables[name] = read_one(group, kept)
        except DataError as error:
            raise DataError(f"data of {name}: {error}") from None
    return _together(tables, list(resolved.labels))


def _groups(resolved: Resolved) -> list[Resolved]:
    """Return the recipe once for each table, with the heads that have labels in it."""
    recipe = resolved.recipe
    found: dict[str, tuple[DataOptions, dict[str, ChosenHead]]] = {}
    for name, head in resolved.heads.items():
        data = read_by(head.data, resolved.backbone.offer.spec.accepts) if head.data is not None else recipe.data
        found.setdefault(data.model_dump_json(), (data, {}))[1][name] = head
    if len(found) == 1:
        ((data, _),) = found.values()
        return [replace(resolved, recipe=recipe.model_copy(update={"data": data}))]
    for key in ("homology", "leakage"):
        if getattr(recipe.split, key):
            raise RecipeError(
                f"split.{key} compares the rows of one table, and the heads here have {len(found)}: leave it out, or write the "
                "parts of all rows together with 'exapt split' and name their column"
            )
    for data, heads in found.values():
        if data.inputs.keys() != recipe.data.inputs.keys():
            raise DataError(
                f"the table of {listed(heads)} has the inputs {listed(data.inputs)}, and data {listed(recipe.data.inputs)}: "
                "all tasks of one recipe read the same inputs, each from columns of its own"
            )
    return [
        replace(resolved, recipe=recipe.model_copy(update={"data": data}), heads=heads)
        for data, heads in found.values()
    ]


def _together(tables: Mapping[str, Table], heads: Sequence[str]) -> Table:
    starts = np.cumsum([0, *(len(table.examples) for table in tables.values())]).tolist()
    moved = {
        part: np.concatenate(
            [getattr(table.split, part) + start for start, table in zip(starts, tables.values(), strict=False)]
        )
        for part in PARTS
    }
    encodings = {
        name: [encoding for table in tables.values() for encoding in table.encodings[name]]
        for name in next(iter(tables.values())).encodings
    }
    notes = [f"{name}: {line}" for name, table in tables.items() for line in table.notes]
    facts = {**next(iter(tables.values())).facts, "rows": {part: len(moved[part]) for part in PARTS}}
    facts["tables"] = {name: dict(table.facts) for name, table in tables.items()}
    return Table(
        _examples(tables, heads),
        Split(moved["train"], moved["valid"], moved["test"]),
        (*notes, *_shared(tables)),
        facts,
        encodings,
        Tallies.joined({name: table.tallies for name, table in tables.items()}),
    )


def _examples(tables: Mapping[str, Table], heads: Sequence[str]) -> Examples:
    several = [table.examples for table in tables.values()]
    labels = {head: [label for one in several for label in one.labels.get(head, [None] * len(one))] for head in heads}
    masks = None
    if any(one.masks is not None for one in several):
        masks = [mask for table in tables.values() for mask in _masks(table)]
    return Examples(
        ids=[name for one in several for name in one.ids],
        inputs={name: [value for one in several for value in one.inputs[name]] for name in several[0].inputs},
        labels=labels,
        table=_columns([one.table for one in several]),
        masks=masks,
    )


def _masks(table: Table) -> Sequence[Sequence[bool]]:
    if table.examples.masks is not None:
        return table.examples.masks
    first = next(iter(table.encodings.values()))
    return [[True] * encoding.length for encoding in first]


def _columns(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the columns that all tables have, of one type."""
    first, *others = tables
    names = [
        field.name
        for field in first.schema
        if all(
            field.name in other.column_names and other.schema.field(field.name).type == field.type for other in others
        )
    ]
    return pa.concat_tables([table.select(names) for table in tables])


def _shared(tables: Mapping[str, Table]) -> list[str]:
    """Tell of inputs that one task is tested on and another learns from."""
    words: dict[str, dict[str, set[str]]] = {name: _words(table) for name, table in tables.items()}
    told = []
    for name, parts in words.items():
        for other, theirs in words.items():
            for part in ("valid", "test") if name != other else ():
                both = len(parts[part] & theirs["train"])
                if both:
                    told.append(
                        f"{both:,} inputs of the {part} part of {name} stand in the training part of {other}: the tasks help "
                        "each other there in a way that new inputs will not see"
                    )
    return told


def _words(table: Table) -> dict[str, Any]:
    digests = [
        encodings_digest([values[row] for values in table.encodings.values()]) for row in range(len(table.examples))
    ]
    return {part: {digests[row] for row in getattr(table.split, part)} for part in PARTS}
