"""Watching foreign code while it builds a model: no network, no pickle, no code from a model's folder."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

_REMOTE_CODE = "transformers_modules."

_heard: list[list[str]] = []
_hooked: list[bool] = []


class RefusedError(RuntimeError):
    """Raised inside the watched code, so that what it must not do does not happen."""


def deeds_of(build: Callable[[], object]) -> list[str]:
    """Return what a build tried that it must not do, also where it swallows that this was refused."""
    before = _remote_modules()
    with _watched() as heard:
        try:
            build()
        # Whatever a refusal becomes on its way up, what was tried is the news; any other error is not ours.
        except Exception:
            if not heard:
                raise
    return heard + [f"runs code that came with the weights, {name}" for name in sorted(_remote_modules() - before)]


@contextmanager
def _watched() -> Iterator[list[str]]:
    if not _hooked:
        # An audit hook stays for the life of the process; it does nothing unless something is watched.
        sys.addaudithook(_hear)
        _hooked.append(True)
    heard: list[str] = []
    _heard.append(heard)
    try:
        with mock.patch.object(torch, "load", _safe_load(torch.load)), _no_pickle("load"), _no_pickle("loads"):
            yield heard
    finally:
        _heard.pop()


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _heard:
        return
    if event == "pickle.find_class":
        _refuse(f"unpickles {args[0]}.{args[1]}")
    if event in ("socket.getaddrinfo", "socket.connect"):
        _refuse(f"uses the network, {args[0] if event == 'socket.getaddrinfo' else args[1]}")


def _refuse(deed: str) -> None:
    _heard[-1].append(deed)
    raise RefusedError(deed)


def _safe_load(load: Callable[..., Any]) -> Callable[..., Any]:
    def safe_load(*args: Any, **named: Any) -> Any:
        if named.get("weights_only") is not True:
            _refuse("calls torch.load without weights_only=True")
        return load(*args, **named)

    return safe_load


def _no_pickle(name: str) -> Any:
    # Plain data has no class to find, so that the audit hook alone would not hear of it.
    return mock.patch.object(pickle, name, side_effect=lambda *_args, **_named: _refuse(f"calls pickle.{name}"))


def _remote_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith(_REMOTE_CODE)}
