"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from exapt.errors import RecipeError


def named(_context: click.Context, option: click.Parameter, given: str | None) -> str:
    """Return what an option names, nothing where it was not given.

    Raises ``RecipeError`` where it was given and names nothing, as a variable of the shell that is not set does: all would
    be taken in place of some.
    """
    if given is not None and not given.replace(",", "").strip():
        raise RecipeError(f"{option.opts[0]} '{given}' names nothing; leave it out for all")
    return given or ""


_READING = (
    click.option("--input", "input_", help="Column of the inputs, if it is not the one that was learned from."),
    click.option("--id", "id_", help="Column of the ids."),
    click.option("--mutations", default="", help="Column of the mutations, of an adapter that reads mutants."),
    click.option("--wild-type", default="", help="Column, FASTA file or sequence of the wild type, if it is another."),
    click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the reader, or file or limit of the tokenizer: reader.KEY=VALUE, tokenizer.KEY=VALUE.",
    ),
    click.option(
        "--backbone",
        default="",
        help="FAMILY:PATH of the weights, a folder or a file, if they moved or are new to this machine.",
    ),
)

_SCANNING = (
    click.option("--scan", is_flag=True, help="Score every substitution of each sequence, or structure, of DATA."),
    click.option(
        "--positions",
        callback=named,
        help="Positions that a scan varies, such as 10-40,57 or, of structures, A:10-40 (default: all).",
    ),
    click.option("--rows", callback=named, help="Ids of the inputs that are scanned, with commas (default: all)."),
    click.option(
        "--picture",
        type=click.Path(path_type=Path),
        help="Heat map of a scan: a PNG, SVG or PDF file or, of several inputs, a folder for one PNG each.",
    ),
)
_VARYING = (
    click.option("--reference", type=click.Path(path_type=Path), help="FASTA file of the sequences that vary."),
    click.option(
        "--structure", type=click.Path(path_type=Path), help="File or folder of the structures that vary, such as PDB."
    ),
    click.option(
        "--numbering",
        type=click.Choice(["file", "index"]),
        help="What positions on a structure are: residue numbers of its file, with insertion codes (default), or places "
        "in the chain from 1, gaps included.",
    ),
    click.option(
        "--column", "columns", multiple=True, metavar="WHAT=COLUMN", help="Column of DATA, if it is called otherwise."
    ),
    click.option(
        "--skip-mismatches",
        is_flag=True,
        help="Leave rows whose ref is not in the sequence, which may be missing or end before it, without a score.",
    ),
    click.option(
        "--skip-incomparable",
        is_flag=True,
        help="Leave rows that model or scorer cannot compare, such as insertions under 6-mers, without a score.",
    ),
    click.option(
        "--skip-unscorable",
        is_flag=True,
        help="Leave both kinds of rows, and those that the model cannot read or has no room for, without a score.",
    ),
)


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options by which an adapter reads a table."""
    return _with(_READING, command)


def scanning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a scan."""
    return _with(_SCANNING, command)


def varying(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what varies, and which rows may go without a score."""
    return _with(_VARYING, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    # Decorators work from the last to the first, so that help shows them in order.
    for option in reversed(options):
        command = option(command)
    return command
