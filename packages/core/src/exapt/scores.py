"""Scores of variants, from table to table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from exapt.building import Tallies
from exapt.data.changes import IncomparableError, MismatchError, UnscorableError
from exapt.data.files import open_table, open_writer
from exapt.data.reference import Reference
from exapt.data.variants import Told, Variant, VariantTable
from exapt.prediction import Stdout
from exapt.scoring import Scoring

# Rows whose questions are put together: enough for inputs that they share, few enough for progress.
_ROWS = 512


def score_pairs(scoring: Scoring, pairs: Iterable[tuple[str, str]]) -> list[float | None]:
    """Return the score of each pair of a wild type and a mutant."""
    wild, mutant = zip(*pairs, strict=True)
    table = pa.table({"sequence": list(wild), "mutant": list(mutant)})
    return scoring.scores(list(VariantTable("pairs", {}, None, Told()).variants(table)))


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

    All rows are checked against their sequences before the first is scored. ``skip_mismatches`` leaves those without a
    score that are not in their sequence, ``skip_incomparable`` those that model or scorer cannot compare, and
    ``skip_unscorable`` these and those that the model cannot read or has no room for. At the end, ``tell`` hears of them,
    of wild types, and of letters that the model does not know.
    """
    fasta = Reference(reference) if reference else None
    asked = {MismatchError: skip_mismatches, IncomparableError: skip_incomparable, UnscorableError: skip_unscorable}
    skips = tuple(kind for kind, wanted in asked.items() if wanted)
    # A pipe can be read only once.
    if path.is_file():
        _check(scoring, open_table(path, reader), VariantTable(path.name, columns or {}, fasta, Told(skips)), skips)
    told, tallies, rows = Told(skips), Tallies(scoring.pairs.tokenizer), 0
    table = VariantTable(path.name, columns or {}, fasta, told)
    for batch in open_table(path, reader):
        for begin in range(0, batch.num_rows, _ROWS):
            piece = pa.Table.from_batches([batch.slice(begin, _ROWS)])
            scores = pa.array(scoring.scores(list(table.variants(piece)), tallies, told), pa.float32())
            yield pa.record_batch({**table.shown(piece), "score": scores})
            rows += piece.num_rows
            progress(rows)
    for line in (*told.lines(), *tallies.lines()):
        tell(line)


def _check(
    scoring: Scoring, batches: Iterable[pa.RecordBatch], table: VariantTable, skips: tuple[type[UnscorableError], ...]
) -> None:
    """Raise what a row would that is not in its sequence, or that the model has no room for, unless it is to be skipped."""
    for batch in batches:
        for variant in table.variants(pa.Table.from_batches([batch])):
            if not isinstance(variant, Variant):
                continue
            try:
                scoring.pairs.check_room(variant)
            except UnscorableError as error:
                if not isinstance(error, skips):
                    raise


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

    ``options`` are those of ``score_table``.
    """
    writing = open_writer(out, format, overwrite=overwrite) if out else nullcontext(Stdout())
    rows = 0
    with writing as writer:
        for batch in score_table(scoring, path, **options):
            writer.write(batch)
            rows += batch.num_rows
    return rows
