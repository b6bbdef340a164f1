"""What is asked of an adapter that explains itself: which number of which head's answers, and how it depends on which input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import pyarrow as pa
import torch
from torch import Tensor

from exapt.adapted import Adapted
from exapt.building import Tallies
from exapt.data.alphabets import SUBSTITUTES, bare
from exapt.data.tables import Examples
from exapt.errors import DataError, RecipeError, did_you_mean
from exapt.parts import Array, Encoding, Head, Outcomes
from exapt.rows import Rows

Counted = tuple[str, str]
"""What is said of one thing that is left out, and of several."""
UNSEEN: Counted = ("position that the model does not see is", "positions that the model does not see are")


@dataclass(frozen=True)
class Choice:
    """What can be chosen of an explanation.

    ``head`` and ``input`` are needed where there are several, and ``target`` (a class, a label or a measured value) where a
    head measures several values: without it, it is the class that the model itself gives to the input, or to the position.
    ``positions`` (from 1) are those that vary; ``at`` is the position whose answer is explained, of answers position by
    position, in place of the one that varies. ``probabilities`` are explained in place of logits.
    """

    method: str = "mutagenesis"
    head: str = ""
    target: str = ""
    positions: str | Sequence[int] = ""
    at: int | None = None
    input: str = ""
    probabilities: bool = False


@dataclass(frozen=True)
class Outcome:
    """A number of the answers of one of an adapter's heads, and the ``input`` on which it depends.

    ``names`` are those of all numbers of an answer, ``target`` is the one that is meant, None for the highest.
    """

    adapted: Adapted
    name: str
    outcomes: Outcomes
    names: tuple[str, ...]
    target: int | None
    input: str
    at: int | None
    probabilities: bool

    @classmethod
    def of(cls, adapted: Adapted, choice: Choice) -> Self:
        """Find what is chosen. Raises ``RecipeError`` for what the adapter does not have, or cannot tell."""
        _check_letters(adapted)
        name = _head(adapted, choice.head)
        outcomes = _outcomes(adapted.model.head(name), name)
        if choice.probabilities and outcomes.probabilities is None:
            raise RecipeError(f"head '{name}' tells measured values, which have no probabilities")
        names = _names(adapted, name, outcomes)
        target = _target(name, names, outcomes, choice.target)
        varied = _input(adapted, name, choice.input)
        _check_at(adapted, name, varied, choice.at)
        return cls(adapted, name, outcomes, names, target, varied, choice.at, choice.probabilities)

    @property
    def head(self) -> Head:
        """The head whose answers are explained."""
        return self.adapted.model.head(self.name)

    @property
    def per_unit(self) -> bool:
        """Whether it answers position by position."""
        return self.head.answers == "unit"

    @property
    def alphabet(self) -> str:
        """The letters that units of its inputs can be replaced by."""
        return SUBSTITUTES[self._modality]

    @property
    def counts(self) -> str:
        """What the number counts: ``logit``, ``probability``, or the value that is measured."""
        if self.outcomes.probabilities is None:
            return self.names[self.target or 0]
        return "probability" if self.probabilities else "logit"

    @property
    def _modality(self) -> str:
        return str(self.adapted.resolved.backbone.offer.spec.modality)

    def bare(self, text: str) -> str:
        """Return an input in capital letters, with one letter for all that is unknown."""
        return bare(text, self._modality)

    def told(self, output: Tensor) -> Tensor:
        """Return an answer [..., outcomes] as probabilities, logits or values in the labels' own units."""
        if self.probabilities and self.outcomes.probabilities is not None:
            return self.outcomes.probabilities(output)
        return self.outcomes.told(output)

    def place(self, position: int) -> int:
        """Return the index of the unit whose answer is explained while ``position`` varies."""
        return (self.at or position) - 1

    def ask(self, examples: Examples, tallies: Tallies | None = None) -> tuple[Rows, list[Array]]:
        """Return examples as the model reads them, and the head's raw answer to each, averaged over views.

        Raises ``DataError`` for an input that is read in windows, each with an answer of its own.
        """
        asked = self.adapted.ask(examples, tallies)
        if len(asked.rows) > len(examples):
            raise DataError(
                f"'{examples.ids[0]}' is longer than the model takes, and each window of it has an answer of its own: "
                "explain its parts as inputs of their own"
            )
        return asked.rows, [output[self.name] for output in self.adapted.outputs(asked.rows)]


@dataclass(frozen=True)
class Wild:
    """An input as it is: the example, the same as the model reads it, and the head's raw answer."""

    example: Examples
    rows: Rows
    output: Array
    outcome: Outcome

    @classmethod
    def of(cls, outcome: Outcome, example: Examples, tallies: Tallies) -> Self:
        """Ask for one example as it is. Raises ``DataError`` if the model does not see the position that is asked for."""
        rows, (output,) = outcome.ask(example, tallies)
        wild = cls(example, rows, output, outcome)
        if outcome.at is not None:
            wild._check_seen(outcome.at)
        return wild

    @property
    def who(self) -> str:
        """The id."""
        return self.example.ids[0]

    @property
    def text(self) -> str:
        """The letters that vary."""
        return str(self.example.inputs[self.outcome.input][0])

    @property
    def encoding(self) -> Encoding:
        """The letters that vary, as the model reads them."""
        return self.rows.inputs[self.outcome.input].encodings[0]

    @cached_property
    def covered(self) -> Array:
        """Which of the letters [units] the model sees."""
        return self.encoding.covered

    @property
    def seen(self) -> bool:
        """Whether the model sees anything of all that it reads."""
        return not any(inputs.encodings[0].empty for inputs in self.rows.inputs.values())

    @cached_property
    def told(self) -> Tensor:
        """The answer [outcomes], or [units, outcomes], on the scale on which it is explained."""
        return self.outcome.told(torch.from_numpy(self.output).double())

    def target(self, position: int) -> int:
        """Return which number of the answer is explained while ``position`` varies."""
        if self.outcome.target is not None:
            return self.outcome.target
        told = self.told[self.outcome.place(position)] if self.outcome.per_unit else self.told
        return int(told.argmax())

    def columns(self, positions: Sequence[int]) -> dict[str, pa.Array]:
        """Return what stands before all else in a table of the ``positions``, one row each."""
        names = [self.outcome.names[self.target(position)] for position in positions]
        return {
            "id": pa.array([self.who] * len(positions), pa.string()),
            "head": pa.array([self.outcome.name] * len(positions), pa.string()),
            "target": pa.array(names, pa.string()),
            "position": pa.array(positions, pa.int64()),
        }

    def _check_seen(self, at: int) -> None:
        encoding = self.rows.inputs[self.rows.answered[self.outcome.name]].encodings[0]
        if at > encoding.length:
            raise DataError(f"'{self.who}' has {encoding.length:,} positions: there is no answer at {at:,}")
        if not encoding.covered[at - 1]:
            raise DataError(f"'{self.who}': the model does not see position {at:,}, and has no answer at it")


def _check_letters(adapted: Adapted) -> None:
    spec = adapted.resolved.backbone.offer.spec
    if spec.accepts != "sequence":
        raise RecipeError(
            f"'{adapted.name}' reads {spec.accepts}s, whose units are not letters that could be replaced: explain takes an "
            "adapter of a model of sequences, such as DNA or protein"
        )
    if spec.modality not in SUBSTITUTES:
        raise RecipeError(
            f"'{adapted.name}' reads {spec.modality}, whose letters are not known: explain takes DNA or protein"
        )


def _head(adapted: Adapted, wanted: str) -> str:
    heads = list(adapted.model.heads)
    if not wanted and len(heads) > 1:
        raise RecipeError(f"the adapter has several heads, {', '.join(heads)}: name one with --head")
    if wanted and wanted not in heads:
        hint = did_you_mean(wanted, heads)
        raise RecipeError(f"the adapter has no head '{wanted}'.{hint} It has: {', '.join(heads)}.")
    return wanted or heads[0]


def _outcomes(head: Head, name: str) -> Outcomes:
    if head.language is not None:
        raise RecipeError(
            f"head '{name}' is a language model, which tells of every letter and not of one outcome: 'exapt score --scan' "
            "tells the effect of each substitution"
        )
    if head.outcomes is None or head.answers not in ("input", "unit"):
        raise RecipeError(f"head '{name}' does not say what the numbers of its answers are of: it cannot be explained")
    return head.outcomes


def _names(adapted: Adapted, name: str, outcomes: Outcomes) -> tuple[str, ...]:
    label = adapted.resolved.heads[name].label
    # A head that measures one value need not know what it is called: the column of the labels does.
    return (label,) if len(outcomes.names) == 1 and isinstance(label, str) else tuple(outcomes.names)


def _target(name: str, names: Sequence[str], outcomes: Outcomes, wanted: str) -> int | None:
    if wanted:
        if wanted not in names:
            hint = did_you_mean(wanted, names)
            raise RecipeError(f"head '{name}' does not tell of '{wanted}'.{hint} It tells of: {', '.join(names)}.")
        return list(names).index(wanted)
    if outcomes.probabilities is None and len(names) > 1:
        raise RecipeError(f"head '{name}' measures several values, {', '.join(names)}: name one with --target")
    return 0 if len(names) == 1 else None


def _input(adapted: Adapted, name: str, wanted: str) -> str:
    every = list(adapted.resolved.recipe.data.inputs)
    if wanted and wanted not in every:
        hint = did_you_mean(wanted, every)
        raise RecipeError(f"the adapter reads no input '{wanted}'.{hint} It reads: {', '.join(every)}.")
    read = list(getattr(adapted.resolved.heads[name].options, "inputs", ()) or every)
    if not wanted and len(read) > 1:
        raise RecipeError(
            f"head '{name}' reads several inputs, {', '.join(read)}: name the one that varies with --input"
        )
    if wanted and wanted not in read:
        raise RecipeError(f"head '{name}' does not read the input '{wanted}', but {', '.join(read)}")
    return wanted or read[0]


def _check_at(adapted: Adapted, name: str, varied: str, at: int | None) -> None:
    per_unit = adapted.model.head(name).answers == "unit"
    if at is not None and not per_unit:
        raise RecipeError(
            f"head '{name}' answers for a whole input: --at is for heads that answer position by position"
        )
    if at is not None and at < 1:
        raise RecipeError(f"positions count from 1: there is no answer at {at}")
    answered = adapted.resolved.answered[name]
    if per_unit and at is None and answered != varied:
        raise RecipeError(
            f"head '{name}' answers for the positions of '{answered}', and '{varied}' varies: name one of them with --at"
        )
