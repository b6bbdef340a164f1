"""``exapt classify``: classes without labels, by examples of the other modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.aligned import aligned, loaded, tables
from exapt.cli.output import note, number, say_json


@click.command()
@click.argument("alignment", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--by", type=click.Path(path_type=Path), required=True, help="Table of the other tower: examples of classes."
)
@click.option("--label", required=True, help="Column of --by that names the class of each example.")
@click.option("--truth", default="", help="Column of DATA with the true classes: give metrics too.")
@aligned("by")
def classify(alignment: Path, data: Path, by: Path, label: str, truth: str, as_json: bool, **flags: Any) -> None:
    """Classify the rows of DATA by examples of another modality, with ALIGNMENT: of DATA no label is needed.

    Columns: id, prediction and probability_CLASS. With --truth, metrics go to stderr, or beside the rows as JSON.
    """
    from exapt.alignment.asking import Destination, about, classify_rows, write_rows

    opened = loaded(alignment, flags)
    own, other = tables(data, by, "by", flags)
    rows, metrics = classify_rows(opened, own, other, label, tower=flags["tower"], truth=truth, tell=note)
    if as_json:
        say_json({"rows": rows.to_pylist(), "metrics": metrics})
        return
    where = Destination(flags["out"], flags["format_"], flags["overwrite"])
    written = write_rows(rows, where, about(opened, data, label))
    if flags["out"] is not None:
        note(f"{written:,} rows in {flags['out']}")
    for name, value in metrics.items():
        note(f"{name} {number(value)}")
