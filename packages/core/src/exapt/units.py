"""What a model sees of its inputs: of a unit that no token covers nothing, nor of an input without any other.

What is known and said unit by unit are labels, answers and names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exapt.data.labels import without_labels_of
from exapt.data.tables import Examples
from exapt.parts import Array, Encoding, Head, Tokenizer
from exapt.resolve import Resolved

Encodings = Mapping[str, Sequence[Encoding]]


def labels_of_covered(examples: Examples, encodings: Encodings, resolved: Resolved) -> tuple[Examples, list[str]]:
    """Return examples without the labels of units that no token covers, and a sentence on each column that has some."""
    labels, told = dict(examples.labels), []
    for name in [name for name in labels if name in resolved.per_unit]:
        covered = [encoding.covered.tolist() for encoding in encodings[resolved.answered[name]]]
        # Heads of classes read text letter by letter, those of numbers do not.
        characters = resolved.heads[name].offer.spec.baseline != "regression"
        pairs = [
            without_labels_of(label, known, characters) for label, known in zip(labels[name], covered, strict=True)
        ]
        labels[name] = [label for label, _ in pairs]
        # An input of which nothing is seen is counted as a whole.
        lost = sum(count for (_, count), known in zip(pairs, covered, strict=True) if any(known))
        if lost:
            values, are = ("value", "is") if lost == 1 else ("values", "are")
            column = resolved.heads[name].label
            told.append(f"label '{column}': {lost:,} {values} of units that the model does not see {are} left out")
    return replace(examples, labels=labels), told


def answers_of_covered(head: Head, outputs: Sequence[Array], encodings: Sequence[Encoding]) -> dict[str, Any]:
    """Return what a head says of each unit, as columns of lists, with None for units that no token covers."""
    if not outputs:
        return head.decode(outputs)
    # One unit more, so that the kind of each answer is known where no unit has any.
    one = np.zeros((1, *outputs[0].shape[1:]), dtype=outputs[0].dtype)
    said = head.decode([*outputs, one])
    covered = [encoding.covered.tolist() for encoding in encodings]
    return {name: _with_nulls(values, covered) for name, values in said.items()}


def _with_nulls(values: Sequence[Any], covered: Sequence[Sequence[bool]]) -> list[Any] | pa.Array:
    *lists, one = values
    if not isinstance(one, list):
        return lists
    told = [
        [answer if known else None for answer, known in zip(answers, here, strict=True)]
        for answers, here in zip(lists, covered, strict=True)
    ]
    return pa.array(told, pa.list_(pa.array(one).type))


def names_of_units(tokenizer: Tokenizer, values: Sequence[Any]) -> pa.Array | None:
    """Return the names of the units of each input as a column of lists; None where they have none."""
    names = [tokenizer.unit_names(value) for value in values]
    if not names or any(some is None for some in names):
        return None
    return pa.array(names, pa.list_(pa.string()))


def empty_rows(encodings: Encodings) -> Array:
    """Return which rows [rows] have an input of which the model sees nothing, so that they teach and show nothing."""
    empty = np.array([[encoding.empty for encoding in values] for values in encodings.values()], dtype=bool)
    return np.asarray(empty.any(0))


def left_out(count: int, of: str) -> str:
    """Say how many rows of which the model sees nothing are left out."""
    rows, are = ("row", "is") if count == 1 else ("rows", "are")
    return f"{count:,} {rows} of which the model sees nothing {are} left out of {of}"


def answers_of_seen(columns: Mapping[str, Any], empty: Array) -> dict[str, Any]:
    """Return columns of answers with nulls in rows of which the model sees nothing."""
    if not empty.any():
        return dict(columns)
    made = {name: column_of(values) for name, values in columns.items()}
    return {name: pc.if_else(pa.array(~empty), one, pa.scalar(None, one.type)) for name, one in made.items()}


def column_of(values: list[Any] | pa.Array) -> pa.Array:
    """Return a column whose type depends on the kind of answer, not on the values of one chunk."""
    return values if isinstance(values, pa.Array) else pa.array(values, _type(values))


def _type(values: Sequence[Any]) -> pa.DataType | None:
    first = next((value for value in values if value is not None), None)
    if first is None and len(values):
        # Numbers alone may be missing, and all of a chunk's can be.
        return pa.float64()
    if not isinstance(first, list):
        return None
    members: Iterable[Any] = (member for value in values for member in value or ())
    # A list of class names may be empty in every row of a chunk; lists of numbers never are.
    return pa.list_(pa.float64()) if isinstance(next(iter(members), ""), float) else pa.list_(pa.string())
