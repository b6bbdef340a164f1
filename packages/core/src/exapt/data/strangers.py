"""Classes that a later part has and the train part has not: a model cannot learn them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exapt.data.splits import Split

_SHOWN = 3


def strangers(found: Mapping[int, str], split: Split, ids: Sequence[str]) -> str:
    """Say which classes of the later parts no row of train has, and in which rows they stand.

    ``found`` names the unknown class of each row that has one. Returns nothing if one of these rows is of the train part:
    its class is not one of those that were asked for.
    """
    if found.keys() & set(split.train.tolist()):
        return ""
    rows_of: dict[str, list[int]] = {}
    for row, name in found.items():
        rows_of.setdefault(name, []).append(row)
    parts = {"valid": set(split.valid.tolist()), "test": set(split.test.tolist())}
    said = [f"'{name}' ({_where(rows_of[name], parts, ids)})" for name in sorted(rows_of)[:_SHOWN]]
    more = f" and {len(rows_of) - _SHOWN:,} more" if len(rows_of) > _SHOWN else ""
    several = len(rows_of) > 1
    return (
        f"no row of train has the {'classes' if several else 'class'} {', '.join(said)}{more}, so that "
        f"{'they' if several else 'it'} cannot be learned: split so that train has some, leave these rows out, or name "
        "all classes in the head's option 'classes', and these count as wrong"
    )


def _where(rows: Sequence[int], parts: Mapping[str, Collection[int]], ids: Sequence[str]) -> str:
    """Return how many rows there are of each part, and the first; an input in several windows counts once."""
    counts = {name: len({ids[row] for row in rows if row in of}) for name, of in parts.items()}
    told = [f"{count:,} {'row' if count == 1 else 'rows'} of {name}" for name, count in counts.items() if count]
    return f"{' and '.join(told)}, first id '{ids[min(rows)]}'"
