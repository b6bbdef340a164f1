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
from exapt.errors import DataError
from exapt.parts import Array, Encoding, Head, Tokenizer
from exapt.resolve import ChosenHead, Resolved

Encodings = Mapping[str, Sequence[Encoding]]


def labels_of_covered(examples: Examples, encodings: Encodings, resolved: Resolved) -> tuple[Examples, list[str]]:
    """Return examples without the labels of units that are masked or that no token covers, and what there is to tell of them.

    Labels of pairs stay, of which ``pairs_left_out`` leaves out those of such units. Raises ``DataError``, with the id, for
    a mask that is not as long as its input.
    """
    labels, told = dict(examples.labels), []
    for name in [name for name in labels if name in resolved.per_unit]:
        seen = encodings[resolved.answered[name]]
        _check_masks(examples, seen)
        masks = examples.masks or [[True] * encoding.length for encoding in seen]
        covered = [encoding.covered.tolist() for encoding in seen]
        for why, known in (("are masked", masks), ("the model does not see", covered)):
            labels[name], lost = _without_labels(labels[name], known, resolved.heads[name])
            if lost:
                told.append(f"label '{resolved.heads[name].label}': {_lost(lost, why, resolved.heads[name])}")
    return replace(examples, labels=labels), told


def _without_labels(
    labels: Sequence[Any], known: Sequence[Sequence[bool]], head: ChosenHead
) -> tuple[Sequence[Any], int]:
    """Return labels with None for units that are not ``known``, and how many values that takes away; of pairs, how many units."""
    # An input of which nothing is seen is counted as a whole.
    counted = [any(units) for units in known]
    if head.offer.spec.answers == "pair":
        return labels, sum(len(units) - sum(units) for units, counts in zip(known, counted, strict=True) if counts)
    # Heads of classes read text letter by letter, those of numbers do not.
    characters = head.offer.spec.baseline != "regression"
    found = [
        (None, 0) if label is None else without_labels_of(label, units, characters)
        for label, units in zip(labels, known, strict=True)
    ]
    lost = sum(count for (_, count), counts in zip(found, counted, strict=True) if counts)
    return [label for label, _ in found], lost


def _lost(count: int, why: str, head: ChosenHead) -> str:
    if head.offer.spec.answers == "pair":
        return f"all pairs of {count:,} {'unit' if count == 1 else 'units'} that {why} are left out"
    values, are = ("value", "is") if count == 1 else ("values", "are")
    return f"{count:,} {values} of units that {why} {are} left out"


def _check_masks(examples: Examples, encodings: Sequence[Encoding]) -> None:
    for who, mask, encoding in zip(examples.ids, examples.masks or (), encodings, strict=False):
        if len(mask) != encoding.length:
            raise DataError(f"'{who}': its mask has {len(mask):,} values for {encoding.length:,} units")


def pairs_left_out(target: Array, encoding: Encoding, mask: Sequence[bool] | None, pad: float) -> Array:
    """Return the labels [units, units, ...] of pairs with ``pad`` where a unit is masked, or covered by no token."""
    known = encoding.covered if mask is None else encoding.covered & np.asarray(mask)
    if known.all():
        return target
    left = target.copy()
    left[~known] = pad
    left[:, ~known] = pad
    return left


def answers_of_pairs(head: Head, outputs: Sequence[Array], encodings: Sequence[Encoding]) -> dict[str, Any]:
    """Return what a head says of pairs of units, as columns of lists; nothing of units that no token covers."""
    seen = [pairs_left_out(output, encoding, None, np.nan) for output, encoding in zip(outputs, encodings, strict=True)]
    return {name: _typed(name, values) for name, values in head.decode(seen).items()}


def _typed(name: str, values: Sequence[Any]) -> pa.Array:
    """Return a column of lists, of numbers unless it is the prediction: that no pair was found anywhere changes no type."""
    words = name.partition(".")[0] == "prediction"
    return pa.array(values, pa.list_(pa.string() if words else pa.float64()))


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
