"""``exapt compare-tasks``: did learning several tasks at once help each of them?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import rich_click as click

from exapt.cli.compare import seeds_of
from exapt.cli.output import Watching, number, say, say_json, say_table
from exapt.cli.train import recipe_options, written


@click.command("compare-tasks")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--seeds", default="0,1,2", help="Seeds, with commas; every contender runs with each of them.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare_tasks(recipe: Path | None, seeds: str, device: str, as_json: bool, **flags: Any) -> None:
    """Run RECIPE, which has several heads, and each of its tasks alone, and compare them on the test part."""
    given = written(recipe, flags)
    numbers = seeds_of(seeds)
    from exapt.api import compare_tasks as compare_all

    watching = Watching()
    try:
        gains = compare_all(given, seeds=numbers, device=device, listeners=[watching])
    finally:
        watching.close()
    if as_json:
        say_json([asdict(gain) for gain in gains])
        return
    rows = [(one.task, one.metric, number(fmean(one.together)), number(fmean(one.alone))) for one in gains]
    say_table(("task", "test metric", "together", "alone"), rows)
    for gain in gains:
        say(gain.sentence)
