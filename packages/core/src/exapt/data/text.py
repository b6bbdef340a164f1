"""Text files as they come, plain or gzip: checked and decoded line by line while they are read."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from exapt.errors import DataError

_GZIP = b"\x1f\x8b"
_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_UTF16 = re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]")

# What is most often taken for a table, by its first bytes.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"PAR1": "Parquet",
    b"\x89HDF": "HDF5",
    b"%PDF": "a PDF document",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, through gzip if its first bytes say so; raises ``DataError`` for damage met on the way."""
    try:
        with path.open("rb") as raw:
            head = raw.peek(2)
            if head == _GZIP[:1]:
                raise EOFError
            stream = gzip.GzipFile(fileobj=raw) if zipped(head) else raw
            yield cast("IO[bytes]", stream)
    except EOFError:
        raise DataError(f"{path.name} is cut off: its gzip data end too early. Fetch it again.") from None
    except (gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path.name} is damaged: its gzip data do not fit their checksum. Fetch it again.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from None


def zipped(head: bytes) -> bool:
    """Tell gzip by its first bytes."""
    return head.startswith(_GZIP)


def check_head(path: Path, head: bytes) -> None:
    """Raise ``DataError`` for a file that is empty, or something else than text, to judge by its first bytes."""
    if not head:
        raise DataError(f"{path.name} is empty.")
    if _HTML.match(head):
        raise DataError(f"{path.name} is an HTML page, not data. Fetch the file itself.")
    if _UTF16.match(head):
        raise DataError(f"{path.name} is UTF-16 text. Save it as UTF-8.")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path.name} is {what}, not text.")


def lines(path: Path) -> Generator[str, None, None]:
    """Yield the lines of a UTF-8 file with their ends, without its byte order mark.

    Raises ``DataError``, with the line and the byte, for what is not text.
    """
    with opened(path) as stream:
        check_head(path, stream.peek(4096))  # type: ignore[attr-defined]
        for number, line in enumerate(stream, 1):
            yield _decoded(path, number, line)


def _decoded(path: Path, number: int, line: bytes) -> str:
    if b"\0" in line:
        place = f"line {number}, byte {line.index(0) + 1} is NUL"
        raise DataError(f"{path.name} is binary, not text: {place}.")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        place = f"line {number}, byte {error.start + 1} is 0x{line[error.start]:02x}"
        raise DataError(f"{path.name} is not UTF-8: {place}. Save it as UTF-8.") from None
