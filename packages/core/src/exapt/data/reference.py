"""Random access to the sequences of a FASTA file of any size: scanned once, then read from where a stretch lies."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import numpy as np

from exapt.data.text import check_head, opened, zipped
from exapt.errors import DataError, did_you_mean

_BLOCK = 1 << 24
_NEWLINE, _RETURN = b"\n", b"\r"


@dataclass(frozen=True)
class _Place:
    """Where a sequence lies: its first byte, its ``length`` in letters, and its lines' letters and bytes."""

    begin: int
    length: int
    letters: int
    width: int

    def byte(self, position: int) -> int:
        """Return the byte of a letter, counted from 0."""
        return self.begin + position // self.letters * self.width + position % self.letters


class Reference:
    """The sequences of a FASTA file by name, plain or gzip; a compressed one is unpacked into a temporary file.

    Raises ``DataError`` for what is no FASTA, for a name that comes twice, and for lines folded unevenly.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        with opened(path) as stream:
            check_head(path, stream.peek(4096))  # type: ignore[attr-defined]
            self._bytes = _mapped(path, stream)
        if not self._bytes[:1] == b">":
            raise DataError(f"{self.name} line 1 is not FASTA: the first record must begin with '>'.")
        self._places: dict[str, _Place] = {}
        for begin, end in self._records():
            self._scan(begin, end)

    @property
    def names(self) -> list[str]:
        """Names of the sequences, in the order of the file."""
        return list(self._places)

    def length(self, name: str) -> int:
        """Return how many letters a sequence has. Raises ``DataError``, with the nearest name, if there is none."""
        return self._place(name).length

    def fetch(self, name: str, start: int, stop: int) -> str:
        """Return the letters from ``start`` to ``stop`` (exclusive, from 0) of a sequence, within its ends."""
        place = self._place(name)
        start, stop = max(0, start), min(stop, place.length)
        piece = self._bytes[place.byte(start) : place.byte(stop)] if start < stop else b""
        return piece.replace(_NEWLINE, b"").replace(_RETURN, b"").decode("ascii", "replace")

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            some = ", ".join(self.names[:5]) + (", ..." if len(self._places) > 5 else "")
            near = _otherwise_named(name, self._places) or did_you_mean(name, self.names)
            raise DataError(f"{self.name} has no sequence '{name}'.{near} It has: {some}.")
        return self._places[name]

    def _records(self) -> Iterator[tuple[int, int]]:
        begin = 0
        while begin >= 0:
            following = self._bytes.find(b"\n>", begin)
            yield begin, len(self._bytes) if following < 0 else following
            begin = following + 1 if following >= 0 else -1

    def _scan(self, begin: int, end: int) -> None:
        header_end = self._bytes.find(_NEWLINE, begin, end)
        header_end = end if header_end < 0 else header_end
        words = self._bytes[begin + 1 : header_end].decode("utf-8", "replace").split(maxsplit=1)
        if not words:
            raise DataError(f"{self.name}: record {len(self._places) + 1} has no name.")
        name, first = words[0], min(header_end + 1, end)
        while end > first and self._bytes[end - 1 : end] in (_NEWLINE, _RETURN):
            end -= 1
        if first == end:
            raise DataError(f"{self.name}: record '{name}' has no sequence.")
        if name in self._places:
            raise DataError(f"{self.name} has two sequences '{name}'.")
        self._places[name] = self._folded(name, first, end)

    def _folded(self, name: str, first: int, end: int) -> _Place:
        fold = self._bytes.find(_NEWLINE, first, end)
        if fold < 0:
            return _Place(first, end - first, end - first, end - first + 1)
        width = fold - first + 1
        letters = width - 1 - (self._bytes[fold - 1 : fold] == _RETURN)
        whole, rest = divmod(end - first, width)
        if letters < 1 or rest > letters or not self._even(first, end, width):
            raise DataError(
                f"{self.name}: the lines of '{name}' are not all of one length; fold them anew, as with: "
                "seqkit seq -w 60"
            )
        return _Place(first, whole * letters + rest, letters, width)

    def _even(self, first: int, end: int, width: int) -> bool:
        folds = 0
        for begin in range(first, end, _BLOCK):
            block = np.frombuffer(self._bytes[begin : min(begin + _BLOCK, end)], dtype=np.uint8)
            places = np.flatnonzero(block == ord(_NEWLINE)) + (begin - first)
            if (places % width != width - 1).any():
                return False
            folds += len(places)
        return folds == (end - first) // width


def _otherwise_named(name: str, known: Container[str]) -> str:
    """Return `` Did you mean 'chr1'?`` for 1, and the like for the other names that chromosomes have."""
    bare = name[3:] if name.lower().startswith("chr") else name
    # The mitochondrion is M to some and MT to others.
    bares = [bare, {"M": "MT", "MT": "M"}.get(bare, bare)]
    names = (other for one in bares for other in (one, f"chr{one}", f"Chr{one}", one.upper(), f"chr{one.upper()}"))
    return next((f" Did you mean '{other}'?" for other in names if other in known), "")


class Letters(Protocol):
    """A sequence that may be too long to hold."""

    whole: bool
    """Whether it is an input of its own, of which all is to be read if it can be."""

    def __len__(self) -> int:
        """Return how many letters there are."""

    def cut(self, start: int, stop: int) -> str:
        """Return the letters from ``start`` to ``stop`` (exclusive, from 0)."""


@dataclass(frozen=True)
class Whole:
    """A sequence that stands in a table."""

    text: str
    whole = True

    def __len__(self) -> int:
        return len(self.text)

    def cut(self, start: int, stop: int) -> str:
        """Return the letters from ``start`` to ``stop`` (exclusive, from 0)."""
        return self.text[start:stop]


@dataclass(frozen=True)
class Stretch:
    """A sequence of a reference."""

    reference: Reference
    name: str
    whole = False

    def __len__(self) -> int:
        return self.reference.length(self.name)

    def cut(self, start: int, stop: int) -> str:
        """Return the letters from ``start`` to ``stop`` (exclusive, from 0)."""
        return self.reference.fetch(self.name, start, stop)


def _mapped(path: Path, stream: IO[bytes]) -> mmap.mmap:
    with path.open("rb") as raw:
        if not zipped(raw.read(2)):
            return mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, cast("IO[bytes]", unpacked), _BLOCK)
        unpacked.flush()
        return mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ)
