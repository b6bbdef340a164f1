"""``exapt find-rate``: which learning rate suits what learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.output import Watching, say, say_json, say_table
from exapt.cli.train import recipe_options, written


@click.command("find-rate")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--steps", type=int, default=100, show_default=True, help="Steps from the lowest rate to the highest.")
@click.option("--low", type=float, default=1e-7, show_default=True, help="Lowest rate.")
@click.option("--high", type=float, default=1.0, show_default=True, help="Highest rate.")
@click.option(
    "--rule",
    type=click.Choice(["steepest", "divergence"]),
    default="steepest",
    show_default=True,
    help="Suggest where the loss falls fastest, or a tenth of where it diverges.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File for the table of losses: CSV, JSONL, Parquet.")
@click.option("--picture", type=click.Path(path_type=Path), help="Picture of the curves: a PNG, SVG or PDF file.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print suggestions and curves as JSON.")
def find_rate(recipe: Path | None, as_json: bool, **flags: Any) -> None:
    """Try ever higher learning rates on the training part of RECIPE, and suggest one for what learns.

    The heads are tested first, then what learns in the backbone, under heads that have learned. Nothing is kept.
    """
    own = ("steps", "low", "high", "rule", "out", "picture", "overwrite", "device")
    options = {name: flags.pop(name) for name in own}
    given = written(recipe, flags)
    from exapt import api

    watching = Watching()
    try:
        found = api.find_rate(given, listeners=[watching], **options)
    finally:
        watching.close()
    if as_json:
        say_json(found.as_dict())
        return
    rows = [
        (curve.part, "" if curve.suggestion is None else f"{curve.suggestion:.2g}", curve.says)
        for curve in found.curves
    ]
    say_table(("part", "rate", "rule"), rows)
    say(" ".join(f"--set {key}={rate:.2g}" for key, rate in found.suggestions.items()))
