"""Nested tables as TOML: what a recipe is written in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_of(table: Mapping[str, Any]) -> str:
    """Return a table of texts, numbers, truth values, lists and tables as TOML; keys whose value is None are left out."""
    return "\n".join(_lines(table, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's own values first: what stands below the head of another table belongs to that one."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping) and value}
    own = {key: value for key, value in table.items() if key not in inner and value is not None}
    if path and (own or not inner):
        yield f"\n[{'.'.join(map(_key, path))}]"
    for key, value in own.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*path, key))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    # What JSON escapes is escaped alike in TOML, which does not take DEL as it is either.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = [f"{_key(key)} = {_value(inner)}" for key, inner in value.items() if inner is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return f"[{', '.join(map(_value, value))}]"
