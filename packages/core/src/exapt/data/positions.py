"""Positions as a user names them: ``5-40,57``, counted from 1."""

from __future__ import annotations

import re
from collections.abc import Sequence

from exapt.errors import DataError

_RANGE = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")


def positions_of(given: str | Sequence[int]) -> list[tuple[int, int]]:
    """Return stretches of positions, first and last, of ``5-40,57`` or of numbers; none where nothing is named.

    Raises ``DataError`` for a position below 1, a stretch that ends before it begins, and what is neither.
    """
    words = [word.strip() for word in given.split(",")] if isinstance(given, str) else [str(one) for one in given]
    stretches = []
    for word in words if given else ():
        found = _RANGE.fullmatch(word)
        if not found:
            raise DataError(f"positions are told as in 5-40,57, and '{word}' is none")
        first, last = int(found[1]), int(found[2] or found[1])
        if first < 1:
            raise DataError(f"positions count from 1: there is no position {first}")
        if last < first:
            raise DataError(f"positions {word} end before they begin")
        stretches.append((first, last))
    return stretches


def chosen_positions(given: str | Sequence[int], length: int, who: str) -> list[int]:
    """Return the positions of the input ``who`` that are named, all of them where none is, in their order.

    Raises ``DataError`` for one beyond its end.
    """
    stretches = positions_of(given)
    if not stretches:
        return list(range(1, length + 1))
    beyond = max(last for _, last in stretches)
    if beyond > length:
        raise DataError(f"'{who}' has {length:,} positions: there is no position {beyond:,}")
    return sorted({position for first, last in stretches for position in range(first, last + 1)})
