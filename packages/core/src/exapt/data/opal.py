"""Comparison with pyopal: Smith-Waterman in vector instructions, on pairs that share seeds or, where few, on all pairs.

Scores become numbers of chance hits as Karlin and Altschul (https://doi.org/10.1073/pnas.87.6.2264) reckon, with their
two parameters fitted to alignments of the data's own sequences with shuffled ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from exapt.data.alphabets import LETTERS, reverse_complement
from exapt.data.groups import Joined
from exapt.data.homology import SHORT, Alignment, Judge
from exapt.data.seeds import Seeds

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Wanted = Callable[[int, Rows], npt.NDArray[np.bool_]]

_ALL_PAIRS: Final = 2000
"""Sequences, and cells of their alignments, up to which every pair is aligned: that takes seconds."""
_ALL_CELLS: Final = 5e10
_ONE_SEED: Final = 100
"""Letters below which one seed in common is enough for two sequences to be aligned."""
# Costs of a gap's first and of each further letter; Karlin and Altschul's lambda and K as NCBI's BLAST has them for these.
_GAPS: Final = {"dna": (7, 2), "protein": (12, 1)}
_PUBLISHED: Final = {"dna": (0.625, 0.41), "protein": (0.267, 0.041)}
_SHUFFLED, _AGAINST, _SCORES = 64, 256, 4096
_BLOCK: Final = 64


def installed() -> bool:
    """Return whether pyopal is."""
    return find_spec("pyopal") is not None


class Opal:
    """Compares sequences with pyopal."""

    def __init__(self, sequences: Sequence[str], judge: Judge) -> None:
        import pyopal

        self.name = f"pyopal {version('pyopal')}"
        self._judge, kind = judge, judge.rule.kind
        matrix = _matrix(kind)
        first, further = _GAPS[kind]
        self._aligner = pyopal.Aligner(matrix, gap_open=first, gap_extend=further)
        self._database = pyopal.Database(sequences, matrix.alphabet)
        self._sequences = list(sequences)
        self._lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        own = {letter: matrix[letter, letter] for letter in LETTERS[kind]}
        self._own = np.array([sum(own[letter] for letter in sequence) for sequence in sequences], np.float64)
        self._strands = (False, True) if kind == "dna" else (False,)
        few = len(sequences) <= _ALL_PAIRS and judge.letters**2 <= _ALL_CELLS
        self._seeds = None if few else Seeds(sequences, kind, _ONE_SEED)
        self._slope, self._scale = self._fitted(*_PUBLISHED[kind])

    def links(self) -> Iterator[tuple[int, int]]:
        """Yield related pairs that join families; pairs within a family that is known already are left out."""
        count = len(self._sequences)
        joined, left_out = Joined(count), np.zeros(count, np.bool_)
        with _pool() as pool:
            for block in _blocks(count):
                roots = joined.roots()
                # Everything meets what is outside the family of more than half: its members need not look out as well.
                left_out[block] = np.bincount(roots, minlength=count)[roots[block]] > count / 2
                asked = [number for number in block if not left_out[number]]
                for number, targets in zip(asked, pool.map(_linking(self, roots, left_out), asked), strict=True):
                    for target in targets:
                        joined.join(number, target)
                        yield number, target

    def hits(self, queries: Rows, targets: Rows) -> Iterator[tuple[int, int, float]]:
        """Yield query, target and identity of significant pairs."""
        among = np.zeros(len(self._sequences), np.bool_)
        among[targets] = True

        def found(query: int) -> list[tuple[int, int, float]]:
            aligned = self._aligned(query, lambda _, places: among[places])
            return [(query, place, it.identity) for place, it in aligned if self._judge.significant(it)]

        with _pool() as pool:
            for several in pool.map(found, queries.tolist()):
                yield from several

    def linked(self, query: int, wanted: Wanted) -> list[int]:
        """Return the sequences related to one, of those that are wanted."""
        return [place for place, it in self._aligned(query, wanted) if self._judge.related(it)]

    def _aligned(self, query: int, wanted: Wanted) -> Iterator[tuple[int, Alignment]]:
        """Yield the alignments of one sequence that may be significant."""
        for reverse in self._strands:
            text = self._text(query, reverse)
            places = np.arange(len(self._sequences)) if self._seeds is None else self._seeds.near(text)
            places = places[wanted(query, places)]
            if not len(places):
                continue
            results = self._aligner.align(text, self._database.extract(places.tolist()), mode="score")
            scores = np.array([result.score for result in results], np.float64)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True):
                found = self._alignment(query, place, reverse, score)
                if found:
                    yield place, found

    def _text(self, number: int, reverse: bool) -> str:
        return reverse_complement(self._sequences[number]) if reverse else self._sequences[number]

    def _alignment(self, query: int, target: int, reverse: bool, score: float) -> Alignment | None:
        shorter = int(min(self._lengths[query], self._lengths[target]))
        # Letters that are all unknown score below 0 even against themselves, and no alignment of them has a column.
        if score <= 0:
            return None
        evalue = self._scale * shorter * self._judge.letters * np.exp(-self._slope * score)
        high = shorter < SHORT and score >= min(self._own[query], self._own[target]) / 2
        if evalue > self._judge.rule.evalue and not high:
            return None
        # Of equally good alignments the first is taken, which may be another one the other way round.
        one, other = sorted((query, target))
        only = self._database.extract([other])
        result: Any = self._aligner.align(self._text(one, reverse), only, mode="full")[0]
        path = str(result.alignment)
        spans = (
            (result.query_end - result.query_start + 1) / self._lengths[one],
            (result.target_end - result.target_start + 1) / self._lengths[other],
        )
        matches = path.count("M")
        gapless = len(path) == matches + path.count("X")
        return Alignment(matches, len(path), gapless, float(max(spans)), shorter, float(evalue))

    def _fitted(self, slope: float, scale: float) -> tuple[float, float]:
        """Return lambda and K of the data, by maximum likelihood from scores of shuffled sequences; never above those published.

        What repeats or is poor in letters scores high by chance, which figures for average sequences do not know.
        """
        scores, sizes = self._chance_scores()

        def excess(slope: float) -> float:
            weights = sizes * np.exp(-slope * (scores - scores.min()))
            return float(1 / slope - scores.mean() + (scores * weights).sum() / weights.sum())

        if not len(scores) or scores.min() == scores.max():
            return slope, scale
        if excess(slope) < 0:
            slope = float(brentq(excess, slope / 100, slope))
        return slope, len(scores) / float((sizes * np.exp(-slope * scores)).sum())

    def _chance_scores(self) -> tuple[Floats, Floats]:
        """Return scores of shuffled sequences with others, and the product of each pair's lengths."""
        rng = np.random.default_rng(0)
        count = len(self._sequences)
        targets = _spread(count, _AGAINST)
        database = self._database.extract(targets.tolist())
        queries = _spread(count, _SHUFFLED)
        rounds = -(-_SCORES // (len(queries) * len(targets)))
        scores: list[int] = []
        sizes: list[Floats] = []
        for query in np.tile(queries, rounds).tolist():
            shuffled = "".join(rng.permutation(list(self._sequences[query])))
            scores += [result.score for result in self._aligner.align(shuffled, database, mode="score")]
            sizes.append((self._lengths[query] * self._lengths[targets]).astype(np.float64))
        return np.array(scores, np.float64), np.concatenate(sizes)


def _linking(engine: Opal, roots: Rows, left_out: npt.NDArray[np.bool_]) -> Callable[[int], list[int]]:
    # Those before have met all others, unless they were left out.
    def wanted(query: int, places: Rows) -> npt.NDArray[np.bool_]:
        return np.asarray((roots[places] != roots[query]) & ((places > query) | left_out[places]))

    return lambda query: engine.linked(query, wanted)


def _blocks(count: int) -> Iterator[range]:
    """Yield ranges that grow: the first few join large families, within which nothing need be aligned later."""
    begin, size = 0, 1
    while begin < count:
        yield range(begin, min(count, begin + size))
        begin, size = begin + size, min(2 * size, _BLOCK)


def _spread(count: int, most: int) -> Rows:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count())


def _matrix(kind: str) -> Any:
    from scoring_matrices.lib import ScoringMatrix

    if kind == "protein":
        return ScoringMatrix.from_name("BLOSUM62")
    letters = LETTERS[kind]
    rows = [[-1 if "N" in one + other else 2 if one == other else -3 for other in letters] for one in letters]
    return ScoringMatrix(rows, alphabet=letters)
