"""``exapt leave-one-out``: does it hold on a domain that was never learned from?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from exapt.cli.output import Watching, note, number, say, say_json, say_table
from exapt.cli.train import recipe_options, written
from exapt.settings import put

if TYPE_CHECKING:
    from exapt.generalisation import Generalisation


@click.command("leave-one-out")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@recipe_options
@click.option("--domain", default="", help="Column that names the domain of each row, unless the recipe does.")
@click.option("--adapt", is_flag=True, help="Let strategies learn from the rows left out, without their labels.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the adapters; one that was begun is gone on with."
)
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def leave_one_out(
    recipe: Path | None, domain: str, adapt: bool, out: Path | None, device: str, as_json: bool, **flags: Any
) -> None:
    """Leave out each domain of RECIPE's table in turn: learn on the others, and measure on it.

    A domain is a value of a column, such as a species, a donor or a batch. Printed are the metric on each domain left
    out, on the test part of those that were learned from, and the mean over domains with its 95 % interval.
    """
    given = written(recipe, flags)
    if domain:
        # Into the recipe itself, where domains may be named that only this column tells.
        put(given, "data.domain", domain)
    from exapt import api

    watching = Watching()
    try:
        found = api.leave_one_out(given, adapt=adapt, out=out, device=device, listeners=[watching])
    except KeyboardInterrupt:
        note("interrupted; the same command goes on" if out else "interrupted")
        raise Exit(130) from None
    finally:
        watching.close()
    if as_json:
        say_json(found.as_dict())
    else:
        _report(found)


def _report(found: Generalisation) -> None:
    def shown(value: float | None, form: str = "") -> str:
        return "" if value is None else (format(value, form) if form else number(value))

    rows = [
        (one.domain, f"{one.rows:,}", number(one.value), shown(one.source), shown(one.gap, "+.4f"))
        for one in found.domains
    ]
    say_table((f"left out ({found.column})", "rows", found.metric, "others, test", "gap"), rows)
    say("")
    say(found.verdict)
