"""``exapt align``: two backbones brought to one space, from pairs."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from exapt.cli.output import Watching, note, number, say, say_json, say_table
from exapt.settings import put, setting


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the alignment; it must not exist yet."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the recipe.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def align(recipe: Path, out: Path, settings: tuple[str, ...], device: str, as_json: bool) -> None:
    """Align the two towers of RECIPE (TOML or JSON) from pairs, and save the alignment.

    Each tower is a backbone, or an adapter's, with a table of its own; both stay as they are, and what brings them to one
    space is learned. The recipe goes to stderr, the metrics to stdout, the log to OUT.run.
    """
    from exapt.api import align as align_towers
    from exapt.recipe import parsed

    given = parsed(recipe)
    for one in settings:
        put(given, *setting(one, "--set"))
    watching = Watching()
    try:
        alignment = align_towers(given, out, device=device, listeners=[watching])
    finally:
        watching.close()
    note(json.dumps(alignment.manifest["recipe"], indent=1, ensure_ascii=False))
    _report(alignment.manifest, out, as_json)


def _report(manifest: dict[str, dict[str, dict[str, float]]], out: Path, as_json: bool) -> None:
    if as_json:
        say_json({"alignment": str(out), "best_epoch": manifest["best_epoch"], "metrics": manifest["metrics"]})
        return
    parts = {part: values for part, values in manifest["metrics"].items() if values}
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    if names:
        rows = [
            (name, *(number(values[name]) if name in values else "" for values in parts.values())) for name in names
        ]
        say_table(("metric", *parts), rows)
    say(f"alignment: {out}")
