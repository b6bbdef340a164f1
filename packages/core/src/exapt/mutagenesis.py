"""In-silico mutagenesis: each letter of an input replaced by each other, and by how much that moves the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import torch

from exapt.building import encode_one
from exapt.data.tables import Examples
from exapt.errors import DataError
from exapt.outcome import UNSEEN, Counted, Wild

# Mutants that are read together: enough to fill passes, few enough that their answers need little memory.
_MUTANTS = 256

_UNREAD: Counted = (
    "substitution to or from a letter that the model does not know is",
    "substitutions to or from letters that the model does not know are",
)


@dataclass(frozen=True)
class Mutant:
    """An input with one letter replaced, at a ``position`` counted from 1."""

    position: int
    wild: str
    letter: str
    text: str


def mutagenesis(wild: Wild, positions: Sequence[int], left_out: Counter[Counted]) -> pa.RecordBatch:
    """Return the effect of each substitution at some positions: the mutant's answer minus that of the wild type.

    What has none is counted in ``left_out``.
    """
    every, effects = [], []
    mutants = _mutants(wild, positions, left_out)
    while some := list(islice(mutants, _MUTANTS)):
        every += some
        effects += _effects(wild, some)
    return pa.record_batch(
        {
            **wild.columns([mutant.position for mutant in every]),
            "wild_type": pa.array([mutant.wild for mutant in every], pa.string()),
            "mutant": pa.array([mutant.letter for mutant in every], pa.string()),
            "effect": pa.array(effects, pa.float64()),
        }
    )


def _mutants(wild: Wild, positions: Sequence[int], left_out: Counter[Counted]) -> Iterator[Mutant]:
    text, letters, alphabet = wild.text, wild.outcome.bare(wild.text), wild.outcome.alphabet
    for position in positions:
        own = letters[position - 1]
        if not wild.covered[position - 1]:
            left_out[UNSEEN] += 1
        elif own not in alphabet:
            left_out[_foreign(alphabet)] += 1
        else:
            for letter in alphabet.replace(own, ""):
                mutant = Mutant(position, own, letter, f"{text[: position - 1]}{letter}{text[position:]}")
                if _is_read(wild, mutant):
                    yield mutant
                else:
                    left_out[_UNREAD] += 1


def _foreign(alphabet: str) -> Counted:
    return (f"position of another letter than {alphabet} is", f"positions of other letters than {alphabet} are")


def _is_read(wild: Wild, mutant: Mutant) -> bool:
    """Return whether the model knows the letters before and after alike."""
    adapted = wild.outcome.adapted
    parts = (adapted.resolved.backbone, adapted.resolved.tokenizer)
    try:
        return encode_one(adapted.tokenizer, mutant.text, wild.who, *parts).unknown == wild.encoding.unknown
    except DataError:
        return False


def _effects(wild: Wild, mutants: Sequence[Mutant]) -> list[float]:
    outcome = wild.outcome
    inputs = {name: [value] * len(mutants) for name, (value,) in wild.example.inputs.items()}
    inputs[outcome.input] = [mutant.text for mutant in mutants]
    ids = [f"{wild.who} {mutant.wild}{mutant.position}{mutant.letter}" for mutant in mutants]
    _, outputs = outcome.ask(Examples(ids, inputs, {}, pa.table({})))
    return [
        _effect(wild, mutant.position, outcome.told(torch.from_numpy(output).double()))
        for mutant, output in zip(mutants, outputs, strict=True)
    ]


def _effect(wild: Wild, position: int, told: torch.Tensor) -> float:
    before, after = wild.told, told
    if wild.outcome.per_unit:
        place = wild.outcome.place(position)
        before, after = before[place], after[place]
    target = wild.target(position)
    return float(after[target] - before[target])
