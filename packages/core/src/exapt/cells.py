"""A cell as an input: which genes of a table it expresses, and how much of each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exapt.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Genes:
    """The genes of a table of cells, by ``names`` as the table gives them and in its order.

    All cells of a table share one, so that whatever is looked up of it needs to be looked up once. ``columns`` are those
    of the table by which its genes could be named instead.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            twice = [name for name, count in Counter(self.names).items() if count > 1]
            more = f", and {len(twice) - 1:,} more stand twice" if len(twice) > 1 else ""
            raise DataError(f"the gene '{twice[0]}' stands twice{more}; make the names unique")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def serialised(self) -> bytes:
        """Names and columns as JSON; Arrow asks for them whenever it gives a column's type back."""
        return json.dumps([self.names, self.columns]).encode()

    @cached_property
    def digest(self) -> str:
        """The sha256 of the names, in hexadecimal."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell: what it expresses of the ``genes`` of its table.

    ``places`` [expressed] are the rising positions of the genes with a value, ``values`` [expressed] what stands there,
    never 0. ``raw`` says whether they are counts of molecules, as opposed to values normalised before.
    A *unit* of a cell is an expressed gene, in the order of the table.
    """

    genes: Genes
    places: Array
    values: Array
    raw: bool = True

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return a cell as it is, or make one of ``{"genes": [...], "counts": [...]}``, where a count may be 0.

        Raises ``DataError`` for anything else, and for counts that are negative or no numbers.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or value.keys() != {"genes", "counts"}:
            raise DataError(f'is {_short(value)}, not a cell such as {{"genes": ["CD3E"], "counts": [2]}}')
        return cls.from_dense(Genes(tuple(value["genes"])), value["counts"])

    @classmethod
    def from_dense(cls, genes: Genes, values: Sequence[float] | Array, raw: bool = True) -> Self:
        """Return a cell with one of ``values`` for each gene, zeros included."""
        try:
            dense = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError):
            raise DataError("has counts that are no numbers") from None
        if dense.shape != (len(genes),):
            raise DataError(f"has {dense.size} counts for {len(genes)} genes")
        if not np.isfinite(dense).all() or (dense < 0).any():
            raise DataError("has counts that are negative or no numbers")
        places = np.flatnonzero(dense).astype(np.int32)
        return cls(genes, places, dense[places], raw)

    @property
    def names(self) -> list[str]:
        """Names of the expressed genes."""
        return [self.genes.names[place] for place in self.places.tolist()]

    @property
    def total(self) -> float:
        """Sum of all values, whether a model knows their genes or not."""
        return float(self.values.sum(dtype=np.float64))

    def __repr__(self) -> str:
        digest = hashlib.sha256(f"{self.genes.digest} {self.raw}".encode())
        digest.update(self.places.astype("<i4").tobytes() + self.values.astype("<f4").tobytes())
        return f"<cell of {len(self.places)} expressed genes, {digest.hexdigest()[:32]}>"


def _short(value: Any) -> str:
    return said if len(said := repr(value)) <= 40 else f"{said[:37]}..."


# Arrow forgets the type that it was given and makes another of its serialised form; cells of one table share their genes.
@lru_cache(maxsize=8)
def _from_arrow(serialised: bytes) -> tuple[Genes, bool]:
    return Genes(*map(tuple, json.loads(serialised[1:]))), serialised[:1] == b"1"


class CellType(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types of its own
    """The Arrow type of a column of cells: places and values as lists; the genes belong to the type."""

    def __init__(self, genes: Genes, raw: bool = True) -> None:
        self.genes, self.raw = genes, raw
        storage = pa.struct([("places", pa.large_list(pa.int32())), ("values", pa.large_list(pa.float32()))])
        super().__init__(storage, "exapt.cell")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"1" + self.genes.serialised if self.raw else b"0" + self.genes.serialised

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> CellType:
        return cls(*_from_arrow(serialized))


def cell_column(kind: CellType, starts: Array, places: Array, values: Array) -> pa.ExtensionArray:
    """Return a column of cells whose expressed genes lie behind one another, as in a compressed sparse row matrix.

    ``starts`` [cells + 1] are where each cell's begin in ``places`` and ``values`` [expressed of all cells].
    """
    offsets = pa.array(np.asarray(starts, dtype=np.int64))
    lists = [
        pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(flat, dtype=dtype)))
        for flat, dtype in ((places, np.int32), (values, np.float32))
    ]
    storage = pa.StructArray.from_arrays(lists, fields=list(kind.storage_type))
    return pa.ExtensionArray.from_storage(kind, storage)


def cells_of(column: pa.ChunkedArray) -> list[Cell]:
    """Return the cells of a column, as views of its memory."""
    cells: list[Cell] = []
    for chunk in column.chunks:
        kind, storage = chunk.type, chunk.storage
        if storage.null_count:
            raise DataError("a column of cells has a row without a cell")
        places, values = storage.flatten()
        starts = places.offsets.to_numpy()
        flat_places, flat_values = places.values.to_numpy(), values.values.to_numpy()
        # Slices of one struct are slices of both lists, but their offsets are each list's own.
        others = values.offsets.to_numpy()
        for row in range(len(chunk)):
            here, there = slice(starts[row], starts[row + 1]), slice(others[row], others[row + 1])
            cells.append(Cell(kind.genes, flat_places[here], flat_values[there], kind.raw))
    return cells
