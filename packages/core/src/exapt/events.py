"""What a run tells those who listen: trackers, progress bars, logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Listener = Callable[["Run", "Event"], None]


@dataclass(frozen=True)
class Run:
    """One training run; ``folder`` is where its logs go, or None where nothing is written."""

    folder: Path | None
    recipe: Mapping[str, Any]


class Stopped(BaseException):
    """Raised by a listener, it ends the run; whatever else a listener raises only silences that listener."""


@dataclass(frozen=True)
class Event:
    """``facts`` are plain numbers and strings, named ``<split>.<metric>`` where they are metrics."""

    name: Literal["note", "features", "start", "step", "epoch", "end"]
    facts: Mapping[str, Any] = field(default_factory=dict)
