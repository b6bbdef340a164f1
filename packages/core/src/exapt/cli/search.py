"""``exapt search``: strategies, rates and layers, chosen by the valid part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from exapt.cli.output import Watching, note, number, say, say_json, say_table
from exapt.cli.train import recipe_options, written

if TYPE_CHECKING:
    from exapt.searching.outcome import Search


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the search.")
@click.option(
    "--space", type=click.Path(path_type=Path), help="TOML file of what is searched, if RECIPE has no section [search]."
)
@click.option("--trials", type=int, default=20, show_default=True, help="Trials in all.")
@click.option("--budget", type=float, help="Minutes after which no trial goes on, once one is complete.")
@click.option(
    "--prune",
    type=click.Choice(["halving", "median", "none"]),
    default="halving",
    show_default=True,
    help="How poor trials end early.",
)
@click.option("--resume", is_flag=True, help="Go on with the search in --out.")
@click.option("--final", is_flag=True, help="At the end, measure the best recipe on the test part, once.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    recipe: Path | None,
    out: Path,
    space: Path | None,
    trials: int,
    budget: float | None,
    prune: str,
    resume: bool,
    final: bool,
    device: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Search the strategies, rates and layers of RECIPE for those that suit the data, by the valid part alone.

    What is searched stands in RECIPE's section [search], or in --space: keys of the recipe with lists of choices or
    ranges, strategy = ["probe", {name = "lora", rank = 4}]. OUT gets trials.csv and best.toml, which 'exapt train' runs.
    """
    given = written(recipe, flags)
    from exapt import api

    watching = Watching()
    how: dict[str, Any] = {"trials": trials, "budget": budget, "prune": prune, "resume": resume, "final": final}
    try:
        found = api.search(given, out, space=space, device=device, listeners=[watching], **how)
    except KeyboardInterrupt:
        note("interrupted; the same command with --resume goes on")
        raise Exit(130) from None
    finally:
        watching.close()
    if as_json:
        say_json(found.as_dict())
    else:
        _report(found, out)


def _report(found: Search, out: Path) -> None:
    rows = [
        (str(one.number), one.state, "" if one.value is None else number(one.value), f"{one.seconds:.1f}", one.shown)
        for one in found.trials
    ]
    say_table(("trial", "ended", f"valid {found.metric}", "seconds", "choices"), rows)
    say("")
    say(f"best: trial {found.best.number}, {found.best.shown}")
    for name, value in (found.test or {}).items():
        say(f"test {name} {number(value)}")
    say(found.caution)
    say(f"recipe: {out / 'best.toml'}")
