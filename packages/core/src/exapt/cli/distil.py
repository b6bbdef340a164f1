"""``exapt distil``: a smaller model learns from a larger one's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.compare import seeds_of
from exapt.cli.output import Watching, number, say, say_json, say_table
from exapt.cli.train import recipe_options, written


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--teacher", help="Adapter that teaches; short for the strategy distillation's option.")
@click.option("--seeds", default="", help="Seeds, with commas (default: the recipe's).")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the student; it must not exist yet."
)
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def distil(
    recipe: Path | None, teacher: str | None, seeds: str, out: Path, device: str, as_json: bool, **flags: Any
) -> None:
    """Train the student that RECIPE describes with its teacher, and without, and compare all three on the test part."""
    given = written(recipe, flags)
    numbers = seeds_of(seeds) if seeds else []
    from exapt.api import distil as distil_all

    watching = Watching()
    try:
        outcome = distil_all(given, out, teacher=teacher, seeds=numbers, device=device, listeners=[watching])
    finally:
        watching.close()
    if as_json:
        say_json(outcome.as_dict())
        return
    say_table(
        ("", "backbone", f"test {outcome.metric}", "parameters", "s for 1,000"),
        [
            (one.name, one.backbone, number(one.mean), f"{one.parameters:,}", f"{one.seconds:.2f}")
            for one in outcome.contestants
        ],
    )
    if outcome.gain:
        gain = outcome.gain
        say(f"the teacher's gain: {gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}")
    say(f"adapter: {out}")
