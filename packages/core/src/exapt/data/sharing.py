"""What cells of different parts have in common: a donor or a batch on both sides makes a test part easier than the next
donor will be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exapt.data.columns import check_column
from exapt.data.labels import is_missing

if TYPE_CHECKING:
    from exapt.data.splits import Rows, Split
    from exapt.data.tables import Examples
    from exapt.recipe import SplitOptions

_BODIES = ("animal", "donor", "individual", "participant", "patient", "subject")
_MATTER = ("sample", "biosample", "specimen", "replicate", "orig.ident")
_HANDLING = ("batch", "library", "pool", "plate", "lane", "channel", "chip", "run", "dataset", "study")
ORIGINS = (*_BODIES, *_MATTER, *_HANDLING)
"""What columns are commonly called that tell cells of one origin; case, separators and an ``id`` or ``name`` after it aside."""
_SHOWN = 3


def origins(examples: Examples, named: Sequence[str]) -> list[str]:
    """Return the columns to look at: those ``named`` or, without any, those that are called like one of ``ORIGINS``.

    One that holds a single value tells nothing apart, and is looked at only if it is named. Raises ``DataError`` for a
    named column that is not there.
    """
    for column in named:
        check_column(examples.table, column, "the table")
    known = set(map(_bare, ORIGINS))
    found = [name for name in examples.table.column_names if _bare(name) in known]
    return list(named) or [name for name in found if len(set(_told(examples, name)) - {None}) > 1]


def _bare(name: str) -> str:
    """Return a name without case, separators and the word that it names something: ``Donor_ID`` is ``donor``."""
    letters = re.sub(r"[\W_]", "", name.casefold())
    return re.sub(r"(?<=.)(ids?|names?)$", "", letters)


def _told(examples: Examples, column: str) -> list[str | None]:
    """Return the values of a column as text, None where there is none."""
    values = examples.table.column(column).to_pylist()
    return [None if is_missing(value) else str(value) for value in values]


def sharing(options: SplitOptions, examples: Examples, split: Split, how: str) -> list[str]:
    """Return one line for each column of origins and that of groups: which of its values stand in train and in a later part.

    ``how`` is what keeps a column's values apart, with ``{}`` for its name.
    """
    columns = [*origins(examples, options.origins), *([options.group] if options.group else [])]
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    return [line for column in dict.fromkeys(columns) for line in _shared(examples, parts, column, how.format(column))]


def _shared(examples: Examples, parts: Mapping[str, Rows], column: str, how: str) -> list[str]:
    values = _told(examples, column)
    held = {part: {values[row] for row in rows.tolist()} - {None} for part, rows in parts.items()}
    if len(set().union(*held.values())) == 1:
        return [f"'{column}' has a single value, so that no split keeps its rows apart"]
    train = held.pop("train")
    lines = []
    for part, others in held.items():
        both = sorted(train & others)
        if both:
            more = ", ..." if len(both) > _SHOWN else ""
            named = ", ".join(f"'{value}'" for value in both[:_SHOWN])
            lines.append(
                f"{len(both)} of {len(others)} values of '{column}' in {part} stand in train too: {named}{more}; "
                f"{how} keeps them apart"
            )
    every = train.union(*held.values())
    return lines or (
        [f"no value of '{column}' stands in train and in a later part ({len(every)} values)"] if every else []
    )
