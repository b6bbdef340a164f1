"""How much of a file is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

ROWS = 4096
CHARACTERS = 1 << 24
"""A piece ends with whichever is reached first, so that a file of chromosomes is read in little memory too."""


def pieces(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut ``items`` into lists of some thousand rows or some million characters, as counted by ``size``."""
    piece: list[T] = []
    characters = 0
    for item in items:
        piece.append(item)
        characters += size(item)
        if len(piece) == ROWS or characters >= CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece
