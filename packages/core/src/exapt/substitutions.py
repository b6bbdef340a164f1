"""Substitutions in a sequence that a model takes whole, scored together: the sequence is read once, each mutant once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exapt.building import Tallies, encode_one
from exapt.data.variants import Variant
from exapt.errors import ExaptError
from exapt.parts import NO_UNIT, Array, Encoding, Tokenizer

if TYPE_CHECKING:
    from exapt.scoring import Scoring

# Encodings that are compared with the wild type's together.
_TOGETHER = 512


def scores_together(scoring: Scoring, text: str, variants: Sequence[Variant], tallies: Tallies) -> list[float] | None:
    """Return what ``Scoring.scores`` does of substitutions in one sequence, several times as fast.

    None where that takes more care: windows and views, tokens that move, letters that the model does not know, and
    scorers that need more than encodings.
    """
    pairs = scoring.pairs
    # In a sequence with small letters, each variant's wild type has a capital in another place.
    if pairs.views or pairs.context is not None or scoring.reads_structures or text != text.upper():
        return None
    mutants = [variant.alleles(0, len(text))[1] for variant in variants]
    try:
        wild, *encodings = (
            encode_one(pairs.tokenizer, value, variants[0].where, *pairs.parts) for value in (text, *mutants)
        )
    except ExaptError:
        return None
    longest = max(encoding.tokens for encoding in (wild, *encodings))
    if (pairs.limit is not None and longest > pairs.limit) or not _comparable(pairs.tokenizer, wild, encodings):
        return None
    questions = scoring.scorer.ask_of_tokens(pairs.tokenizer, wild, encodings)
    if questions is None:
        return None
    totals = scoring.expectations.sums(enumerate(questions), len(variants))
    tallies.count("wild type", [text] * len(variants), [wild] * len(variants))
    tallies.count("mutant", mutants, encodings)
    scores: list[float] = totals.astype(np.float32).tolist()
    return scores


def _comparable(tokenizer: Tokenizer, wild: Encoding, mutants: Sequence[Encoding]) -> bool:
    """Return whether all mutants differ in known tokens alone, which stand for the same places as in the wild type."""
    if wild.arrays.keys() != {tokenizer.ids}:
        return False
    if any(mutant.arrays.keys() != wild.arrays.keys() or mutant.tokens != wild.tokens for mutant in mutants):
        return False
    if any(mutant.unknown != wild.unknown for mutant in mutants):
        return False
    pieces = (mutants[begin : begin + _TOGETHER] for begin in range(0, len(mutants), _TOGETHER))
    return all(_known_changes(tokenizer, wild, piece) for piece in pieces)


def _known_changes(tokenizer: Tokenizer, wild: Encoding, mutants: Sequence[Encoding]) -> bool:
    before = wild.arrays[tokenizer.ids]
    after: Array = np.stack([mutant.arrays[tokenizer.ids] for mutant in mutants])
    differ = after != before
    changed = np.concatenate([after[differ], np.broadcast_to(before, after.shape)[differ]])
    of_units = bool((wild.spans[differ.any(0), 0] != NO_UNIT).all())
    return (
        of_units
        and bool(differ.any(1).all())
        and not np.isin(changed, sorted(tokenizer.special)).any()
        and all(np.array_equal(mutant.spans, wild.spans) for mutant in mutants)
    )
