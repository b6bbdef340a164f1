"""Tables of variants: which letters of which sequence change into which, checked against the sequence itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from exapt.data.changes import Edit, MismatchError, UnscorableError, between, check, named, placed, symbolic, text_of
from exapt.data.columns import check_column
from exapt.data.reference import Letters, Reference, Stretch, Whole
from exapt.errors import DataError, RecipeError
from exapt.structures import Structure

COLUMNS = ("id", "sequence", "mutant", "mutation", "chrom", "position", "ref", "alt")
"""What a column of a table of variants may be."""
CHANGES = (("mutation",), ("position", "ref", "alt"), ("mutant",))
"""The columns by which a change can be told; the first that a table has are taken."""


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


@dataclass(frozen=True, eq=False)
class Placement:
    """A structure with its own letters, and the same backbone with those of a mutant."""

    where: str
    wild: Structure
    mutant: Structure

    @property
    def units(self) -> list[int]:
        """The positions whose letters differ."""
        letters = zip(self.wild.letters, self.mutant.letters, strict=True)
        return [unit for unit, (one, other) in enumerate(letters) if one != other]


@dataclass(frozen=True)
class Unchanged:
    """A row whose mutant is the wild type itself."""

    where: str


@dataclass(frozen=True)
class Unscored:
    """A row that keeps its place in the answers without a score, and why."""

    where: str
    reason: str


Row = Variant | Placement | Unchanged | Unscored


@dataclass
class Told:
    """Which errors leave a row without a score, and what there is to tell of rows in the end."""

    skips: tuple[type[UnscorableError], ...] = ()
    unscored: list[Unscored] = field(default_factory=list)
    unchanged: list[Unchanged] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    """Rows whose whole sequence has hardly a letter of its structure's own, and how many."""

    def skip(self, where: str, error: UnscorableError) -> None:
        """Take up a row that has no score; raises the error if it is not to be skipped."""
        if not isinstance(error, self.skips):
            raise error
        self.unscored.append(Unscored(where, error.reason))

    def lines(self) -> list[str]:
        """Say, a line for each reason, how many rows have no score, and how many are wild types, and name the first."""
        reasons: dict[str, list[str]] = {}
        for one in self.unscored:
            reasons.setdefault(one.reason, []).append(one.where)
        lines = [
            f"{_rows(len(rows))} without a score, for {reason}; first {rows[0]}"
            for reason, rows in sorted(reasons.items())
        ]
        if self.unchanged:
            many = len(self.unchanged)
            are = "is the wild type itself and scores" if many == 1 else "are the wild type itself and score"
            lines.append(f"{_rows(many)} {are} 0; first {self.unchanged[0].where}")
        if self.unlike:
            are = "has a sequence that is" if len(self.unlike) == 1 else "have sequences that are"
            lines.append(f"{_rows(len(self.unlike))} {are} hardly the structure's own; first {self.unlike[0]}")
        return lines


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


class ChangeTable(ABC):
    """Makes changes of the rows of a table: which column says what, and what becomes of rows without a score.

    ``given`` maps what a column is, one of ``columns``, to its name in this table, where that is another; ``changes`` are
    the columns by which a change can be told, the first that a table has are taken. ``told`` takes up what is to be said
    of rows.
    """

    columns: tuple[str, ...]
    changes: tuple[tuple[str, ...], ...]
    whole: frozenset[str]
    """The columns that hold whole sequences, which the answers do not repeat."""

    def __init__(self, name: str, given: Mapping[str, str], told: Told) -> None:
        unknown = sorted(given.keys() - set(self.columns))
        if unknown:
            raise RecipeError(f"'{unknown[0]}' is nothing that a column of variants can be: {', '.join(self.columns)}")
        self._name = name
        self._given = given
        self._told = told
        self._rows = 0
        self._change: tuple[str, ...] = ()

    @abstractmethod
    def _place(self, piece: pa.Table) -> tuple[str, ...]:
        """Return the columns that say what changes there; raises ``DataError`` if one is missing."""

    @abstractmethod
    def _changed(self, where: str, facts: Mapping[str, Any]) -> Row:
        """Return the row of some cells. Raises ``DataError``, without the row, for what cannot be."""

    @abstractmethod
    def _needs(self) -> str:
        """Say which columns tell a change."""

    def variants(self, piece: pa.Table) -> Iterator[Row]:
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
                found = self._row(where, facts)
            except UnscorableError as error:
                self._told.skip(where, error)
                found = self._told.unscored[-1]
            else:
                self._note(found)
            yield found

    def _row(self, where: str, facts: Mapping[str, Any]) -> Row:
        try:
            return self._changed(where, facts)
        except UnscorableError as error:
            raise error.at(where) from None
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def _note(self, row: Row) -> None:
        if isinstance(row, Unscored):
            self._told.unscored.append(row)
        elif isinstance(row, Unchanged):
            self._told.unchanged.append(row)

    def shown(self, piece: pa.Table) -> dict[str, pa.Array]:
        """Return the columns that tell the rows of a piece apart, for the answers: all but whole sequences.

        Without a column of ids the rows before the next piece are numbered; call it after ``variants``.
        """
        named = {*self._change, *self._place(piece)} - self.whole - {"id"}
        known = [what for what in self.columns if what in named]
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
        for change in sorted(self.changes, key=lambda change: not set(change) & self._given.keys()):
            if all(self._column(what) in piece.column_names for what in change):
                return change
        raise DataError(
            f"{self._name} does not tell what changes: it needs {self._needs()}. Its columns are: "
            f"{', '.join(piece.column_names)}."
        )


class VariantTable(ChangeTable):
    """Makes variants of the rows of a table.

    Wild types stand in the column ``sequence`` or, with ``chrom`` or alone, in a reference.
    """

    columns = COLUMNS
    changes = CHANGES
    whole = frozenset({"sequence", "mutant"})

    def __init__(self, name: str, columns: Mapping[str, str], reference: Reference | None, told: Told) -> None:
        super().__init__(name, columns, told)
        self._reference = reference

    def _needs(self) -> str:
        return "a column 'mutation', the columns 'position', 'ref' and 'alt', or a column 'mutant'"

    def _place(self, piece: pa.Table) -> tuple[str, ...]:
        if self._reference is None:
            if self._column("sequence") not in piece.column_names and self._column("chrom") in piece.column_names:
                raise DataError(
                    f"{self._name} names places on chromosomes: name the FASTA file of their sequences with --reference."
                )
            check_column(piece, self._column("sequence"), self._name)
            return ("sequence",)
        return ("chrom",) if self._column("chrom") in piece.column_names else ()

    def _changed(self, where: str, facts: Mapping[str, Any]) -> Row:
        letters = self._letters(facts)
        edits = self._edits(letters, facts)
        named_only = symbolic(edits)
        if named_only:
            return Unscored(where, f"the allele '{named_only}', which spells no sequence")
        for edit in edits if self._change != ("mutant",) else ():
            check(edit, letters)
        changes = tuple(edit for edit in edits if not edit.silent)
        return Variant(where, letters, changes) if changes else Unchanged(where)

    def _edits(self, letters: Letters, facts: Mapping[str, Any]) -> tuple[Edit, ...]:
        if self._change == ("mutant",):
            return between(letters, facts["mutant"])
        return named(facts["mutation"]) if self._change == ("mutation",) else (placed(facts),)

    def _letters(self, facts: Mapping[str, Any]) -> Letters:
        if self._reference is None:
            return Whole(text_of(facts["sequence"], "sequence"))
        if "chrom" in facts:
            name = text_of(facts["chrom"], "chrom")
        elif len(self._reference.names) == 1:
            name = self._reference.names[0]
        else:
            raise DataError(
                f"{self._reference.name} has {len(self._reference.names)} sequences, and no column 'chrom' says which"
            )
        try:
            self._reference.length(name)
        except DataError as error:
            raise MismatchError(str(error), "sequences that the reference does not have") from None
        return Stretch(self._reference, name)


def _spot(facts: Mapping[str, Any]) -> str:
    if facts.get("chrom") and "position" in facts:
        return f" ({facts['chrom']}:{facts['position']})"
    return f" ({facts['mutation']})" if facts.get("mutation") else ""
