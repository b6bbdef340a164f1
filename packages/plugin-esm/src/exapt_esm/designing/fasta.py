"""Tables of sequences as FASTA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from exapt import OutputError

_NAME, _SEQUENCE = "id", "sequence"


class FastaWriter:
    """One record a row: its id and, as ``KEY=VALUE``, its other columns but for those that are missing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, batch: pa.RecordBatch) -> None:
        """Append records. Raises ``OutputError`` for a table without sequences."""
        with self._path.open("a", encoding="ascii", newline="\n") as file:
            file.writelines(f"{record}\n" for record in records(batch))

    def close(self) -> None:
        """Each batch is on the disk already."""


def records(batch: pa.RecordBatch) -> Iterator[str]:
    """Yield the records of a table, without the last line's end. Raises ``OutputError`` for a table without sequences."""
    for column in (_NAME, _SEQUENCE):
        if column not in batch.schema.names:
            there = ", ".join(batch.schema.names)
            raise OutputError(f"FASTA holds sequences, and there is no column '{column}'. The columns are: {there}.")
    for row in batch.to_pylist():
        name, sequence = row.pop(_NAME), row.pop(_SEQUENCE)
        facts = "".join(f" {key}={_plain(value)}" for key, value in row.items() if value is not None)
        yield f">{_plain(name).replace(' ', '_')}{facts}\n{sequence}"


def _plain(value: Any) -> str:
    """Return a value on one line, in the characters that FASTA has."""
    return " ".join(str(value).split()).encode("ascii", "backslashreplace").decode("ascii")
