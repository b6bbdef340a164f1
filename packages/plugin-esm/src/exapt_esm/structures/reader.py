"""Structures as a table, file by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from exapt.structures import BACKBONE, Structure, structure_column
from exapt_esm.structures import StructureOptions
from exapt_esm.structures.contacts import contacts_of
from exapt_esm.structures.files import beside, read_text, structure_files
from exapt_esm.structures.parse import Parsed, parse

_UNITS, _FILES = 1 << 16, 256
"""A batch ends with the file that reaches either number."""

_NOWHERE = "positions without coordinates, in no contact; for a model of sequences mask them (data.mask=resolved)"

_Row = tuple[str, Structure, Parsed]


class StructureReader:
    """The structures of a file or a folder, in the order of their ids; some are held at a time."""

    def __init__(self, options: StructureOptions, path: Path) -> None:
        self._options, self._path = options, path
        self._told: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        files = structure_files(self._path)
        self._told, self._first = Counter(beside(self._path, files.values())), {}
        rows: list[_Row] = []
        for place, (name, file) in enumerate(files.items(), 1):
            rows += self._rows(name, file)
            if sum(len(structure) for _, structure, _ in rows) >= _UNITS or not place % _FILES or place == len(files):
                yield self._batch(rows)
                rows = []

    def _rows(self, name: str, file: Path) -> Iterator[_Row]:
        parsed = parse(read_text(file), file.name, self._options.chains)
        nowhere = (
            np.isnan(parsed.structure.atoms[:, BACKBONE.index("CA")]).any(1).sum() if self._options.contacts else 0
        )
        for what, count in (parsed.told + Counter({_NOWHERE: int(nowhere)})).items():
            if count:
                self._told[what] += count
                self._first.setdefault(what, self._called(file, parsed.first.get(what)))
        if not self._options.separate:
            yield name, parsed.structure, parsed
            return
        for chain in parsed.structure.chains:
            yield f"{name}_{chain}", parsed.structure.only([chain]), parsed

    def _batch(self, rows: Sequence[_Row]) -> pa.RecordBatch:
        structures = [structure for _, structure, _ in rows]
        columns: dict[str, pa.Array] = {
            "id": pa.array([name for name, _, _ in rows], pa.string()),
            "structure": structure_column(structures),
            "sequence": pa.array(["/".join(one.sequences.values()) for one in structures], pa.string()),
            "resolved": pa.array([_resolved(one) for one in structures], pa.string()),
            "chains": pa.array([",".join(one.chains) for one in structures], pa.string()),
            "method": pa.array([parsed.method for _, _, parsed in rows], pa.string()),
            "resolution": pa.array([parsed.resolution for _, _, parsed in rows], pa.float64()),
        }
        if self._options.contacts:
            columns["contacts"] = _pairs_column([contacts_of(one, self._options.contacts) for one in structures])
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def lines(self) -> list[str]:
        """Say what of the files is no part of the structures, once they were read; one sentence a line."""
        return [f"{self._path.name}: {what}: {count:,}{self._where(what)}" for what, count in self._told.items()]

    def _called(self, file: Path, named: str | None) -> str:
        """Return how the first of what is told is called: what it is named, where it has a name, and of a folder the file."""
        within = f"in {file.name}" if self._path.is_dir() else ""
        return " ".join(part for part in (named, within) if part)

    def _where(self, what: str) -> str:
        first = self._first.get(what)
        return f" (first {first})" if first else ""


def _resolved(structure: Structure) -> str:
    """Return 1 for each position whose backbone atoms are all there and 0 for others, chain after chain as labels are."""
    there = np.isfinite(structure.atoms).all((1, 2))
    return "".join("01"[one] for one in there.astype(int).tolist())


def _pairs_column(rows: Sequence[np.ndarray]) -> pa.Array:
    """Return a list of pairs for each of the ``rows``, [pairs, 2]."""
    counts = np.cumsum([0, *map(len, rows)])
    pairs = np.concatenate(rows)
    members = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 2 * len(pairs) + 1, 2), pa.int32()), pa.array(pairs.ravel())
    )
    return pa.ListArray.from_arrays(pa.array(counts, pa.int32()), members)
