# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""What the kit asks of inputs that are cells: how to empty one, to leave a gene out, to add one that no model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exapt.testing._check import Check, Faults
from exapt.testing._tokenizers import TokenizerCase, same

STRANGER = "a-gene-of-no-model"


def is_cell(value: Any) -> bool:
    """Tell whether an input is a cell as probes write it."""
    return isinstance(value, Mapping) and value.keys() == {"genes", "counts"}


def emptied(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell of the same table that expresses nothing."""
    return {"genes": list(value["genes"]), "counts": [0] * len(value["genes"])}


def without(value: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return a cell that does not express one of its genes."""
    counts = list(value["counts"])
    counts[place] = 0
    return {"genes": list(value["genes"]), "counts": counts}


def expressed(value: Mapping[str, Any]) -> Sequence[int]:
    """Return the places of the genes that a cell expresses, the strongest first."""
    counts = np.asarray(value["counts"], dtype=float)
    return [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]


def genes_counted(case: TokenizerCase) -> Faults:
    """A unit is an expressed gene, no token stands for two, and one that no vocabulary holds is counted as unknown."""
    for place, value in enumerate(case.inputs):
        if not is_cell(value):
            continue
        encoding, many = case.encodings[place], len(expressed(value))
        if encoding.length != many:
            yield f"input {place} expresses {many} genes, but has {encoding.length} units"
        real = encoding.spans[(encoding.spans >= 0).any(1)]
        if (real[:, 0] != real[:, 1]).any() or len(np.unique(real)) < len(real):
            yield f"input {place} has a token on several genes, or a gene under several tokens"
        more = case.tokenizer.encode({"genes": [*value["genes"], STRANGER], "counts": [*value["counts"], 3]})
        if more.unknown != encoding.unknown + 1 or more.length != encoding.length + 1:
            yield f"input {place} with a gene that is not known counts {more.unknown} unknown in {more.length} units"


def genes_in_any_order(case: TokenizerCase) -> Faults:
    """The genes that a cell does not express, wherever they stand in the table, change nothing."""
    for place, value in enumerate(case.inputs):
        if is_cell(value):
            silent = {"genes": [STRANGER, *value["genes"]], "counts": [0, *value["counts"]]}
            if not same(case.encodings[place], case.tokenizer.encode(silent)):
                yield f"input {place} gives other tokens where its table has one more gene, which it does not express"


CELL_CHECKS: tuple[Check[TokenizerCase], ...] = (
    Check("genes-counted", "genes that vanish uncounted, labels that slip to other genes", genes_counted),
    Check("silent-genes", "tokens that depend on the table beside the cell", genes_in_any_order),
)
