"""Mutants made of a wild type and the mutations that a table names, checked against the wild type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from exapt.data.changes import check, named
from exapt.data.columns import column_values, row_named
from exapt.data.files import open_table
from exapt.data.reference import Whole
from exapt.data.variants import Variant
from exapt.errors import DataError
from exapt.plugins import Plugins
from exapt.recipe import MUTANT, WILD_TYPE, DataOptions
from exapt.specs import ReaderSpec

if TYPE_CHECKING:
    from exapt.data.tables import Examples

_SHORTEST = 9
"""Fewer capitals than these are the name of a column that is not there, such as WT, rather than a sequence."""


def told_wild_type(data: DataOptions, plugins: Plugins) -> DataOptions:
    """Return how to read data with the wild type itself in place of the FASTA file that holds it, and with what it is.

    Of what is not yet known to be a column or a sequence, the head of the table decides. Raises ``DataError`` if it is
    neither, or if the file is not there, holds more than one sequence, or one with characters that are no letters.
    """
    if not data.wild_type or data.wild_type_is:
        return data
    suffixes = plugins.get(ReaderSpec, "fasta").spec.suffixes
    if not data.wild_type.lower().removesuffix(".gz").endswith(suffixes):
        return data.model_copy(update={"wild_type_is": _seen_kind(data, plugins)})
    sequence = _only_sequence(data.wild_type)
    made = {name: sequence for name in data.inputs if name == WILD_TYPE}
    return data.model_copy(update={"wild_type": sequence, "wild_type_is": "file", "inputs": {**data.inputs, **made}})


def _seen_kind(data: DataOptions, plugins: Plugins) -> str:
    # A recipe can be resolved where its table is not; that there is none is said when it is read.
    if not Path(data.path).exists():
        return ""
    first = next(iter(open_table(data.path, data.format, plugins, data.reader)), None)
    return "" if first is None else _kind(data.wild_type, first.schema.names, Path(data.path).name)


def _kind(told: str, columns: Sequence[str], name: str) -> Literal["column", "sequence"]:
    if told in columns:
        return "column"
    if len(told) < _SHORTEST or not (told.isascii() and told.isalpha() and told.isupper()):
        raise DataError(
            f"{name} has no column '{told}' of wild types, nor is that a sequence of {_SHORTEST} capitals or more, or a "
            f"FASTA file. Its columns are: {', '.join(columns)}."
        )
    return "sequence"


def _only_sequence(path: str) -> str:
    sequences = [text for batch in open_table(path, "fasta") for text in batch["sequence"].to_pylist()]
    if len(sequences) > 1:
        raise DataError(
            f"'{path}' has {len(sequences):,} sequences, and a wild type is one: put wild types that differ into a column "
            "of the table, and name that"
        )
    strange = next((at for at, letter in enumerate(sequences[0]) if not letter.isalpha()), None)
    if strange is not None:
        raise DataError(f"'{path}' has {sequences[0][strange]!r} at position {strange + 1}, which is no letter")
    return str(sequences[0].upper())


def made_inputs(
    table: pa.Table, options: DataOptions, name: str, ids: Sequence[str], before: int
) -> dict[str, list[str]]:
    """Return the inputs of a piece of the table called ``name`` that are made of mutations and wild type.

    ``before`` counts the rows that came before. Raises ``DataError``, with the row, for a mutation that does not fit the
    wild type, and where one of the two is missing.
    """
    where = [f"{name} {row_named(row, known_as)}" for row, known_as in enumerate(ids, before + 1)]
    wild = list(_present(_wild_types(table, options, name), options.wild_type, where))
    if not options.mutations:
        return {WILD_TYPE: wild}
    mutations = _present(column_values(table, options.mutations, name), options.mutations, where)
    return {MUTANT: [_mutant(*row) for row in zip(wild, mutations, where, strict=True)], WILD_TYPE: wild}


def _wild_types(table: pa.Table, options: DataOptions, name: str) -> list[Any]:
    told = options.wild_type
    if (options.wild_type_is or _kind(told, table.column_names, name)) == "column":
        return column_values(table, told, name)
    return [told] * table.num_rows


def wild_type_lines(read: Examples, options: DataOptions, name: str) -> list[str]:
    """Say which wild type is that of all rows of the table called ``name``, if one is.

    Raises ``DataError`` if it is nothing like most of the mutants that the table writes out.
    """
    if options.wild_type_is not in ("sequence", "file"):
        return []
    others = [texts for input_, texts in read.inputs.items() if input_ not in (MUTANT, WILD_TYPE)]
    if len(others) == 1 and not options.mutations:
        _check_alike(others[0], read, options, name)
    origin = "the sequence given" if options.wild_type_is == "sequence" else "the sequence of the file given"
    return [f"wild type: {origin}, {len(options.wild_type):,} letters"]


def _check_alike(texts: Sequence[str], read: Examples, options: DataOptions, name: str) -> None:
    far = [row for row, text in enumerate(texts) if _is_far(text.upper(), options.wild_type.upper())]
    if 2 * len(far) > len(texts):
        raise DataError(
            f"{name}: '{_short(options.wild_type)}' is no wild type of most sequences: {len(far):,} of {len(texts):,} "
            f"differ from it in more than half of their letters, first {row_named(far[0] + 1, read.ids[far[0]])}. Give the "
            "sequence that was changed, or a column of wild types."
        )


def _is_far(text: str, wild: str) -> bool:
    """Return whether more than half of the letters of the longer have no equal, counted from both ends if lengths differ."""
    equal = sum(map(eq, text, wild))
    if len(text) != len(wild):
        equal += sum(map(eq, reversed(text), reversed(wild)))
    return bool(2 * equal < max(len(text), len(wild)))


def _short(sequence: str) -> str:
    return sequence if len(sequence) <= 40 else f"{sequence[:37]}..."


def _present(values: Sequence[Any], column: str, where: Sequence[str]) -> Iterator[str]:
    for value, row in zip(values, where, strict=True):
        if value in (None, ""):
            raise DataError(f"{row} has no '{column}'.")
        yield str(value)


def _mutant(wild: str, mutations: str, where: str) -> str:
    letters = Whole(wild)
    try:
        edits = named(mutations)
        for edit in edits:
            check(edit, letters)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return Variant(where, letters, edits).alleles(0, len(wild))[1] if edits else wild
