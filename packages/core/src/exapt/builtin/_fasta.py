"""How FASTA is read: names, descriptions, sequences, and the ``key=value`` pairs of the headers."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dnaio
import pyarrow as pa

from exapt.builtin._pieces import pieces
from exapt.data.text import lines
from exapt.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_COLUMNS = ("id", "description", "sequence")

# NCBI writes [organism=Homo sapiens], UniProt OS=Homo sapiens OX=9606: a value runs to its bracket or to the next key.
_PAIR = re.compile(r"\[(\w[\w.-]*)=([^]]*)\]|(?<!\S)(\w[\w.-]*)=(.*?)(?=\s+\[?\w[\w.-]*=|\s*$)")


@dataclass(frozen=True)
class Fasta:
    """Records with a column for each key that any header has, empty where a header lacks it.

    A first pass over the file collects the keys, and checks it; a second reads. Keys called id, description or
    sequence make no column: they stay in the description.
    """

    path: Path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        keys = tuple(dict.fromkeys(key for _, description, _ in self._records() for key in _pairs(description)))
        names = (*_COLUMNS, *keys)
        for piece in pieces(self._records(), lambda record: len(record[2])):
            pairs = [_pairs(description) for _, description, _ in piece]
            columns = [*zip(*piece, strict=True), *([found.get(key) for found in pairs] for key in keys)]
            yield pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], names=names)

    def _records(self) -> Iterator[tuple[str, str, str]]:
        number = 0
        with closing(_ascii(self.path)) as text, io.BufferedReader(_Stream(text)) as stream:
            try:
                for number, record in enumerate(dnaio.open(stream, fileformat="fasta"), 1):
                    yield self._parts(number, record)
            except dnaio.FileFormatError as error:
                place = f"{self.path.name} line {(error.line or 0) + 1}"
                raise DataError(f"{place} is not FASTA: the first record must begin with '>'.") from None
        if not number:
            raise DataError(f"{self.path.name} has no records.")

    def _parts(self, number: int, record: dnaio.SequenceRecord) -> tuple[str, str, str]:
        name, _, description = record.name.partition(" ")
        if not name:
            raise DataError(f"{self.path.name}: record {number} has no name.")
        if not record.sequence:
            raise DataError(f"{self.path.name}: record '{name}' has no sequence.")
        return name, description.strip(), record.sequence


def _pairs(description: str) -> dict[str, str]:
    if "=" not in description:
        return {}
    found = ((m[1] or m[3], (m[2] if m[1] else m[4]).strip()) for m in _PAIR.finditer(description))
    return {key: value for key, value in found if key not in _COLUMNS}


def _ascii(path: Path) -> Generator[bytes, None, None]:
    read = 0
    for block in pieces(lines(path), len):
        text = "".join(block)
        if not text.isascii():
            raise _not_ascii(path, block, read)
        read += len(block)
        yield text.encode("ascii")


def _not_ascii(path: Path, block: Sequence[str], before: int) -> DataError:
    number, line = next((number, line) for number, line in enumerate(block, before + 1) if not line.isascii())
    strange = next(character for character in line if not character.isascii())
    return DataError(f"{path.name} line {number}: '{strange}' is no ASCII character; FASTA is ASCII.")


class _Stream(io.RawIOBase):
    """Checked lines as the binary file that dnaio reads from."""

    def __init__(self, text: Iterator[bytes]) -> None:
        self._text = text
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._left = self._left or memoryview(next(self._text, b""))
        count = min(len(view), len(self._left))
        view[:count], self._left = self._left[:count], self._left[count:]
        return count
