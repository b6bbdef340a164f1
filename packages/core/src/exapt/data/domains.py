"""Domains: of which species, donor or batch each row is, as a column of the table says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exapt.data.columns import check_column, row_named
from exapt.data.labels import class_name, class_order, is_missing
from exapt.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from exapt.data.tables import Examples
    from exapt.recipe import DataOptions

_SHOWN = 20


def domain_names(table: pa.Table, column: str, ids: Sequence[str], name: str) -> list[str]:
    """Return the domain of each row of the table called ``name``; raises ``DataError`` for an empty cell, or no such column."""
    check_column(table, column, name)
    values = table.column(column).to_pylist()
    for row, value in enumerate(values):
        if is_missing(value):
            raise DataError(f"{name} {row_named(row + 1, ids[row])} has no domain in '{column}'.")
    return [class_name(value) for value in values]


def numbered(names: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the domains that there are, and the number [rows] among them of each row's."""
    known = class_order(names)
    place = {name: number for number, name in enumerate(known)}
    return known, np.array([place[name] for name in names], dtype=np.int64)


def of_domains(examples: Examples, options: DataOptions) -> Examples:
    """Return the rows of the domains that are asked for; all where none is named. Raises ``DataError`` for one of no row."""
    if not options.only:
        return examples
    name = Path(options.path).name
    names = domain_names(examples.table, options.domain, examples.ids, name)
    known = class_order(names)
    for wanted in options.only:
        if wanted not in known:
            more = ", ..." if len(known) > _SHOWN else ""
            raise DataError(
                f"{name}: no row has the domain '{wanted}' in '{options.domain}'.{did_you_mean(wanted, known)} "
                f"Its domains are: {', '.join(known[:_SHOWN])}{more}."
            )
    return examples.take([row for row, domain in enumerate(names) if domain in options.only])
