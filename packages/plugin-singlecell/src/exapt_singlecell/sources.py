"""Tables of cells, from a file or in memory, and where a pretrained model puts their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from anndata import AnnData

from exapt import DataError, Embedder, RecipeError, open_table
from exapt.cells import Cell, CellType, cells_of
from exapt.parts import Array, Encoding
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.readers.frames import obs_columns, text_of
from exapt_singlecell.readers.h5ad import batches_of

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Piece:
    """Some rows of a table of cells, which messages call ``name``."""

    batch: pa.RecordBatch
    name: str

    @property
    def ids(self) -> list[str]:
        """The names of the cells."""
        ids: list[str] = self.batch.column("id").to_pylist()
        return ids

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells; raises ``DataError`` if the table is of something else."""
        if "cell" not in self.batch.schema.names or not isinstance(self.batch.schema.field("cell").type, CellType):
            raise DataError(f"{self.name} is no table of cells: name an AnnData file, or what Cell Ranger writes")
        return cells_of(pa.chunked_array([self.batch.column("cell")]))

    def has(self, column: str) -> bool:
        """Whether there is such a column of obs."""
        return column in self.batch.schema.names and column not in ("id", "cell")

    def labels(self, column: str) -> list[str | None]:
        """Return a column of obs as text, None where it is missing. Raises ``DataError`` if there is no such column."""
        if not self.has(column):
            unread = (self.batch.schema.metadata or {}).get(f"unreadable:{column}".encode())
            if unread:
                raise DataError(unread.decode())
            known = ", ".join(name for name in self.batch.schema.names if name not in ("id", "cell")) or "none"
            raise DataError(f"{self.name} has no column '{column}'; its columns are: {known}")
        return [None if value is None or value == "" else str(value) for value in self.batch.column(column).to_pylist()]


@dataclass(frozen=True)
class Source:
    """A table of cells, read anew each time that it is gone through; messages call it ``name``."""

    name: str
    open: Callable[[], Iterable[pa.RecordBatch]]

    @classmethod
    def at(cls, path: Path, options: Mapping[str, Any]) -> Source:
        """Return the table in a file or folder, read with these options of its reader."""
        return cls(path.name, partial(open_table, path, options=options))

    @classmethod
    def of(cls, adata: AnnData, options: H5adOptions, name: str) -> Source:
        """Return the table that an AnnData holds."""
        return cls(name, partial(batches_of, adata, options))

    def __iter__(self) -> Iterator[Piece]:
        for batch in self.open():
            yield Piece(batch, self.name)


@dataclass(frozen=True)
class Points:
    """Some cells in the space of a model: ``vectors`` [cells, width], and which of them are ``empty`` [cells]."""

    piece: Piece
    vectors: Array
    empty: Array


@dataclass(frozen=True)
class Space:
    """Where cells are put: by which model, in which layer, pooled how; ``settings`` holds options of its parts."""

    backbone: str
    pooling: str = "mean"
    layer: int = -1
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    device: str = ""

    def load(self) -> Embedder:
        """Load the model. Raises ``RecipeError`` unless it is one of cells, and gives one vector for each."""
        if self.pooling == "none":
            raise RecipeError("cells are compared by one vector each: pooling is mean, max or cls")
        embedder = Embedder.of(self.backbone, self.pooling, self.layer, self.device, self.settings)
        if embedder.accepts != "cell":
            raise RecipeError(f"'{self.backbone}' reads a {embedder.accepts}, not cells")
        return embedder


def introduce(embedder: Embedder, tell: Tell) -> None:
    """Tell what there is to know of a model: tensors that were left aside, a licence that does not permit all use."""
    for line in [*embedder.backbone.notes, *([f"licence of {embedder.licence}"] if embedder.licence else [])]:
        tell(line)


def encoded(embedder: Embedder, source: Source, tell: Tell) -> Iterator[tuple[Piece, list[Encoding]]]:
    """Yield the cells of a table as a model reads them; at the end, ``tell`` hears which genes it does not know."""
    tally = embedder.tokenizer.tally()
    for piece in source:
        encodings = embedder.encode(piece.cells, piece.ids)
        tally.count(piece.cells, encodings)
        yield piece, encodings
    for line in tally.lines(source.name):
        tell(line)


def embedded(embedder: Embedder, source: Source, tell: Tell) -> Iterator[Points]:
    """Yield the cells of a table in the space of a model."""
    for piece, encodings in encoded(embedder, source, tell):
        empty = np.array([encoding.empty for encoding in encodings], dtype=bool)
        yield Points(piece, embedder.vectors(encodings), empty)


def kept(adata: AnnData, key: str, empty_key: str, name: str) -> Points:
    """Return the cells of an AnnData where ``obsm[key]`` puts them, empty where ``obs[empty_key]`` says so or all is 0.

    Raises ``DataError`` if there is no such array, or it holds something other than finite numbers.
    """
    if key not in adata.obsm:
        raise DataError(f"{name} has no '{key}' in obsm; it has: {', '.join(adata.obsm) or 'nothing'}")
    vectors = _numbers(adata.obsm[key])
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DataError(f"'{key}' of {name} is no array of cells by finite numbers")
    obs = obs_columns(adata.obs, name)
    columns = {"id": text_of(adata.obs_names), **obs.columns}
    batch = pa.record_batch({called: _plain(column) for called, column in columns.items()}, metadata=obs.metadata)
    marked = adata.obs[empty_key] if empty_key in adata.obs else np.zeros(len(vectors))
    return Points(Piece(batch, name), vectors, np.asarray(marked, dtype=bool) | ~vectors.any(axis=1))


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        return np.empty(0)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
