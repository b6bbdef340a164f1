"""Labels as heads learn them: one target for each row, and whose label it is that cannot become one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from exapt.data.splits import Split
from exapt.data.strangers import strangers
from exapt.data.tables import Examples
from exapt.errors import DataError, UnknownClassError
from exapt.parts import Array, Head
from exapt.resolve import Resolved
from exapt.rows import Rows
from exapt.units import pairs_left_out


def encode_labels(
    rows: Rows, examples: Examples, resolved: Resolved, split: Split | None = None
) -> dict[str, list[Array]]:
    """Return each head's targets. Raises ``DataError``, with the row's id and the label's column, for one it cannot take.

    Where the examples are ``split``, it says of classes that stand in later parts alone that no row of train has them.
    """
    return {name: _encoded(rows, name, examples, resolved, split) for name in examples.labels}


def _encoded(rows: Rows, name: str, examples: Examples, resolved: Resolved, split: Split | None) -> list[Array]:
    head, lengths, labels = rows.heads[name], rows.lengths(name), examples.labels[name]
    what = f"label '{resolved.heads[name].label}'"
    targets: list[Array | None] = []
    for label, length, who in zip(labels, lengths, examples.ids, strict=True):
        try:
            targets.append(None if label is None else head.encode(label, length))
        except DataError as error:
            said = ""
            if split is not None and isinstance(error, UnknownClassError):
                said = strangers(_unknown(head, labels, lengths), split, examples.ids)
            raise DataError(f"{what}: {said}" if said else f"'{who}', {what}: {error}") from None
    filled = _filled(targets, head, lengths)
    if head.answers != "pair":
        return filled
    encodings, masks = rows.inputs[rows.answered[name]].encodings, examples.masks
    return [
        pairs_left_out(target, encoding, masks[row] if masks else None, head.pad)
        for row, (target, encoding) in enumerate(zip(filled, encodings, strict=True))
    ]


def _filled(targets: Sequence[Array | None], head: Head, lengths: Sequence[int]) -> list[Array]:
    """Return targets of which nothing counts for rows without a label, in the shape of those that have one."""
    like = next((target for target in targets if target is not None), np.zeros(()))

    def nothing(length: int) -> Array:
        return np.full((length,) * head.axes + like.shape[head.axes :], head.pad, like.dtype)

    return [nothing(length) if target is None else target for target, length in zip(targets, lengths, strict=True)]


def _unknown(head: Head, labels: Sequence[Any], lengths: Sequence[int]) -> dict[int, str]:
    """Return the class that a head does not know of each row that has one."""
    found = {}
    for row, (label, length) in enumerate(zip(labels, lengths, strict=True)):
        # Another fault is said of its own row, once the classes are as they should be.
        with suppress(DataError):
            try:
                head.encode(label, length)
            except UnknownClassError as error:
                found[row] = error.name
    return found
