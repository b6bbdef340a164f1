"""Answers into an AnnData in memory, under the keys that the writer of files gives them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from anndata import AnnData, ImplicitModificationWarning

from exapt import DataError
from exapt_singlecell.writers.answers import RECORDS, earlier_keys, empty_key

_log = logging.getLogger("exapt_singlecell")


def target(adata: AnnData, copy: bool) -> AnnData:
    """Return what the answers are put into. Raises ``DataError`` for a part of a backed table, which cannot hold any."""
    if adata.is_view and adata.isbacked and not copy:
        raise DataError("adata is a view of a file, which cannot hold answers: call adata.to_memory() first")
    records_of(adata)
    if not copy:
        return adata
    # Without a copy the frames of a part of a file would still be those of the whole.
    return adata.to_memory(copy=True) if adata.isbacked else adata.copy()


def records_of(adata: AnnData) -> Mapping[str, Any]:
    """Return the records of earlier answers. Raises ``DataError`` if something else stands in their place."""
    held: Any = adata.uns.get(RECORDS, {})
    if not isinstance(held, Mapping):
        raise DataError(f"adata has an '{RECORDS}' in uns that is not of exapt: rename it")
    return held


def put(adata: AnnData, records: Mapping[str, str], obs: Mapping[str, Any], obsm: Mapping[str, Any]) -> None:
    """Put answers in the place of earlier ones under the same names; a view becomes a table of its own.

    Raises ``DataError`` if empty cells would be marked in a column that is not of exapt.
    """
    held = records_of(adata)
    earlier = [earlier_keys(held.get(slot), slot) for slot in records]
    # The mark of cells that were empty says nothing of new vectors, whether or not a record tells of it.
    marks = [key for key in map(empty_key, obsm) if key.startswith("exapt_")]
    gone = [*marks, *(key for keys in earlier for key in keys["obs"])]
    _check_marks({key for key in map(empty_key, obsm) if key in obs} - {*gone}, adata)
    columns = adata.obs.drop(columns=gone, errors="ignore")
    with warnings.catch_warnings():
        # That a view becomes a table of its own is what is wanted.
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.obs = columns.assign(**obs)
    for key in {key for keys in earlier for key in keys["obsm"]} & set(adata.obsm):
        del adata.obsm[key]
    adata.obsm.update(obsm)
    adata.uns[RECORDS] = {**held, **records}


def _check_marks(keys: Iterable[str], adata: AnnData) -> None:
    for key in keys:
        if key in adata.obs:
            raise DataError(
                f"adata has a column '{key}' in obs that is not of exapt, where empty cells would be marked: rename it, or "
                "choose another key_added"
            )


def tell(line: str) -> None:
    """Log what a user should know."""
    _log.warning(line)
