"""Wild types and mutants as a model reads them: cut to what it takes, in every view, and told apart."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from exapt.building import Tallies, encode_one
from exapt.data.changes import IncomparableError, UnscorableError
from exapt.data.variants import Variant
from exapt.errors import DataError, PluginError, RecipeError
from exapt.parts import NO_UNIT, Array, Augmentation, Encoding, Tokenizer
from exapt.resolve import Chosen

# A window is widened this often, to what the number of its tokens leaves room for.
_WIDENED = 3
_SKIP = "leave such rows without a score with --skip-incomparable"
TOO_LONG = "more tokens than the model takes"
"""Why rows that the model has no room for have no score."""


@dataclass(frozen=True)
class Pairs:
    """Makes pairs of variants, for a model that takes ``limit`` tokens, with the views over which it is asked.

    ``parts`` are what its backbone and tokenizer were made of; ``context`` is how many letters are kept on each side.
    """

    name: str
    parts: tuple[Chosen, Chosen]
    tokenizer: Tokenizer
    limit: int | None
    views: tuple[Augmentation, ...] = ()
    context: int | None = None

    def of(self, variant: Any, tallies: Tallies | None = None) -> list[tuple[Any, Any]]:
        """Return wild type and mutant, cut to what the model takes, and every view of the two.

        Raises ``UnscorableError``, with the variant, for letters that the model cannot read, for what it has no room for
        and for what it cannot tell apart.
        """
        where = variant.where
        pairs = self._viewed(where, self._window(variant))
        encodings = [(self._encode(where, wild), self._encode(where, mutant)) for wild, mutant in pairs]
        if tallies is not None:
            self._count(tallies, pairs[0], encodings[0])
        for wild, mutant in encodings:
            _refuse_alike(where, self.tokenizer, wild, mutant)
        if self._swaps_unknown(where, pairs[0], encodings[0]):
            raise _unknown_letters(where)
        return pairs

    def _swaps_unknown(self, where: str, pair: tuple[Any, Any], encodings: tuple[Encoding, Encoding]) -> bool:
        """Return whether an unknown letter goes and another comes, so that there are as many in the mutant."""
        wild, mutant = pair
        if not encodings[0].unknown or not isinstance(wild, str) or len(wild) != len(mutant):
            return False
        differ = [place for place, (one, other) in enumerate(zip(wild, mutant, strict=True)) if one != other]
        halfway = (mutant[:place] + wild[place:] for place in differ[1:])
        return any(self._encode(where, text).unknown != encodings[0].unknown for text in halfway)

    def _count(self, tallies: Tallies, pair: tuple[Any, Any], encodings: tuple[Encoding, Encoding]) -> None:
        for what, value, encoding in zip(("wild type", "mutant"), pair, encodings, strict=True):
            tallies.count(what, [value], [encoding])

    def check_room(self, variant: Any) -> None:
        """Raise what ``of`` would for a variant that the model has no room for; reads it only where it may be too long."""
        grown = sum(max(0, len(edit.alt) - len(edit.ref)) for edit in variant.edits)
        least = variant.stop - variant.start + grown + 2 * (self.context or 0)
        # A model hardly has more tokens than letters, but for a few special ones.
        if self.limit is not None and 2 * least > self.limit:
            self._window(variant)

    def _viewed(self, where: str, pair: tuple[Any, Any]) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = [pair]
        for augmentation in self.views:
            wild, mutant = (augmentation.views(value) for value in pair)
            if len(wild) != len(mutant) or not wild:
                raise PluginError(
                    f"{where}: {type(augmentation).__name__} gives {len(wild)} views of the wild type and {len(mutant)} "
                    "of the mutant; to average over them it must give as many, one at least"
                )
            pairs += [(one.value, other.value) for one, other in zip(wild, mutant, strict=True)]
        return pairs

    def _window(self, variant: Any) -> tuple[Any, Any]:
        if self.context is not None:
            return self._around(variant, self.context)
        if self.limit is not None:
            return self._widest(variant, self.limit)
        if not variant.letters.whole:
            raise RecipeError(
                f"'{self.name}' takes inputs of any length: say with --context how many letters to keep on each side "
                "of a variant"
            )
        whole: tuple[str, str] = variant.alleles(0, len(variant.letters))
        return whole

    def _widest(self, variant: Variant, limit: int) -> tuple[str, str]:
        """Return the alleles with as much around them as makes no more than ``limit`` tokens."""
        total, span = len(variant.letters), variant.stop - variant.start
        room = max(span, min(total, limit))
        pair, tokens = self._read(variant, room)
        while tokens > limit and room > span:
            # Rounded up, so that each try is shorter than the last.
            room = max(span, room - 1 - (tokens - limit) * room // tokens)
            pair, tokens = self._read(variant, room)
        if tokens > limit:
            raise self._no_room(variant, tokens, limit)
        # A token may stand for many letters, so that there is room for more of them than tokens.
        for _ in range(_WIDENED):
            wider = min(total, room * limit // max(tokens, 1))
            if wider <= room:
                break
            room = wider
            found, tokens = self._read(variant, room)
            if tokens > limit:
                break
            pair = found
        return pair

    def _no_room(self, variant: Variant, tokens: int, limit: int) -> UnscorableError:
        return UnscorableError(
            f"{variant.where}: what lies between the letters that change makes {tokens:,} tokens; '{self.name}' takes at "
            f"most {limit:,}",
            TOO_LONG,
        )

    def _read(self, variant: Variant, room: int) -> tuple[tuple[str, str], int]:
        pair = variant.alleles(*_centred(variant, room))
        return pair, self._tokens(variant.where, pair)

    def _around(self, variant: Variant, context: int) -> tuple[str, str]:
        pair, tokens = self._kept(variant, context)
        if self.limit is not None and tokens > self.limit:
            raise self._too_wide(variant, context, tokens, self.limit)
        return pair

    def _kept(self, variant: Variant, context: int) -> tuple[tuple[str, str], int]:
        start, stop = max(0, variant.start - context), min(len(variant.letters), variant.stop + context)
        pair = variant.alleles(start, stop)
        return pair, self._tokens(variant.where, pair)

    def _too_wide(self, variant: Variant, context: int, tokens: int, limit: int) -> UnscorableError:
        fits = bisect_right(range(context), limit, key=lambda some: self._kept(variant, some)[1]) - 1
        if fits < 0:
            return self._no_room(variant, self._kept(variant, 0)[1], limit)
        return UnscorableError(
            f"{variant.where}: {context:,} letters on each side of the variant make {tokens:,} tokens; '{self.name}' "
            f"takes at most {limit:,}: the largest --context that fits is {fits:,}",
            TOO_LONG,
        )

    def _tokens(self, where: str, pair: tuple[str, str]) -> int:
        """Return the tokens of the longest among a pair and its views."""
        values = (value for viewed in self._viewed(where, pair) for value in viewed)
        return max(self._encode(where, value).tokens for value in values)

    def _encode(self, where: str, value: Any) -> Encoding:
        try:
            return encode_one(self.tokenizer, value, where, *self.parts)
        except DataError as error:
            # Rows of a table stand in a message without quotes.
            told = str(error).replace(f"'{where}'", where, 1)
            raise UnscorableError(told, "letters that the model cannot read") from None


def _centred(variant: Variant, room: int) -> tuple[int, int]:
    """Return the ends of ``room`` letters around a variant, moved inwards at the ends of its sequence."""
    start = variant.start - (room - (variant.stop - variant.start)) // 2
    start = max(0, min(start, len(variant.letters) - room))
    return start, start + room


def _refuse_alike(where: str, tokenizer: Tokenizer, wild: Encoding, mutant: Encoding) -> None:
    """Raise ``IncomparableError`` for a change that the model does not see, or sees as one to or from an unknown token."""
    if all(np.array_equal(array, mutant.arrays[name]) for name, array in wild.arrays.items()):
        raise IncomparableError(
            f"{where}: the model reads the wild type and the mutant alike; {_SKIP}",
            "a wild type and a mutant that the model reads alike",
        )
    ids = tokenizer.ids in wild.arrays
    if wild.unknown != mutant.unknown or (ids and _unknown_change(tokenizer, wild, mutant)):
        raise _unknown_letters(where)


def _unknown_letters(where: str) -> IncomparableError:
    return IncomparableError(
        f"{where}: the model does not know the letters that change, or what they change into; {_SKIP}",
        "letters that change and that the model does not know",
    )


def _unknown_change(tokenizer: Tokenizer, wild: Encoding, mutant: Encoding) -> bool:
    """Return whether one of the two has tokens for unknown letters that the other does not have."""
    if np.array_equal(wild.spans, mutant.spans):
        before, after = (encoding.arrays[tokenizer.ids] for encoding in (wild, mutant))
        changed = np.flatnonzero((before != after) & (wild.spans[:, 0] != NO_UNIT)).tolist()
        return any(int(ids[place]) in tokenizer.special for place in changed for ids in (before, after))
    (before, unknown), (after, unknown_too) = (_unknown(tokenizer, encoding) for encoding in (wild, mutant))
    return not np.array_equal(np.sort(before[unknown]), np.sort(after[unknown_too]))


def _unknown(tokenizer: Tokenizer, encoding: Encoding) -> tuple[Array, Array]:
    """Return the ids [tokens], and which of them stand for letters that the vocabulary does not know."""
    ids = encoding.arrays[tokenizer.ids]
    return ids, np.isin(ids, sorted(tokenizer.special)) & (encoding.spans[:, 0] != NO_UNIT)
