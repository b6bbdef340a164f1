"""What surrounds a run: the folder of its log and checkpoints, and those who hear of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from exapt import adapter
from exapt.device import is_main_process
from exapt.errors import OutputError
from exapt.events import Event, Listener, Run
from exapt.plugins import Plugins


def run_folder(out: Path | None, resume: bool) -> Path | None:
    """Return the place of a run's logs and checkpoints, ``OUT.run``, after checking that it may be written.

    Raises ``OutputError`` if the adapter exists, or if an interrupted run stands there that was not asked to go on.
    """
    if out is None:
        return None
    adapter.check_free(out)
    folder = out.with_name(f"{out.name}.run")
    held = sorted(folder.glob("checkpoint-*")) if folder.is_dir() else []
    if held and not resume:
        raise OutputError(f"'{folder}' holds an interrupted run: add --resume to continue it, or remove the folder")
    return folder


@contextmanager
def claimed(folder: Path | None, resume: bool) -> Iterator[None]:
    """Make the run's folder; a run that fails before its first checkpoint leaves nothing of its own behind."""
    if folder is None or not is_main_process():
        yield
        return
    found = folder.is_dir()
    if not resume:
        # Only the log: whatever else stands in a folder of this name may be the user's.
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if not found and not list(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


class Broadcast:
    """Tells listeners and plugins of a run; a tracker that fails is dropped, with a note, and the run goes on."""

    def __init__(self, plugins: Plugins, run: Run, listeners: Sequence[Listener]) -> None:
        self.run = run
        hooks = [(impl.plugin_name, partial(_hook, impl)) for impl in plugins.events.get_hookimpls()]
        named = [(getattr(listener, "__module__", "a listener"), listener) for listener in listeners]
        self.hearers: list[tuple[str, Listener]] = [*hooks, *named] if is_main_process() else []

    def __enter__(self) -> Callable[[Event], None]:
        return self.tell

    def __exit__(self, *_: object) -> None:
        self.hearers.clear()

    def tell(self, event: Event) -> None:
        """Let everyone hear of an event."""
        for hearer in list(self.hearers):
            name, hear = hearer
            try:
                hear(self.run, event)
            # A tracker is any code at all; hours of training must not end with it.
            except Exception as error:
                self.hearers.remove(hearer)
                self.tell(Event("note", {"text": f"{name} failed on '{event.name}' and hears no more: {error}"}))


def _hook(impl: Any, run: Run, event: Event) -> None:
    # A hook may leave out what it does not need.
    given = {"run": run, "event": event}
    impl.function(*(given[name] for name in impl.argnames))
