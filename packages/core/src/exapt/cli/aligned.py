"""What the commands that ask an alignment have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt.cli.output import note
from exapt.errors import RecipeError
from exapt.settings import options_of, setting, settings_of

if TYPE_CHECKING:
    from exapt.alignment.aligned import Alignment
    from exapt.alignment.asking import Asked


def aligned(other: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options by which an alignment reads two tables; ``other`` names the second one."""
    flags = (
        click.option(
            "--tower", default="", help="Tower that reads the first table, if the kind of its inputs does not tell."
        ),
        click.option("--input", "input_", default="", help="Column of the first table's inputs."),
        click.option("--id", "id_", default="", help="Column of its ids."),
        click.option("--reader", default="", help="Its reader, if the file's suffix does not tell."),
        click.option(f"--{other}-input", "other_input", default="", help=f"Column of the inputs of --{other}."),
        click.option(f"--{other}-id", "other_id", default="", help="Column of its ids."),
        click.option(f"--{other}-reader", "other_reader", default="", help="Its reader."),
        click.option(
            "-o", "--out", type=click.Path(path_type=Path), help="CSV, Parquet or JSONL file; without it stdout."
        ),
        click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell."),
        click.option("--overwrite", is_flag=True, help="Replace the file if it exists."),
        click.option(
            "--backbone",
            "backbones",
            multiple=True,
            metavar="TOWER=FAMILY:PATH",
            help="Where a tower's weights are, if they moved or are new to this machine.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"Option of a reader, reader.KEY=VALUE or {other}.reader.KEY=VALUE, or file or limit of a tower's tokenizer, "
            "TOWER.tokenizer.KEY=VALUE.",
        ),
        click.option("--device", default="", help="cpu, cuda, mps or auto."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )

    def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return with_flags


def loaded(folder: Path, flags: dict[str, Any]) -> Alignment:
    """Return the alignment in a folder, and say what the licences of its weights forbid."""
    from exapt.api import load_alignment

    backbones = {tower: str(path) for tower, path in (setting(one, "--backbone") for one in flags["backbones"])}
    tokenizers = {
        name: {"tokenizer": options_of(options["tokenizer"], f"{name}.tokenizer")}
        for name, options in settings_of(flags["settings"]).items()
        if isinstance(options, dict) and "tokenizer" in options
    }
    alignment = load_alignment(folder, backbones=backbones, settings=tokenizers, device=flags["device"])
    for line in alignment.licences:
        note(f"licence of {line}")
    return alignment


def tables(first: Path, second: Path, other: str, flags: dict[str, Any]) -> tuple[Asked, Asked]:
    """Return how both tables are read. Raises ``RecipeError`` for a setting that is of neither, nor of a tokenizer."""
    from exapt.alignment.asking import Asked

    given = settings_of(flags["settings"])
    own, its = given.pop("reader", {}), given.pop(other, {})
    for name, options in given.items():
        if not isinstance(options, dict) or options.keys() != {"tokenizer"}:
            raise RecipeError(
                f"there are options of readers and tokenizers here, not of '{name}': --set reader.KEY=VALUE, --set "
                f"{other}.reader.KEY=VALUE or --set TOWER.tokenizer.KEY=VALUE"
            )
    reader = options_of(options_of(its, other).get("reader", {}), f"{other}.reader")
    return (
        Asked(first, flags["input_"], flags["id_"], flags["reader"], options_of(own, "reader")),
        Asked(second, flags["other_input"], flags["other_id"], flags["other_reader"], reader),
    )
