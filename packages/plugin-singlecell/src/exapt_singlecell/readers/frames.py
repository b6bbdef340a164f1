"""Columns of obs and var as Arrow takes them, and the genes that var names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exapt import DataError
from exapt.cells import Genes

_OWN = ("id", "cell")


def text_of(values: Iterable[Any]) -> pa.Array:
    """Return names as text, whatever they are."""
    return pa.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], pa.string())


def obs_columns(obs: pd.DataFrame, file: str) -> dict[str, pa.Array]:
    """Return the columns of obs; ``id`` and ``cell``, which a table of cells has itself, become ``obs:id``, ``obs:cell``.

    Categories are text, encoded as a dictionary. Raises ``DataError`` for a column that stands twice.
    """
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(map(str, obs.columns)):
        called = f"obs:{name}" if name in _OWN else name
        if called in columns:
            raise DataError(f"{file} has the column '{called}' twice in obs. Rename one of them.")
        columns[called] = column_of(obs.iloc[:, place], f"obs of {file}", name)
    return columns


def column_of(series: pd.Series[Any], where: str, name: str) -> pa.Array:
    """Return one column as Arrow, what is missing as null; raises ``DataError`` for values of several types."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _categories(series.cat)
    if series.isna().all():
        return pa.nulls(len(series), pa.string()) if series.dtype == object else pa.array(series, from_pandas=True)
    try:
        found = pa.array(series, from_pandas=True)
    except (pa.ArrowException, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where} has values of several types in '{name}': {reason}. Make them text.") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _categories(column: Any) -> pa.Array:
    codes = np.asarray(column.codes)
    indices = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, text_of(column.categories))


def check_column(var: pd.DataFrame, column: str, where: str) -> None:
    """Raise ``DataError``, listing those that there are, if var has no such column."""
    if column not in map(str, var.columns):
        known = ", ".join(map(str, var.columns)) or "none"
        raise DataError(f"{where} has no column '{column}'. Its columns are: {known}.")


def label_columns(var: pd.DataFrame, wanted: Sequence[str], taken: Iterable[str], where: str) -> Mapping[str, pa.Array]:
    """Return columns of var by the names ``var:NAME`` that they have in a table whose other columns are ``taken``."""
    for column in wanted:
        check_column(var, column, where)
        if f"var:{column}" in taken:
            raise DataError(f"obs has a column 'var:{column}', the name that '{column}' of {where} needs. Rename one.")
    found = {column: column_of(_column(var, column), where, column) for column in wanted}
    return {
        f"var:{name}": values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
        for name, values in found.items()
    }


def genes_of(var: pd.DataFrame, column: str, where: str) -> tuple[Genes, int]:
    """Return the genes by a column of var, or by its names, and how many of them the column does not name.

    Such a gene is kept, as ``no COLUMN: NAME``, which no model knows. Raises ``DataError`` for a name that stands twice.
    """
    if not column:
        return _unique(var, text_of(var.index).to_pylist(), "", where), 0
    check_column(var, column, where)
    named = _column(var, column)
    missing = (named.isna() | named.astype(str).eq("")).to_numpy()
    names = text_of(named).to_pylist()
    for place in np.flatnonzero(missing).tolist():
        names[place] = f"no {column}: {var.index[place]}"
    return _unique(var, names, column, where), int(missing.sum())


def _column(var: pd.DataFrame, column: str) -> pd.Series[Any]:
    return var.iloc[:, list(map(str, var.columns)).index(column)]


def _unique(var: pd.DataFrame, names: Sequence[str], column: str, where: str) -> Genes:
    if len(set(names)) == len(names):
        return Genes(tuple(names))
    counted = Counter(names)
    twice = [name for name, count in counted.items() if count > 1]
    more = f", and {len(twice) - 1:,} more genes do" if len(twice) > 1 else ""
    times = "twice" if counted[twice[0]] == 2 else f"{counted[twice[0]]:,} times"
    named = f"column '{column}'" if column else "names"
    raise DataError(f"{where} has '{twice[0]}' {times} in its {named}{more}. {_instead(var, column)}")


def _instead(var: pd.DataFrame, column: str) -> str:
    if column and var.index.is_unique:
        return "Leave the option genes empty: the names of var are unique."
    for place, other in enumerate(map(str, var.columns)):
        values = var.iloc[:, place]
        if values.is_unique and values.notna().all() and isinstance(values.iloc[0], str):
            return f'Call var_names_make_unique(), or set genes = "{other}", a column without repeats.'
    return "Call var_names_make_unique(), or name a column without repeats in the option genes."
