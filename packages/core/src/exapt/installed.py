"""What is installed, from metadata alone: no plugin is imported, nor anything else that takes time."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

GROUP = "exapt.plugins"
COMMANDS = "exapt.commands"
ONLY, NEVER = "EXAPT_PLUGINS", "EXAPT_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginInfo:
    """An installed plugin, as its metadata describe it."""

    name: str
    distribution: str
    version: str
    location: str
    module: str

    @property
    def key(self) -> str:
        """The name under which it is registered: unique, even where two distributions chose one short name."""
        return f"{self.distribution}:{self.name}"


def installed(group: str = GROUP) -> list[PluginInfo]:
    """List the installed plugins by name, from metadata alone: none is imported."""
    return sorted(_found(group), key=lambda info: (info.name, info.distribution))


def _found(group: str) -> Iterator[PluginInfo]:
    for entry in importlib.metadata.entry_points(group=group):
        dist = entry.dist
        if dist is None:
            continue
        yield PluginInfo(entry.name, dist.name, dist.version, str(dist.locate_file("")), entry.value)


def chosen(infos: Iterable[PluginInfo]) -> list[PluginInfo]:
    """Keep the plugins that ``EXAPT_PLUGINS`` and ``EXAPT_DISABLE_PLUGINS`` allow, by short name or distribution."""
    return [info for info in infos if _allowed({info.name, info.distribution})]


def commands() -> list[PluginInfo]:
    """List the commands that plugins bring, without those of distributions whose plugin is not allowed."""
    theirs = installed(COMMANDS)
    short: dict[str, set[str]] = {}
    # Reading the metadata is a good part of what ``--help`` costs, and most machines have no such command.
    for info in installed() if theirs else ():
        short.setdefault(info.distribution, set()).add(info.name)
    return [info for info in theirs if _allowed({info.distribution, *short.get(info.distribution, {info.name})})]


def unknown_words(infos: Iterable[PluginInfo]) -> list[str]:
    """Say, one line each, which words of the two variables name nothing that is installed."""
    known = {word for info in infos for word in (info.name, info.distribution)}
    return [
        f"{variable} names '{word}', which is not installed"
        for variable in (ONLY, NEVER)
        for word in sorted((_words(variable) or set()) - known)
    ]


def _allowed(names: set[str]) -> bool:
    only, never = _words(ONLY), _words(NEVER)
    return (only is None or bool(names & only)) and not names & (never or set())


def _words(variable: str) -> set[str] | None:
    if variable not in os.environ:
        return None
    return {word.strip() for word in os.environ[variable].split(",") if word.strip()}


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: ``EXAPT_CACHE``, or ``exapt`` under the user's cache folder."""
    if os.environ.get("EXAPT_CACHE"):
        return Path(os.environ["EXAPT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exapt"
