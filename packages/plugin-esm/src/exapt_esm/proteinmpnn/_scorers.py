"""How a model that decodes in any order is asked: each question names the order, and so which letters are seen.

Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from exapt import DataError
from exapt.parts import NO_UNIT, Array, Encoding, Question, Scorer, Tokenizer
from exapt.structures import Structure
from exapt_esm.proteinmpnn.scorers import ConditionalOptions, DecodingOrdersOptions

_RANK = "rank"
_MUTANT, _WILD = 1.0, -1.0

Orders = Callable[[Encoding, int], Array]
"""Returns the place in the order of each token [tokens], of an encoding and the number of the order."""


class Unconditional(Scorer):
    """log p(mutant letters) - log p(wild letters) where they differ, by the backbone alone."""

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of the residues that differ, in an input without letters, which all mutants share."""
        encoding, before, after, places = _compared(tokenizer, wild, mutant)
        blank = np.full_like(before, min(tokenizer.special))
        yield _marginal(_ordered(encoding, np.zeros_like(before), blank, tokenizer), places, before, after, 1.0)


class Conditional(Scorer):
    """log p(mutant letter) - log p(wild letter) of each residue that differs, decoded after all others.

    The others have the letters of the wild type, so that the scores of several residues add up. ``order`` is of all residues;
    without it, it is random.
    """

    def __init__(self, options: ConditionalOptions, order: Orders | None = None) -> None:
        self._options = options
        self._order = order or seeded(options.seed)

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of each residue that differs, in inputs that all mutants of that residue share."""
        encoding, before, after, places = _compared(tokenizer, wild, mutant)
        for number in range(self._options.orders):
            order = self._order(encoding, number)
            for place in places:
                rank = order.copy()
                rank[place] = len(rank)
                last = _ordered(encoding, rank, before, tokenizer)
                yield _marginal(last, np.array([place]), before, after, 1 / self._options.orders)


class DecodingOrders(Scorer):
    """Sum over residues of log p(letter | those decoded before it), the mean of several orders, mutant minus wild type."""

    def __init__(self, options: DecodingOrdersOptions, order: Orders | None = None) -> None:
        self._options = options
        self._order = (
            order or {"random": seeded(options.seed), "forward": _forward, "backward": _backward}[options.order]
        )
        self._orders = options.orders if options.order == "random" else 1

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of all residues of each of the two, in the same orders."""
        _compared(tokenizer, wild, mutant)
        for value, weight in ((wild, _WILD), (mutant, _MUTANT)):
            for question in self.likelihood(tokenizer, value):
                yield replace(question, weights=weight * question.weights)

    def likelihood(self, tokenizer: Tokenizer, value: Any) -> Iterator[Question]:
        """Ask of all residues that are resolved. Raises ``DataError`` if the structure lacks a chain that is given."""
        encoding = tokenizer.encode(value)
        ids = encoding.arrays[tokenizer.ids]
        given = _of_chains(Structure.of(value), self._options.given)
        places = np.flatnonzero((encoding.spans[:, 0] != NO_UNIT) & ~given)
        if not len(places):
            raise DataError("no residue is left to be told: the chains that are given are all that there is")
        for number in range(self._orders):
            rank = _ranks(self._order(encoding, number) + len(ids) * ~given)
            weights = np.full(len(places), 1 / self._orders)
            yield Question(_ordered(encoding, rank, ids, tokenizer), places, ids[places], weights)


def seeded(seed: int) -> Orders:
    """Return random orders, which depend on the seed, the structure without its letters, and their number alone.

    Residues that are not resolved come first, as in the published program.
    """

    def order(encoding: Encoding, number: int) -> Array:
        rng = np.random.default_rng([seed, number, *_told(encoding)])
        return _ranks(rng.permutation(encoding.tokens) + encoding.tokens * (encoding.spans[:, 0] != NO_UNIT))

    return order


def _forward(encoding: Encoding, number: int) -> Array:
    return np.arange(encoding.tokens)


def _backward(encoding: Encoding, number: int) -> Array:
    return np.arange(encoding.tokens)[::-1].copy()


def _told(encoding: Encoding) -> list[int]:
    """Return numbers that tell a structure, by what it is made of but for its letters."""
    digest = hashlib.sha256()
    for name in ("atoms", "resolved", "residue_index", "chain"):
        digest.update(np.ascontiguousarray(encoding.arrays[name]).tobytes())
    return [int.from_bytes(digest.digest()[:8], "little")]


def _ranks(keys: Array) -> Array:
    """Return the place of each of some distinct ``keys`` [tokens] in their order."""
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[np.argsort(keys)] = np.arange(len(keys))
    return ranks


def _of_chains(structure: Structure, chains: tuple[str, ...]) -> Array:
    """Return which units [units] are of some chains."""
    missing = [chain for chain in chains if chain not in structure.chains]
    if missing:
        raise DataError(f"has no chain '{missing[0]}' to be given; its chains are {', '.join(structure.chains)}")
    return np.isin(structure.chain_of, [structure.chains.index(chain) for chain in chains])


def _compared(tokenizer: Tokenizer, wild: Any, mutant: Any) -> tuple[Encoding, Array, Array, Array]:
    """Return the wild type as it is read, the letters [tokens] of both, and the tokens that differ."""
    one, other = tokenizer.encode(wild), tokenizer.encode(mutant)
    if not all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays if name != tokenizer.ids):
        raise DataError("wild type and mutant are not one structure with two sequences")
    before, after = one.arrays[tokenizer.ids], other.arrays[tokenizer.ids]
    return one, before, after, np.flatnonzero((before != after) & (one.spans[:, 0] != NO_UNIT))


def _ordered(encoding: Encoding, rank: Array, ids: Array, tokenizer: Tokenizer) -> Encoding:
    return replace(encoding, arrays={**encoding.arrays, _RANK: rank, tokenizer.ids: ids})


def _marginal(encoding: Encoding, places: Array, before: Array, after: Array, share: float) -> Question:
    tokens = np.concatenate([before[places], after[places]])
    return Question(encoding, np.tile(places, 2), tokens, np.repeat((_WILD * share, _MUTANT * share), len(places)))
