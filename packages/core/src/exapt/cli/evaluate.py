"""``exapt evaluate``: how good an adapter's answers are on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.options import reading
from exapt.cli.output import note, number, say_json, say_table
from exapt.settings import loading_options


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--labels", default="", help="Second table with the labels, joined by id.")
@click.option("--masks", default="", help="Table of 0 and 1, joined by id: which units count.")
@click.option("--by", default="", help="Column: give the metrics of each of its values too.")
@click.option("--part", default="", help="Only the rows of one part, where the data have the recipe's split column.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Table that was learned from: give the metrics by identity to its nearest row too.",
)
@click.option(
    "--leakage", type=click.Path(path_type=Path), help="Write each row's nearest row of --against to this file."
)
@reading
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    adapter: Path, data: Path, backbone: str, device: str, as_json: bool, settings: tuple[str, ...], **flags: Any
) -> None:
    """Measure ADAPTER on the labelled rows of DATA.

    DATA has the columns that ADAPTER was learned from, labels included, unless --labels names their table.
    """
    from exapt.api import load
    from exapt.prediction import evaluate_file

    reading, loading = loading_options(settings)
    adapted = load(adapter, backbone=backbone, device=device, settings=loading)
    report, notes = evaluate_file(adapted, data, settings=reading, **flags)
    for line in notes:
        note(line)
    if as_json:
        say_json(report)
        return
    names = list(dict.fromkeys(name for values in report.values() for name in values))
    say_table(
        ("metric", *report),
        [(name, *(number(values[name]) if name in values else "" for values in report.values())) for name in names],
    )
