"""The files that a table of structures consists of, and their text: plain or gzip, checked before it is parsed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

from exapt import DataError
from exapt_esm.structures import SUFFIXES

_HTML = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)
_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\v\f\r")
_MARK = b"\xef\xbb\xbf"


def structure_files(path: Path) -> dict[str, Path]:
    """Return the file of each id, in the order of the ids; an id is a file's name without suffixes.

    Raises ``DataError`` for a folder without structures, or with two files of one id.
    """
    if not path.is_dir():
        return {_id(path.name): path}
    files = sorted(file for file in _visible(path) if file.is_file() and _holds_structure(file.name))
    if not files:
        raise DataError(f"the folder '{path}' holds no structures: names of their files end in {_known()}.")
    found: dict[str, Path] = {}
    for file in files:
        first = found.setdefault(_id(file.name), file)
        if first is not file:
            raise DataError(
                f"'{path}' has two files with the id '{_id(file.name)}': {first.name} and {file.name}. "
                "Rename one of them, or take it out."
            )
    return dict(sorted(found.items()))


def beside(path: Path, files: Iterable[Path]) -> dict[str, int]:
    """Return how many files and folders lie in a folder of structures without being read, by what they are."""
    if not path.is_dir():
        return {}
    read = set(files)
    others = [entry for entry in _visible(path) if entry not in read]
    folders = sum(entry.is_dir() for entry in others)
    counted = {"other files, not read": len(others) - folders, "folders in it, not read": folders}
    return {what: count for what, count in counted.items() if count}


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error.strerror}.") from None


def _known() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, also with .gz"


def _holds_structure(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _id(name: str) -> str:
    low = name.lower().removesuffix(".gz")
    suffix = next((suffix for suffix in SUFFIXES if low.endswith(suffix)), "")
    return name[: len(low) - len(suffix)] or name


def read_text(path: Path) -> bytes:
    """Return what a file holds, unpacked. Raises ``DataError`` for damage, and for what is not text of any kind."""
    held = _unpacked(path).removeprefix(_MARK)
    if not held.strip():
        raise DataError(f"{path.name} is empty.")
    if _HTML.match(held[:4096]):
        raise DataError(f"{path.name} is an HTML page, not a structure. Fetch the file itself.")
    if len(held.translate(None, _CONTROL)) < len(held):
        place = next(place for place, code in enumerate(held) if code in _CONTROL)
        raise DataError(f"{path.name} is binary, not text: byte {place + 1} is 0x{held[place]:02x}.")
    return held


def _unpacked(path: Path) -> bytes:
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            return (cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw).read()
    except EOFError:
        raise DataError(f"{path.name} is cut off: its gzip data end too early. Fetch it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path.name} is damaged: its gzip data do not fit their checksum. Fetch it again.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from None
