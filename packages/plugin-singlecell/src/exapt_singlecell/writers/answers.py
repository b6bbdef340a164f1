"""What answers are called in AnnData, the columns of obs that predictions become, and the record that is kept of both."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import union_categoricals

import exapt
from exapt import OutputError
from exapt.parts import Array

RECORDS = "exapt"
"""The key of uns that holds a JSON text for each slot that answers went to."""

Column: TypeAlias = "pd.Series[Any]"

_PREDICTION, _PROBABILITY = "prediction", "probability_"


def key_of(*words: str) -> str:
    """Return the words as one key; a slash, which opens a group in HDF5, becomes ``_``, as do control characters."""
    return re.sub(r"[/\x00-\x1f]", "_", "_".join(words))


def embedding_key(name: str) -> str:
    """Return the key of obsm for embeddings of the backbone of that name."""
    return key_of("X_exapt", name)


def task_key(task: str) -> str:
    """Return the column of obs for predictions of a task."""
    return key_of("exapt", task)


def empty_key(slot: str) -> str:
    """Return the column of obs that marks the cells whose embeddings in ``slot`` say nothing."""
    return f"{slot.removeprefix('X_')}_empty"


def empty_of(batch: pa.RecordBatch) -> Array:
    """Return of which cells [rows] nothing is known."""
    if "empty" not in batch.schema.names:
        return np.zeros(batch.num_rows, dtype=bool)
    return np.asarray(batch.column("empty").to_numpy(zero_copy_only=False), dtype=bool)


def record_of(facts: Mapping[str, Any], obs: Sequence[str] = (), obsm: Sequence[str] = ()) -> str:
    """Return what is kept of answers as JSON: where they come from, and under which keys they stand."""
    version = "unknown"
    # Run from a folder of its source, the package has no metadata.
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("exapt-singlecell")
    written = {
        "written_by": {"exapt": exapt.__version__, "exapt-singlecell": version},
        "written": {"obs": list(obs), "obsm": list(obsm)},
    }
    return json.dumps({**facts, **written}, ensure_ascii=False)


def earlier_keys(record: Any, slot: str) -> dict[str, list[str]]:
    """Return the keys of obs and obsm that a record says were written with ``slot``; none of a name that is not its own."""
    base = slot.removeprefix("X_")
    written: Any = {}
    with suppress(TypeError, ValueError, KeyError, RecursionError):
        written = dict(json.loads(record)["written"])
    return {kind: [key for key in _texts(written.get(kind)) if _is_of(key, base)] for kind in ("obs", "obsm")}


def _texts(value: Any) -> list[str]:
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []


def _is_of(key: str, base: str) -> bool:
    bare = key.removeprefix("X_")
    return bare == base or bare.startswith(f"{base}_")


class Predictions:
    """The answers of all heads, gathered batch by batch, as columns of obs; those of empty cells are missing.

    ``tasks`` names each head's task by how its columns begin. Raises ``OutputError`` for answers that are lists, and for
    two that would stand in one column.
    """

    def __init__(self, tasks: Mapping[str, str]) -> None:
        self._tasks = tasks
        self._slots: dict[str, str] = {}
        self._parts: dict[str, list[Column]] = {}

    @property
    def keys(self) -> dict[str, list[str]]:
        """The columns of obs, by the key of their task, once there are any."""
        return {
            slot: [key for key, of in self._slots.items() if of == slot] for slot in map(task_key, self._tasks.values())
        }

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the answers for some cells."""
        empty = empty_of(batch)
        made = [(slot, *column) for slot, own in self._by_task(batch) for column in _of_task(slot, own)]
        keys = [key for _, key, _ in made]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise OutputError(
                f"two answers would stand in '{twice[0]}' of obs: rename a task or a class, or write Parquet."
            )
        for slot, key, values in made:
            self._slots[key] = slot
            self._parts.setdefault(key, []).append(values.mask(empty))

    def _by_task(self, batch: pa.RecordBatch) -> list[tuple[str, dict[str, pa.Array]]]:
        heads: dict[str, dict[str, pa.Array]] = {prefix: {} for prefix in self._tasks}
        for name in batch.schema.names:
            if name not in ("id", "empty", "units"):
                prefix = max((begin for begin in heads if name.startswith(begin)), key=len)
                heads[prefix][name.removeprefix(prefix)] = batch.column(name)
        return [(task_key(self._tasks[prefix]), own) for prefix, own in heads.items()]

    def columns(self) -> dict[str, Any]:
        """Return all columns [cells]: classes as categories, numbers, and truths."""
        return {key: _joined(parts) for key, parts in self._parts.items()}


def _joined(parts: Sequence[Column]) -> Any:
    if isinstance(parts[0].dtype, pd.CategoricalDtype):
        return union_categoricals(list(parts))
    whole = pd.concat(parts, ignore_index=True)
    # Truths that are known of every cell need no room for missing ones.
    return whole.array if whole.dtype == "boolean" and whole.isna().any() else whole.to_numpy(_plain(whole))


def _plain(values: Column) -> type[bool] | type[float]:
    return bool if values.dtype == "boolean" else float


def _of_task(slot: str, columns: Mapping[str, pa.Array]) -> Iterator[tuple[str, Column]]:
    """Yield the columns of obs, by key, that the answers of one head become."""
    shares = {name.removeprefix(_PROBABILITY): name for name in columns if name.startswith(_PROBABILITY)}
    done: set[str] = set()
    if shares and _PREDICTION in columns:
        done = {_PREDICTION, *shares.values()}
        probabilities = {label: _numbers(columns[name], name) for label, name in shares.items()}
        said = columns[_PREDICTION]
        yield from (_labels if pa.types.is_list(said.type) else _classes)(slot, said.to_pylist(), probabilities)
    for name in (name for name in columns if name not in done):
        target = name.removeprefix(_PREDICTION).removeprefix(".")
        yield (key_of(slot, target) if target else slot), _column(columns[name], name)


def _classes(slot: str, said: Sequence[Any], probabilities: Mapping[str, Array]) -> Iterator[tuple[str, Column]]:
    """Yield the predicted class, with categories in the head's order, and the probability of that class."""
    # A class without a probability, such as one for cells that are like none known, comes after the others.
    others = sorted({label for label in said if label is not None} - probabilities.keys())
    told = pd.Categorical(said, categories=[*probabilities, *others])
    nothing = np.full(len(said), np.nan)
    # The code of a missing answer is -1, the last row.
    table = np.stack([*probabilities.values(), *([nothing] * len(others)), nothing])
    yield slot, pd.Series(told)
    yield key_of(slot, "probability"), pd.Series(table[told.codes, np.arange(len(said))])


def _labels(slot: str, said: Sequence[Any], probabilities: Mapping[str, Array]) -> Iterator[tuple[str, Column]]:
    """Yield, for each label of those that a cell may have together, whether it is said to have it, and how probably."""
    for label, values in probabilities.items():
        has = [None if labels is None else label in labels for labels in said]
        yield key_of(slot, label), pd.Series(has, dtype="boolean")
        yield key_of(slot, label, "probability"), pd.Series(values)


def _column(values: pa.Array, name: str) -> Column:
    if not pa.types.is_string(values.type):
        return pd.Series(_numbers(values, name))
    said = values.to_pylist()
    return pd.Series(pd.Categorical(said, categories=sorted({word for word in said if word is not None})))


def _numbers(values: pa.Array, name: str) -> Array:
    if pa.types.is_nested(values.type):
        raise OutputError(f"h5ad holds one answer for each cell, and '{name}' is a list: write Parquet or JSONL.")
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
