"""How the built-in scorers ask: sums of log probabilities of tokens, the mutant's minus those of the wild type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from exapt.builtin.scorers import LogLikelihoodOptions, MaskedMarginalOptions, ScorerOptions
from exapt.errors import DataError
from exapt.parts import NO_UNIT, Array, Encoding, Question, Scorer, Tokenizer

_MUTANT, _WILD = 1.0, -1.0


class MaskedMarginal(Scorer):
    """log p(mutant tokens) - log p(wild tokens), with all tokens that differ hidden together (Meier et al. 2021).

    Of overlapping k-mers all those that cover a changed unit differ, so that no neighbour gives it away. Where the
    numbers of tokens are unequal, what differs is hidden in each of the two, as many tokens as it has there.
    """

    def __init__(self, options: MaskedMarginalOptions) -> None:
        self._options = options

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of the tokens that differ. Raises ``DataError`` where that is most of an input of another length."""
        among = _among(tokenizer, self._options)
        one, other = tokenizer.encode(wild), tokenizer.encode(mutant)
        before, after = one.arrays[tokenizer.ids], other.arrays[tokenizer.ids]
        # The same place must stand for the same letters: a deletion may move all 6-mers behind it and keep their number.
        if np.array_equal(one.spans, other.spans):
            places = np.flatnonzero(before != after)
            yield _marginal(_hidden(tokenizer, one, places), places, before, after, among)
            return
        unlike = _differing(wild, mutant, one, other, tokenizer)
        for encoding, places, weight in zip((one, other), unlike, _BOTH, strict=True):
            self._check(encoding, places)
            ids = encoding.arrays[tokenizer.ids]
            known = places[_known(tokenizer, ids)[places]]
            yield _told(_hidden(tokenizer, encoding, places), known, ids, weight, among)

    def ask_of_tokens(self, tokenizer: Tokenizer, wild: Encoding, mutants: Sequence[Encoding]) -> Iterator[Question]:
        """Ask of the tokens that differ; mutants of one position share an input in which it is hidden."""
        among, before = _among(tokenizer, self._options), wild.arrays[tokenizer.ids]
        hidden: dict[bytes, Encoding] = {}
        for mutant in mutants:
            after = mutant.arrays[tokenizer.ids]
            places = np.flatnonzero(before != after)
            key = places.tobytes()
            if key not in hidden:
                hidden[key] = _hidden(tokenizer, wild, places)
            yield _marginal(hidden[key], places, before, after, among)

    def _check(self, encoding: Encoding, places: Array) -> None:
        units = int((encoding.spans[:, 0] != NO_UNIT).sum())
        if len(places) > self._options.max_hidden * units:
            raise DataError(
                f"{len(places)} of {units} tokens differ in place, too many to hide at once "
                f"(max_hidden = {self._options.max_hidden:g}); use the scorer pseudo-log-likelihood"
            )


class WildTypeMarginal(Scorer):
    """log p(mutant tokens) - log p(wild tokens) where they differ, nothing hidden (Meier et al. 2021)."""

    def __init__(self, options: ScorerOptions) -> None:
        self._options = options

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of the tokens that differ. Raises ``DataError`` where they do not stand for the same places."""
        one, other = tokenizer.encode(wild), tokenizer.encode(mutant)
        before, after = one.arrays[tokenizer.ids], other.arrays[tokenizer.ids]
        if len(before) != len(after):
            raise DataError(
                f"the wild type has {len(before)} tokens, the mutant {len(after)}, and wild-type marginals need as many; "
                "use the scorer pseudo-log-likelihood"
            )
        if not np.array_equal(one.spans, other.spans):
            raise DataError(
                "the tokens of the mutant stand for other places than those of the wild type, and wild-type marginals need "
                "the same; use the scorer pseudo-log-likelihood"
            )
        yield _marginal(one, np.flatnonzero(before != after), before, after, _among(tokenizer, self._options))

    def ask_of_tokens(self, tokenizer: Tokenizer, wild: Encoding, mutants: Sequence[Encoding]) -> Iterator[Question]:
        """Ask of the tokens that differ, all of the wild type."""
        among, before = _among(tokenizer, self._options), wild.arrays[tokenizer.ids]
        for mutant in mutants:
            after = mutant.arrays[tokenizer.ids]
            yield _marginal(wild, np.flatnonzero(before != after), before, after, among)


class PseudoLogLikelihood(Scorer):
    """Sum over tokens of log p(token | all others) (Salazar et al. 2020), mutant minus wild type (Brandes et al. 2023).

    Of overlapping k-mers, all that share a unit with the one in question are hidden with it.
    """

    def __init__(self, options: ScorerOptions) -> None:
        self._options = options

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of each token that stands for units, in an input of its own; of unknown ones nothing is asked."""
        among = _among(tokenizer, self._options)
        for value, weight in zip((wild, mutant), _BOTH, strict=True):
            encoding = tokenizer.encode(value)
            ids = encoding.arrays[tokenizer.ids]
            for place in np.flatnonzero((encoding.spans[:, 0] != NO_UNIT) & _known(tokenizer, ids)):
                first, last = encoding.spans[place]
                hidden = _hidden(tokenizer, encoding, _overlapping(encoding, first, last))
                yield _told(hidden, np.array([place]), ids, weight, among)


class LogLikelihood(Scorer):
    """Sum over tokens of log p(token | those before it), mutant minus wild type (for variants: Nguyen et al. 2023).

    The first token has nothing before it and is not counted.
    """

    def __init__(self, options: LogLikelihoodOptions) -> None:
        self._options = options

    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterator[Question]:
        """Ask of all tokens of each of the two at once, but of unknown ones."""
        among = _among(tokenizer, self._options)
        for value, weight in zip((wild, mutant), _BOTH, strict=True):
            encoding = tokenizer.encode(value)
            ids = encoding.arrays[tokenizer.ids]
            around = encoding.spans[:, 0] == NO_UNIT
            counted = np.flatnonzero(np.where(around, self._options.special, _known(tokenizer, ids)))
            places = counted[counted > 0] - 1
            tokens = ids[places + 1]
            yield Question(encoding, places, tokens, np.full(len(places), weight), among)


_BOTH = (_WILD, _MUTANT)
_WEIGHTS = np.array(_BOTH)


# A vocabulary may be large, and is sorted once. One object of each: what is shared among its ids is then known by it.
_UNITS: WeakKeyDictionary[Tokenizer, Array] = WeakKeyDictionary()


def _among(tokenizer: Tokenizer, options: ScorerOptions) -> Array | None:
    if not options.units_only:
        return None
    if tokenizer not in _UNITS:
        _UNITS[tokenizer] = np.array(sorted(set(tokenizer.vocabulary.values()) - tokenizer.special))
    return _UNITS[tokenizer]


def _known(tokenizer: Tokenizer, ids: Array) -> Array:
    """Return which tokens [tokens] a sequence spells: an unknown one is never hidden and never guessed."""
    return ~np.isin(ids, sorted(tokenizer.special))


def _hidden(tokenizer: Tokenizer, encoding: Encoding, places: Array) -> Encoding:
    ids = encoding.arrays[tokenizer.ids].copy()
    # One by one: mostly there are very few, and a scan of a protein asks thousands of times.
    ids[[place for place in places.tolist() if int(ids[place]) not in tokenizer.special]] = tokenizer.mask
    arrays = {**encoding.arrays, tokenizer.ids: ids}
    return Encoding(arrays, encoding.pads, encoding.spans, encoding.length, encoding.unknown)


def _told(encoding: Encoding, places: Array, ids: Array, weight: float, among: Array | None) -> Question:
    return Question(encoding, places, ids[places], np.full(len(places), weight), among)


def _marginal(encoding: Encoding, places: Array, wild: Array, mutant: Array, among: Array | None) -> Question:
    tokens = np.concatenate([wild[places], mutant[places]])
    return Question(encoding, np.concatenate([places, places]), tokens, _WEIGHTS.repeat(len(places)), among)


def _overlapping(encoding: Encoding, first: int, last: int) -> Array:
    """Return the tokens that share a unit with those from ``first`` to ``last``."""
    starts, ends = encoding.spans.T
    return np.flatnonzero((starts != NO_UNIT) & (starts <= last) & (ends >= first))


def _differing(wild: Any, mutant: Any, one: Encoding, other: Encoding, tokenizer: Tokenizer) -> tuple[Array, Array]:
    """Return the tokens of each of two inputs that the other one does not have, between what they have in common."""
    if _overlaps(one) or _overlaps(other):
        head, tail = _common(np.array(list(wild)), np.array(list(mutant)))
        return _touched(one, head, len(wild) - tail), _touched(other, head, len(mutant) - tail)
    before, after = one.arrays[tokenizer.ids], other.arrays[tokenizer.ids]
    head, tail = _common(before, after)
    return np.arange(head, len(before) - tail), np.arange(head, len(after) - tail)


def _overlaps(encoding: Encoding) -> bool:
    spans = encoding.spans[encoding.spans[:, 0] != NO_UNIT]
    return bool((spans[1:, 0] <= spans[:-1, 1]).any())


def _touched(encoding: Encoding, start: int, stop: int) -> Array:
    """Return the tokens that cover a unit from ``start`` to ``stop`` (exclusive) or, if that is none, the seam there.

    A token that is the same in both inputs must be hidden too where it would give away what its neighbours cover.
    """
    if start < stop:
        return _overlapping(encoding, start, stop - 1)
    starts, ends = encoding.spans.T
    return np.flatnonzero((starts != NO_UNIT) & (starts < start) & (ends >= start))


def _common(one: Array, other: Array) -> tuple[int, int]:
    """Return the lengths of what two arrays begin and end with alike, without overlap."""
    short = min(len(one), len(other))
    head = _alike(one[:short], other[:short])
    return head, _alike(one[head:][::-1][: short - head], other[head:][::-1][: short - head])


def _alike(one: Array, other: Array) -> int:
    unlike = np.flatnonzero(one != other)
    return int(unlike[0]) if len(unlike) else len(one)
