"""What cells of different parts have in common: a donor or a batch on both sides makes a test part easier than the next
donor will be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exapt.data.columns import check_column

if TYPE_CHECKING:
    from exapt.data.splits import Rows
    from exapt.data.tables import Examples

ORIGINS = ("donor", "donor_id", "patient", "patient_id", "individual", "subject", "sample", "sample_id", "batch")
"""Columns by which cells are commonly known to be of one origin."""
_SHOWN = 3


def origins(examples: Examples, named: Sequence[str]) -> list[str]:
    """Return the columns to look at: those ``named`` or, without any, those of ``ORIGINS`` that the table has.

    Raises ``DataError`` for a named column that is not there.
    """
    for column in named:
        check_column(examples.table, column, "the table")
    there = {name.lower(): name for name in examples.table.column_names}
    return list(named) or [there[name] for name in ORIGINS if name in there]


def sharing(examples: Examples, parts: Mapping[str, Rows], columns: Sequence[str]) -> list[str]:
    """Return one line for each column: which of its values stand in the train part and in a later one."""
    return [line for column in columns for line in _shared(examples, parts, column)]


def _shared(examples: Examples, parts: Mapping[str, Rows], column: str) -> list[str]:
    values = examples.table.column(column).to_pylist()
    held = {
        part: {str(values[row]) for row in rows.tolist() if values[row] is not None} for part, rows in parts.items()
    }
    train = held.pop("train")
    lines = []
    for part, others in held.items():
        both = sorted(train & others)
        if both:
            more = ", ..." if len(both) > _SHOWN else ""
            named = ", ".join(f"'{value}'" for value in both[:_SHOWN])
            lines.append(
                f"{len(both)} of {len(others)} values of '{column}' in {part} stand in train too: {named}{more}; "
                f'split.group = "{column}" keeps them apart'
            )
    every = train.union(*held.values())
    return lines or (
        [f"no value of '{column}' stands in train and in a later part ({len(every)} values)"] if every else []
    )
