"""What is asked of a table's columns: to be there, to hold values, to hold ids."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from exapt.cells import CellType, cells_of
from exapt.errors import DataError
from exapt.structures import StructureType, structures_of

DIGEST = 16
"""Bytes by which a content is known."""


def check_column(table: pa.Table, column: str, name: str) -> None:
    """Raise ``DataError``, listing the columns that there are, if the table called ``name`` lacks one.

    Of one that a reader could not read, as the schema's metadata tell, it says why.
    """
    if column not in table.column_names:
        unread = (table.schema.metadata or {}).get(f"unreadable:{column}".encode())
        if unread:
            raise DataError(unread.decode())
        raise DataError(f"{name} has no column '{column}'. Its columns are: {', '.join(table.column_names)}.")


def column_values(table: pa.Table, column: str, name: str) -> list[Any]:
    """Return a column as Python values: text as ``str``, cells as ``Cell``, structures as ``Structure``, all else as typed."""
    check_column(table, column, name)
    values = table.column(column)
    if isinstance(values.type, CellType):
        return list(cells_of(values))
    return list(structures_of(values) if isinstance(values.type, StructureType) else values.to_pylist())


def find_id_column(table: pa.Table, wanted: str, name: str) -> str:
    """Return the column of ids: the wanted one, else ``id`` if there is one, else nothing."""
    if wanted:
        check_column(table, wanted, name)
    return wanted or ("id" if "id" in table.column_names else "")


def id_values(table: pa.Table, column: str, name: str, before: int = 0) -> list[str]:
    """Return the ids as text; raises ``DataError`` for a row without one, counting the rows that came ``before``."""
    values = table.column(column).to_pylist()
    for row, value in enumerate(values, before + 1):
        if value in (None, ""):
            raise DataError(f"{name} row {row} has no id in '{column}'.")
        if not isinstance(value, (str, int)):
            raise DataError(f"{name} row {row} has the id {value!r} in '{column}'; ids are text or whole numbers.")
    return [str(value) for value in values]


def row_named(row: int, known_as: str) -> str:
    """Return how a message names a row, counted from 1."""
    return f"row {row}" if known_as == str(row) else f"row {row} (id '{known_as}')"


def content_digest(content: Any) -> bytes:
    """Return 16 bytes that stand for plain values: equal values give equal bytes."""
    return hashlib.blake2b(repr(content).encode(), digest_size=DIGEST).digest()
