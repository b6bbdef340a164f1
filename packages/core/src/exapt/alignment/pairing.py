"""Rows of two tables that go together, and the part in which each pair stands."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.alignment.recipe import AlignRecipe
from exapt.alignment.towers import ChosenTower
from exapt.data.columns import check_column, content_digest, find_id_column
from exapt.data.files import table_sha256
from exapt.data.groups import united
from exapt.data.homology import Rows
from exapt.data.labels import class_name, is_unlabelled
from exapt.data.leakage import leakage
from exapt.data.relatives import Relatives, rule_of
from exapt.data.sharing import sharing
from exapt.data.splits import PARTS, Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, RecipeError
from exapt.features import encodings_digest
from exapt.parts import Encoding
from exapt.recipe import SplitOptions

_LETTERS = ("dna", "protein")
_ALIKE = "identical pairs"


@dataclass(frozen=True)
class Side:
    """The table of one tower, and by what each of its rows [rows] is paired: nothing where it has no pair."""

    tower: ChosenTower
    examples: Examples
    keys: Sequence[str]

    @property
    def file(self) -> str:
        """The name of its table."""
        return Path(self.tower.options.data.path).name

    @property
    def by(self) -> str:
        """The column of its keys, as a message has it."""
        return f"'{self.tower.options.pair}'" if self.tower.options.pair else "its ids"


@dataclass(frozen=True)
class Pairs:
    """Rows that go together: ``inputs`` of the examples are towers, and their ``table`` has the columns of both."""

    examples: Examples
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    encodings: Mapping[str, Sequence[Encoding]] = field(default_factory=dict)
    """What became of the inputs of each tower."""

    def take(self, rows: Rows) -> Pairs:
        """Return some of them."""
        encodings = {name: [values[row] for row in rows] for name, values in self.encodings.items()}
        return replace(self, examples=self.examples.take(rows), encodings=encodings)

    def told(self, lines: Sequence[str]) -> Pairs:
        """Return them with more to tell."""
        return replace(self, notes=(*self.notes, *lines))


def read_pairs(recipe: AlignRecipe, towers: Sequence[ChosenTower]) -> Pairs:
    """Read both tables and pair their rows. Raises ``DataError`` for keys that stand twice, and where there is no pair."""
    sides, notes = [], []
    for tower in towers:
        examples, report = read_examples(tower.data, {}, keep_labels=False)
        notes += report.lines()
        sides.append(Side(tower, examples, _keys(tower, examples)))
    one, other = sides
    _refuse_row_numbers(one, other)
    for side in sides:
        _refuse_twice(side)
    there = {key: row for row, key in enumerate(other.keys) if key}
    rows = [(row, there[key]) for row, key in enumerate(one.keys) if key in there]
    if not rows:
        raise DataError(
            f"no row of {one.file} goes with one of {other.file}: the first are '{_first(one)}' and '{_first(other)}'; name "
            "the column by which they do as pair"
        )
    notes += [line for side, mate in ((one, other), (other, one)) for line in _unpaired(side, mate)]
    examples = _joined(recipe.split, one, other, np.array(rows))
    facts = {side.tower.name: {"file": side.file, "sha256": _sha256(side.tower)} for side in sides}
    return Pairs(examples, (*notes, f"{len(rows):,} pairs", *_shared(examples)), facts)


def _sha256(tower: ChosenTower) -> str:
    return table_sha256(tower.options.data.path, tower.options.data.format)


def _keys(tower: ChosenTower, examples: Examples) -> list[str]:
    column, name = tower.options.pair, Path(tower.options.data.path).name
    if not column:
        return [_key(value) for value in examples.ids]
    check_column(examples.table, column, name)
    try:
        return [_key(value) for value in examples.table.column(column).to_pylist()]
    except DataError:
        raise DataError(f"{name}: '{column}' holds lists: rows are paired by one value each") from None


def _key(value: Any) -> str:
    return "" if is_unlabelled(value) else class_name(value)


def _refuse_row_numbers(one: Side, other: Side) -> None:
    """Raise ``DataError`` where rows of two tables would be paired by nothing but their number."""
    if one.tower.options.data.path == other.tower.options.data.path:
        return
    for side in (one, other):
        options = side.tower.options
        if not options.pair and not find_id_column(side.examples.table, options.data.id, side.file):
            columns = ", ".join(side.examples.table.column_names)
            raise DataError(
                f"{side.file} has no column of ids to pair its rows by: name one as pair. Its columns are: {columns}."
            )


def _refuse_twice(side: Side) -> None:
    twice = [(key, count) for key, count in Counter(side.keys).items() if count > 1 and key]
    if twice:
        key, count = twice[0]
        more = f", and {len(twice) - 1:,} more stand several times" if len(twice) > 1 else ""
        raise DataError(
            f"{side.file}: '{key}' stands in {count} rows by {side.by}{more}; a pair is one row of each table: leave one of "
            "them, or name another column as pair"
        )


def _first(side: Side) -> str:
    return next((key for key in side.keys if key), "")


def _unpaired(side: Side, mate: Side) -> list[str]:
    known = set(mate.keys) - {""}
    alone = [name for name, key in zip(side.examples.ids, side.keys, strict=True) if key not in known]
    if not alone:
        return []
    rows = "1 row has" if len(alone) == 1 else f"{len(alone):,} rows have"
    return [f"{side.file}: {rows} no pair in {mate.file}, first id '{alone[0]}'; left out"]


def _joined(options: SplitOptions, one: Side, other: Side, rows: Rows) -> Examples:
    first, second = one.examples.take(rows[:, 0]), other.examples.take(rows[:, 1])
    keys = [one.keys[row] for row in rows[:, 0]]
    for column in filter(None, (options.column, options.group, *options.origins)):
        _refuse_disagreement(column, (one.file, first.table), (other.file, second.table), keys)
    table = first.table
    for name in second.table.column_names:
        if name not in table.column_names:
            table = table.append_column(name, second.table.column(name))
    inputs = {side.tower.name: next(iter(part.inputs.values())) for side, part in ((one, first), (other, second))}
    return Examples(keys, inputs, {}, table)


def _refuse_disagreement(
    column: str, one: tuple[str, pa.Table], other: tuple[str, pa.Table], keys: Sequence[str]
) -> None:
    if any(column not in table.column_names for _, table in (one, other)):
        return
    values = (table.column(column).to_pylist() for _, table in (one, other))
    for key, here, there in zip(keys, *values, strict=True):
        if str(here) != str(there):
            raise DataError(f"of the pair '{key}', '{column}' is '{here}' in {one[0]} and '{there}' in {other[0]}")


def _shared(examples: Examples) -> list[str]:
    """Count the pairs that have an input of one side in common with another pair: they are no wrong answers to it."""
    lines = []
    for name, values in examples.inputs.items():
        counts = Counter(content_digest(value) for value in values)
        shared = sum(count for count in counts.values() if count > 1)
        if shared:
            lines.append(
                f"{shared:,} pairs have a '{name}' that other pairs have too, and are not told apart from these"
            )
    return lines


def split_pairs(recipe: AlignRecipe, pairs: Pairs, towers: Sequence[ChosenTower]) -> tuple[Pairs, Split]:
    """Split pairs as the recipe says, by homology of either side too; those that no part holds are left out.

    Identical pairs stay together, unless a column says where each stands. Raises ``DataError`` or ``RecipeError`` for a
    split that cannot be had, and where no two pairs to learn from can be told apart.
    """
    options, examples = recipe.split, pairs.examples
    compared = {tower.name: tower.modality for tower in towers if tower.modality in _LETTERS}
    relatives = [
        Relatives({name: examples.inputs[name]}, examples.ids, rule_of(options, kind))
        for name, kind in (compared.items() if options.homology or options.leakage else ())
    ]
    families = None
    if options.homology:
        # Each side counts: pairs with related sequences stand in one part, whichever side is related.
        related = ([(place, family) for family in one.families()] for place, one in enumerate(relatives))
        families = united(_contents(examples), *related)
    parts = split(*_with_alike(options, examples), None, recipe.seed, families)
    _refuse_indistinct(pairs, parts.train)
    notes = [*parts.notes, *_told(options, examples, parts)]
    for name, one in zip(compared, relatives, strict=False):
        found = leakage(one, "test", parts.test, parts.train)
        notes += [f"{name}: {line}" for line in found.lines()]
    used = np.sort(np.concatenate([getattr(parts, part) for part in PARTS]))
    moved: dict[str, Any] = {part: np.searchsorted(used, getattr(parts, part)) for part in PARTS}
    return pairs.take(used).told(notes), replace(parts, **moved)


def _contents(examples: Examples) -> list[bytes]:
    return [content_digest(pair) for pair in zip(*examples.inputs.values(), strict=True)]


def _with_alike(options: SplitOptions, examples: Examples) -> tuple[SplitOptions, Examples]:
    """Return what keeps identical pairs in one group, where there are any and the options deal pairs."""
    contents, table = _contents(examples), examples.table
    # What parts have in common is told of pairs, by ``_told``: of rows it would be told twice.
    bare = replace(examples, inputs={"pair": range(len(examples))})
    if options.column or options.homology or len(set(contents)) == len(contents):
        return options, bare
    groups: list[Sequence[bytes | str]] = [contents]
    if options.group:
        check_column(table, options.group, "the table")
        values = table.column(options.group).to_pylist()
        if any(value in (None, "") for value in values):
            return options, bare
        groups.append([str(value).strip() for value in values])
    name = f"{options.group} and {_ALIKE}" if options.group else _ALIKE
    whole = table.append_column(name, pa.array([str(group) for group in united(*groups)]))
    return options.model_copy(update={"group": name}), replace(bare, table=whole)


def _refuse_indistinct(pairs: Pairs, train: Rows) -> None:
    if len(train) < 2:
        raise DataError("the train part has one pair: each is learned by telling it from others")
    for name, encodings in pairs.encodings.items():
        # Any two of some pairs have an input in common only if all of them have the same one.
        if len({encodings_digest([encodings[row]]) for row in train}) == 1:
            raise DataError(
                f"all {len(train):,} train pairs have the same '{name}': each is learned by telling it from others"
            )


def _told(options: SplitOptions, examples: Examples, parts: Split) -> list[str]:
    """Say what parts have in common: origins, if the recipe names any, whole pairs, and inputs of one side."""
    lines = sharing(options, examples, parts, 'split.group = "{}"') if options.origins else []
    sides = {name: [content_digest(value) for value in values] for name, values in examples.inputs.items()}
    for part in ("valid", "test"):
        rows = getattr(parts, part)
        counted = f"of {len(rows):,} {part} pairs"
        whole = _known(_contents(examples), rows, parts.train)
        if whole:
            lines.append(f"{whole:,} {counted} are also training pairs: what finds them may have learned them by heart")
        for name, words in sides.items():
            known = _known(words, rows, parts.train)
            if known > whole:
                lines.append(f"{known:,} {counted} have a '{name}' that also stands in train")
    return lines


def _known(words: Sequence[bytes], rows: Rows, train: Rows) -> int:
    learned = {words[row] for row in train}
    return sum(words[row] in learned for row in rows)


def with_engine(options: SplitOptions, towers: Sequence[ChosenTower]) -> SplitOptions:
    """Write into a split what is to compare its sequences. Raises ``RecipeError`` if neither tower reads any."""
    key = "homology" if options.homology else "leakage"
    if not getattr(options, key):
        return options
    if not any(tower.modality in _LETTERS for tower in towers):
        kinds = " and ".join(tower.modality for tower in towers)
        raise RecipeError(
            f"split.{key} compares sequences of DNA or protein, but the towers read {kinds}: leave it out; split.group keeps "
            "pairs of one origin together"
        )
    found = "mmseqs" if shutil.which("mmseqs") else "pyopal"
    return options.model_copy(update={"engine": found if options.engine == "auto" else options.engine})
