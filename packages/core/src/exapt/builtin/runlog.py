"""The log of each run: ``metrics.jsonl`` in its folder, one event a line."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from exapt.hookspecs import hookimpl

if TYPE_CHECKING:
    from exapt.events import Event, Run

exapt_api = 1


@hookimpl
def exapt_run_events(run: Run, event: Event) -> None:
    """Append the event, with the time at which it came, to ``metrics.jsonl``."""
    if run.folder is None:
        return
    line = json.dumps({"event": event.name, "time": round(time.time(), 3), **event.facts})
    with (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
