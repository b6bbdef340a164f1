"""Columns of labels: beside the inputs or in a table of their own, whole or missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from exapt.data.columns import check_column, column_values, find_id_column, id_values, row_named
from exapt.data.labels import has_no_label, is_unlabelled
from exapt.errors import DataError

if TYPE_CHECKING:
    from exapt.data.tables import Examples, Labels
    from exapt.recipe import DataOptions


def values(table: pa.Table, labels: Labels, name: str) -> dict[str, list[Any]]:
    """Return each head's labels; raises ``DataError`` if the table called ``name`` lacks one of the columns."""
    return {head: _of_head(table, columns, name) for head, columns in labels.items()}


def _of_head(table: pa.Table, columns: str | tuple[str, ...], name: str) -> list[Any]:
    if isinstance(columns, str):
        return column_values(table, columns, name)
    return list(zip(*(column_values(table, column, name) for column in columns), strict=True))


def _columns(labels: Labels) -> list[str]:
    several = ((columns,) if isinstance(columns, str) else columns for columns in labels.values())
    return list(dict.fromkeys(column for columns in several for column in columns))


def joined(read: Examples, second: pa.Table, options: DataOptions, labels: Labels) -> tuple[pa.Table, tuple[str, ...]]:
    """Set a table of labels beside the inputs, by id; return the wider table, and the ids that belong to no input.

    The labels come from the second table, unless it lacks a column of them that stands beside the inputs; of its other
    columns, such as the split, those that the first lacks are added.
    """
    name, first_name = Path(options.labels).name, Path(options.path).name
    beside_inputs = set(read.table.column_names) - set(second.column_names)
    wanted = [column for column in _columns(labels) if column not in beside_inputs]
    for column in wanted:
        check_column(second, column, name)
    _id_column(read.table, options.id, first_name)
    place = places_by_id(second, options.id, wanted, name, "labels")
    known = set(read.ids)
    if known.isdisjoint(place):
        raise DataError(
            f"{name} has labels for none of the ids of {first_name}, such as '{read.ids[0]}' and '{next(iter(place))}'."
        )
    beside = second.take(pa.array([place.get(name) for name in read.ids], pa.int64()))
    return _widened(read.table, beside, wanted, _second_id(second, options.id)), tuple(
        name for name in place if name not in known
    )


def _id_column(table: pa.Table, wanted: str, name: str) -> str:
    column = find_id_column(table, wanted, name)
    if not column:
        check_column(table, "id", name)
    return column


def _second_id(second: pa.Table, wanted: str) -> str:
    return wanted if wanted in second.column_names else "id"


def places_by_id(second: pa.Table, id_: str, wanted: Sequence[str], name: str, what: str) -> dict[str, int]:
    """Return the row of each id in a second table, whose column of ids is ``id_`` if it has one of this name, else ``id``.

    Raises ``DataError`` for an id with two different ``wanted`` contents, which are its ``what``.
    """
    ids = id_values(second, _id_column(second, _second_id(second, id_), name), name)
    # Not turned round by zip, which makes no rows of no columns: a second table may hold nothing but the parts of the split.
    columns = [second.column(column).to_pylist() for column in wanted]
    rows = [[column[row] for column in columns] for row in range(second.num_rows)]
    place: dict[str, int] = {}
    for row, known_as in enumerate(ids):
        first = place.setdefault(known_as, row)
        if repr(rows[first]) != repr(rows[row]):
            raise DataError(f"{name}: id '{known_as}' has two different {what}, in rows {first + 1} and {row + 1}.")
    return place


def _widened(table: pa.Table, beside: pa.Table, wanted: Sequence[str], id_column: str) -> pa.Table:
    for column in beside.column_names:
        if column in table.column_names and column in wanted:
            table = table.drop_columns(column)
        if column not in table.column_names and column != id_column:
            table = table.append_column(column, beside.column(column))
    return table


def missing_rows(examples: Examples, options: DataOptions, labels: Labels, per_unit: Collection[str] = ()) -> list[int]:
    """Return the rows that lack a label, where the options let them be dropped.

    Raises ``DataError`` where they do not, where no row would be left, and for a list with a hole in it, but for labels
    of the heads that answer ``per_unit``: there a hole is a unit without a label.
    """
    name = Path(options.path).name
    whole = set(_columns({head: columns for head, columns in labels.items() if head not in per_unit}))
    found: set[int] = set()
    for column in _columns(labels):
        of_column = set(_missing(examples, column, name, holes=column not in whole))
        where = f"'{column}' of {Path(options.labels).name}" if options.labels else f"'{column}'"
        if len(of_column) == len(examples):
            raise DataError(f"{name}: no row has a label in {where}.")
        if of_column and options.missing_labels == "error":
            raise _refusal(examples, of_column, where, name)
        found |= of_column
    if len(found) == len(examples):
        raise DataError(f"{name}: no row has all of its labels.")
    return sorted(found)


def without_any(
    examples: Examples, options: DataOptions, labels: Labels, per_unit: Collection[str] = ()
) -> dict[str, set[int]]:
    """Return the rows of each head that have none of its labels. Raises ``DataError`` if no row has any."""
    name, found = Path(options.path).name, {}
    for head, columns in labels.items():
        several = (columns,) if isinstance(columns, str) else columns
        holes = head in per_unit
        found[head] = set.intersection(*(set(_missing(examples, column, name, holes)) for column in several))
        if len(found[head]) == len(examples):
            raise DataError(f"{name}: no row has a label in {', '.join(several)}.")
    return found


def _refusal(examples: Examples, rows: set[int], where: str, name: str) -> DataError:
    first = min(rows)
    have = "has" if len(rows) == 1 else "have"
    return DataError(
        f"{name}: {len(rows)} of {len(examples)} rows {have} no label in {where}, "
        f'first {row_named(first + 1, examples.ids[first])}. Fill in, or leave out with data.missing_labels = "drop".'
    )


def without_label(examples: Examples, columns: Sequence[str], name: str, holes: bool) -> set[int]:
    """Return the rows that lack one of some columns of labels; with ``holes``, some units may lack theirs."""
    return {row for column in columns for row in _missing(examples, column, name, holes)}


def _missing(examples: Examples, column: str, name: str, holes: bool) -> Iterator[int]:
    for row, value in enumerate(examples.table.column(column).to_pylist()):
        if is_unlabelled(value) or (holes and has_no_label(value)):
            yield row
        elif isinstance(value, list) and not holes:
            _check_whole(value, f"{name} {row_named(row + 1, examples.ids[row])}: '{column}'")


def _check_whole(label: Sequence[Any], what: str) -> None:
    for place, value in enumerate(label, 1):
        if is_unlabelled(value):
            raise DataError(f"{what} has no value at position {place}.")
