"""What a linear model sees of its inputs: words of letters, the letters around a place, or the shares of a cell's genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from exapt.cells import Cell, Genes

Array = npt.NDArray[Any]

LONGEST_WORD = 3
REACH = 7
"""How many units to each side of a position its window holds."""


class Words:
    """Frequencies of words of 1 to 3 letters, each length counting the same; and places, if all inputs are as long.

    Aligned inputs (mutants, windows around a site) differ in where a letter stands: without places the baseline would
    be too easy to beat.
    """

    per_unit: ClassVar[bool] = False

    def __init__(self, inputs: Sequence[str]) -> None:
        self._counters = [
            CountVectorizer(analyzer="char", ngram_range=(length, length), lowercase=False, dtype=np.float64)
            for length in range(1, LONGEST_WORD + 1)
            if any(len(text) >= length for text in inputs)
        ]
        for counter in self._counters:
            counter.fit(inputs)
        lengths = {len(text) for text in inputs}
        self._places = lengths.pop() if len(lengths) == 1 else 0
        self._codes = _letter_codes(inputs)

    def rows(self, inputs: Sequence[str], chosen: Array | slice = slice(None)) -> Any:
        """Return a sparse matrix [inputs, words], or only the ``chosen`` of its rows."""
        texts = np.asarray(inputs, dtype=object)[chosen]
        blocks = [normalize(counter.transform(texts)) for counter in self._counters]
        if self._places:
            padded = [[*_coded(text, self._codes), *[0] * self._places][: self._places] for text in texts]
            blocks.append(_one_hot(np.asarray(padded).reshape(-1, self._places), len(self._codes)))
        return sparse.hstack(blocks, format="csr")


class Windows:
    """Which letter stands at each of the 15 places around a position, beyond the ends none."""

    per_unit: ClassVar[bool] = True

    def __init__(self, inputs: Sequence[str]) -> None:
        self._codes = _letter_codes(inputs)

    def rows(self, inputs: Sequence[str], chosen: Array | slice = slice(None)) -> Any:
        """Return a sparse matrix [units of all inputs, places x letters], or only the ``chosen`` of its rows."""
        # One long row of codes with room between the inputs, so that no window sees its neighbour.
        room = [0] * REACH
        codes = np.asarray([c for text in inputs for c in (*room, *_coded(text, self._codes), *room)], dtype=np.int64)
        starts = np.cumsum([REACH, *(len(text) + 2 * REACH for text in inputs)])[:-1]
        centres = np.concatenate([start + np.arange(len(text)) for start, text in zip(starts, inputs, strict=True)])
        around = np.arange(-REACH, REACH + 1)
        return _one_hot(codes[centres[chosen][:, None] + around], len(self._codes))


class Shares:
    """The logarithm of each gene's counts in ten thousand of the cell's, as a field's first look at cells has it."""

    per_unit: ClassVar[bool] = False

    def __init__(self, cells: Sequence[Cell]) -> None:
        names = dict.fromkeys(name for genes in dict.fromkeys(cell.genes for cell in cells) for name in genes.names)
        self._columns = {name: column for column, name in enumerate(names)}

    def rows(self, cells: Sequence[Cell], chosen: Array | slice = slice(None)) -> Any:
        """Return a sparse matrix [cells, genes], or only the ``chosen`` of its rows; genes met later have no column."""
        some = np.fromiter(cells, dtype=object, count=len(cells))[chosen]
        places: dict[Genes, Array] = {}
        for cell in some:
            if cell.genes not in places:
                places[cell.genes] = np.array([self._columns.get(name, -1) for name in cell.genes.names])
        columns = np.concatenate([np.empty(0, np.int64), *(places[cell.genes][cell.places] for cell in some)])
        values = np.concatenate([np.empty(0), *map(_logged, some)])
        known = columns >= 0
        ends = np.cumsum([0, *(len(cell.places) for cell in some)])
        flat = (np.where(known, values, 0), np.where(known, columns, 0), ends)
        return sparse.csr_matrix(flat, shape=(len(some), len(self._columns)))


def _logged(cell: Cell) -> Array:
    return np.log1p(1e4 * cell.values / max(cell.total, 1)) if cell.raw else cell.values


def _letter_codes(inputs: Sequence[str]) -> dict[str, int]:
    return {letter: code for code, letter in enumerate(sorted(set().union(*inputs)), start=1)}


def _coded(text: str, codes: Mapping[str, int]) -> list[int]:
    return [codes.get(letter, 0) for letter in text]


def _one_hot(codes: Array, letters: int) -> Any:
    # [rows, places] of codes 0 (no known letter) to ``letters`` becomes a sparse [rows, places x (letters + 1)].
    rows, places = codes.shape
    columns = codes + np.arange(places) * (letters + 1)
    ends = np.arange(rows + 1) * places
    return sparse.csr_matrix((np.ones(columns.size), columns.ravel(), ends), shape=(rows, places * (letters + 1)))
