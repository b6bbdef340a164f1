"""What is asked: a head, and what it is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from exapt.errors import RecipeError
from exapt.parts.backbone import LanguageModel
from exapt.parts.inputs import Array, Encoding, Tokenizer


@dataclass(frozen=True)
class HeadContext:
    """What a head is built from: the width of each input's features, and what it needs to pose questions of its own.

    ``language`` maps inputs to the pretrained language model of their backbone, where it has one; ``tokenizer`` makes
    the encodings of all inputs.
    """

    widths: Mapping[str, int]
    language: Mapping[str, LanguageModel] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Outcomes:
    """What the numbers [..., outcomes] of a head's answer tell of, so that they can be explained one by one.

    ``names`` are those of classes, labels or measured values. ``told`` takes answers to the scale on which they are
    explained: logits of probabilities, or the labels' own units. ``probabilities`` takes them to these, where there are any;
    of ``exclusive`` outcomes, as classes are, they add up to 1. ``logits`` takes answers to what a softmax or, of outcomes
    each for itself, a sigmoid makes probabilities of.
    """

    names: Sequence[str]
    told: Callable[[Tensor], Tensor] = field(default=lambda output: output)
    probabilities: Callable[[Tensor], Tensor] | None = None
    exclusive: bool = True
    logits: Callable[[Tensor], Tensor] = field(default=lambda output: output)


class Head(nn.Module, ABC):
    """A question: it reads features, and has its own loss, its own metrics and its own words for the answer."""

    reads: str = "tokens"
    """The pooling without parameters that this head reads (``mean``, ``max``, ``cls``), or ``tokens`` for the whole."""
    answers: Literal["input", "unit", "token", "pair"] = "input"
    """What ``forward`` answers for: an input, [batch, ...], each of its units, [batch, units, ...], or tokens; or each pair
    of its units, [batch, units, units, ...].
    """
    labelled: bool = True
    """Whether its targets are labels of the data; if not, ``pose`` makes them of the input itself."""
    fits: bool = False
    """Whether it is fitted to the features of all training rows at once, by ``fit``; it then reads a pooling."""
    whole: bool = False
    """Whether its loss in training compares the rows of a step, which then is never split into micro-batches."""
    pad: float = -100
    """What fills up targets of unequal length; ``weigh`` and ``loss`` leave it out."""
    metric: str
    """The metric by which the best epoch is chosen, unless the recipe names another."""
    smoothing: float | None = None
    """Share of each target that its ``loss`` in training spreads over all classes; None of a head that cannot."""

    @property
    def language(self) -> LanguageModel | None:
        """The language model that it learned, for variants to be scored by; None if it is no such head."""
        return None

    @property
    def outcomes(self) -> Outcomes | None:
        """What the numbers of its answers tell of; None if they have no names, so that none of them can be asked for."""
        return None

    @property
    def ragged(self) -> bool:
        """Whether inputs differ in how many answers they have: one for each unit, token or pair of units."""
        return self.axes > 0

    @property
    def axes(self) -> int:
        """How many axes of one input's answer run over its units or tokens: two of a pair, none of a whole input."""
        return {"input": 0, "pair": 2}.get(self.answers, 1)

    def adjust(self, features: Mapping[str, Any]) -> None:
        """See the features of some training examples of a frozen backbone, once, before training: to set a normalisation.

        It is not called where the backbone learns, since its features then move.
        """

    def fit(self, features: Mapping[str, Any], targets: Tensor) -> Mapping[str, Tensor]:
        """Return what its buffers are to hold, by name and in their own shapes, fitted to all training rows in closed form.

        ``features`` maps inputs to ``Pooled`` vectors [rows, width], ``targets`` are [rows, ...], ``pad`` where there is no
        label. It is called before training, in evaluation mode, and wherever something learns again after each epoch.
        Meta-learning calls it on few examples and goes on through what is returned to the features.
        """
        return {}

    def encode(self, label: Any, length: int) -> Array:
        """Return one label as a target array: [] or [targets] per input, [units] per unit, [units, units] per pair of units.

        A list for units holds None where there is no label, or where no token covers the unit: its target is ``pad``.
        Core itself puts ``pad`` for pairs with such a unit.
        Raises ``DataError`` for a label that the head does not know or whose length differs from the input's.
        """
        raise RecipeError(f"{type(self).__name__} takes no labels")

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return an input as the model is to see it (such as with tokens hidden), and the target [tokens].

        Asked only of heads without labels, anew each time an input is seen in training; all chance is to come from
        ``rng``.
        """
        raise RecipeError(f"{type(self).__name__} learns from labels")

    def condense(self, output: Tensor, target: Tensor) -> Tensor:
        """Return what of a batch's outputs is kept until all rows are measured: all of it, unless that is too much.

        Only of heads without labels; ``loss``, ``decode`` and ``metrics`` then meet what was kept.
        """
        return output

    @abstractmethod
    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Answer: [batch, answers], [batch, units or tokens, answers], or [batch, units, units] and maybe answers of pairs,
        as ``answers`` says. ``features`` maps inputs to ``Features`` (or ``Pooled``, if ``reads`` is a pooling).
        """

    @abstractmethod
    def weigh(self, target: Tensor) -> Tensor:
        """Return the summed weight [] of the targets that count; the loss is divided by it over the whole step."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the weighted *sum* [] of the losses of all targets that count."""

    @abstractmethod
    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Put outputs, one array per input (padding cut off), into words: columns such as ``prediction``.

        None stands for a number that an input has none of; words are never missing. Core puts None in place of what is
        said of units that no token covers; of pairs with such a unit, NaN stands in the output already, to be left out.
        """

    @abstractmethod
    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the metrics of outputs against targets, one array per input each."""
