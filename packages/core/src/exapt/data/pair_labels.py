"""How labels of pairs of units are read: lists of pairs, counted from 1, and square matrices.

Every ``DataError`` here is a predicate, such as ``names the pair 4-4``; core puts the column and the row before it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from exapt.data.labels import is_missing
from exapt.errors import DataError

Pairs = list[tuple[int, int]]
Matrix = list[list[float]]
"""Rows of numbers, NaN where nothing is known."""

_PAIR = re.compile(r"\s*(\d+)-(\d+)\s*")
_WANTED = "give pairs such as 3-17;5-20 or [[3, 17], [5, 20]], or a matrix of three rows or more"


def pairs_or_rows(label: Any) -> tuple[Pairs, Matrix | None]:
    """Return the pairs that a label names, or none and the rows of its matrix.

    A label is text ``3-17;5-20``, JSON, or a list: of pairs, of texts ``3-17``, or of rows, None for a row of which nothing
    is known. Two rows of two numbers are two pairs. Raises ``DataError`` for anything else, and for positions below 1.
    """
    parts = _parts(label)
    if all(isinstance(part, str) for part in parts):
        return [_checked(*_read(part)) for part in parts], None
    if all(isinstance(part, (list, tuple)) and len(part) == 2 for part in parts):
        return [_checked(*map(_position, part), matrix=len(parts) == 2) for part in parts], None
    if all(part is None or isinstance(part, (list, tuple)) for part in parts):
        return [], _matrix(parts)
    raise DataError(f"is {_short(label)}, which names no pairs of units; {_WANTED}")


def contacts(label: Any, below: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs that a label says are in contact; of a matrix of distances, those ``below`` so many."""
    pairs, rows = pairs_or_rows(label)
    yield from pairs
    for i, row in enumerate(rows or (), 1):
        yield from ((i, j) for j, value in enumerate(row, 1) if (value < below if below else value == 1))


def check_inside(pairs: Iterable[tuple[int, int]], units: int) -> None:
    """Raise ``DataError`` for a pair with a position beyond the last of the ``units``."""
    for one, other in pairs:
        if max(one, other) > units:
            raise DataError(f"names the pair {one}-{other}, and the input has {units} units")


def _parts(label: Any) -> list[Any]:
    value = label.tolist() if hasattr(label, "tolist") else label
    if is_missing(value):
        raise DataError("is missing; write [] where no pair is in contact")
    if isinstance(value, (list, tuple)):
        return [part.tolist() if hasattr(part, "tolist") else part for part in value]
    text = str(value).strip()
    if not text.startswith("["):
        return [part for part in re.split(r"[;,\s]", text) if part]
    try:
        found = json.loads(text)
    except ValueError:
        raise DataError(f"begins like a list, but is none: '{text[:40]}'") from None
    return list(found)


def _read(text: str) -> tuple[int, int]:
    found = _PAIR.fullmatch(text)
    if not found:
        raise DataError(f"has {_short(text)} where a pair is expected; {_WANTED}")
    return int(found[1]), int(found[2])


def _position(value: Any) -> int:
    whole = isinstance(value, float) and value.is_integer()
    if not whole and (isinstance(value, bool) or not isinstance(value, int)):
        raise DataError(f"has {_short(value)} where a position is expected, a whole number counted from 1")
    return int(value)


def _checked(one: int, other: int, *, matrix: bool = False) -> tuple[int, int]:
    if min(one, other) < 1:
        hint = "; lists of two numbers are pairs, and a matrix has three rows or more" if matrix else ""
        raise DataError(f"names the pair {one}-{other}: positions count from 1{hint}")
    if one == other:
        raise DataError(f"names the pair {one}-{other}: a pair is of two different units")
    return one, other


def _matrix(rows: Sequence[Sequence[Any] | None]) -> Matrix:
    for place, row in enumerate(rows, 1):
        if row is not None and len(row) != len(rows):
            raise DataError(
                f"is a matrix of {len(rows)} rows whose row {place} has {len(row)} values: it is not square"
            )
    return [[math.nan] * len(rows) if row is None else [_entry(value) for value in row] for row in rows]


def _entry(value: Any) -> float:
    if value is None or value == -1:
        return math.nan
    if isinstance(value, (int, float)):
        return float(value)
    raise DataError(f"has {_short(value)} in a matrix of numbers")


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:37]}..."
