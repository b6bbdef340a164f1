"""Tables of variants: which letters of which sequence change into which, checked against the sequence itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from exapt.data.columns import check_column
from exapt.data.reference import Letters, Reference, Stretch, Whole
from exapt.errors import DataError, RecipeError

COLUMNS = ("id", "sequence", "mutant", "mutation", "chrom", "position", "ref", "alt")
"""What a column of a table of variants may be."""
CHANGES = (("mutation",), ("position", "ref", "alt"), ("mutant",))
"""The columns by which a change can be told; the first that a table has are taken."""

_SUBSTITUTION = re.compile(r"([A-Za-z])(\d+)([A-Za-z*])")
_LETTERS = re.compile(r"[A-Za-z]+")
# A deletion by another variant, no alternative, a named one such as <DEL>, a breakend: none of them spells a sequence.
_SYMBOLIC = re.compile(r"\*|\.|<[^>]*>|.*[\[\]].*")


class MismatchError(DataError):
    """The reference has another letter than the table says."""


@dataclass(frozen=True)
class Edit:
    """One change: ``ref``, which begins at the letter ``start`` (from 0), becomes ``alt``."""

    start: int
    ref: str
    alt: str

    @property
    def stop(self) -> int:
        """The letter after ``ref``."""
        return self.start + len(self.ref)


@dataclass(frozen=True)
class Variant:
    """Changes of one sequence, made together, from left to right; ``where`` is what a message calls them."""

    where: str
    letters: Letters
    edits: tuple[Edit, ...]

    @property
    def start(self) -> int:
        """The first letter that changes."""
        return self.edits[0].start

    @property
    def stop(self) -> int:
        """The letter after the last that changes."""
        return self.edits[-1].stop

    def alleles(self, start: int, stop: int) -> tuple[str, str]:
        """Return wild type and mutant of the letters from ``start`` to ``stop``, the changed ones as the table writes them."""
        wild, mutant, at = "", "", start
        for edit in self.edits:
            between = self.letters.cut(at, edit.start)
            wild, mutant, at = wild + between + edit.ref, mutant + between + edit.alt, edit.stop
        rest = self.letters.cut(at, stop)
        return wild + rest, mutant + rest


@dataclass(frozen=True)
class Unscored:
    """A row that keeps its place in the answers without a score, and why."""

    where: str
    reason: str


class VariantTable:
    """Makes variants of the rows of a table.

    ``columns`` maps what a column is (see ``COLUMNS``) to its name in this table, where that is another. Wild types stand
    in the column ``sequence`` or, with ``chrom`` or alone, in a reference.
    """

    def __init__(self, name: str, columns: Mapping[str, str], reference: Reference | None, skip: bool = False) -> None:
        unknown = sorted(columns.keys() - set(COLUMNS))
        if unknown:
            raise RecipeError(f"'{unknown[0]}' is nothing that a column of variants can be: {', '.join(COLUMNS)}")
        self._name = name
        self._given = columns
        self._reference = reference
        self._skip = skip
        self._rows = 0
        self._change: tuple[str, ...] = ()

    def variants(self, piece: pa.Table) -> Iterator[Variant | Unscored]:
        """Yield the variant of each row of the table's next piece.

        Raises ``DataError``, with the row, for a position that is not there and for letters that are others in the
        sequence; the latter are unscored instead if they are to be skipped.
        """
        self._change = self._change or self._find_change(piece)
        wanted = (*self._change, *self._place(piece))
        values = {what: piece.column(self._column(what)).to_pylist() for what in wanted}
        for row in range(piece.num_rows):
            self._rows += 1
            facts = {what: column[row] for what, column in values.items()}
            where = f"{self._name} row {self._rows}" + _spot(facts)
            try:
                yield self._variant(where, facts)
            except MismatchError:
                if not self._skip:
                    raise
                yield Unscored(where, "letters that are others in the sequence")

    def shown(self, piece: pa.Table) -> dict[str, pa.Array]:
        """Return the columns that tell the rows of a piece apart, for the answers: all but whole sequences.

        Without a column of ids the rows before the next piece are numbered; call it after ``variants``.
        """
        known = [what for what in COLUMNS[3:] if what in (*self._change, *self._place(piece))]
        id_column = self._column("id")
        if "id" in self._given:
            check_column(piece, id_column, self._name)
        first = self._rows - piece.num_rows + 1
        numbers = pa.array([str(first + row) for row in range(piece.num_rows)], pa.string())
        ids = piece.column(id_column).combine_chunks() if id_column in piece.column_names else numbers
        return {"id": ids, **{what: piece.column(self._column(what)).combine_chunks() for what in known}}

    def _column(self, what: str) -> str:
        return self._given.get(what, what)

    def _find_change(self, piece: pa.Table) -> tuple[str, ...]:
        for what, column in self._given.items():
            if what != "id":
                check_column(piece, column, self._name)
        # What the user names wins over what happens to be called so.
        for change in sorted(CHANGES, key=lambda change: not set(change) & self._given.keys()):
            if all(self._column(what) in piece.column_names for what in change):
                return change
        raise DataError(
            f"{self._name} does not tell what changes: it needs a column 'mutation', the columns 'position', 'ref' and "
            f"'alt', or a column 'mutant'. Its columns are: {', '.join(piece.column_names)}."
        )

    def _place(self, piece: pa.Table) -> tuple[str, ...]:
        if self._reference is None:
            if self._column("sequence") not in piece.column_names and self._column("chrom") in piece.column_names:
                raise DataError(
                    f"{self._name} names places on chromosomes: name the FASTA file of their sequences with --reference."
                )
            check_column(piece, self._column("sequence"), self._name)
            return ("sequence",)
        return ("chrom",) if self._column("chrom") in piece.column_names else ()

    def _variant(self, where: str, facts: Mapping[str, Any]) -> Variant | Unscored:
        try:
            letters = self._letters(facts)
            if self._change == ("mutant",):
                return Variant(where, letters, (_whole_change(letters, facts["mutant"]),))
            edits = _named(facts["mutation"]) if self._change == ("mutation",) else (_edit(facts),)
            symbolic = [allele for edit in edits for allele in (edit.ref, edit.alt) if _SYMBOLIC.fullmatch(allele)]
            if symbolic:
                return Unscored(where, f"the allele '{symbolic[0]}', which spells no sequence")
            for edit in edits:
                _check(edit, letters)
        except DataError as error:
            raise type(error)(f"{where}: {error}") from None
        return Variant(where, letters, edits)

    def _letters(self, facts: Mapping[str, Any]) -> Letters:
        if self._reference is None:
            return Whole(_text(facts["sequence"], "sequence"))
        if "chrom" in facts:
            name = _text(facts["chrom"], "chrom")
        elif len(self._reference.names) == 1:
            name = self._reference.names[0]
        else:
            raise DataError(
                f"{self._reference.name} has {len(self._reference.names)} sequences, and no column 'chrom' says which"
            )
        self._reference.length(name)
        return Stretch(self._reference, name)


def _spot(facts: Mapping[str, Any]) -> str:
    if facts.get("chrom") and "position" in facts:
        return f" ({facts['chrom']}:{facts['position']})"
    return f" ({facts['mutation']})" if facts.get("mutation") else ""


def _text(value: Any, what: str) -> str:
    if value in (None, ""):
        raise DataError(f"there is no '{what}'")
    return str(value)


def _edit(facts: Mapping[str, Any]) -> Edit:
    text = _text(facts["position"], "position")
    if not re.fullmatch(r"-?\d+", text):
        raise DataError(f"position '{text}' is no whole number")
    return Edit(int(text) - 1, _text(facts["ref"], "ref"), _text(facts["alt"], "alt"))


def _named(value: Any) -> tuple[Edit, ...]:
    edits = []
    for word in _text(value, "mutation").split(":"):
        found = _SUBSTITUTION.fullmatch(word.strip())
        if not found:
            raise DataError(f"'{word}' is no substitution such as A23G; several are joined with colons, A23G:K41R")
        edits.append(Edit(int(found[2]) - 1, found[1], found[3]))
    edits.sort(key=lambda edit: edit.start)
    for one, other in pairwise(edits):
        if one.start == other.start:
            raise DataError(f"position {one.start + 1} changes twice")
    return tuple(edits)


def _check(edit: Edit, letters: Letters) -> None:
    for what, allele in (("ref", edit.ref), ("alt", edit.alt)):
        if not _LETTERS.fullmatch(allele):
            raise DataError(f"{what} '{allele}' is not made of letters; write an insertion with the letter before it")
    if edit.ref.upper() == edit.alt.upper():
        raise DataError(f"ref and alt are both '{edit.ref}'")
    if edit.start < 0:
        raise DataError(f"there is no position {edit.start + 1}: positions count from 1")
    if edit.stop > len(letters):
        raise DataError(f"position {edit.stop} lies beyond the end: there are {len(letters):,} letters")
    found = letters.cut(edit.start, edit.stop)
    # A soft-masked reference is written in lower case; its letters are the same.
    if found.upper() != edit.ref.upper():
        whose = (
            f"the sequence has '{found}' at position {edit.start + 1}"
            if letters.whole
            else f"the reference has '{found}'"
        )
        raise MismatchError(f"{whose} where the table says '{edit.ref}'")


def _whole_change(letters: Letters, value: Any) -> Edit:
    wild, mutant = letters.cut(0, len(letters)), _text(value, "mutant")
    if wild.upper() == mutant.upper():
        raise DataError("the mutant is the same as the wild type")
    start = _alike(wild, mutant)
    rest = min(len(wild), len(mutant)) - start
    tail = _alike(wild[::-1][:rest], mutant[::-1][:rest])
    return Edit(start, wild[start : len(wild) - tail], mutant[start : len(mutant) - tail])


def _alike(one: str, other: str) -> int:
    """Return how many letters two texts begin with alike."""
    short = min(len(one), len(other))
    return next((place for place in range(short) if one[place] != other[place]), short)


def unscored_lines(unscored: Sequence[Unscored]) -> list[str]:
    """Say, a line for each reason, how many rows have no score, and name the first."""
    reasons: dict[str, list[str]] = {}
    for one in unscored:
        reasons.setdefault(one.reason, []).append(one.where)
    return [
        f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'} without a score, for {reason}; first {rows[0]}"
        for reason, rows in sorted(reasons.items())
    ]
