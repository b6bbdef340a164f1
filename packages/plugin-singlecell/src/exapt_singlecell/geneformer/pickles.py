"""Published dictionaries are pickles: read as what they hold, names and numbers, without running what they ask for."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from exapt import DataError

_NUMBERS = re.compile(r"[fiu][1248]|b1|U\d{1,4}")

_PLAIN = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("NONE", "NEWTRUE", "NEWFALSE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BUILD"),
    )
)
_STEPS = {ord(step.code): (step.name, step.arg.n if step.arg else 0) for step in pickletools.opcodes}


def _codes(*names: str) -> frozenset[int]:
    return frozenset(code for code, (name, _) in _STEPS.items() if name in names)


(_STOP,), (_SHORT_TEXT,) = _codes("STOP"), _codes("SHORT_BINUNICODE")
_TUPLES, _USES = _codes("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), _codes("REDUCE", "BUILD")
_KEEPS = _codes("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LENGTHS = {code: _WIDTHS[size] for code, (name, size) in _STEPS.items() if name in _PLAIN and size in _WIDTHS}
# A global is named in two lines, all else that ends with a line in one.
_LINES = {
    code: 1 + (name == "GLOBAL")
    for code, (name, size) in _STEPS.items()
    if name in _PLAIN and size == pickletools.UP_TO_NEWLINE
}
_SIZES = {
    code: 0 if size < 0 or code in _TUPLES or name == "LONG_BINPUT" else 1 + size
    for code, (name, size) in _STEPS.items()
    if name in _PLAIN
}


class _CodeError(Exception):
    """The pickle names something else than numpy's scalars; its text says what."""


class _Kind:
    """Stands in for ``numpy.dtype``: which number some bytes spell, and in which order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise ValueError(code)
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError(state)
        self.order = state[1]


class _Scalar:
    """Stands in for numpy's scalars: gives the plain number, or text, in their place."""

    def __new__(cls, kind: _Kind, content: bytes) -> Any:
        if not isinstance(kind, _Kind) or not isinstance(content, bytes):
            raise ValueError(kind)
        (number,) = np.frombuffer(content, dtype=np.dtype(f"{kind.order}{kind.code}"))
        return number.item()

    def __setstate__(self, state: Any) -> None:
        raise ValueError(state)


class _Bytes:
    """Stands in for the function by which pickles of protocol 2 spell bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError(encoding)
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise ValueError(state)


_KNOWN = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("_codecs", "encode"): _Bytes,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _CodeError(f"{module}.{name}")
        return _KNOWN[module, name]


def read_pickle(path: Path) -> Any:
    """Return what a pickle of dictionaries, text, numbers and numpy scalars holds.

    Nothing that it names is imported or run. Raises ``DataError`` for one that holds more, or that is damaged.
    """
    content = path.read_bytes()
    try:
        _scan(content)
        return _Restricted(io.BytesIO(content)).load()
    except _CodeError as code:
        raise DataError(
            f"'{path}' asks for '{code}' to be run, which exapt does not do; take the dictionary as JSON or Parquet"
        ) from None
    except MemoryError:
        raise
    # A damaged pickle leads its reader anywhere, and so fails in any way at all.
    except Exception:
        raise DataError(
            f"'{path}' is damaged, cut short, or holds more than names and numbers; download it again"
        ) from None


def _scan(content: bytes) -> None:
    """Raise ``ValueError`` for steps that no dictionary of names and numbers takes, before any of them is taken.

    Places in the memo are bounded, since the reader makes room for the highest; a tuple has to be used at once, since
    tuples inside tuples without end break the stack; and what lies behind the end is no part of a pickle.
    """
    place = 0
    # A loop over a million steps: most of them are short text, or of a known size.
    while (code := content[place]) != _STOP:
        size = _SIZES[code]
        if size > 0:
            place += size
        elif code == _SHORT_TEXT:
            place += 2 + content[place + 1]
        else:
            place = _after(content, place, code)
    if place + 1 != len(content):
        _refuse(place)


def _after(content: bytes, place: int, code: int) -> int:
    """Return where the step after the one at ``place`` begins, having looked closer at it."""
    if code in _TUPLES:
        used = place + 1
        while content[used] in _KEEPS:
            used += _SIZES[content[used]] or _after(content, used, content[used]) - used
        return place + 1 if content[used] in _USES else _refuse(place)
    if code in _LENGTHS:
        start = place + 1 + _LENGTHS[code]
        return start + int.from_bytes(content[place + 1 : start], "little")
    if code not in _LINES:
        (index,) = struct.unpack_from("<I", content, place + 1)
        return place + 5 if index <= len(content) else _refuse(place)
    end = place
    for _ in range(_LINES[code]):
        end = content.index(b"\n", end) + 1
    return end if code not in _KEEPS or int(content[place + 1 : end]) <= len(content) else _refuse(place)


def _refuse(place: int) -> NoReturn:
    raise ValueError(f"the step at byte {place}")
