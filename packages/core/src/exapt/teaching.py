"""What a teacher says of some rows: computed once, kept, and given to all students that ask for it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.data.tables import Examples
from exapt.errors import DataError, OutputError
from exapt.features import encodings_digest
from exapt.installed import cache_folder
from exapt.loading import load
from exapt.parts import Array, Taught
from exapt.rows import Rows
from exapt.under_way import pooled


@dataclass(frozen=True)
class Teacher:
    """An adapter that teaches."""

    adapted: Adapted

    @classmethod
    def of(cls, folder: str, device: torch.device) -> Teacher:
        """Load a teacher. Raises ``AdapterError`` as any loading does."""
        return cls(load(folder, device=device.type))

    def teach(self, rows: Rows) -> Taught:
        """Return what the teacher answers on some rows, from the cache where it did before.

        Raises ``DataError`` for an input that the teacher cannot read.
        """
        assert rows.source is not None
        inputs = {name: list(values) for name, values in rows.source.values.items()}
        try:
            own = self.adapted.ask(Examples(list(rows.source.ids), inputs, {}, pa.table({}))).rows
        except DataError as error:
            raise DataError(
                f"the teacher, on {self.adapted.name}, cannot read what the student reads: {error}"
            ) from None
        place = cache_folder() / "teachers" / f"{self._word(own)}.npz"
        kept = _read(place)
        if kept is None:
            kept = self._computed(own)
            _keep(place, kept)
        return self._taught(kept, len(own))

    def _word(self, rows: Rows) -> str:
        facts = [self.adapted.manifest["tensors"], self.adapted.manifest["backbone"], self.adapted.manifest.get("base")]
        facts += [[encodings_digest(inputs.encodings) for inputs in rows.inputs.values()]]
        facts += [devices.describe(next(self.adapted.model.parameters()).device)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _computed(self, rows: Rows) -> dict[str, Array]:
        model = self.adapted.model
        outputs = self.adapted.outputs(rows)
        budget = devices.token_budget(next(model.parameters()).device)
        found = {f"features.{name}": vectors for name, vectors in pooled(model, rows, budget).items()}
        for name in model.heads:
            found |= {f"outputs.{name}.{row}": output[name] for row, output in enumerate(outputs)}
        return found

    def _taught(self, kept: Mapping[str, Array], rows: int) -> Taught:
        model = self.adapted.model
        heads = {name: model.head(name) for name in model.heads}
        outputs = {name: [kept[f"outputs.{name}.{row}"] for row in range(rows)] for name in heads}
        features = {key.removeprefix("features."): kept[key] for key in kept if key.startswith("features.")}
        return Taught(heads, outputs, features)


def _read(place: Path) -> dict[str, Array] | None:
    try:
        with np.load(place, allow_pickle=False) as kept:
            return {name: np.asarray(kept[name]) for name in kept.files}
    except (OSError, ValueError, EOFError, KeyError):
        # Not there, or not whole: it is computed anew.
        return None


def _keep(place: Path, found: Mapping[str, Any]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Another process may keep the same answers just now.
        handle, under_way = tempfile.mkstemp(suffix=".npz", dir=place.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **found)
        Path(under_way).rename(place)
    except OSError as error:
        raise OutputError(
            f"a teacher's answers cannot be kept in '{place.parent}': {error.strerror or error}; name another folder in "
            "EXAPT_CACHE"
        ) from None
