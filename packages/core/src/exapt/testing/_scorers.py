# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exapt.errors import DataError
from exapt.parts import Array, Question, Scorer, Tokenizer
from exapt.specs import Options, ScorerSpec, TokenizerSpec
from exapt.testing._check import Check, Faults

PAIRS = (
    ("MKTAYIAKQRQISF", "MKTAYIAKWRQISF"),
    ("ACDEFGHIKL", "ACWEFGHIKA"),
    ("MKTAYIAK", "MKTAYGGIAK"),
    ("GLWSK", "GLSK"),
)
_LIKED, _DISLIKED = 0.0, -9.0


@dataclass(frozen=True)
class ScorerCase:
    """A scorer under test, with a tokenizer and pairs of wild type and mutant."""

    spec: ScorerSpec
    options: Options
    tokenizer_spec: TokenizerSpec
    tokenizer_options: Options
    pairs: Sequence[tuple[str, str]]

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer, built once."""
        return self.spec.build(self.options)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built once."""
        return self.tokenizer_spec.build(self.tokenizer_options)

    def ask(self, wild: str, mutant: str) -> list[Question] | None:
        """Return the questions about a pair, or None where the scorer refuses it in words."""
        try:
            return list(self.scorer.ask(self.tokenizer, wild, mutant))
        except DataError:
            return None

    def asked(self) -> Iterator[tuple[str, list[Question]]]:
        """Yield every pair that is not refused, as it is called in a message, with its questions."""
        for wild, mutant in self.pairs:
            questions = self.ask(wild, mutant)
            if questions is not None:
                yield f"{wild}>{mutant}", questions


def _score(questions: Sequence[Question], logits: Array) -> float:
    """Return the score under a model that expects the same everywhere: ``logits`` [vocabulary]."""
    total = 0.0
    for question in questions:
        among = logits if question.among is None else logits[question.among]
        logs = logits[question.tokens] - np.logaddexp.reduce(among)
        total += float(logs @ question.weights)
    return total


def asks_something(case: ScorerCase) -> Faults:
    """Some pair is asked about, each question at places that there are, of tokens that there are, by finite weights."""
    known = set(case.tokenizer.vocabulary.values())
    empty = True
    for pair, questions in case.asked():
        for question in questions:
            empty = empty and not len(question.places)
            sizes = {len(question.places), len(question.tokens), len(question.weights)}
            if len(sizes) > 1:
                yield f"of {pair} it names {len(question.places)} places and {len(question.tokens)} tokens"
            elif ((question.places < 0) | (question.places >= question.encoding.tokens)).any():
                yield f"of {pair} it asks of token {question.places.max()} of {question.encoding.tokens}, from 0"
            elif not set(question.tokens.tolist()) <= known:
                yield f"of {pair} it asks for token {question.tokens.max()}, which is not in the vocabulary"
            elif not np.isfinite(question.weights).all():
                yield f"of {pair} it weighs an answer by {question.weights.sum()}"
    if empty:
        yield "it asks nothing about any of the pairs"


def repeats_itself(case: ScorerCase) -> Faults:
    """The same pair is asked about in the same way again."""
    for wild, mutant in case.pairs:
        one, other = case.ask(wild, mutant), case.ask(wild, mutant)
        if (one is None) != (other is None) or (one and other and not _same(one, other)):
            yield f"it asks otherwise about {wild}>{mutant} when it is asked again"


def _same(one: Sequence[Question], other: Sequence[Question]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("places", "tokens", "weights")
    )


def no_change_no_effect(case: ScorerCase) -> Faults:
    """An input that does not change scores 0."""
    logits = np.random.default_rng(0).normal(size=max(case.tokenizer.vocabulary.values()) + 1)
    for wild, _ in case.pairs:
        score = _score(case.ask(wild, wild) or (), logits)
        if abs(score) > 1e-6:
            yield f"{wild}, unchanged, scores {score:.2g}"


def expected_is_above_zero(case: ScorerCase) -> Faults:
    """A substitution by what the model expects more scores above 0, the one back below 0."""
    for wild, mutant in case.pairs:
        one, other = (case.tokenizer.encode(value).arrays[case.tokenizer.ids] for value in (wild, mutant))
        if len(one) != len(other):
            continue
        logits = np.full(max(case.tokenizer.vocabulary.values()) + 1, _LIKED)
        logits[one[one != other]] = _DISLIKED
        logits[other[one != other]] = _LIKED
        there, back = (_score(case.ask(*pair) or (), logits) for pair in ((wild, mutant), (mutant, wild)))
        if there <= 0 or back >= 0:
            yield f"{wild}>{mutant} scores {there:.2g}, and {back:.2g} back, under a model that expects the mutant"


def tokens_as_inputs(case: ScorerCase) -> Faults:
    """What it asks of encodings, where it can, is what it asks of the inputs themselves."""
    for wild, mutant in case.pairs:
        one, other = (case.tokenizer.encode(value) for value in (wild, mutant))
        if not np.array_equal(one.spans, other.spans):
            continue
        quick = case.scorer.ask_of_tokens(case.tokenizer, one, [other, other])
        asked = None if quick is None else list(quick)
        slow = case.ask(wild, mutant)
        if asked is not None and (slow is None or not _same(asked, [*slow, *slow])):
            yield f"it asks otherwise about the encodings of {wild}>{mutant}"


SCORER_CHECKS: tuple[Check[ScorerCase], ...] = (
    Check("asks-something", "places beyond the input, tokens of another vocabulary", asks_something),
    Check("repeats-itself", "scores that chance decides", repeats_itself),
    Check("no-change-no-effect", "a score that measures the sequence, not the change", no_change_no_effect),
    Check("tokens-as-inputs", "a scan that scores otherwise than the mutations one by one", tokens_as_inputs),
    Check("expected-is-above-zero", "a sign that is the wrong way round", expected_is_above_zero),
)
