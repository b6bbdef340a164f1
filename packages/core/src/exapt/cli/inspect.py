"""``exapt inspect``: what an adapter says of itself."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from exapt.cli.output import note, say, say_json
from exapt.settings import settings_of


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--verify", is_flag=True, help="Load it too: check every tensor, the backbone, the tokenizer and the probe."
)
@click.option(
    "--backbone",
    default="",
    help="FAMILY:PATH of the weights, a folder or a file, if they moved or are new to this machine.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="File of the tokenizer, likewise: tokenizer.KEY=PATH."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest.")
def inspect(adapter: Path, verify: bool, backbone: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show what ADAPTER was learned from, how, and how well.

    Without --verify only its manifest is read, and no plugin is needed.
    """
    from exapt.manifest import card, read_manifest

    manifest = read_manifest(adapter)
    if as_json:
        say_json(manifest)
    else:
        say(card(manifest).split("---\n", 2)[2].strip())
    if verify:
        from exapt.api import load

        load(adapter, backbone=backbone, settings=settings_of(settings))
        (note if as_json else say)(f"verified: {adapter}")
