"""Each check of a scorer fails on a scorer that was made to have the fault."""

import itertools

import numpy as np
import pytest

from exapt import ScorerSpec
from exapt.parts import Question, Scorer
from exapt.plugins import Plugins
from exapt.testing import CHECKS, ConformanceError, check_scorer

BUILT_IN = Plugins([])


class Letters(Scorer):
    """Sums over all letters of the mutant, minus those of the wild type."""

    beyond = 0
    weight = 1.0

    def ask(self, tokenizer, wild, mutant):
        for value, sign in ((wild, -self.weight), (mutant, self.weight)):
            encoding = tokenizer.encode(value)
            ids = encoding.arrays["input_ids"][1:]
            yield Question(encoding, np.arange(len(ids)) + self.beyond, ids, np.full(len(ids), sign))


class AsksNothing(Scorer):
    def ask(self, tokenizer, wild, mutant):
        return ()


class Beyond(Letters):
    beyond = 5


class OtherWords(Letters):
    def ask(self, tokenizer, wild, mutant):
        for question in super().ask(tokenizer, wild, mutant):
            yield Question(question.encoding, question.places, question.tokens + 40, question.weights)


class Uneven(Letters):
    def ask(self, tokenizer, wild, mutant):
        for question in super().ask(tokenizer, wild, mutant):
            yield Question(question.encoding, question.places[1:], question.tokens, question.weights)


class Weightless(Letters):
    weight = np.nan


class Restless(Letters):
    turns = itertools.count(1)

    def ask(self, tokenizer, wild, mutant):
        self.weight = float(next(self.turns))
        return super().ask(tokenizer, wild, mutant)


class MutantAlone(Letters):
    def ask(self, tokenizer, wild, mutant):
        return list(super().ask(tokenizer, wild, mutant))[1:]


class Backwards(Letters):
    weight = -1.0


class OtherwiseOfTokens(Letters):
    def ask_of_tokens(self, tokenizer, wild, mutants):
        for mutant in mutants:
            ids = mutant.arrays["input_ids"]
            yield Question(mutant, np.arange(2), ids[:2], np.ones(2))


def of(kind):
    return ScorerSpec(name="letters", summary="All letters.", build=lambda _options: kind())


FIRST = "MKTAYIAKQRQISF>MKTAYIAKWRQISF"
FAULTS = [
    (AsksNothing, "asks-something: it asks nothing about any of the pairs"),
    (Beyond, f"asks-something: of {FIRST} it asks of token 18 of 15, from 0"),
    (OtherWords, f"asks-something: of {FIRST} it asks for token 66, which is not in the vocabulary"),
    (Uneven, f"asks-something: of {FIRST} it names 13 places and 14 tokens"),
    (Weightless, f"asks-something: of {FIRST} it weighs an answer by nan"),
    (Restless, f"repeats-itself: it asks otherwise about {FIRST} when it is asked again"),
    (MutantAlone, "no-change-no-effect: MKTAYIAKQRQISF, unchanged, scores -52"),
    (OtherwiseOfTokens, f"tokens-as-inputs: it asks otherwise about the encodings of {FIRST}"),
    (
        Backwards,
        f"expected-is-above-zero: {FIRST} scores -9, and 9 back, under a model that expects the mutant",
    ),
]


@pytest.mark.parametrize(("kind", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_scorer_with_a_fault_is_told_of_it(kind, message):
    with pytest.raises(ConformanceError) as caught:
        check_scorer(of(kind))
    assert str(caught.value) == f"scorer 'letters' fails {message}"


@pytest.mark.parametrize("offer", BUILT_IN.offers(ScorerSpec), ids=lambda offer: offer.spec.name)
def test_every_scorer_of_core_keeps_every_promise(offer):
    check_scorer(offer.spec)
    check_scorer(offer.spec, {"units_only": True})


def test_a_scorer_of_a_plugin_may_keep_every_promise():
    check_scorer(of(Letters))


def test_every_check_of_a_scorer_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in FAULTS} == {check.name for check in CHECKS["scorer"]}
