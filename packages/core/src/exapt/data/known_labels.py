"""Labels that only some rows have, of a table that is measured on and never learned from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exapt.data import label_columns
from exapt.data.masks import MASK, masked
from exapt.data.tables import beside, with_second

if TYPE_CHECKING:
    from exapt.data.tables import Examples, Labels
    from exapt.recipe import DataOptions

Rows = npt.NDArray[np.int64]


def with_known_labels(read: Examples, options: DataOptions, labels: Labels) -> Examples:
    """Return examples, read without labels, with those of the heads whose columns the table has, missing ones among them.

    Raises ``DataError`` for a table of labels or masks that does not belong to them.
    """
    table = read.table
    if options.labels:
        there = _of_columns(with_second(read, options, {})[0].column_names, labels)
        # A table of labels that holds none of them is refused, with the column that it lacks.
        table = with_second(read, options, there or labels)[0]
    there = _of_columns(table.column_names, labels)
    name = Path(options.labels or options.path).name
    examples = replace(read, table=table, labels=label_columns.values(table, there, name))
    if not there or not (options.masks or options.mask):
        return examples
    return masked(examples, beside(options.masks, MASK) if options.masks else None, options, read)[0]


def _of_columns(columns: Collection[str], labels: Labels) -> dict[str, Any]:
    return {head: of for head, of in labels.items() if set(_several(of)) <= set(columns)}


def _several(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def known_rows(examples: Examples, labels: Labels, name: str, per_unit: Collection[str]) -> dict[str, Rows]:
    """Return the rows that have a label of each head that has any; of heads ``per_unit``, a label of some unit."""
    found = {}
    for head in examples.labels:
        missing = label_columns.without_label(examples, _several(labels[head]), name, holes=head in per_unit)
        found[head] = np.array([row for row in range(len(examples)) if row not in missing], dtype=np.int64)
    return found
