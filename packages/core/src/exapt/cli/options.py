"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

_READING = (
    click.option("--input", "input_", help="Column of the inputs, if it is not the one that was learned from."),
    click.option("--id", "id_", help="Column of the ids."),
    click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the reader, or file or limit of the tokenizer: reader.KEY=VALUE, tokenizer.KEY=VALUE.",
    ),
    click.option("--backbone", default="", help="FAMILY:FOLDER of the weights, if this machine has not seen them."),
)


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options by which an adapter reads a table."""
    # Decorators work from the last to the first, so that help shows them in order.
    for option in reversed(_READING):
        command = option(command)
    return command
