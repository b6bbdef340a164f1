# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a head."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from exapt.errors import DataError, listed
from exapt.parts import Head, Pooled
from exapt.testing._backbone_case import TOLERANCE, gap
from exapt.testing._check import Check, Faults
from exapt.testing._head_case import AnyHeadCase, HeadCase, answer, features_of, rows_of, unpadded

_ALLOWED = f"; at most {TOLERANCE} is allowed"
_NOT_A_LABEL = "no such label"


def as_specified(case: HeadCase) -> Faults:
    """Specification and module agree: it learns from labels, and answers for inputs, for their units or for pairs of these."""
    head = case.build()
    if not head.labelled:
        yield "the specification says labelled = True, the module says False"
    if head.answers == "token":
        yield "it answers for each token, and labels are of inputs or of units"
    elif head.answers != case.spec.answers:
        yield f"the specification answers for each {case.spec.answers}, the module for each {head.answers}"
    if head.fits != case.spec.fits:
        yield f"the specification says fits = {case.spec.fits}, the module says {head.fits}"
    elif head.fits and head.reads == "tokens":
        yield "it is fitted to pooled features, and reads all tokens"
    if case.spec.learns != any(parameter.requires_grad for parameter in head.parameters()):
        has = "no parameters that learn" if case.spec.learns else "parameters that learn"
        yield f"the specification says learns = {case.spec.learns}, and the module has {has}"
    if head.answers == "pair":
        shape, units = list(answer(head, case.features).shape), max(case.lengths)
        if shape[:3] != [len(case.lengths), units, units]:
            yield f"it answers {shape} for pairs among {units} units of {len(case.lengths)} inputs"


def order_of_labels(case: HeadCase) -> Faults:
    """What is inferred from the labels does not depend on their order."""
    forwards, backwards = case.options, case.spec.infer(case.asked, case.labels[::-1])
    for name in type(forwards).model_fields:
        if not _alike(getattr(forwards, name), getattr(backwards, name)):
            yield f"'{name}' is {getattr(forwards, name)!r}, but {getattr(backwards, name)!r} of reversed labels"


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def unknown_label_refused(case: HeadCase) -> Faults:
    """A label that the head was not built for, or of another length, is refused in words; of pairs, one that lies outside."""
    head = case.build()
    wrong: list[tuple[Any, int, str]] = [
        ([_NOT_A_LABEL] * 3, 3, "unknown") if head.ragged else (_NOT_A_LABEL, 3, "unknown")
    ]
    if head.answers == "pair":
        # Pairs that are listed say nothing of how many units there are; of a single one, none can be right.
        wrong += [(label, 1, "too long") for label in case.labels if len(label)][:1]
    elif head.ragged:
        wrong.append((case.labels[0], case.lengths[0] + 1, "too short"))
    for label, length, what in wrong:
        try:
            target = head.encode(label, length)
        except DataError:
            continue
        yield f"the {what} label {label!r} for {length} units becomes the target {target.tolist()}"


def other_labels_refused(case: HeadCase) -> Faults:
    """The state of a head does not load into one that was built for other classes."""
    fewer = [label for label in case.labels if label != case.labels[0]]
    try:
        other = case.build(options=case.spec.infer(case.asked, fewer))
    except DataError:
        return
    sizes = [_size(head, case) for head in (case.build(), other)]
    if sizes[0] == sizes[1]:
        return
    try:
        other.load_state_dict(case.build().state_dict())
    except RuntimeError:
        return
    yield f"the state of a head of {sizes[0]} answers loads into one of {sizes[1]}"


def _size(head: Head, case: HeadCase) -> int:
    return int(answer(head, case.features).shape[-1])


def loss_adds_up(case: AnyHeadCase) -> Faults:
    """The loss is a sum: twice the inputs have twice the loss and twice the weight, however they are split."""
    head = case.build()
    output, target = answer(head, case.features), case.targets(head)
    measures: dict[str, Callable[[slice], Tensor]] = {
        "loss": lambda rows: head.loss(output[rows], target[rows]),
        "weigh": lambda rows: head.weigh(target[rows]),
    }
    for name, measure in measures.items():
        once, parts = measure(slice(None)), [measure(slice(1)), measure(slice(1, None))]
        if once.ndim:
            yield f"{name} has shape {list(once.shape)}, not []"
            return
        total = sum(float(part) for part in parts)
        if not math.isclose(float(once), total, rel_tol=1e-5):
            yield f"{name} of all inputs is {float(once):.4g}, but {total:.4g} as the sum of two parts"


def padding_left_out(case: AnyHeadCase) -> Faults:
    """Targets that only fill up a batch, in both axes where they are of pairs, change neither loss nor weight."""
    head = case.build()
    if not head.ragged:
        return
    output, target = answer(head, case.features), case.targets(head)
    wide_output, wide_target = output, target
    for axis in range(1, 1 + head.axes):
        wide_output = torch.cat([wide_output, wide_output.narrow(axis, -1, 1)], axis)
        filling = torch.full_like(wide_target.narrow(axis, -1, 1), head.pad)
        wide_target = torch.cat([wide_target, filling], axis)
    for name, narrow, wide in (
        ("loss", head.loss(output, target), head.loss(wide_output, wide_target)),
        ("weigh", head.weigh(target), head.weigh(wide_target)),
    ):
        if not math.isclose(float(narrow), float(wide), rel_tol=1e-5):
            yield f"{name} is {float(narrow):.4g}, but {float(wide):.4g} with a column of padding"


def reads_real_tokens(case: HeadCase) -> Faults:
    """An answer does not depend on padding, on special tokens or on what stands beside the input."""
    yield from same_beside_others(case)


def same_beside_others(case: AnyHeadCase) -> Faults:
    """An answer does not depend on padding or on what stands beside the input."""
    head = case.learned
    together = answer(head, case.features)
    for row, length in enumerate(case.lengths):
        alone = unpadded(head, answer(head, rows_of(case.features, [row]))[0], length)
        beside = unpadded(head, together[row], length)
        if alone.shape != beside.shape:
            yield f"the answer for input {row} is {list(alone.shape)} alone, but {list(beside.shape)} beside others"
        elif not gap(alone, beside) <= TOLERANCE:
            yield f"the answer for input {row} differs by {gap(alone, beside):.2g} alone{_ALLOWED}"


def same_when_pooled(case: HeadCase) -> Faults:
    """A head that reads a pooling gives the same answer over vectors that were pooled earlier."""
    head = case.learned
    if head.reads == "tokens":
        return
    pooled = {name: Pooled(head.reads, features.pool(head.reads)) for name, features in case.features.items()}
    difference = gap(answer(head, case.features), answer(head, pooled))
    if not difference <= TOLERANCE:
        yield f"answers differ by {difference:.2g} over kept features{_ALLOWED}"


def empty_input(case: HeadCase) -> Faults:
    """An input without units gets a finite answer, and none per unit."""
    output = answer(case.learned, {name: features_of([0, *case.lengths]) for name in case.inputs})
    real = output[1:] if case.learned.ragged else output
    if not real.isfinite().all():
        yield "an input without units makes the answer not finite"


def all_of_it_learns(case: AnyHeadCase) -> Faults:
    """Every parameter gets a finite gradient, and learning lowers the loss."""
    head = case.build()
    head.adjust(case.features)
    before = float(case.loss(head).detach())
    loss = case.loss(head.train())
    # What is fitted needs no parameter that learns.
    if not loss.requires_grad and not (head.fits and not list(head.parameters())):
        yield "nothing of it learns: its loss depends on no parameter that may"
        return
    if loss.requires_grad:
        torch.autograd.backward(loss)
    after = float(case.loss(case.learned).detach())
    for name, parameter in head.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            yield f"'{name}' gets no gradient"
        elif parameter.grad is not None and not parameter.grad.isfinite().all():
            yield f"the gradient of '{name}' is not finite"
    if not after < before:
        yield f"the loss is {before:.4g} before and {after:.4g} after learning {len(case.lengths)} inputs"


def fitted_in_any_order(case: HeadCase) -> Faults:
    """What is fitted to all rows at once does not depend on their order, and is fitted anew each time."""
    head = case.learned
    if not head.fits:
        return
    once = answer(head, case.features)
    case.fit(head, range(len(case.labels))[::-1])
    difference = gap(once, answer(head, case.features))
    if not difference <= TOLERANCE:
        yield f"answers differ by {difference:.2g} when it is fitted again to the same rows, the last first{_ALLOWED}"


def labels_come_back(case: HeadCase) -> Faults:
    """What was learned by heart is answered in the words of the labels."""
    head = case.learned
    columns = head.decode(case.outputs(head))
    targets = case.encoded(head)
    for row, (target, said) in enumerate(zip(targets, _predictions(columns), strict=True)):
        again = head.encode(said, case.lengths[row])
        if again.shape != target.shape or not np.allclose(again, target, atol=0.1, equal_nan=True):
            yield f"the label {case.labels[row]!r} comes back as {said!r}"


def _predictions(columns: dict[str, list[Any]]) -> Iterator[Any]:
    if "prediction" in columns:
        return iter(columns["prediction"])
    return zip(*(values for name, values in columns.items() if name.startswith("prediction.")), strict=True)


def one_answer_each(case: HeadCase) -> Faults:
    """Every column of the answer has one value per input, per unit where the head answers per unit, per pair that it names."""
    columns = case.learned.decode(case.outputs(case.learned))
    if not any(name == "prediction" or name.startswith("prediction.") for name in columns):
        yield f"the answer has no column 'prediction': {listed(columns)}"
    for name, values in columns.items():
        if len(values) != len(case.labels):
            yield f"column '{name}' has {len(values)} values for {len(case.labels)} inputs"
        counts = [_count(value) for value in values]
        if case.learned.answers == "pair":
            named = [_count(value) for value in columns["prediction"]]
            if counts != named:
                yield f"column '{name}' has {counts} values for {named} pairs"
        elif case.learned.ragged and counts != list(case.lengths):
            yield f"column '{name}' has {counts} values for {list(case.lengths)} units"


def _count(value: Any) -> int:
    return len(value) if isinstance(value, Sequence) else -1


def metrics_finite(case: AnyHeadCase) -> Faults:
    """Metrics are finite numbers, and the one that chooses the best epoch is among them."""
    found = case.learned.metrics(case.outputs(case.learned), case.encoded(case.learned))
    if case.learned.metric not in found:
        yield f"there is no '{case.learned.metric}' among its metrics: {listed(found)}"
    yield from (f"the metric '{name}' is {value}" for name, value in found.items() if not math.isfinite(value))


def saved_and_loaded(case: AnyHeadCase) -> Faults:
    """A head that has learned, and was adjusted, comes back bit by bit from its state and its options."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "head.safetensors"
        save_file({name: value.contiguous().clone() for name, value in case.learned.state_dict().items()}, file)
        loaded = case.build(seed=1)
        loaded.load_state_dict(load_file(file))
    difference = gap(answer(case.learned, case.features), answer(loaded, case.features))
    if difference != 0:
        yield f"answers differ by {difference:.2g} after the head was saved and loaded"


HEAD_CHECKS: tuple[Check[HeadCase], ...] = (
    Check("as-specified", "labels compared with answers for something else", as_specified),
    Check("order-of-labels", "classes numbered by the order of the rows", order_of_labels),
    Check("unknown-label-refused", "labels of another table taken for these", unknown_label_refused),
    Check("other-labels-refused", "a head loaded for another number of classes", other_labels_refused),
    Check("loss-adds-up", "a loss that depends on how a step is split", loss_adds_up),
    Check("padding-left-out", "padding that is learned as a label", padding_left_out),
    Check("reads-real-tokens", "a mean over padding", reads_real_tokens),
    Check("same-when-pooled", "a cache that changes the answer", same_when_pooled),
    Check("all-of-it-learns", "parameters that learn in vain", all_of_it_learns),
    Check("fitted-in-any-order", "means that run on from one fit to the next", fitted_in_any_order),
    Check("empty-input", "an input without units that becomes NaN", empty_input),
    Check("labels-come-back", "classes mixed up between learning and answering", labels_come_back),
    Check("one-answer-each", "answers that slip to other rows or units", one_answer_each),
    Check("metrics-finite", "a best epoch chosen by NaN", metrics_finite),
    Check("saved-and-loaded", "a normalisation lost when saved", saved_and_loaded),
)
