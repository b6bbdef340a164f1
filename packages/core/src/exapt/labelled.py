"""The table of a recipe: labelled examples, and the part in which each of them stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exapt.building import Tallies, build_tokenizer, encode
from exapt.data.files import table_sha256
from exapt.data.homology import Floats, Rows
from exapt.data.known_labels import known_rows, with_known_labels
from exapt.data.leakage import Leakage, bands, leakage
from exapt.data.partners import partners
from exapt.data.relatives import Relatives, rule_of
from exapt.data.sharing import sharing
from exapt.data.splits import Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError
from exapt.parts import Encoding
from exapt.recipe import DataOptions
from exapt.resolve import Resolved, read_by
from exapt.units import empty_rows, labels_of_covered, left_out
from exapt.windows import Cuts

Encodings = Mapping[str, Sequence[Encoding]]

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """Labelled examples and how they are split; every row stands in a part."""

    examples: Examples
    split: Split
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    encodings: Mapping[str, list[Encoding]]
    """What became of the inputs; of units that no token covers, labels are left out."""
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
        """Return the labels of one part, by head, without those that rows lack."""
        rows = getattr(self.split, part)
        labels = self.examples.labels
        return {name: [values[row] for row in rows if values[row] is not None] for name, values in labels.items()}

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


def read_table(resolved: Resolved, kept: Sequence[str] = PARTS) -> Table:
    """Read and split the data of a recipe; rows that no part ``kept`` holds (such as beyond ``train_size``) are left out.

    So are, before, rows of which the model sees nothing: neither sizes nor what parts have in common count them.
    Raises ``DataError`` for a table that cannot be used.
    """
    options, recipe = resolved.recipe.data, resolved.recipe
    examples, report = read_examples(options, resolved.labels, per_unit=resolved.per_unit)
    examples, encodings, tallies, blank = _seen(resolved, examples)
    first = next(iter(resolved.heads))
    spec = resolved.heads[first].offer.spec
    stratified = spec.baseline == "classification" and spec.answers == "input"
    relatives = _relatives(resolved, examples)
    families = relatives.families() if relatives and recipe.split.homology else None
    strata = ["" if label is None else label for label in examples.labels[first]] if stratified else None
    try:
        parts = split(recipe.split, examples, strata, recipe.seed, families)
    except DataError as error:
        # That rows were left out may be why.
        raise DataError(" ".join([str(error), *blank])) from None
    parts = replace(parts, **{part: getattr(parts, part)[:0] for part in PARTS if part not in kept})
    used = np.sort(np.concatenate([getattr(parts, part) for part in PARTS]))
    place = {row: number for number, row in enumerate(used.tolist())}
    moved: dict[str, Any] = {
        part: np.array([place[row] for row in getattr(parts, part).tolist()], dtype=np.int64) for part in PARTS
    }
    facts: dict[str, Any] = {"file": Path(options.path).name, "sha256": table_sha256(options.path, options.format)}
    if options.labels:
        facts |= {"labels_file": Path(options.labels).name, "labels_sha256": table_sha256(options.labels)}
    if options.masks:
        facts |= {"masks_file": Path(options.masks).name, "masks_sha256": table_sha256(options.masks)}
    facts["rows"] = {part: len(moved[part]) for part in PARTS}
    notes = [*report.lines(), *blank, *parts.notes, *_sharing(resolved, examples, parts)]
    notes += [line for names in _unordered(resolved) for line in partners(examples, parts, names)]
    notes += relatives.ambiguous() if relatives else ()
    if relatives and families is not None:
        notes.append(relatives.noted(families))
    looked = relatives if recipe.split.leakage and "test" in kept else None
    found = leakage(looked, "test", parts.test, parts.train) if looked else None
    identity = None
    if found:
        notes += found.lines()
        identity = np.zeros(len(used))
        identity[moved["test"]] = found.identity
    examples, encodings = examples.take(used), _taken(encodings, used)
    examples, unseen = labels_of_covered(examples, encodings, resolved)
    parts = replace(parts, **moved)
    return Table(examples, parts, (*notes, *unseen), facts, encodings, tallies, found, identity)


@dataclass(frozen=True)
class Other:
    """Rows of another table than the one that is learned from, all of them, with the labels that they have.

    ``known`` says of each head which rows have one; unless they are ``measured``, none is looked at.
    """

    examples: Examples
    encodings: Encodings
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    known: Mapping[str, Rows]
    measured: bool = True


def read_other(resolved: Resolved, options: DataOptions, what: str, measured: bool = True) -> Other:
    """Read a second table, with the labels that it has of some heads and some rows if it is ``measured``.

    Raises ``DataError``, saying ``what`` the table is for, if it lacks a column of the inputs or cannot be used.
    """
    asked = set(resolved.recipe.data.inputs)
    options = read_by(options, resolved.backbone.offer.spec.accepts)
    if set(options.inputs) != asked:
        raise DataError(
            f"{what}.inputs names {', '.join(options.inputs)}, and data.inputs {', '.join(resolved.recipe.data.inputs)}: "
            "both tables hold the same inputs, each in a column that may have another name"
        )
    try:
        examples, report = read_examples(options, {}, keep_labels=False)
        if measured:
            examples = with_known_labels(examples, options, resolved.labels)
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    examples, encodings, tallies, blank = _seen(resolved, examples)
    known = known_rows(examples, resolved.labels, Path(options.path).name, resolved.per_unit)
    examples, unseen = labels_of_covered(examples, encodings, resolved)
    counts = {name: len(rows) for name, rows in known.items() if len(rows)}
    notes = (*report.lines(), *blank, *unseen, *tallies.lines(), *_measuring(counts, len(examples)))
    facts = {"file": Path(options.path).name, "sha256": table_sha256(options.path, options.format)}
    return Other(examples, encodings, notes, {**facts, "rows": len(examples), "labelled": counts}, known, measured)


def _measuring(counts: Mapping[str, int], rows: int) -> list[str]:
    if not counts:
        return []
    each = counts.values() if len(set(counts.values())) > 1 else [next(iter(counts.values()))]
    said = ", ".join(f"{count:,} of {rows:,}" for count in each)
    return [f"{said} rows have labels, which measure only: nothing is learned from them"]


def _seen(resolved: Resolved, examples: Examples) -> tuple[Examples, Encodings, Tallies, list[str]]:
    """Return the rows of which the model sees anything, their encodings, and what there is to tell of all.

    Raises ``DataError`` if there are none.
    """
    encodings, tallies = _encoded(resolved, examples)
    empty = empty_rows(encodings)
    if not empty.any():
        return examples, encodings, tallies, []
    if empty.all():
        # A tally knows better what is amiss with all of them, such as names that no model knows.
        tallies.lines()
        raise DataError("of no row does the model see anything: there is nothing to learn from.")
    kept = np.flatnonzero(~empty)
    return examples.take(kept), _taken(encodings, kept), tallies, [left_out(int(empty.sum()), "all parts")]


def _taken(encodings: Encodings, rows: Rows) -> dict[str, list[Encoding]]:
    return {name: [values[row] for row in rows] for name, values in encodings.items()}


def _encoded(resolved: Resolved, examples: Examples) -> tuple[dict[str, list[Encoding]], Tallies]:
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


def _unordered(resolved: Resolved) -> list[tuple[str, ...]]:
    """Return the pairs of inputs that heads read as the same in both orders."""
    symmetric = (head.options for head in resolved.heads.values() if getattr(head.options, "join", "") == "symmetric")
    return list(dict.fromkeys(tuple(getattr(options, "inputs", ())) for options in symmetric))


def _relatives(resolved: Resolved, examples: Examples) -> Relatives | None:
    """Return the rows ready to be compared, if the recipe asks for it."""
    options, kind = resolved.recipe.split, resolved.backbone.offer.spec.modality
    if not (options.homology or options.leakage):
        return None
    return Relatives(examples.inputs, examples.ids, rule_of(options, kind))
