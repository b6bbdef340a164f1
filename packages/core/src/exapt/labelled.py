"""The table of a recipe: labelled examples, and the part in which each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exapt.data.files import table_sha256
from exapt.data.splits import Split, split
from exapt.data.tables import Examples, read_examples
from exapt.resolve import Resolved

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """Labelled examples and how they are split; every row stands in a part."""

    examples: Examples
    split: Split
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def labels(self, part: str) -> dict[str, list[Any]]:
        """Return the labels of one part, by head."""
        rows = getattr(self.split, part)
        return {name: [values[row] for row in rows] for name, values in self.examples.labels.items()}


def read_table(resolved: Resolved) -> Table:
    """Read and split the data of a recipe; rows that no part holds (beyond ``train_size``) are left out.

    Raises ``DataError`` for a table that cannot be used.
    """
    options, recipe = resolved.recipe.data, resolved.recipe
    examples, report = read_examples(options, resolved.labels)
    first = next(iter(resolved.heads))
    spec = resolved.heads[first].offer.spec
    stratified = spec.baseline == "classification" and spec.answers == "input"
    parts = split(recipe.split, examples, examples.labels[first] if stratified else None, recipe.seed)
    used = np.sort(np.concatenate([getattr(parts, part) for part in PARTS]))
    place = {row: number for number, row in enumerate(used.tolist())}
    moved: dict[str, Any] = {
        part: np.array([place[row] for row in getattr(parts, part).tolist()], dtype=np.int64) for part in PARTS
    }
    facts: dict[str, Any] = {"file": Path(options.path).name, "sha256": table_sha256(options.path)}
    if options.labels:
        facts |= {"labels_file": Path(options.labels).name, "labels_sha256": table_sha256(options.labels)}
    facts["rows"] = {part: len(moved[part]) for part in PARTS}
    notes = (*report.lines(), *parts.notes)
    return Table(examples.take(used), replace(parts, **moved), notes, facts)
