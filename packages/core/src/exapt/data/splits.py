"""Train, valid and test: what is learned from, what is selected on, and what is touched once at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exapt.data.columns import check_column, content_digest
from exapt.data.groups import united
from exapt.data.labels import class_order
from exapt.errors import DataError

if TYPE_CHECKING:
    from exapt.data.tables import Examples
    from exapt.recipe import SplitOptions

Rows = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
_WORDS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
_SHOWN = 20
EMPTY = {
    "valid": "the valid part is empty: the last epoch is kept, and nothing can be selected",
    "test": "the test part is empty: there is no score on unseen rows",
}


@dataclass(frozen=True)
class Split:
    """Row numbers [rows], counted from 0 and ascending, of each part; ``notes`` say what a user should know of them."""

    train: Rows
    valid: Rows
    test: Rows
    notes: tuple[str, ...] = ()


class _Said(NamedTuple):
    """How messages count groups, how they call them, and what is to be done where they are too few."""

    counted: Callable[[int], str]
    called: str
    advice: str


def split(
    options: SplitOptions,
    examples: Examples,
    strata: Sequence[Any] | None,
    seed: int,
    families: Rows | None = None,
) -> Split:
    """Split by column, by groups or by shares; ``strata`` are the classes, or None where there are none.

    ``families`` [rows] are dealt whole, together with the groups if there are any, where the options ask for homology.
    ``seed`` draws ``train_size`` and ``valid_size``; the split itself has the seed of its options. Raises ``DataError``
    for a column that is not there or a value that names no part, an empty train part, and a size that is not to be had.
    """
    classes = _classes(strata if options.stratify else None, len(examples))
    assigned, notes = _assigned(options, examples, classes, families)
    parts = [np.flatnonzero(assigned == part) for part in range(len(PARTS))]
    if not len(parts[0]):
        raise DataError("the train part is empty: there is nothing to learn from.")
    for part, size in enumerate((options.train_size, options.valid_size)):
        if size is not None:
            parts[part] = _drawn(parts[part], classes, size, PARTS[part], seed)
    notes += [EMPTY[name] for name, rows in zip(PARTS, parts, strict=True) if not len(rows)]
    train, valid, test = parts
    return Split(train, valid, test, tuple(notes + _shared_inputs(examples, parts)))


def _classes(strata: Sequence[Any] | None, rows: int) -> list[str]:
    return [""] * rows if strata is None else [str(value) for value in strata]


def _assigned(
    options: SplitOptions, examples: Examples, classes: Sequence[str], families: Rows | None
) -> tuple[Rows, list[str]]:
    """Return each row's part [rows], as its place among ``PARTS``, with notes."""
    if options.column:
        return by_column(options, examples), []
    rng = np.random.default_rng(options.seed)
    if families is not None:
        # Families are numbers and groups are texts, so that none is taken for another.
        groups = [_group_names(options.group, examples)] if options.group else []
        names = united(families.tolist(), *groups).tolist()
        return _by_groups(names, _families_said(options.homology), options.fractions, rng)
    if options.group:
        names = _group_names(options.group, examples)
        return _by_groups(names, _groups_said(options.group), options.fractions, rng)
    return _by_share(options.fractions, classes, rng)


def _families_said(identity: float) -> _Said:
    at = f"at identity {identity:g}"
    return _Said(
        lambda count: f"the sequences are of {count} {'family' if count == 1 else 'families'} {at}",
        f"the families {at}",
        "raise homology or coverage, or ask for fewer parts by fractions",
    )


def _groups_said(column: str) -> _Said:
    return _Said(
        lambda count: f"the group column '{column}' has {count} {'group' if count == 1 else 'groups'}",
        f"the groups of '{column}'",
        "ask for fewer parts by fractions",
    )


def by_column(options: SplitOptions, examples: Examples, *, whole: bool = True) -> Rows:
    """Return each row's part [rows] as the split column has it; ``whole`` asks that all listed values occur.

    Raises ``DataError`` for a column that is not there, and a value that is of no part or of no row.
    """
    if options.valid or options.test:
        return _by_values(options, examples, whole)
    return _by_words(options.column, examples)


def _by_values(options: SplitOptions, examples: Examples, whole: bool) -> Rows:
    values = _texts("split", options.column, examples)
    listed = {**dict.fromkeys(options.valid, 1), **dict.fromkeys(options.test, 2)}
    missing = [value for value in listed if value not in values]
    if missing and whole:
        known = list(class_order(values))
        more = ", ..." if len(known) > _SHOWN else ""
        raise DataError(
            f"the split column '{options.column}' has no '{missing[0]}'. "
            f"Its values are: {', '.join(known[:_SHOWN])}{more}."
        )
    return np.array([listed.get(value, 0) for value in values], np.int64)


def _texts(role: str, column: str, examples: Examples) -> list[str]:
    """Return a column as text. Raises ``DataError`` for an empty cell."""
    values = _values(column, examples)
    for row, value in enumerate(values):
        if value in (None, ""):
            raise DataError(f"the {role} column '{column}' holds nothing at id '{examples.ids[row]}'.")
    return [str(value).strip() for value in values]


def _by_words(column: str, examples: Examples) -> Rows:
    assigned = np.empty(len(examples), np.int64)
    for row, value in enumerate(_values(column, examples)):
        part = _WORDS.get(str(value).strip().lower())
        if part is None:
            what = "nothing" if value in (None, "") else f"'{value}'"
            raise DataError(
                f"the split column '{column}' holds {what} at id '{examples.ids[row]}'; write train, valid or test, or say "
                "with valid and test which values are held out."
            )
        assigned[row] = part
    return assigned


def _values(column: str, examples: Examples) -> list[Any]:
    check_column(examples.table, column, "the table")
    return list(examples.table.column(column).to_pylist())


def _by_groups(
    names: Sequence[Any], said: _Said, fractions: Sequence[float], rng: np.random.Generator
) -> tuple[Rows, list[str]]:
    """Deal groups whole."""
    groups = _rows_by(str(name) for name in names)
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(groups) < wanted:
        raise DataError(f"{said.counted(len(groups))}, too few for {wanted} parts: {said.advice}.")
    assigned = np.empty(len(names), np.int64)
    for group, part in _dealt(groups, np.array(fractions) * len(names), rng).items():
        assigned[groups[group]] = part
    return assigned, _uneven(assigned, fractions, said.called)


def _group_names(column: str, examples: Examples) -> list[str]:
    return _texts("group", column, examples)


def _rows_by(keys: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        found[key].append(row)
    return dict(sorted(found.items()))


def _dealt(
    groups: Mapping[str, Sequence[int]], targets: npt.NDArray[np.float64], rng: np.random.Generator
) -> dict[str, int]:
    """Deal groups, large ones first, each to the part that lacks most rows; no wanted part stays empty."""
    names = list(groups)
    shuffled = [names[place] for place in rng.permutation(len(names))]
    lacking = targets.copy()
    wanted = [part for part, target in enumerate(targets) if target > 0]
    empty = list(wanted)
    dealt: dict[str, int] = {}
    for left, name in zip(range(len(names), 0, -1), sorted(shuffled, key=lambda name: -len(groups[name])), strict=True):
        choice = empty if left == len(empty) else wanted
        part = max(choice, key=lambda part: lacking[part])
        lacking[part] -= len(groups[name])
        empty = [other for other in empty if other != part]
        dealt[name] = part
    return dealt


def _uneven(assigned: Rows, fractions: Sequence[float], what: str) -> list[str]:
    shares = np.bincount(assigned, minlength=len(PARTS)) / len(assigned)
    if np.abs(shares - fractions).max() <= 0.05:
        return []
    said = ", ".join(f"{name} {share:.0%}" for name, share in zip(PARTS, shares, strict=True))
    return [f"{what} are too large to be dealt as asked; the shares are {said}"]


def _by_share(fractions: Sequence[float], classes: Sequence[str], rng: np.random.Generator) -> tuple[Rows, list[str]]:
    assigned = np.empty(len(classes), np.int64)
    owed = np.zeros(len(fractions))
    lone = []
    for name, rows in _rows_by(classes).items():
        counts = _counts(np.array(fractions) * len(rows), owed)
        assigned[rng.permutation(rows)] = np.repeat(np.arange(len(fractions)), counts)
        if len(rows) == 1 and name:
            lone.append(name)
    return assigned, [_lone_note(lone)] if lone else []


def _lone_note(classes: Sequence[str]) -> str:
    have = "1 class has" if len(classes) == 1 else f"{len(classes)} classes have"
    more = ", ..." if len(classes) > 5 else ""
    return f"{have} a single row, which stands in the train part: {', '.join(classes[:5])}{more}"


def _counts(shares: npt.NDArray[np.float64], owed: npt.NDArray[np.float64]) -> Rows:
    """Round the shares of a class up or down to whole rows; ``owed`` carries on what each part was given too little.

    The train part never goes without.
    """
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = round(shares.sum()) - int(counts.sum())
    owed += shares - counts
    order = sorted(np.flatnonzero(shares > counts + 1e-9), key=lambda part: (counts[0] > 0 or part > 0, -owed[part]))
    for part in order[:left]:
        counts[part] += 1
        owed[part] -= 1
    return counts


def _drawn(rows: Rows, classes: Sequence[str], size: int, name: str, seed: int) -> Rows:
    """Draw ``size`` of the rows, by class; every class stays if there is room for one row of each."""
    if size > len(rows):
        raise DataError(f"{name}_size is {size}, but the {name} part has {len(rows)} rows.")
    groups = _rows_by(classes[row] for row in rows)
    rng = np.random.default_rng((seed, PARTS.index(name)))
    sizes = _sizes(np.array([len(places) for places in groups.values()]), size)
    places = [rng.permutation(found)[:count] for found, count in zip(groups.values(), sizes, strict=True)]
    return np.sort(rows[np.concatenate(places)])


def _sizes(available: Rows, size: int) -> Rows:
    """Return how many of each class to draw: in proportion, and at least one while there is room."""
    shares = available * (size / available.sum())
    least = 1 if size >= len(available) else 0
    counts: Rows = np.maximum(np.floor(shares + 1e-9).astype(np.int64), least)
    while counts.sum() > size:
        counts[np.argmax(np.where(counts > least, counts - shares, -np.inf))] -= 1
    while counts.sum() < size:
        counts[np.argmax(np.where(counts < available, shares - counts, -np.inf))] += 1
    return counts


def _shared_inputs(examples: Examples, parts: Sequence[Rows]) -> list[str]:
    """Count the inputs of each part that also stand in an earlier one."""
    contents = [content_digest(row) for row in zip(*examples.inputs.values(), strict=True)]
    sets = [{contents[row] for row in rows} for rows in parts]
    notes = []
    for later, earlier in ((1, 0), (2, 0), (2, 1)):
        shared = sum(contents[row] in sets[earlier] for row in parts[later])
        if shared:
            rows = f"{shared} of {len(parts[later])} {PARTS[later]} rows"
            notes.append(f"{rows} have an input that also stands in {PARTS[earlier]}")
    return notes
