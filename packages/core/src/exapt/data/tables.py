"""Tables as readers give them and writers take them, and the examples that core makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from exapt.cells import CellType
from exapt.data import label_columns
from exapt.data.columns import DIGEST, column_values, content_digest, find_id_column, id_values, row_named
from exapt.data.domains import of_domains
from exapt.data.files import open_table, reader_of
from exapt.data.masks import MASK, masked
from exapt.data.mutants import made_inputs, wild_type_lines
from exapt.errors import DataError
from exapt.structures import StructureType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exapt.recipe import DataOptions

_LABEL = "label"
"""The column of labels in a table of letters."""

Labels = Mapping[str, str | tuple[str, ...]]
"""Each head's column of labels, or columns where it has several targets."""


class Reader(Protocol):
    """An opened file, read in pieces so that it never has to fit into memory.

    One with a method ``lines() -> list[str]`` is asked in the end what there is to tell of what it left out.
    """

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield record batches of the same named columns, in the order of the file.

        Raises ``DataError``, with the file and the line, for what cannot be read.
        """


class Writer(Protocol):
    """A file under way. Core calls ``write`` with batches of one schema, then ``close``, then renames the file."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the file; without this call it is thrown away."""


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to answer for, held by column.

    ``inputs`` maps each input's name to its values; ``labels`` maps each head's name to its labels, one value per row,
    or a tuple of values where the head has several label columns; ``table`` keeps every column of the file.
    """

    ids: Sequence[str]
    inputs: Mapping[str, Sequence[Any]]
    labels: Mapping[str, Sequence[Any]]
    table: pa.Table
    masks: Sequence[Sequence[bool]] | None = None
    """Which units [units] of each row count; None where all do."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Examples:
        """Return some of the examples, in the order of ``rows``."""
        return Examples(
            ids=[self.ids[row] for row in rows],
            inputs={name: [values[row] for row in rows] for name, values in self.inputs.items()},
            labels={name: [values[row] for row in rows] for name, values in self.labels.items()},
            table=self.table.take(rows),
            masks=None if self.masks is None else [self.masks[row] for row in rows],
        )


@dataclass(frozen=True)
class Report:
    """What became of the rows of a table: nothing is left out that is not counted here."""

    name: str
    rows: int
    """Rows of the table."""
    dropped: tuple[str, ...] = ()
    """Ids of the rows that were left out, having no label."""
    repeated: int = 0
    """Rows whose id and inputs had come before; they are kept."""
    labels_name: str = ""
    unused: tuple[str, ...] = ()
    """Ids in the table of labels that no input has."""
    told: tuple[str, ...] = ()
    """What the reader has to tell."""

    @property
    def kept(self) -> int:
        """Rows that became examples."""
        return self.rows - len(self.dropped)

    def lines(self) -> list[str]:
        """Say it, one sentence a line."""
        said = [f"{self.name}: {_rows(self.rows)}", *self.told]
        if self.dropped:
            said.append(
                f"{self.name}: {_rows(len(self.dropped))} dropped for want of a label, first id '{self.dropped[0]}'"
            )
        if self.repeated:
            said.append(f"{self.name}: {_rows(self.repeated)} with the id and inputs of an earlier row, kept")
        if self.unused:
            said.append(f"{self.labels_name}: {_rows(len(self.unused))} without an input, first id '{self.unused[0]}'")
        return said


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def read_examples(
    options: DataOptions, labels: Labels, *, keep_labels: bool = True, per_unit: Collection[str] = ()
) -> tuple[Examples, Report]:
    """Read a whole table with the labels, which may stand in a second table, or without them if they are not wanted.

    Of the heads that answer ``per_unit``, some units may have no label.
    Without them, a table of cells or structures needs no column of inputs to be named.
    Raises ``DataError`` for a column that is not there, an empty input, an id with two contents and a missing label;
    rows without a label are dropped instead, and counted, where the options say so.
    """
    whole, told = _whole(options.path, options.format, options.reader)
    source = _Source(Path(options.path), options if keep_labels else _by_content(options, whole))
    read = of_domains(source.examples(whole), options)
    if not keep_labels:
        return read, Report(source.name, len(read), repeated=source.repeated, told=told)
    table, unused = with_second(read, options, labels)
    told = (*told, *wild_type_lines(read, options, source.name))
    examples = replace(
        read, table=table, labels=label_columns.values(table, labels, Path(options.labels or options.path).name)
    )
    if source.repeated:
        _refuse_contradictions(examples, source.name)
    examples, missing = _labels_there(examples, options, labels, per_unit)
    kept, dropped = _without(examples, missing), [read.ids[row] for row in missing]
    if options.masks or options.mask:
        second = beside(options.masks, MASK) if options.masks else None
        kept, empty, lines = masked(kept, second, options, read)
        dropped, told = [*dropped, *empty], (*told, *lines)
    report = Report(
        name=source.name,
        rows=len(read),
        dropped=tuple(dropped),
        repeated=source.repeated,
        labels_name=Path(options.labels).name,
        unused=unused,
        told=told,
    )
    return kept, report


def _labels_there(
    examples: Examples, options: DataOptions, labels: Labels, per_unit: Collection[str]
) -> tuple[Examples, list[int]]:
    """Return the examples, without a label where there is none, and the rows that have too few."""
    if options.missing_labels != "keep":
        return examples, label_columns.missing_rows(examples, options, labels, per_unit)
    lacking = label_columns.without_any(examples, options, labels, per_unit)
    known = {
        head: [None if row in lacking[head] else label for row, label in enumerate(values)]
        for head, values in examples.labels.items()
    }
    return replace(examples, labels=known), sorted(set.intersection(*lacking.values()) if lacking else ())


def beside(path: str, column: str) -> pa.Table:
    """Return a table of labels or masks. Where its format holds letters, such as FASTA, they are its ``column``."""
    table, letters = _whole(path)[0], reader_of(Path(path)).letters
    if not letters or column in table.column_names:
        return table
    return table.rename_columns([column if name == letters else name for name in table.column_names])


def _whole(
    path: str,
    format: str = "",  # noqa: A002
    options: Mapping[str, Any] | None = None,
) -> tuple[pa.Table, tuple[str, ...]]:
    reader = open_table(path, format, options=options)
    batches = list(reader)
    if not sum(batch.num_rows for batch in batches):
        raise DataError(f"{Path(path).name} has no rows.")
    return pa.Table.from_batches(batches), _told(reader)


def _by_content(options: DataOptions, table: pa.Table) -> DataOptions:
    kinds = {CellType: "cell", StructureType: "structure"}
    found = {kinds[type(field.type)]: field.name for field in table.schema if type(field.type) in kinds}
    named = "inputs" in options.model_fields_set
    return options if named or not found else options.model_copy(update={"inputs": found})


def _told(reader: Reader) -> tuple[str, ...]:
    return tuple(getattr(reader, "lines", list)())


def with_second(read: Examples, options: DataOptions, labels: Labels) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the table of some rows, wider by their second table if there is one, and the ids there that no row has."""
    if not options.labels:
        return read.table, ()
    return label_columns.joined(read, beside(options.labels, _LABEL), options, labels)


def _refuse_contradictions(examples: Examples, name: str) -> None:
    first: dict[str, int] = {}
    for row, who in enumerate(examples.ids):
        before = first.setdefault(who, row)
        # As text, because NaN differs from itself.
        if any(repr(values[row]) != repr(values[before]) for values in examples.labels.values()):
            raise DataError(f"{name}: id '{who}' has two different labels, in rows {before + 1} and {row + 1}.")


def _without(examples: Examples, rows: Sequence[int]) -> Examples:
    if not rows:
        return examples
    gone = set(rows)
    return examples.take([row for row in range(len(examples)) if row not in gone])


def stream_examples(
    path: str | Path, options: DataOptions, chunk: int = 4096, tell: Callable[[str], None] = lambda line: None
) -> Iterator[Examples]:
    """Read a table without labels in pieces of at most ``chunk`` rows, in constant memory but for a digest of each id.

    At the end, ``tell`` hears of rows that had come before.
    Raises ``DataError`` like ``read_examples``, for a fault of the inputs when it is met.
    """
    source = _Source(Path(path), options)
    reader = open_table(path, options.format, options=options.reader)
    return _streamed(source, reader, chunk, tell)


def _streamed(source: _Source, reader: Reader, chunk: int, tell: Callable[[str], None]) -> Iterator[Examples]:
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        for begin in range(0, batch.num_rows, chunk):
            yield source.examples(pa.Table.from_batches([batch.slice(begin, chunk)]))
    for line in Report(source.name, rows, repeated=source.repeated, told=_told(reader)).lines()[1:]:
        tell(line)


class _Source:
    """A table under way: makes examples of its pieces, and remembers what each id stood for."""

    def __init__(self, path: Path, options: DataOptions) -> None:
        self.name = path.name
        self.repeated = 0
        self._options = options
        self._rows = 0
        self._first: dict[bytes, int] = {}
        self._contents = bytearray()

    def examples(self, piece: pa.Table) -> Examples:
        inputs = self._named(piece)
        id_column = find_id_column(piece, self._options.id, self.name)
        ids = self._ids(piece, id_column)
        inputs = self._with_made(inputs, piece, ids)
        for name, values in inputs.items():
            self._check_present(self._options.inputs[name], values, ids)
        if id_column:
            self._check_same(ids, inputs)
        self._rows += len(ids)
        return Examples(ids, inputs, {}, piece)

    def _named(self, piece: pa.Table) -> dict[str, list[Any]]:
        made = self._options.made
        named = {name: column for name, column in self._options.inputs.items() if name not in made}
        return {name: column_values(piece, column, self.name) for name, column in named.items()}

    def _with_made(self, named: Mapping[str, list[Any]], piece: pa.Table, ids: Sequence[str]) -> dict[str, list[Any]]:
        if not self._options.made:
            return dict(named)
        every = {**named, **made_inputs(piece, self._options, self.name, ids, self._rows)}
        return {name: every[name] for name in self._options.inputs}

    def _ids(self, piece: pa.Table, column: str) -> list[str]:
        if not column:
            return [str(self._rows + row) for row in range(1, piece.num_rows + 1)]
        return id_values(piece, column, self.name, self._rows)

    def _check_present(self, column: str, values: Sequence[Any], ids: Sequence[str]) -> None:
        for row, value in enumerate(values):
            if value in (None, "", []):
                raise DataError(f"{self.name} {row_named(self._rows + row + 1, ids[row])} has no '{column}'.")

    def _check_same(self, ids: Sequence[str], inputs: Mapping[str, Sequence[Any]]) -> None:
        for row, (name, *content) in enumerate(zip(ids, *inputs.values(), strict=True), self._rows):
            digest = content_digest(content)
            self._contents += digest
            first = self._first.setdefault(content_digest(name), row)
            if first == row:
                continue
            if self._contents[DIGEST * first : DIGEST * (first + 1)] != digest:
                raise DataError(
                    f"{self.name}: id '{name}' has two different inputs, in rows {first + 1} and {row + 1}."
                )
            self.repeated += 1
