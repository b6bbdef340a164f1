"""How embeddings become one array in a file, without ever being one array in memory.

Both formats begin with sizes that are only known at the end. So rows are laid down raw beside the file while they come,
and copied behind the right header on closing.

    ids           n names
    embeddings    [n, width], one row an input; or [units, width], one row a unit of all inputs in turn
    offsets       [n + 1], only for units: those of input i are rows offsets[i] to offsets[i + 1]
    empty         [n], only for cells: whether no gene of input i is known, so that its row says nothing
    units         names of the units of all inputs in turn, only where they have names
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from exapt.errors import OutputError

_ROWS = 4096
_NAMES = {"float16": "F16", "float32": "F32", "float64": "F64"}


class _Growing:
    """A raw array on the disk that grows at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def pour(self, into: IO[bytes]) -> None:
        with self.path.open("rb") as file:
            shutil.copyfileobj(file, into, 1 << 20)

    @property
    def size(self) -> int:
        return self.path.stat().st_size


class _Names:
    """Names under way: their letters, and where each of them ends."""

    def __init__(self, path: Path, kind: str) -> None:
        self.letters, self.ends = (
            _Growing(path.with_name(f"{path.name}.{what}")) for what in (kind, f"{kind}_offsets")
        )
        self._end = self.count = 0
        self.longest = 1

    def begin(self) -> None:
        self.letters.append(b"")
        self.ends.append(bytes(8))

    def add(self, names: list[str]) -> None:
        encoded = [name.encode() for name in names]
        ends = self._end + np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.ends.append(ends.tobytes())
        self.letters.append(b"".join(encoded))
        self._end, self.count = self.letters.size, self.count + len(names)
        self.longest = max(self.longest, *map(len, names), 1)

    def pieces(self) -> Iterator[list[str]]:
        with self.letters.path.open("rb") as file:
            for begin in range(0, self.count, _ROWS):
                lengths = np.diff(np.fromfile(self.ends.path, np.int64, _ROWS + 1, offset=8 * begin))
                yield [file.read(length).decode() for length in lengths]


class _Embeddings:
    """Embeddings under way: raw arrays beside the file to be, which the formats put together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names, self._unit_names = _Names(path, "ids"), _Names(path, "units")
        self._vectors = _Growing(path.with_name(f"{path.name}.embeddings"))
        self._ends = _Growing(path.with_name(f"{path.name}.offsets"))
        self._empty = _Growing(path.with_name(f"{path.name}.empty"))
        self._kind: pa.DataType = None
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch with the columns ``id``, ``embedding`` (a vector or a list of vectors an input) and maybe ``empty``
        and ``units``.
        """
        if self._kind is None:
            self._begin(batch.schema)
        column = batch.column("embedding")
        if column.null_count or column.type != self._kind:
            raise OutputError(f"the embeddings are not all {self._kind}.")
        self._names.add(batch.column("id").to_pylist())
        if self._marked:
            self._empty.append(bytes(batch.column("empty").to_pylist()))
        if self._named:
            self._unit_names.add(batch.column("units").flatten().to_pylist())
        if self._per_unit:
            column = self._add_ends(column)
        self._vectors.append(column.flatten().to_numpy(zero_copy_only=False).tobytes())
        self._rows += batch.num_rows

    def _begin(self, schema: pa.Schema) -> None:
        self._marked = "empty" in schema.names
        self._named = "units" in schema.names
        rest = [name for name in schema.names if name not in ("empty", "units")]
        vector = schema.field("embedding").type if rest == ["id", "embedding"] else pa.null()
        self._kind = vector
        self._per_unit = pa.types.is_list(vector) or pa.types.is_large_list(vector)
        if self._per_unit:
            vector = vector.value_type
            self._ends.append(bytes(8))
        if not pa.types.is_fixed_size_list(vector) or not pa.types.is_floating(vector.value_type):
            form = self._path.suffix.removeprefix(".")
            raise OutputError(
                f"{form} holds embeddings only, not: {', '.join(schema.names)}. Write Parquet, CSV or JSONL."
            )
        self._width: int = vector.list_size
        self._type = np.dtype(vector.value_type.to_pandas_dtype())
        self._units = 0
        self._names.begin()
        if self._named:
            self._unit_names.begin()

    def _add_ends(self, column: pa.Array) -> pa.Array:
        lengths = column.value_lengths().to_numpy()
        self._ends.append((self._units + np.cumsum(lengths, dtype=np.int64)).tobytes())
        self._units += int(lengths.sum())
        return column.flatten()

    @property
    def _shape(self) -> tuple[int, int]:
        return (self._units if self._per_unit else self._rows), self._width


class Npz(_Embeddings):
    """An npz that ``numpy.load(..., allow_pickle=False)`` opens: ids, embeddings and, for units, offsets, for cells empty."""

    def close(self) -> None:
        """Put the archive together."""
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            _write_names(archive, "ids", self._names)
            with _member(archive, "embeddings", self._type, self._shape) as file:
                self._vectors.pour(file)
            if self._marked:
                with _member(archive, "empty", np.dtype(np.bool_), (self._rows,)) as file:
                    self._empty.pour(file)
            if self._per_unit:
                with _member(archive, "offsets", np.dtype(np.int64), (self._rows + 1,)) as file:
                    self._ends.pour(file)
            if self._named:
                _write_names(archive, "units", self._unit_names)


def _write_names(archive: zipfile.ZipFile, name: str, names: _Names) -> None:
    kind = np.dtype(f"<U{names.longest}")
    with _member(archive, name, kind, (names.count,)) as file:
        for some in names.pieces():
            file.write(np.array(some, kind).tobytes())


def _member(archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    file = archive.open(f"{name}.npy", "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


class Safetensors(_Embeddings):
    """A safetensors file. It holds no strings: ``ids`` are UTF-8 bytes, id i from ``ids_offsets[i]`` to the next.

    So are names of ``units``.
    """

    def close(self) -> None:
        """Put the file together: the length of the header, the header, the tensors in its order."""
        header, parts = self._layout()
        text = json.dumps(header, separators=(",", ":")).encode()
        # The data begin at a multiple of eight, which lets readers map them.
        text += b" " * (-len(text) % 8)
        with self._path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for part in parts:
                part.pour(file)

    def _layout(self) -> tuple[dict[str, Any], list[_Growing]]:
        tensors: dict[str, tuple[str, tuple[int, ...], _Growing]] = {
            "ids_offsets": ("I64", (self._rows + 1,), self._names.ends)
        }
        if self._named:
            tensors["units_offsets"] = ("I64", (self._units + 1,), self._unit_names.ends)
        if self._per_unit:
            tensors["offsets"] = ("I64", (self._rows + 1,), self._ends)
        # The widest numbers come first, so that each tensor begins at a multiple of its own width.
        tensors["embeddings"] = (_NAMES[self._type.name], self._shape, self._vectors)
        if self._marked:
            tensors["empty"] = ("BOOL", (self._rows,), self._empty)
        tensors["ids"] = ("U8", (self._names.letters.size,), self._names.letters)
        if self._named:
            tensors["units"] = ("U8", (self._unit_names.letters.size,), self._unit_names.letters)
        header: dict[str, Any] = {}
        end = 0
        for name, (kind, shape, part) in tensors.items():
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + part.size]}
            end += part.size
        return header, [part for _, _, part in tensors.values()]
