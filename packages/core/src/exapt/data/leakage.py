"""How near the rows that measure stand to those that were learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exapt.data.files import open_writer
from exapt.data.homology import Floats, Rows
from exapt.data.relatives import Relatives

EDGES: Final = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Where bands of identity begin and end: each holds its lower edge, the last one its upper edge too."""
NAMES: Final = tuple(f"{low:g}-{high:g}" for low, high in pairwise(EDGES))


def band_of(identity: Floats) -> npt.NDArray[np.str_]:
    """Return the name of the band [rows] of each identity; rows without a significant relative are in the lowest."""
    return np.array(NAMES)[np.clip(np.searchsorted(EDGES, identity, side="right") - 1, 0, len(NAMES) - 1)]


def bands(identity: Floats) -> dict[str, Rows]:
    """Return the places of the rows in each band that has any, as ``identity=BAND``, from far to near."""
    names = band_of(identity)
    found = {f"identity={name}": np.flatnonzero(names == name) for name in NAMES}
    return {name: places for name, places in found.items() if len(places)}


@dataclass(frozen=True)
class Leakage:
    """For each row of a part its nearest training row, ``""`` where none is significant, and their identity [rows]."""

    part: str
    ids: Sequence[str]
    nearest: Sequence[str]
    identity: Floats
    engine: str

    def lines(self) -> list[str]:
        """Say it, in one sentence."""
        if not len(self.ids):
            return []
        near = sum(bool(found) for found in self.nearest)
        if not near:
            return [f"no {self.part} row has a significant relative in train ({self.engine})"]
        close = int((self.identity >= EDGES[-2]).sum())
        return [
            f"{near:,} of {len(self.ids):,} {self.part} rows have a significant relative in train, {close:,} of them at "
            f"identity {EDGES[-2]:g} or more, the nearest at {self.identity.max():.2f} ({self.engine})"
        ]

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write ``id``, ``nearest`` and ``identity`` as a table. Raises ``OutputError`` like every file of answers."""
        with open_writer(path, overwrite=overwrite) as writer:
            writer.write(self.batch())

    def batch(self, *, part: bool = False) -> pa.RecordBatch:
        """Return ``id``, ``nearest`` and ``identity``, with the ``part`` behind the id if several are put together."""
        parts = {"part": pa.array([self.part] * len(self.ids), pa.string())} if part else {}
        return pa.record_batch(
            {
                "id": pa.array(self.ids, pa.string()),
                **parts,
                "nearest": pa.array(self.nearest, pa.string()),
                "identity": pa.array(self.identity),
            }
        )


def leakage(relatives: Relatives, part: str, rows: Rows, train: Rows) -> Leakage:
    """Compare the rows of a part with those of the train part."""
    found, identity = relatives.nearest(rows, train)
    ids = [relatives.ids[row] for row in rows.tolist()]
    nearest = ["" if row < 0 else relatives.ids[row] for row in found.tolist()]
    return Leakage(part, ids, nearest, identity, relatives.engine)
