"""Scores of variants, from table to table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from exapt.building import Tallies
from exapt.data.changes import IncomparableError, MismatchError, UnscorableError
from exapt.data.files import open_table, open_writer
from exapt.data.placements import PlacementTable, placement
from exapt.data.reference import Reference
from exapt.data.variants import ChangeTable, Placement, Told, Variant, VariantTable
from exapt.errors import DataError, RecipeError
from exapt.likelihoods import holds_structures, likelihood_table
from exapt.prediction import Stdout
from exapt.scoring import Scoring

if TYPE_CHECKING:
    from exapt.data.tables import Reader

# Rows whose questions are put together: enough for inputs that they share, few enough for progress.
_ROWS = 512
_SHARED = ("reader", "progress", "tell")


def score_pairs(scoring: Scoring, pairs: Iterable[tuple[Any, Any]]) -> list[float | None]:
    """Return the score of each pair of a wild type and a mutant: sequences, or structures that differ in their letters.

    Raises ``DataError``, with the row, for what is no such pair.
    """
    rows = [_pair(f"pairs row {row}", pair) for row, pair in enumerate(pairs, 1)]
    if not rows:
        return []
    if scoring.reads_structures:
        return scoring.scores([placement(f"pairs row {row}", *pair) for row, pair in enumerate(rows, 1)])
    table = pa.table({"sequence": [wild for wild, _ in rows], "mutant": [mutant for _, mutant in rows]})
    return scoring.scores(list(VariantTable("pairs", {}, None, Told()).variants(table)))


def _pair(where: str, value: Any) -> tuple[Any, Any]:
    # Text of two letters, and a mapping of two keys, would come apart, too.
    parts = () if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable) else tuple(value)
    if len(parts) != 2:
        raise DataError(f"{where}: is {value!r}, not a pair of a wild type and a mutant")
    return parts[0], parts[1]


def score_table(
    scoring: Scoring,
    path: Path,
    *,
    reference: Path | None = None,
    columns: Mapping[str, str] | None = None,
    reader: str = "",
    skip_mismatches: bool = False,
    skip_incomparable: bool = False,
    skip_unscorable: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[pa.RecordBatch]:
    """Yield the scores of a table of variants, piece by piece in its order: the columns that name a variant, and ``score``.

    Of a model of structures, the variants are of those that ``scoring`` has.

    All rows are checked against their sequences before the first is scored. ``skip_mismatches`` leaves those without a
    score that are not in their sequence, ``skip_incomparable`` those that model or scorer cannot compare, and
    ``skip_unscorable`` these and those that the model cannot read or has no room for. At the end, ``tell`` hears of them,
    of wild types, and of letters that the model does not know.
    """
    variants = _reading(scoring, path, reader, reference, columns or {})
    asked = {MismatchError: skip_mismatches, IncomparableError: skip_incomparable, UnscorableError: skip_unscorable}
    skips = tuple(kind for kind, wanted in asked.items() if wanted)
    # A pipe can be read only once.
    if path.is_file():
        _check(scoring, _opened(scoring, path, reader), variants(Told(skips)), skips)
    told, tallies, rows = Told(skips), Tallies(scoring.pairs.tokenizer), 0
    table = variants(told)
    for batch in _opened(scoring, path, reader):
        for begin in range(0, batch.num_rows, _ROWS):
            piece = pa.Table.from_batches([batch.slice(begin, _ROWS)])
            scores = pa.array(scoring.scores(list(table.variants(piece)), tallies, told), pa.float32())
            yield pa.record_batch({**table.shown(piece), "score": scores})
            rows += piece.num_rows
            progress(rows)
    for line in (*told.lines(), *tallies.lines()):
        tell(line)


def _reading(
    scoring: Scoring, path: Path, reader: str, reference: Path | None, columns: Mapping[str, str]
) -> Callable[[Told], ChangeTable]:
    """Return what makes variants of the rows, of sequences or of structures."""
    if not scoring.reads_structures:
        fasta = Reference(reference) if reference else None
        return lambda told: VariantTable(path.name, columns, fasta, told)
    if reference:
        raise RecipeError(f"'{scoring.pairs.name}' reads structures: name them with --structure, not with --reference")
    structures = scoring.structures
    if structures is None:
        raise _no_structures(scoring, path)
    if holds_structures(path, reader):
        raise RecipeError(
            f"{path.name} holds structures, not variants: leave out --structure to score their own sequences"
        )
    return lambda told: PlacementTable(path.name, columns, structures, scoring.choice.numbering, told)


def _opened(scoring: Scoring, path: Path, reader: str) -> Reader:
    # The options of the reader are of what is read with it: of the structures, if there are any beside the table.
    return open_table(path, reader, options={} if scoring.structures else scoring.choice.reading)


def _no_structures(scoring: Scoring, path: Path) -> DataError:
    return DataError(
        f"{path.name} holds no structures, which '{scoring.pairs.name}' reads: name the file or folder of those that its "
        "variants are of with --structure"
    )


def _check(
    scoring: Scoring, batches: Iterable[pa.RecordBatch], table: ChangeTable, skips: tuple[type[UnscorableError], ...]
) -> None:
    """Raise what a row would that is not in its sequence, or that the model has no room for, unless it is to be skipped."""
    for batch in batches:
        for variant in table.variants(pa.Table.from_batches([batch])):
            if not isinstance(variant, (Variant, Placement)):
                continue
            try:
                scoring.pairs.check_room(variant)
            except UnscorableError as error:
                if not isinstance(error, skips):
                    raise


def score_rows(scoring: Scoring, path: Path, **options: Any) -> Iterator[pa.RecordBatch]:
    """Yield what ``score_table`` does or, where structures are scored alone, how likely their own sequences are.

    ``options`` are those of ``score_table``; raises ``RecipeError`` for those of variants where there are none.
    """
    if not scoring.alone:
        yield from score_table(scoring, path, **options)
        return
    if not holds_structures(path, options.get("reader", ""), scoring.choice.reading):
        raise _no_structures(scoring, path)
    of_variants = [name for name in options if name not in _SHARED and options[name]]
    if of_variants:
        flag = of_variants[0].removesuffix("s" if of_variants[0] == "columns" else "").replace("_", "-")
        raise RecipeError(f"{path.name} holds structures, not variants: --{flag} goes with a table of variants")
    shared = {name: value for name, value in options.items() if name in _SHARED}
    yield from likelihood_table(scoring, path, **shared)


def score_file(
    scoring: Scoring,
    path: Path,
    out: Path | None,
    *,
    format: str = "",  # noqa: A002 - the field's word
    overwrite: bool = False,
    **options: Any,
) -> int:
    """Score a table of variants into a file or, without one, to stdout as CSV; returns the number of rows.

    ``options`` are those of ``score_rows``.
    """
    writing = open_writer(out, format, overwrite=overwrite) if out else nullcontext(Stdout())
    rows = 0
    with writing as writer:
        for batch in score_rows(scoring, path, **options):
            writer.write(batch)
            rows += batch.num_rows
    return rows
