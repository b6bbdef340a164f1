"""The table of a recipe: labelled examples, and the part in which each of them stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exapt.building import Tallies, build_tokenizer, encode
from exapt.data.files import table_sha256
from exapt.data.homology import Floats, Rows
from exapt.data.leakage import Leakage, bands, leakage
from exapt.data.relatives import Relatives, rule_of
from exapt.data.sharing import sharing
from exapt.data.splits import EMPTY, Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError
from exapt.parts import Encoding
from exapt.resolve import Resolved
from exapt.units import empty_rows, labels_of_covered, left_out
from exapt.windows import Cuts

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """Labelled examples and how they are split; every row stands in a part."""

    examples: Examples
    split: Split
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    encodings: Mapping[str, list[Encoding]]
    """What became of the inputs. Of units that no token covers labels are left out, and all of an input without any other."""
    tallies: Tallies
    """What there is to tell of the inputs, those that were left out too."""
    leakage: Leakage | None = None
    """How near the rows of the test part stand to those of train, where the recipe asks for it."""
    identity: Floats | None = None
    """Identity [rows] of each row of the test part to its nearest training row."""

    def bands(self) -> dict[str, Rows]:
        """Return the rows of the test part in each band of identity, named like parts; none without a report."""
        if self.identity is None:
            return {}
        test = self.split.test
        return {f"test {name}": test[places] for name, places in bands(self.identity[test]).items()}

    def labels(self, part: str) -> dict[str, list[Any]]:
        """Return the labels of one part, by head."""
        rows = getattr(self.split, part)
        return {name: [values[row] for row in rows] for name, values in self.examples.labels.items()}

    def of_seen(self) -> Table:
        """Return a table without the rows of which the model sees nothing.

        Raises ``DataError`` if there is no other to learn from.
        """
        empty = empty_rows(self.encodings)
        if not empty.any():
            return self
        kept, place = np.flatnonzero(~empty), np.cumsum(~empty) - 1
        of: dict[str, Any] = {part: getattr(self.split, part) for part in PARTS}
        moved = {part: place[rows[~empty[rows]]] for part, rows in of.items()}
        if not len(moved["train"]):
            # A tally knows better what is amiss with all of them, such as names that no model knows.
            self.tallies.lines()
            raise DataError("of no row of train does the model see anything: there is nothing to learn from.")
        gone = [part for part in PARTS if len(of[part]) and not len(moved[part])]
        return replace(
            self,
            examples=self.examples.take(kept),
            split=replace(self.split, **moved),
            notes=(*self.notes, left_out(int(empty.sum()), "all parts"), *(EMPTY[part] for part in gone)),
            facts={**self.facts, "rows": {part: len(rows) for part, rows in moved.items()}},
            encodings={name: [values[row] for row in kept] for name, values in self.encodings.items()},
            identity=None if self.identity is None else self.identity[kept],
        )

    def cut_up(self, cuts: Cuts, columns: Iterable[str]) -> Table:
        """Return a table with a row for each window of its inputs, which stand in ``columns``; all in their row's part."""
        moved: dict[str, Any] = {part: np.flatnonzero(np.isin(cuts.owner, getattr(self.split, part))) for part in PARTS}
        longer = len(np.unique(cuts.owner[np.flatnonzero(np.diff(cuts.owner) == 0)]))
        note = f"{longer:,} inputs are longer than the model takes: {len(cuts.owner):,} windows in all are learned from"
        notes = (*self.notes, note) if longer else self.notes
        return replace(
            self,
            examples=cuts.examples(self.examples, columns),
            split=replace(self.split, **moved),
            notes=notes,
            identity=None if self.identity is None else self.identity[cuts.owner],
        )


def read_table(resolved: Resolved) -> Table:
    """Read and split the data of a recipe; rows that no part holds (beyond ``train_size``) are left out.

    Raises ``DataError`` for a table that cannot be used.
    """
    options, recipe = resolved.recipe.data, resolved.recipe
    examples, report = read_examples(options, resolved.labels, per_unit=resolved.per_unit)
    first = next(iter(resolved.heads))
    spec = resolved.heads[first].offer.spec
    stratified = spec.baseline == "classification" and spec.answers == "input"
    relatives = _relatives(resolved, examples)
    families = relatives.families() if relatives and recipe.split.homology else None
    strata = examples.labels[first] if stratified else None
    parts = split(recipe.split, examples, strata, recipe.seed, families)
    used = np.sort(np.concatenate([getattr(parts, part) for part in PARTS]))
    place = {row: number for number, row in enumerate(used.tolist())}
    moved: dict[str, Any] = {
        part: np.array([place[row] for row in getattr(parts, part).tolist()], dtype=np.int64) for part in PARTS
    }
    facts: dict[str, Any] = {"file": Path(options.path).name, "sha256": table_sha256(options.path, options.format)}
    if options.labels:
        facts |= {"labels_file": Path(options.labels).name, "labels_sha256": table_sha256(options.labels)}
    facts["rows"] = {part: len(moved[part]) for part in PARTS}
    notes = [*report.lines(), *parts.notes, *_sharing(resolved, examples, parts)]
    notes += relatives.ambiguous() if relatives else ()
    if relatives and families is not None:
        notes.append(relatives.noted(families))
    found = leakage(relatives, "test", parts.test, parts.train) if relatives and recipe.split.leakage else None
    identity = None
    if found:
        notes += found.lines()
        identity = np.zeros(len(used))
        identity[moved["test"]] = found.identity
    examples = examples.take(used)
    encodings, tallies = _encoded(resolved, examples)
    examples, unseen = labels_of_covered(examples, encodings, resolved)
    parts = replace(parts, **moved)
    return Table(examples, parts, (*notes, *unseen), facts, encodings, tallies, found, identity).of_seen()


def _encoded(resolved: Resolved, examples: Examples) -> tuple[dict[str, list[Encoding]], Tallies]:
    """Return the encodings of all inputs, and what there is to tell of them."""
    tokenizer, family = build_tokenizer(resolved.tokenizer), resolved.recipe.backbone.name
    encodings, tallies = {}, Tallies(tokenizer)
    for name, values in examples.inputs.items():
        encodings[name] = encode(tokenizer, values, examples.ids, family, resolved.backbone, resolved.tokenizer)
        tallies.count(name, values, encodings[name])
    return encodings, tallies


def _sharing(resolved: Resolved, examples: Examples, parts: Split) -> list[str]:
    """Say what the parts have in common, of the columns that the recipe names or, of cells, of those that tell origins."""
    options = resolved.recipe.split
    if not options.origins and resolved.backbone.offer.spec.accepts != "cell":
        return []
    # A group has no say beside a column of parts.
    return sharing(
        options, examples, parts, 'split.group = "{}"' + (" in place of split.column" if options.column else "")
    )


def _relatives(resolved: Resolved, examples: Examples) -> Relatives | None:
    """Return the rows ready to be compared, if the recipe asks for it."""
    options, kind = resolved.recipe.split, resolved.backbone.offer.spec.modality
    if not (options.homology or options.leakage):
        return None
    return Relatives(examples.inputs, examples.ids, rule_of(options, kind))
