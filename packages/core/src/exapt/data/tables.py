"""Tables as readers give them and writers take them, and the examples that core makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Reader(Protocol):
    """An opened file, read in pieces so that it never has to fit into memory."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield record batches of the same named columns, in the order of the file.

        Raises ``DataError``, with the file and the line, for what cannot be read.
        """


class Writer(Protocol):
    """A file under way. Core calls ``write`` with batches of one schema, then ``close``, then renames the file."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the file; without this call it is thrown away."""


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to answer for, held by column.

    ``inputs`` maps each input's name to its values; ``labels`` maps each head's name to its labels, one value per row,
    or a tuple of values where the head has several label columns; ``table`` keeps every column of the file.
    """

    ids: Sequence[str]
    inputs: Mapping[str, Sequence[Any]]
    labels: Mapping[str, Sequence[Any]]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.ids)
