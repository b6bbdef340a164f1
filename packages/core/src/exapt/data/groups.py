"""Groups that are joined pair by pair."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Joined:
    """Sets that are joined pair by pair."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, number: int) -> int:
        """Return the smallest member of a number's set."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Make one set of two."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def roots(self) -> Rows:
        """Return the root [count] of each number."""
        return np.array([self.root(number) for number in range(len(self._parent))], np.int64)


def united(*groupings: Iterable[Hashable]) -> Rows:
    """Return one grouping [rows] of rows that are in a group of the same name, be it in different groupings."""
    columns = [list(grouping) for grouping in groupings]
    joined = Joined(len(columns[0]))
    first: dict[Hashable, int] = {}
    for column in columns:
        for row, group in enumerate(column):
            joined.join(first.setdefault(group, row), row)
    return joined.roots()
