"""How commands speak: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

if TYPE_CHECKING:
    from rich.progress import Progress

    from exapt.events import Event, Run


def say(text: str) -> None:
    """Print a line of a result."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line on stderr, beside the result."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=True)


def printable(text: str) -> str:
    """Return a text as one line that a terminal only shows: names may hold line breaks, and what moves its cursor."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def say_json(value: Any) -> None:
    """Print a result for a script."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def say_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns that line up."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def number(value: float) -> str:
    """Return a metric as it stands in a table."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4f}"


class Watching:
    """Hears a run's events and shows them on stderr: a bar on a terminal, a line an epoch elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._since = time.monotonic()

    def __call__(self, run: Run, event: Event) -> None:
        """Show one event."""
        if event.name == "note":
            note(str(event.facts["text"]))
        elif event.name == "start":
            note("  ".join(f"{name} {_plain(value)}" for name, value in event.facts.items()))
        elif event.name == "features":
            self._advance("features", int(event.facts["done"]), int(event.facts["of"]))
        elif event.name == "step":
            self._advance("training", int(event.facts["step"]), int(event.facts["steps"]))
        elif event.name == "epoch":
            self._epoch(event.facts)
        elif event.name == "end":
            self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _epoch(self, facts: Mapping[str, Any]) -> None:
        shown = [f"{name} {number(value)}" for name, value in facts.items() if name not in ("epoch", "epochs")]
        line = f"epoch {facts['epoch']}/{facts['epochs']}  " + "  ".join(shown)
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif facts["epoch"] == facts["epochs"] or time.monotonic() - self._since > 5:
            # Where lines are kept, a probe's hundred quick epochs would bury everything else.
            self._since = time.monotonic()
            note(line)

    def _advance(self, what: str, done: int, of: int) -> None:
        import sys

        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(what, total=of)
        self._bar.update(self._task, description=what, completed=done, total=of)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
