"""Scores of variants, from table to table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from exapt.building import Tallies
from exapt.data.files import open_table, open_writer
from exapt.data.reference import Reference
from exapt.data.variants import Unscored, VariantTable, unscored_lines
from exapt.prediction import Stdout
from exapt.scoring import Scoring

# Rows whose questions are put together: enough for inputs that they share, few enough for progress.
_ROWS = 512


def score_pairs(scoring: Scoring, pairs: Iterable[tuple[str, str]]) -> list[float | None]:
    """Return the score of each pair of a wild type and a mutant."""
    wild, mutant = zip(*pairs, strict=True)
    table = pa.table({"sequence": list(wild), "mutant": list(mutant)})
    return scoring.scores(list(VariantTable("pairs", {}, None).variants(table)))


def score_table(
    scoring: Scoring,
    path: Path,
    *,
    reference: Path | None = None,
    columns: Mapping[str, str] | None = None,
    reader: str = "",
    skip_mismatches: bool = False,
    skip_incomparable: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[pa.RecordBatch]:
    """Yield the scores of a table of variants, piece by piece in its order: the columns that name a variant, and ``score``.

    At the end, ``tell`` hears of rows without a score and of letters that the model does not know.
    """
    table = VariantTable(path.name, columns or {}, Reference(reference) if reference else None, skip_mismatches)
    tallies, unscored, rows = Tallies(scoring.tokenizer), list[Unscored](), 0
    for batch in open_table(path, reader):
        for begin in range(0, batch.num_rows, _ROWS):
            piece = pa.Table.from_batches([batch.slice(begin, _ROWS)])
            variants = list(table.variants(piece))
            unscored += (one for one in variants if isinstance(one, Unscored))
            left_out = unscored if skip_incomparable else None
            scores = pa.array(scoring.scores(variants, tallies, left_out), pa.float32())
            yield pa.record_batch({**table.shown(piece), "score": scores})
            rows += piece.num_rows
            progress(rows)
    for line in (*unscored_lines(unscored), *tallies.lines()):
        tell(line)


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
