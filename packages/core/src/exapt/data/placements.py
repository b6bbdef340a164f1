"""Tables of variants of structures: which residues of which structure change into which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from exapt.data.changes import Edit, IncomparableError, MismatchError, symbolic, text_of
from exapt.data.columns import check_column, id_values
from exapt.data.files import open_table
from exapt.data.residues import UNLIKE, Numbering, Substitution, chain_named, checked, named, placed
from exapt.data.variants import ChangeTable, Placement, Row, Told, Unchanged, Unscored
from exapt.errors import DataError, did_you_mean
from exapt.structures import ABSENT, Structure, StructureType, structures_of

COLUMNS = ("id", "structure", "chain", "sequence", "mutant", "mutation", "position", "ref", "alt")
"""What a column of a table of variants of structures may be."""
CHANGES = (("mutation",), ("position", "ref", "alt"), ("mutant",), ("sequence",))
"""The columns by which a change can be told; the first that a table has are taken."""
_SHOWN = 5
# Designs for a backbone keep a third to a half of its letters, strangers one in twenty.
_UNLIKE = 0.8


def structure_field(schema: pa.Schema) -> str:
    """Return the name of the column that holds structures, or nothing."""
    return next((field.name for field in schema if isinstance(field.type, StructureType)), "")


class Structures:
    """The structures of a file or a folder, by id."""

    def __init__(self, path: Path, options: Mapping[str, Any] | None = None) -> None:
        self.name = path.name
        self._by_id: dict[str, Structure] = {}
        reader = open_table(path, options=options)
        for batch in reader:
            self._add(pa.Table.from_batches([batch]))
        if not self._by_id:
            raise DataError(f"{self.name} has no rows.")
        self.told: Sequence[str] = getattr(reader, "lines", list)()

    def _add(self, piece: pa.Table) -> None:
        field = structure_field(piece.schema)
        if not field:
            raise DataError(f"{self.name} holds no structures. Its columns are: {', '.join(piece.column_names)}.")
        check_column(piece, "id", self.name)
        names = id_values(piece, "id", self.name, len(self._by_id))
        for name, structure in zip(names, structures_of(piece.column(field)), strict=True):
            if name in self._by_id:
                raise DataError(f"{self.name} has two structures '{name}'.")
            self._by_id[name] = structure

    def find(self, name: str) -> Structure:
        """Return the structure of an id or, without one, the only one that there is."""
        there = list(self._by_id)
        if name and name not in self._by_id:
            raise MismatchError(
                f"{self.name} has no structure '{name}'.{did_you_mean(name, there)} It has: {_some(there)}.",
                "structures that are not there",
            )
        if not name and len(there) > 1:
            raise DataError(
                f"{self.name} has {len(there):,} structures, {_some(there)}, and no column 'structure' says which"
            )
        return self._by_id[name or there[0]]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


class PlacementTable(ChangeTable):
    """Puts the variants of a table's rows on structures.

    ``numbering`` says what a position is. Whole sequences are of one chain, or of all with ``/`` between them.
    """

    columns = COLUMNS
    changes = CHANGES
    whole = frozenset({"sequence", "mutant"})

    def __init__(
        self, name: str, given: Mapping[str, str], structures: Structures, numbering: Numbering, told: Told
    ) -> None:
        super().__init__(name, given, told)
        self._structures = structures
        self._numbering = numbering

    def _needs(self) -> str:
        return (
            "a column 'mutation', the columns 'position', 'ref' and 'alt', or a whole sequence in a column 'mutant' or "
            "'sequence'"
        )

    def _place(self, piece: pa.Table) -> tuple[str, ...]:
        return tuple(what for what in ("structure", "chain") if self._column(what) in piece.column_names)

    def _changed(self, where: str, facts: Mapping[str, Any]) -> Row:
        structure = self._structures.find(_text(facts, "structure"))
        chain = _text(facts, "chain")
        (kind, *_) = self._change
        if kind in ("mutant", "sequence"):
            letters = _whole(structure, chain, text_of(facts[kind], kind))
            self._told.unlike += _unlike(where, structure, letters)
        else:
            changes = named(facts[kind], chain) if kind == "mutation" else [placed(facts, chain)]
            named_only = symbolic(tuple(Edit(0, one.ref, one.alt) for one in changes))
            if named_only:
                return Unscored(where, f"the allele '{named_only}', which spells no sequence")
            letters = _substituted(structure, changes, self._numbering)
        if letters == structure.letters:
            return Unchanged(where)
        return Placement(where, structure, structure.with_letters(letters))


def placement(where: str, wild: Any, mutant: Any) -> Row:
    """Return a pair of structures as a row. Raises ``DataError`` unless they differ in nothing but letters."""
    try:
        one, other = Structure.of(wild), Structure.of(mutant)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if (one.chains, one.numbers) != (other.chains, other.numbers):
        raise IncomparableError(f"{where}: wild type and mutant are not one structure with two sequences", UNLIKE)
    return Unchanged(where) if one.letters == other.letters else Placement(where, one, other)


def _text(facts: Mapping[str, Any], what: str) -> str:
    value = facts.get(what)
    return "" if value is None else str(value)


def _substituted(structure: Structure, changes: Sequence[Substitution], numbering: Numbering) -> str:
    letters, changed = list(structure.letters), set()
    for one in changes:
        start = checked(structure, one, numbering)
        for unit, alt in enumerate(one.alt.upper(), start):
            if unit in changed:
                raise DataError(f"residue {structure.names[unit]} changes twice")
            changed.add(unit)
            letters[unit] = alt
    return "".join(letters)


def _whole(structure: Structure, chain: str, text: str) -> str:
    """Return the letters of the structure with a sequence of one chain, or of all, in their place."""
    parts = text.upper().split("/")
    if len(parts) == 1:
        numbers = [chain_named(structure, chain)] if chain or len(structure.chains) == 1 else []
    else:
        numbers = list(range(len(structure.chains))) if not chain else []
    if len(numbers) != len(parts):
        raise DataError(_unsuited(structure, chain, len(parts)))
    letters = structure.letters
    for number, part in zip(numbers, parts, strict=True):
        start, stop = (int(end) for end in structure.starts[number : number + 2])
        letters = letters[:start] + _fitted(structure, number, letters[start:stop], part) + letters[stop:]
    return letters


def _unlike(where: str, structure: Structure, letters: str) -> list[str]:
    """Return a row whose sequence, placed by its length alone, may well belong to another structure; else nothing."""
    seen = [(own, other) for own, other in zip(structure.letters, letters, strict=True) if own != ABSENT]
    others = sum(own != other for own, other in seen)
    return [f"{where}: {others:,} of {len(seen):,} residues differ"] if others > _UNLIKE * len(seen) else []


def _unsuited(structure: Structure, chain: str, parts: int) -> str:
    there = ", ".join(structure.chains)
    if chain:
        return f"the sequence is of {parts} chains, and the column 'chain' names one, '{chain}'"
    if parts == 1:
        return (
            f"the structure has the chains {there}: write their sequences in this order, with '/' between them, or name "
            "one in a column 'chain'"
        )
    return f"the sequence is of {parts} chains, and the structure has {len(structure.chains)}: {there}"


def _fitted(structure: Structure, number: int, have: str, text: str) -> str:
    """Return a chain's letters with those of a sequence, which may leave out or spell the residues that are missing."""
    strange = next((at for at, letter in enumerate(text) if not (letter.isalpha() or letter == ABSENT)), None)
    if strange is not None:
        raise DataError(f"the sequence has {text[strange]!r} at position {strange + 1}, which is no letter")
    seen = [at for at, letter in enumerate(have) if letter != ABSENT]
    if len(text) == len(have):
        text = "".join(text[at] for at in seen)
    if len(text) != len(seen) or ABSENT in text:
        missing = f" ({len(have) - len(seen):,} of them without a residue)" if len(seen) < len(have) else ""
        raise IncomparableError(
            f"chain {structure.chains[number]} has {len(have):,} positions{missing}, and the sequence "
            f"{len(text.replace(ABSENT, '')):,} letters: insertions and deletions have no place on a structure",
            UNLIKE,
        )
    letters = list(have)
    for at, letter in zip(seen, text, strict=True):
        letters[at] = letter
    return "".join(letters)
