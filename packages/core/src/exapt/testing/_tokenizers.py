# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from exapt.errors import DataError, listed
from exapt.parts import Array, Encoding, Tokenizer
from exapt.specs import Options, TokenizerSpec
from exapt.testing._check import Check, Faults
from exapt.testing._fresh import ask_fresh_process, home_of, part, tokens_of

_STRANGE = ("?", "7", "☃")
_MOST_PLACES = 32


@dataclass(frozen=True)
class TokenizerCase:
    """A tokenizer under test, with inputs that it must be able to read."""

    spec: TokenizerSpec
    options: Options
    inputs: Sequence[Any]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built once."""
        return self.spec.build(self.options)

    @cached_property
    def encodings(self) -> list[Encoding]:
        """Every input as tokens."""
        return [self.tokenizer.encode(value) for value in self.inputs]

    @property
    def texts(self) -> list[tuple[int, str]]:
        """The inputs that are sequences of letters, each with its place."""
        return [(place, value) for place, value in enumerate(self.inputs) if isinstance(value, str) and value]

    def read(self, value: str) -> Encoding | None:
        """Return the tokens, or None where the tokenizer refuses the input in words."""
        try:
            return self.tokenizer.encode(value)
        except DataError:
            return None


def same(one: Encoding, other: Encoding) -> bool:
    """Tell whether a model would read the same of both."""
    names = set(one.arrays) == set(other.arrays)
    return names and all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def arrays_fit(case: TokenizerCase) -> Faults:
    """Every array has one row per token and a value to pad with."""
    for place, encoding in enumerate(case.encodings):
        if set(encoding.arrays) != set(encoding.pads):
            yield f"input {place} has arrays {listed(encoding.arrays)}, but pads for {listed(encoding.pads)}"
        if encoding.spans.shape != (encoding.tokens, 2):
            yield f"input {place} has spans of shape {encoding.spans.shape}, not [tokens, 2]"
        for name, array in encoding.arrays.items():
            if len(array) != encoding.tokens:
                yield f"input {place} has {len(array)} rows of '{name}' for {encoding.tokens} tokens"


def units_covered(case: TokenizerCase) -> Faults:
    """Length counts the letters, and the spans lead through all of them in order."""
    for place, value in case.texts:
        encoding = case.encodings[place]
        if encoding.length != len(value):
            yield f"input {place} has {len(value)} letters, but {encoding.length} units"
        yield from span_faults(f"input {place}", encoding.spans, encoding.length)
    for place, encoding in enumerate(case.encodings):
        if encoding.spans.max(initial=-1) >= encoding.length:
            yield f"input {place} has a token on unit {encoding.spans.max()}, but only {encoding.length} units"


def span_faults(what: str, spans: Array, length: int) -> Faults:
    """Yield where the spans [tokens, 2] of one sequence leave out, repeat, cross or overrun its units."""
    real = spans[(spans >= 0).any(1)]
    crooked = real[(real < 0).any(1) | (real[:, 0] > real[:, 1]) | (real[:, 1] >= length)]
    if len(crooked):
        yield f"{what} has a token on units {_span(crooked[0])} of {length}"
        return
    steps = np.diff(real, axis=0)
    wrong = np.flatnonzero((steps < 0).any(1) | (steps == 0).all(1))
    if len(wrong):
        yield f"{what} has a token on units {_span(real[wrong[0] + 1])} after one on {_span(real[wrong[0]])}"
    covered = {unit for first, last in real for unit in range(first, last + 1)}
    missing = sorted(set(range(length)) - covered)
    if missing:
        yield f"{what} has no token on unit {missing[0]} of {length}"


def _span(span: Array) -> str:
    return f"{span[0]} to {span[1]}"


def units_named(case: TokenizerCase) -> Faults:
    """Where units have names, every unit of every input has one."""
    names = [case.tokenizer.unit_names(value) for value in case.inputs]
    for place, (some, encoding) in enumerate(zip(names, case.encodings, strict=True)):
        if some is None and any(others is not None for others in names):
            yield f"the units of input {place} have no names, but those of others have"
        if some is not None and len(some) != encoding.length:
            yield f"input {place} has {len(some)} names for {encoding.length} units"


def letters_told_apart(case: TokenizerCase) -> Faults:
    """Another letter anywhere makes other tokens, unless it is refused."""
    for place, value in case.texts:
        yield from _collapses(case, f"input {place}", value)


def _collapses(case: TokenizerCase, what: str, value: str) -> Faults:
    alphabet = sorted({letter for _, text in case.texts for letter in (text.lower() if value.islower() else text)})
    for position in np.unique(np.linspace(0, len(value) - 1, _MOST_PLACES).astype(int)):
        letters = (
            sorted({value[position], *alphabet}) if position == len(value) // 2 else _two(value[position], alphabet)
        )
        read: dict[str, str] = {}
        for letter in letters:
            encoding = case.read(_replaced(value, position, letter))
            if encoding is not None:
                twin = read.setdefault(f"{tokens_of([encoding])} {encoding.unknown}", letter)
                if twin != letter:
                    yield f"{what} reads the same with '{twin}' and with '{letter}' at position {position + 1}"


def _two(letter: str, alphabet: Sequence[str]) -> list[str]:
    return [letter, *[other for other in alphabet if other != letter][:1]]


def _replaced(value: str, position: int, letter: str) -> str:
    return value[:position] + letter + value[position + 1 :]


def strange_letters_counted(case: TokenizerCase) -> Faults:
    """A character that the vocabulary does not know is counted, or refused with its position."""
    for place, value in case.texts:
        middle = len(value) // 2
        for letter in _STRANGE:
            if letter not in case.tokenizer.vocabulary:
                yield from _strange(case, place, _replaced(value, middle, letter), middle)


def _strange(case: TokenizerCase, place: int, value: str, position: int) -> Faults:
    what = f"input {place} with '{value[position]}' at position {position + 1}"
    try:
        encoding = case.tokenizer.encode(value)
    except DataError as refusal:
        numbers = {int(number) for number in re.findall(r"\d+", str(refusal))}
        if value[position] not in str(refusal) or not numbers & {position, position + 1}:
            yield f"{what} is refused without character and position: {refusal}"
        return
    if encoding.unknown <= case.encodings[place].unknown:
        yield f"{what} is read with {encoding.unknown} unknown units"
    yield from span_faults(what, encoding.spans, len(value))


def lower_case_on_purpose(case: TokenizerCase) -> Faults:
    """Lower case is read as upper case, told apart, counted as unknown or refused; never lost in silence."""
    for place, value in case.texts:
        what = f"input {place} in lower case"
        encoding = case.read(value.lower())
        if encoding is None or value == value.lower():
            continue
        yield from span_faults(what, encoding.spans, len(value))
        if not same(encoding, case.encodings[place]) and encoding.unknown <= case.encodings[place].unknown:
            yield from _collapses(case, what, value.lower())


def repeatable(case: TokenizerCase) -> Faults:
    """The same input gives the same tokens: again, in another order, from another tokenizer, in another process."""
    again = [case.tokenizer.encode(value) for value in reversed(case.inputs)][::-1]
    rebuilt = [case.spec.build(case.options).encode(value) for value in case.inputs]
    for when, encodings in (("in another order", again), ("by a tokenizer built anew", rebuilt)):
        for place, (one, other) in enumerate(zip(case.encodings, encodings, strict=True)):
            if tokens_of([one]) != tokens_of([other]):
                yield f"input {place} gives other tokens when it is read {when}"
    if home_of(case.spec) and all(isinstance(value, (str, dict)) for value in case.inputs):
        answer = ask_fresh_process({"tokenizer": part(case.spec, case.options), "inputs": list(case.inputs)})
        if answer["tokens"] != tokens_of(case.encodings):
            yield "the inputs give other tokens in a fresh process"


def empty_input(case: TokenizerCase) -> Faults:
    """A sequence without letters has no units, or is refused in words."""
    encoding = case.read("") if case.texts else None
    if encoding is not None and (encoding.length or (encoding.spans >= 0).any()):
        yield f"an empty sequence has {encoding.length} units and {(encoding.spans >= 0).any(1).sum()} tokens on units"


def known_by_its_vocabulary(case: TokenizerCase) -> Faults:
    """The fingerprint that adapters keep is the same for every build, and rests on a vocabulary."""
    from exapt.fingerprint import fingerprint_tokenizer

    if not case.tokenizer.vocabulary:
        yield "its vocabulary is empty, so that another tokenizer could not be told from it"
    prints = {
        fingerprint_tokenizer(tokenizer, case.inputs) for tokenizer in (case.tokenizer, case.spec.build(case.options))
    }
    if len(prints) > 1:
        yield "two builds have different fingerprints"


TOKENIZER_CHECKS: tuple[Check[TokenizerCase], ...] = (
    Check("arrays-fit", "a batch that cannot be padded", arrays_fit),
    Check("units-covered", "unknown runs that collapse, a dropped tail: labels slip to other residues", units_covered),
    Check("units-named", "answers read under the name of another gene", units_named),
    Check("letters-told-apart", "characters that vanish before the model sees them", letters_told_apart),
    Check("strange-letters-counted", "unknown characters mapped away in silence", strange_letters_counted),
    Check("lower-case-on-purpose", "lower case read as one long unknown", lower_case_on_purpose),
    Check("repeatable", "ties and state that make the same input other tokens", repeatable),
    Check("empty-input", "an empty sequence that crashes or counts units", empty_input),
    Check("known-by-its-vocabulary", "an adapter loaded over another tokenizer", known_by_its_vocabulary),
)
