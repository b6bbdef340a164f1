"""``exapt compare``: did transfer help?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.output import Watching, number, say, say_json, say_table
from exapt.cli.train import recipe_options, written
from exapt.errors import RecipeError
from exapt.settings import setting


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--seeds", default="0,1,2", help="Seeds, with commas; every contender runs with each of them.")
@click.option(
    "--scratch", multiple=True, metavar="KEY=VALUE", help="Training option of the runs from scratch: epochs=5."
)
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    recipe: Path | None, seeds: str, scratch: tuple[str, ...], device: str, as_json: bool, **flags: Any
) -> None:
    """Run RECIPE, the same model from scratch and a linear model on k-mers, and compare them on the test part.

    All run with the same seeds on the same splits. Printed are the test metric of each, the recipe's differences with
    their 95 % intervals, the time and the parameters that learn, and in a sentence whether transfer helped.
    """
    given = written(recipe, flags)
    numbers = seeds_of(seeds)
    from exapt.api import compare as compare_all

    watching = Watching()
    try:
        options = dict(setting(one, "--scratch") for one in scratch)
        outcome = compare_all(given, seeds=numbers, scratch=options, device=device, listeners=[watching])
    finally:
        watching.close()
    if as_json:
        say_json(outcome.as_dict())
        return
    rows = [
        (c["name"], number(c["mean"]), " ".join(map(number, c["values"])), f"{c['seconds']:.1f}", f"{c['trainable']:,}")
        for c in outcome.as_dict()["contenders"]
    ]
    say_table((f"test {outcome.metric}", "mean", f"seeds {seeds}", "CPU s a run", "trainable"), rows)
    say("")
    gaps = [(f"- {d.against}", f"{d.mean:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}") for d in outcome.differences]
    say_table(("recipe minus", "difference", "95 % interval"), gaps)
    say("")
    say(outcome.verdict)


def seeds_of(seeds: str) -> list[int]:
    """Return the seeds of a flag."""
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise RecipeError(f"--seeds takes whole numbers with commas, not '{seeds}'") from None
