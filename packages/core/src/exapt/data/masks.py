"""Masks: which units of an input count, 0 or 1 for each, in a table of their own or in a column beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from exapt.data.columns import check_column, column_values, row_named
from exapt.data.label_columns import places_by_id
from exapt.data.labels import is_missing, mask_values
from exapt.errors import DataError

if TYPE_CHECKING:
    from exapt.data.tables import Examples
    from exapt.recipe import DataOptions

MASK = "mask"
"""The column of masks in a table of them, unless another is named."""


def masked(
    examples: Examples, second: pa.Table | None, options: DataOptions, read: Examples
) -> tuple[Examples, list[str], list[str]]:
    """Return examples with their masks, the ids of those left out since no unit of theirs counts, and what there is to tell.

    ``read`` are all inputs, with the columns of their own table; those without a label are no examples. Raises
    ``DataError``, with the id, for an example without a mask, and for a mask that holds anything but 0 and 1.
    """
    name = _name(options, read)
    masks, unused = _read(examples, second, options, set(read.ids), name)
    empty = set(_blank(examples, masks, options, name))
    rows = "1 row" if len(unused) == 1 else f"{len(unused)} rows"
    lines = [f"{name}: {rows} without an input, first id '{unused[0]}'"] if unused else []
    kept = replace(examples, masks=masks)
    if empty:
        kept = kept.take([row for row in range(len(kept)) if row not in empty])
    return kept, [examples.ids[row] for row in sorted(empty)], lines


def _name(options: DataOptions, read: Examples) -> str:
    """Return the name of the table where the masks stand."""
    beside_inputs = not options.labels or options.mask in read.table.column_names
    return Path(options.masks or (options.path if beside_inputs else options.labels)).name


def _read(
    examples: Examples, second: pa.Table | None, options: DataOptions, known: set[str], name: str
) -> tuple[list[list[bool]], list[str]]:
    place: Mapping[str, int] = {}
    if second is None:
        found = column_values(examples.table, options.mask, name)
    else:
        column = options.mask or MASK
        check_column(second, column, name)
        place = places_by_id(second, options.id, [column], name, "masks")
        found = _of_each(examples, place, column_values(second, column, name), name)
    masks = [_mask(value, who, name) for value, who in zip(found, examples.ids, strict=True)]
    return masks, [who for who in place if who not in known]


def _of_each(examples: Examples, place: Mapping[str, int], values: Sequence[Any], name: str) -> list[Any]:
    without = [who for who in examples.ids if who not in place]
    if without:
        more = f" ({len(without):,} rows have none)" if len(without) > 1 else ""
        raise DataError(f"{name} has no mask for '{without[0]}'{more}.")
    return [values[place[who]] for who in examples.ids]


def _mask(value: Any, who: str, name: str) -> list[bool]:
    if is_missing(value):
        raise DataError(f"{name} has no mask for '{who}'.")
    try:
        return mask_values(value)
    except DataError as error:
        raise DataError(f"{name}: the mask of '{who}' {error}") from None


def _blank(examples: Examples, masks: Sequence[Sequence[bool]], options: DataOptions, name: str) -> list[int]:
    rows = [row for row, mask in enumerate(masks) if not any(mask)]
    if len(rows) == len(masks):
        raise DataError(f"{name}: no mask leaves a unit that counts: there is nothing to learn from.")
    if rows and options.missing_labels == "error":
        have = "leaves" if len(rows) == 1 else "leave"
        raise DataError(
            f"{name}: {len(rows)} of {len(masks)} masks {have} no unit that counts, first of "
            f'{row_named(rows[0] + 1, examples.ids[rows[0]])}. Leave such rows out with data.missing_labels = "drop".'
        )
    return rows
