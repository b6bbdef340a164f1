"""What transfer adds beside strategies: changes of the inputs, and scores without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exapt.errors import RecipeError
from exapt.parts.inputs import Array, Encoding, Tokenizer


@dataclass(frozen=True)
class Changed:
    """An input after a change.

    ``units`` [units] says of each unit which one of the input it was before, ``NO_UNIT`` for a new one; None where every
    unit stayed in its place.
    """

    value: Any
    units: Array | None = None


class Augmentation:
    """Changes inputs without changing what they mean, before they are encoded."""

    trains: bool = True
    """Whether ``change`` does anything, so that no features can be kept of training rows."""

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return a training input, changed at random; all chance is to come from ``rng``."""
        return Changed(value)

    def views(self, value: Any) -> Sequence[Changed]:
        """Return other views of an input: the answers for all of them are averaged with the answer for itself."""
        return ()


@dataclass(frozen=True)
class Question:
    """What a scorer asks of a language model: how probable are some tokens at some places of one input.

    ``places`` [asked] are token positions of ``encoding``, ``tokens`` [asked] the ids that might stand there, ``weights``
    [asked] what their natural-log probabilities count in the score. A masked model answers of the token at a place, a
    causal one of the token after it. ``among`` are the ids that share the probability; None for the whole vocabulary.
    """

    encoding: Encoding
    places: Array
    tokens: Array
    weights: Array
    among: Array | None = None


class Scorer(ABC):
    """Tells the effect of a variant from what a pretrained language model expects, without labels."""

    @abstractmethod
    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterable[Question]:
        """Yield what to ask about a pair of inputs.

        The score is the sum of all answers by their weights: above 0 where the model expects the mutant more than the
        wild type. Equal encodings cost one pass, whoever asks. Raises ``DataError``, saying which other scorer to use,
        for a pair that this one cannot compare.
        """

    def ask_of_tokens(
        self, tokenizer: Tokenizer, wild: Encoding, mutants: Sequence[Encoding]
    ) -> Iterable[Question] | None:
        """Yield one question for each of many mutants whose tokens stand for the same places as those of the wild type.

        It is what ``ask`` yields of their inputs, made faster: a scan asks it of thousands of mutants. None where the
        encodings do not tell enough.
        """
        return None

    def likelihood(self, tokenizer: Tokenizer, value: Any) -> Iterable[Question]:
        """Yield what to ask about one input by itself: the sum of all answers by their weights is its log-likelihood.

        The weights of what is asked of one unit sum to 1. Raises ``RecipeError`` where the scorer tells changes alone.
        """
        raise RecipeError(f"{type(self).__name__} tells the effect of changes, and no likelihood of an input by itself")
