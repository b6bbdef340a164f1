"""Columns of obs and var as Arrow takes them, and the genes that var names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_numeric_dtype

from exapt import DataError
from exapt.cells import Genes

_OWN = ("id", "cell")


def text_of(values: Iterable[Any]) -> pa.Array:
    """Return names as text, whatever they are."""
    return pa.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], pa.string())


@dataclass(frozen=True)
class Obs:
    """The ``columns`` of obs, and of each that cannot be read, why not, for whoever asks for it."""

    columns: Mapping[str, pa.Array]
    unreadable: Mapping[str, str]

    @property
    def metadata(self) -> dict[str, str]:
        """What a record batch tells core of the columns that it lacks."""
        return {f"unreadable:{name}": reason for name, reason in self.unreadable.items()}

    def lines(self, file: str) -> tuple[str, ...]:
        """Say which columns are left out."""
        names = ", ".join(f"'{name}'" for name in self.unreadable)
        return (f"{file}: columns of obs that cannot be read are left out: {names}",) if names else ()


def obs_columns(obs: pd.DataFrame, file: str) -> Obs:
    """Return the columns of obs; ``id`` and ``cell``, which a table of cells has itself, become ``obs:id``, ``obs:cell``.

    Categories are text, encoded as a dictionary. Raises ``DataError`` for two columns of one name.
    """
    names: dict[str, str] = {}
    columns: dict[str, pa.Array] = {}
    unreadable: dict[str, str] = {}
    for place, name in enumerate(map(str, obs.columns)):
        called = f"obs:{name}" if name in _OWN else name
        if called in names:
            raise DataError(_clash(names[called], name, file))
        names[called] = name
        try:
            columns[called] = column_of(obs.iloc[:, place], f"obs of {file}", name)
        except DataError as error:
            unreadable[called] = str(error)
    return Obs(columns, unreadable)


def _clash(one: str, other: str, file: str) -> str:
    if one == other:
        return f"{file} has the column '{one}' twice in obs. Rename one of them."
    own = next(name for name in (one, other) if name in _OWN)
    return (
        f"{file} has the columns '{one}' and '{other}' in obs: a table of cells has '{own}' itself, so that both would be "
        f"called 'obs:{own}'. Rename one of them."
    )


def column_of(series: pd.Series[Any], where: str, name: str) -> pa.Array:
    """Return one column as Arrow, what is missing as null; raises ``DataError`` for values that Arrow does not take."""
    try:
        if isinstance(series.dtype, pd.CategoricalDtype):
            return _categories(series.cat)
        if series.dtype == object and series.isna().all():
            return pa.nulls(len(series), pa.string())
        found = pa.array(series, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeError):
        raise DataError(f"{where} has values {_fault(series, name)}. Make them text.") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _fault(series: pd.Series[Any], name: str) -> str:
    mixed = series.dtype == object
    kinds = sorted({type(value).__name__ for value in series.dropna()}) if mixed else [str(series.dtype)]
    what = "of several types" if len(kinds) > 1 else "of a type that cannot be read"
    return f"{what} in '{name}': {', '.join(kinds)}"


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


def genes_of(var: pd.DataFrame, column: str, where: str, listed: bool = False) -> tuple[Genes, int]:
    """Return the genes by a column of var, or by its names, and how many of them the column does not name.

    Such a gene is kept, as ``no COLUMN: NAME``, which no model knows. Raises ``DataError`` for a name that stands twice,
    in the words of AnnData unless the genes are ``listed`` by their ids, as beside a matrix of Cell Ranger.
    """
    if not column:
        return _unique(var, text_of(var.index).to_pylist(), "", where, listed), 0
    check_column(var, column, where)
    named = _column(var, column)
    missing = (named.isna() | named.astype(str).eq("")).to_numpy()
    names = text_of(named).to_pylist()
    for place in np.flatnonzero(missing).tolist():
        names[place] = f"no {column}: {var.index[place]}"
    return _unique(var, names, column, where, listed), int(missing.sum())


def _column(var: pd.DataFrame, column: str) -> pd.Series[Any]:
    return var.iloc[:, list(map(str, var.columns)).index(column)]


def _unique(var: pd.DataFrame, names: Sequence[str], column: str, where: str, listed: bool) -> Genes:
    if len(set(names)) == len(names):
        return Genes(tuple(names), _columns_of_text(var, column))
    counted = Counter(names)
    twice = [name for name, count in counted.items() if count > 1]
    more = f", and {len(twice) - 1:,} more genes do" if len(twice) > 1 else ""
    times = "twice" if counted[twice[0]] == 2 else f"{counted[twice[0]]:,} times"
    named = f"column '{column}'" if column else "ids" if listed else "names"
    raise DataError(f"{where} has '{twice[0]}' {times} in its {named}{more}. {_instead(var, column, listed)}")


def _columns_of_text(var: pd.DataFrame, but: str) -> tuple[str, ...]:
    columns = {str(name): var.iloc[:, place] for place, name in enumerate(var.columns)}
    return tuple(name for name, held in columns.items() if name != but and not is_numeric_dtype(held))


def _instead(var: pd.DataFrame, column: str, listed: bool) -> str:
    if column and var.index.is_unique:
        return f"Leave the option genes empty: the {'ids' if listed else 'names of var'} are unique."
    renaming = "" if listed else "call var_names_make_unique(), or "
    for place, other in enumerate(map(str, var.columns)):
        values = var.iloc[:, place]
        if values.is_unique and values.notna().all() and isinstance(values.iloc[0], str):
            return _sentence(f'{renaming}set genes = "{other}", a column without repeats.')
    return _sentence(f"{renaming}name a column without repeats in the option genes.")


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
