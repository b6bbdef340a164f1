# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a head without labels, which poses its own questions."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from exapt.data.batching import padded
from exapt.errors import listed
from exapt.parts import Array, Encoding, Head, LanguageModel
from exapt.testing._cells import emptied, is_cell
from exapt.testing._check import Check, Faults
from exapt.testing._head_case import WIDTH
from exapt.testing._heads import (
    all_of_it_learns,
    loss_adds_up,
    metrics_finite,
    padding_left_out,
    same_beside_others,
    saved_and_loaded,
)
from exapt.testing._posed_case import PosedHeadCase
from exapt.testing._structures import is_structure

_TRIES = 20
_IN_SIGHT = 0.75


def as_specified(case: PosedHeadCase) -> Faults:
    """Specification and module agree: it learns without labels, and answers for tokens."""
    head = case.build()
    if head.labelled:
        yield "the specification says labelled = False, the module says True"
    if (case.spec.answers, head.answers) != ("token", "token"):
        said = f"the specification answers for each {case.spec.answers}, the module for each {head.answers}"
        yield f"{said}; without labels both answer for each token"


def chance_from_the_generator(case: PosedHeadCase) -> Faults:
    """All its chance comes from the generator that it is given: the same seed, the same question."""
    head = case.build()
    for row, seed in _tries(case):
        (one, target), (other, again) = case.ask(head, row, seed), case.ask(head, row, seed)
        if not (_same(one, other) and _equal(target, again)):
            yield f"it asks otherwise of input {row} under the same seed {seed}"


def _tries(case: PosedHeadCase) -> Iterator[tuple[int, int]]:
    return ((row, seed) for row in range(len(case.inputs)) for seed in range(_TRIES))


def _equal(one: Array, other: Array) -> bool:
    # What fills up numbers is often NaN, which is equal to nothing.
    return np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")


def _pads(head: Head, target: Array) -> Array:
    return np.asarray(np.isnan(target) if math.isnan(head.pad) else target == head.pad)


def _same(one: Encoding, other: Encoding) -> bool:
    return (
        (one.length, one.unknown, one.pads) == (other.length, other.unknown, other.pads)
        and np.array_equal(one.spans, other.spans)
        and list(one.arrays) == list(other.arrays)
        and all(_equal(array, other.arrays[name]) for name, array in one.arrays.items())
    )


def input_left_as_it_was(case: PosedHeadCase) -> Faults:
    """The input stays as it was; what is to be seen has its tokens, spans and length, and ids of the vocabulary."""
    head, known = case.build(), sorted(case.tokenizer.vocabulary.values())
    for row, seed in _tries(case):
        before, given = case.encodings[row], copy.deepcopy(case.encodings[row])
        seen, _ = head.pose(given, np.random.default_rng((seed, row)))
        if not _same(given, before):
            yield f"input {row} itself is changed when something is asked of it"
        elif (seen.tokens, seen.length) != (before.tokens, before.length):
            yield f"input {row} is to be seen with {_size(seen)}, after {_size(before)}"
        elif not np.array_equal(seen.spans, before.spans):
            yield f"input {row} is to be seen with other spans"
        elif _kinds(seen) != _kinds(before):
            yield f"input {row} is to be seen as {_kinds(seen)}, after {_kinds(before)}"
        strange = np.setdiff1d(seen.arrays[case.tokenizer.ids], known)
        if len(strange):
            yield f"input {row} is to be seen with token {strange[0]}, which is not in the vocabulary"


def _size(encoding: Encoding) -> str:
    return f"{encoding.tokens} tokens and {encoding.length} units"


def _kinds(encoding: Encoding) -> str:
    return listed(f"{name} {array.dtype}{list(array.shape)}" for name, array in encoding.arrays.items())


def one_target_per_token(case: PosedHeadCase) -> Faults:
    """There is one target per token, ``pad`` where nothing is asked, and something is asked of every input."""
    head = case.build()
    for row, encoding in enumerate(case.encodings):
        targets = [case.ask(head, row, seed)[1] for seed in range(_TRIES)]
        for target in targets:
            if target.shape[:1] != (encoding.tokens,):
                yield f"input {row} of {encoding.tokens} tokens has targets of shape {list(target.shape)}"
            idle = [value for value in np.unique(target) if not _pads(head, value) and not _weight(head, value)]
            yield from (f"a target of input {row} that does not count is {value}, not {head.pad}" for value in idle)
        if not any(_weight(head, target) for target in targets):
            yield f"nothing is asked of input {row} in {_TRIES} tries"


def asks_what_is_hidden(case: PosedHeadCase) -> Faults:
    """A language model is asked for tokens, no special ones, that it cannot see: hidden ones, or the next ones."""
    head = case.build()
    if head.language is None:
        return
    asked = in_sight = 0
    for row, seed in _tries(case):
        seen, target = case.ask(head, row, seed)
        places = np.flatnonzero(~_pads(head, target))
        ids = case.encodings[row].arrays[case.tokenizer.ids]
        wanted = _wanted(ids, places, case.objective)
        for place, id_, true in zip(places, target[places], wanted, strict=True):
            if id_ != true:
                yield f"token {place} of input {row} has the target {id_}, and the one to be told there is {true}"
            if id_ in case.tokenizer.special:
                yield f"token {place} of input {row} is asked for, and {id_} is a special token"
        asked += len(places)
        in_sight += int((seen.arrays[case.tokenizer.ids][places] == ids[places]).sum())
    # Some that are left in sight, or replaced by themselves, are part of the objective; most of them is none.
    if case.objective == "masked" and in_sight > _IN_SIGHT * asked:
        yield f"of {asked} tokens that it asks for {in_sight} are left in sight"


def _wanted(ids: Array, places: Array, objective: str) -> Array:
    """Return the token to be told at each place: itself, or for a causal model the next, -1 behind the last."""
    return np.append(ids[1:], -1)[places] if objective == "causal" else ids[places]


def _weight(head: Head, target: Array) -> float:
    return float(head.weigh(torch.from_numpy(np.atleast_1d(target))[None]))


def same_when_condensed(case: PosedHeadCase) -> Faults:
    """What is kept of a batch is finite, and has the loss of the whole when it is put together again."""
    head = case.build()
    kept = case.outputs(head)
    for row, output in enumerate(kept):
        if not np.isfinite(output).all():
            yield f"what is kept of input {row} is not finite"
    again = torch.from_numpy(padded(kept, max(case.lengths), 0))
    whole, condensed = float(case.loss(head).detach()), float(head.loss(again, case.targets(head)))
    if not math.isclose(whole, condensed, rel_tol=1e-5):
        yield f"the loss is {whole:.4g}, but {condensed:.4g} of what is kept"


def language_learned(case: PosedHeadCase) -> Faults:
    """A language model that it gives for scoring is the one that learned; the pretrained one stays as it was."""
    given, before = case.learned.language, _logits(case.language(case.objective))
    if not torch.equal(_logits(case.pretrained), before):
        yield "learning changes the pretrained language model"
    if given is None:
        return
    if given.objective != case.objective:
        yield f"it learned on a {case.objective} language model, and gives a {given.objective} one"
    logits = _logits(given)
    if logits.shape != before.shape:
        yield f"its language model has {logits.shape[-1]} logits for {before.shape[-1]} tokens of the vocabulary"
    elif torch.equal(logits, before):
        yield "the language model that it gives has not learned"


@torch.inference_mode()
def _logits(language: LanguageModel) -> torch.Tensor:
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    logits: torch.Tensor = language.head(states)
    return logits


def one_value_each(case: PosedHeadCase) -> Faults:
    """Every column of the answer has one value per input."""
    for name, values in case.learned.decode(case.outputs(case.learned)).items():
        if len(values) != len(case.inputs):
            yield f"column '{name}' has {len(values)} values for {len(case.inputs)} inputs"


def empty_input(case: PosedHeadCase) -> Faults:
    """An input without units makes neither loss nor metrics infinite or NaN, beside others or alone."""
    # Of a structure without residues no tokenizer makes anything.
    if is_structure(case.inputs[0]):
        return
    nothing = emptied(case.inputs[0]) if is_cell(case.inputs[0]) else ""
    for what, inputs in (("beside others", (nothing, *case.inputs)), ("alone", (nothing,))):
        among = replace(case, inputs=inputs)
        head = among.build()
        found = {"loss": float(among.loss(head).detach())}
        found |= head.metrics(among.outputs(head), among.encoded(head))
        for name, value in found.items():
            if not math.isfinite(value):
                yield f"'{name}' is {value} with an input without units {what}"


def metrics_tell(case: PosedHeadCase) -> Faults:
    """Metrics of a language model that has learned are others than those of one that has not."""
    fresh, learned = case.build(), case.learned
    if learned.language is None:
        return
    before, after = (head.metrics(case.outputs(head), case.encoded(head)) for head in (fresh, learned))
    if before == after:
        said = listed(f"{name} {value:.4g}" for name, value in after.items())
        yield f"its metrics are the same before and after it has learned: {said}"


POSED_HEAD_CHECKS: tuple[Check[PosedHeadCase], ...] = (
    Check("as-specified", "a head that is never asked to pose its questions", as_specified),
    Check("chance-from-the-generator", "runs that cannot be repeated or resumed", chance_from_the_generator),
    Check("input-left-as-it-was", "tokens that stay hidden for good", input_left_as_it_was),
    Check("one-target-per-token", "answers compared with other tokens, steps without a lesson", one_target_per_token),
    Check("asks-what-is-hidden", "a perfect score for what stands in sight", asks_what_is_hidden),
    Check("loss-adds-up", "a loss that depends on how a step is split", loss_adds_up),
    Check("padding-left-out", "padding that is guessed as a token", padding_left_out),
    Check("all-of-it-learns", "parameters that learn in vain", all_of_it_learns),
    Check("same-beside-others", "answers that depend on the batch", same_beside_others),
    Check("same-when-condensed", "a loss measured of other numbers than those learned from", same_when_condensed),
    Check("language-learned", "variants scored by weights that did not learn", language_learned),
    Check("one-value-each", "answers that slip to other rows", one_value_each),
    Check("metrics-finite", "a best epoch chosen by NaN", metrics_finite),
    Check("empty-input", "an input without units that becomes NaN", empty_input),
    Check("metrics-tell", "numbers that are the same whatever is learned", metrics_tell),
    Check("saved-and-loaded", "learned weights left out when saved", saved_and_loaded),
)
