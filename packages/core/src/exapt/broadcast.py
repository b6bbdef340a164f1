"""What surrounds a run: the folder of its log and checkpoints, and those who hear of it."""

from __future__ import annotations

import os
import shutil
import socket
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

_LOCK = "lock"


def run_folder(out: Path | None, resume: bool) -> Path | None:
    """Return the place of a run's logs and checkpoints, ``OUT.run``, after checking that it may be written.

    Raises ``OutputError`` if the adapter exists, if another run is writing there, or if an interrupted one stands there
    that was not asked to go on.
    """
    if out is None:
        return None
    adapter.check_free(out)
    folder = out.with_name(f"{out.name}.run")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"'{folder}', where the log of the run belongs, is a file; remove or rename it")
    # The other processes of a launched run find the lock of their own main process here.
    if is_main_process():
        _refuse_company(folder)
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
    _lock(folder)
    try:
        if not resume:
            # Only the log: whatever else stands in a folder of this name may be the user's.
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        yield
    except BaseException:
        if not found and not list(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        (folder / _LOCK).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made if it is not there, to this process. Raises ``OutputError`` if it is another's."""
    _lock(folder)
    try:
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)


def _lock(folder: Path) -> None:
    _refuse_company(folder)
    lock = folder / _LOCK
    try:
        folder.mkdir(exist_ok=True)
        lock.unlink(missing_ok=True)
        with lock.open("x", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {socket.gethostname()}")
    except FileExistsError:
        raise OutputError(f"another run is writing to '{folder}'") from None
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be written: {error.strerror}") from None


def _refuse_company(folder: Path) -> None:
    """Raise ``OutputError`` if the folder is locked by a process that still lives, or that lives on another machine."""
    try:
        process, _, host = (folder / _LOCK).read_text(encoding="utf-8").partition(" ")
        number = int(process)
    except (OSError, ValueError):
        return
    if host != socket.gethostname():
        raise OutputError(
            f"another run (process {number} on {host}) is writing to '{folder}'; if it is no more, remove '{folder / _LOCK}'"
        )
    # A process with our own number is one that died before us, in a container started anew.
    if number != os.getpid() and _lives(number):
        raise OutputError(f"another run (process {number}) is writing to '{folder}'")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # Another user's process may not be signalled, but it lives.
    except PermissionError:
        return True
    return True


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
