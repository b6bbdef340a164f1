"""How the labels of a table are read: class names, sets of them, numbers, and one of these per unit.

Every ``DataError`` here is a predicate, such as ``is not a number: 'abc'``; core puts the column and the row before it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from exapt.errors import DataError

MISSING = frozenset({"", "NA", "NaN", "nan", "null", "None"})
"""Texts that stand for no label, as a cell of a table or as a member of a list."""
_LARGEST = 1e15
"""What squares and sums of labels must stay below, to be numbers in fp32 still."""
_WHOLE = re.compile(r"(-?\d+)\.0+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_SEPARATED = re.compile(r"[,;\s]")


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN or blank text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def is_unlabelled(value: Any) -> bool:
    """Return whether a cell of a table, or a member of a list, stands for no label: it is missing, or a text such as ``NA``."""
    return is_missing(value) or (isinstance(value, str) and value.strip() in MISSING)


def class_name(value: Any) -> str:
    """Return the name of a class as it is written everywhere: ``1``, ``1.0`` and ``'1.0'`` are ``1``, True is ``true``.

    Raises ``DataError`` where the value is missing.
    """
    value = _plain(value)
    if is_missing(value):
        raise DataError("is missing")
    if isinstance(value, (list, tuple, dict, set, bytes)):
        raise DataError(f"is a {type(value).__name__}, not the name of a class: {value!r}")
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names without repeats: by number if all of them are numbers, else by letter."""
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        distinct.sort(key=float)
    return tuple(distinct)


def class_set(value: Any) -> list[str]:
    """Return the names in one cell: a list, JSON text ``["a", "b"]``, or text with ``;`` between them.

    Raises ``DataError`` where the value is missing; no name at all is written ``[]``.
    """
    value = _plain(value)
    if is_missing(value):
        raise DataError("is missing; write [] where no label applies")
    if not isinstance(value, str):
        return [class_name(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
    if value.lstrip().startswith("["):
        return [class_name(part) for part in _json_list(value)]
    names = [class_name(part) for part in value.split(";") if part.strip()]
    if not names:
        raise DataError("is missing; write [] where no label applies")
    return names


def is_set(value: Any) -> float:
    """Return 1 or 0 for a label that has a column of its own, NaN where the cell is empty; raises ``DataError``."""
    if is_missing(_plain(value)):
        return math.nan
    name = class_name(value).lower()
    if name not in {"0", "1", "false", "true"}:
        raise DataError(f"is not 0 or 1: '{name}'")
    return float(name in {"1", "true"})


def number(value: Any) -> float:
    """Return a number, NaN where it is missing. Raises ``DataError`` for what is not a finite number."""
    value = _plain(value)
    if is_missing(value):
        return math.nan
    try:
        # Python reads '1_000' as a number; a table that holds it holds a name.
        found = math.nan if "_" in str(value) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"is not a number: '{value}'")
    if abs(found) > _LARGEST:
        raise DataError(f"is too large a number: '{value}'")
    return found


def numbers(value: Any) -> list[float]:
    """Return the numbers of one row: one cell, a list, or a tuple of several columns; NaN for some that are missing.

    Raises ``DataError`` where all are missing.
    """
    value = _plain(value)
    found = [number(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
    if all(math.isnan(part) for part in found):
        raise DataError("is missing")
    return found


def unit_values(value: Any, characters: bool, known: Sequence[str] = ()) -> list[Any]:
    """Return one value per unit from a list, JSON text ``[0, 1]``, or text with ``,``, ``;`` or blanks between.

    Text without any of these is one value per character where ``characters``, else one value. A unit without a label has
    None; a text such as ``NA`` is none, unless it is the name of a ``known`` class. Raises ``DataError``.
    """
    return [_or_hole(part, known) for part in _unit_parts(value, characters)]


def mask_values(value: Any) -> list[bool]:
    """Return which units count, from a list or a text of 0 and 1, one for each unit. Raises ``DataError``."""
    known = {"0": False, "1": True, "false": False, "true": True}
    parts = _unit_parts(value, True)
    found = [known.get(class_name(part).lower()) if not is_missing(part) else None for part in parts]
    for place, (one, part) in enumerate(zip(found, parts, strict=True), 1):
        if one is None:
            raise DataError(f"has {_said(part)} at position {place}; a mask is 1 where a unit counts, else 0")
    return [one is True for one in found]


def _said(part: Any) -> str:
    return "no value" if is_missing(part) else f"'{part}'"


def without_labels_of(label: Any, covered: Sequence[bool], characters: bool) -> tuple[Any, int]:
    """Return the label of an input with None for units that are not ``covered`` [units], and how many values it loses.

    What has no value for each unit stays as it is: its head will say what is wrong with it.
    """
    if all(covered):
        return label, 0
    try:
        parts = _unit_parts(label, characters)
    except DataError:
        return label, 0
    if len(parts) != len(covered):
        return label, 0
    kept = [part if known else None for part, known in zip(parts, covered, strict=True)]
    return kept, sum(not (known or is_unlabelled(part)) for part, known in zip(parts, covered, strict=True))


def has_no_label(label: Any) -> bool:
    """Return whether a label of units names none of them; where there is no unit at all, nothing is missing."""
    try:
        values = unit_values(label, characters=True)
    except DataError:
        return False
    return bool(values) and all(value is None for value in values)


def _or_hole(part: Any, known: Sequence[str]) -> Any:
    if isinstance(part, str):
        text = part.strip()
        return None if text in MISSING and text not in known else part
    return None if is_missing(part) else part


def _unit_parts(value: Any, characters: bool) -> list[Any]:
    value = _plain(value)
    if is_missing(value):
        raise DataError("is missing")
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    text = str(value).strip()
    if text.startswith("["):
        return _json_list(text)
    if re.search(r"[,;]", text):
        return [part.strip() for part in re.split(r"[,;]", text)]
    if _SEPARATED.search(text):
        return text.split()
    return list(text) if characters else [text]


def _json_list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise DataError(f"begins like a list, but is none: '{text[:40]}'")
    return found


def _plain(value: Any) -> Any:
    # numpy's scalars and arrays become Python's own, without numpy being imported here.
    return value.tolist() if hasattr(value, "tolist") else value
