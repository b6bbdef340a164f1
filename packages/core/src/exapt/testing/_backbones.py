# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a backbone: what it says of its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from exapt.data.batching import collate
from exapt.errors import DataError, RecipeError
from exapt.parts import Backbone, Batch, Features
from exapt.specs import Checkpoint
from exapt.testing._backbone_case import TOLERANCE, BackboneCase, gap, read
from exapt.testing._cells import emptied, expressed, is_cell, without
from exapt.testing._check import Check, Faults
from exapt.testing._structures import ends, is_structure, moved, seen

# SPDX identifiers hold no blanks; 'GPL' or 'Apache' alone name no version, and 'unknown' or 'other' no licence.
_SPDX = re.compile(
    r"(?!(?:GPL|LGPL|AGPL|BSD|CC|Apache|Creative|unknown|other|custom|none|TODO)$)[A-Za-z0-9][A-Za-z0-9.+-]+", re.I
)
_PAPER = re.compile(r"(https?://\S+\.\S+|(doi:)?10\.\d{4,}/\S+|arXiv:\d{4}\.\d{4,5})", re.I)
_ALLOWED = f"; at most {TOLERANCE} is allowed"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def metadata(case: BackboneCase) -> Faults:
    """Modality, probes and, for every checkpoint, licence, paper and size are told, and are true."""
    if not case.spec.modality.strip():
        yield "it does not say which modality it reads"
    if not case.spec.probes:
        yield "it has no probe inputs, so that no adapter of it could be verified"
    for checkpoint in case.spec.checkpoints:
        yield from _checkpoint(checkpoint)
        if checkpoint.source == getattr(case.options, "source", ""):
            yield from _as_built(checkpoint, case.backbone)


def _checkpoint(checkpoint: Checkpoint) -> Faults:
    what = f"checkpoint '{checkpoint.name}'"
    if not _SPDX.fullmatch(checkpoint.licence):
        yield f"{what} has licence '{checkpoint.licence}', which is no SPDX identifier"
    if not _PAPER.fullmatch(checkpoint.paper):
        yield f"{what} has paper '{checkpoint.paper}', which is neither a DOI nor a URL"
    if checkpoint.parameters <= 0 or checkpoint.width <= 0:
        yield f"{what} has {checkpoint.parameters} parameters and width {checkpoint.width}"
    if _HUB.fullmatch(checkpoint.source) and not checkpoint.revision:
        yield f"{what} comes from '{checkpoint.source}' without a revision, so that its weights may change"


def _as_built(checkpoint: Checkpoint, backbone: Backbone) -> Faults:
    what = f"checkpoint '{checkpoint.name}'"
    if checkpoint.width != backbone.width:
        yield f"{what} says width {checkpoint.width}, but is built with {backbone.width}"
    built = sum(parameter.numel() for parameter in backbone.parameters())
    # A tenth: published counts are round, and may or may not hold a language-model head.
    if abs(built - checkpoint.parameters) > 0.1 * checkpoint.parameters:
        yield f"{what} says {checkpoint.parameters} parameters, but is built with {built}"


def shapes(case: BackboneCase) -> Faults:
    """Features have the shapes, the mask and the spans that the batch asks for, and are finite."""
    features, batch = case.features, case.batch
    wanted = (*batch.spans.shape[:2], case.backbone.width)
    if features.hidden.shape != wanted:
        yield f"hidden is {list(features.hidden.shape)}, not [batch, tokens, width] = {list(wanted)}"
    if features.summary is not None and features.summary.shape != (wanted[0], wanted[2]):
        yield f"summary is {list(features.summary.shape)}, not [batch, width] = {[wanted[0], wanted[2]]}"
    if not torch.equal(features.mask, batch.spans[..., 0] >= 0):
        wrong = int((features.mask != (batch.spans[..., 0] >= 0)).sum())
        yield f"mask is wrong at {wrong} tokens: it is True exactly at tokens that stand for units"
    if not torch.equal(features.spans, batch.spans) or not torch.equal(features.lengths, batch.lengths):
        yield "spans or lengths are not those of the batch"
    if not features.hidden[features.mask].isfinite().all():
        yield "hidden is not finite"


def padding_invariance(case: BackboneCase) -> Faults:
    """An input has the same features alone and beside longer ones."""
    tokens = {encoding.tokens for encoding in case.encodings}
    if len(tokens) == 1:
        yield f"all inputs have {tokens.pop()} tokens; give inputs of different lengths"
    yield from _differs(case, lambda place: read(case.backbone, collate([case.encodings[place]])), "alone")


def repeatable(case: BackboneCase) -> Faults:
    """The same batch has the same features, bit by bit, when it is asked again."""
    again = read(case.backbone, case.batch)
    if not torch.equal(again.hidden, case.features.hidden):
        yield f"features differ by {gap(case.features.hidden, again.hidden):.2g} when the same batch is asked again"


def batch_invariance(case: BackboneCase) -> Faults:
    """An input has the same features in any order and beside any other."""
    backwards = read(case.backbone, collate(case.encodings[::-1]))
    last = len(case.encodings) - 1
    yield from _differs(case, lambda place: _row(backwards, last - place), "in reversed order")
    yield from _differs(case, lambda place: read(case.backbone, collate([case.encodings[place]] * 2)), "beside itself")


def _row(features: Features, row: int) -> Features:
    one = slice(row, row + 1)
    summary = None if features.summary is None else features.summary[one]
    return Features(features.hidden[one], features.mask[one], features.spans[one], features.lengths[one], summary)


def _differs(case: BackboneCase, other: Callable[[int], Features], how: str) -> Faults:
    for place, encoding in enumerate(case.encodings):
        one, two = _row(case.features, place), other(place)
        difference = gap(one.hidden[0][one.mask[0]], two.hidden[0][two.mask[0]])
        what = f"input {place} ({encoding.tokens} tokens, padded to {case.batch.present.shape[1]})"
        if not difference <= TOLERANCE:
            yield f"{what} differs by {difference:.2g} {how}{_ALLOWED}"
        if one.summary is not None and two.summary is not None:
            difference = gap(one.summary[0], two.summary[0])
            if not difference <= TOLERANCE:
                yield f"the summary of {what} differs by {difference:.2g} {how}{_ALLOWED}"


def input_matters(case: BackboneCase) -> Faults:
    """The first, the middle and the last letter of a sequence each change its features, as a cell's strongest gene does, and
    the place of a residue among others those of a structure.
    """
    yield from _places_matter(case)
    for place, value in enumerate(case.inputs):
        gene = _strongest(case, value) if is_cell(value) else None
        if gene is not None and torch.equal(_first(case, value), _first(case, without(value, gene))):
            yield f"input {place} has the same features without the gene '{value['genes'][gene]}'"
    alphabet = sorted({letter for value in case.inputs if isinstance(value, str) for letter in value})
    for place, value in enumerate(case.inputs):
        for position in sorted({0, len(value) // 2, len(value) - 1}) if isinstance(value, str) and value else ():
            for letter in [letter for letter in alphabet if letter != value[position]][:1]:
                changed = value[:position] + letter + value[position + 1 :]
                if torch.equal(_alone(case, value), _alone(case, changed)):
                    letters = f"'{value[position]}' and '{letter}'"
                    yield f"input {place} has the same features with {letters} at position {position + 1}"


def _places_matter(case: BackboneCase) -> Faults:
    for place, value in enumerate(case.inputs):
        # Of a single residue only the shape could matter: wherever it stands, it stands alone.
        residues = seen(value) if is_structure(value) else []
        for position in ends(residues) if len(residues) > 1 else ():
            if torch.equal(_alone(case, value), _alone(case, moved(value, position))):
                yield f"input {place} has the same features with the residue at position {position + 1} moved"


def _strongest(case: BackboneCase, value: Any) -> int | None:
    """Return the place of the strongest gene that the tokenizer knows."""
    unknown = case.tokenizer.encode(value).unknown
    return next((g for g in expressed(value) if case.tokenizer.encode(without(value, g)).unknown == unknown), None)


def _first(case: BackboneCase, value: Any) -> torch.Tensor:
    # A cell without one of its genes has a token less.
    return read(case.backbone, collate([case.tokenizer.encode(value)])).pool("mean")


def _alone(case: BackboneCase, value: Any) -> torch.Tensor:
    return read(case.backbone, collate([case.tokenizer.encode(value)])).hidden


def empty_input(case: BackboneCase) -> Faults:
    """A sequence without units, or a cell that expresses nothing, pools to zeros and leaves its neighbours as they are."""
    first = case.inputs[0]
    if not isinstance(first, str) and not is_cell(first):
        return
    try:
        empty = case.tokenizer.encode(emptied(first) if is_cell(first) else "")
    except DataError:
        return
    if is_cell(first) and not read(case.backbone, collate([empty, empty])).pool("mean").eq(0).all():
        yield "a batch of empty cells alone does not pool to zeros"
    features = read(case.backbone, collate([*case.encodings, empty]))
    for pooling in ("mean", "max"):
        if features.pool(pooling)[-1].any() or not features.pool(pooling).isfinite().all():
            yield f"an empty input makes {pooling} pooling something else than zeros"
    if features.summary is not None and not features.summary.isfinite().all():
        yield "an empty input has a summary that is not finite"
    yield from _differs(case, lambda place: _row(features, place), "beside an empty input")


def layers(case: BackboneCase) -> Faults:
    """Features come from every layer; the last is what ``forward`` gives, and is reached in two parts as well."""
    backbone, batch, last = case.backbone, case.batch, len(case.backbone.blocks())
    with torch.inference_mode():
        hiddens = [backbone.at_layer(batch, layer).hidden for layer in range(last + 1)] if _in_steps(case) else []
        for layer, hidden in enumerate(hiddens):
            if hidden.shape != case.features.hidden.shape:
                yield f"layer {layer} is {list(hidden.shape)}, the last one {list(case.features.hidden.shape)}"
            if layer and torch.equal(hidden, hiddens[layer - 1]):
                yield f"layer {layer} is the same as layer {layer - 1}"
        if hiddens and gap(case.features.hidden, hiddens[last]) != 0:
            yield f"layer {last}, the last, differs by {gap(case.features.hidden, hiddens[last]):.2g} from forward"
        yield from _resumed(case) if hiddens and last else ()


def _in_steps(case: BackboneCase) -> bool:
    try:
        with torch.inference_mode():
            case.backbone.stem(case.batch)
    except RecipeError:
        return False
    return True


def _resumed(case: BackboneCase) -> Faults:
    backbone, batch, last = case.backbone, case.batch, len(case.backbone.blocks())
    half = backbone.run(backbone.stem(batch), batch, 0, (last + 1) // 2)
    resumed = backbone.finish(backbone.run(half, batch, (last + 1) // 2, last), batch)
    difference = gap(case.features.hidden[case.features.mask], resumed.hidden[resumed.mask])
    if not difference <= TOLERANCE:
        yield f"features resumed after block {(last + 1) // 2} differ by {difference:.2g}{_ALLOWED}"


def no_trace(case: BackboneCase) -> Faults:
    """A prediction changes neither the model, nor the batch, nor what learns."""
    backbone = case.build()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    batch, learning = collate(case.encodings), [parameter.requires_grad for parameter in backbone.parameters()]
    read(backbone, batch)
    for name, tensor in backbone.state_dict().items():
        if name not in before or not torch.equal(tensor, before[name]):
            yield f"a prediction changes '{name}'"
    yield from (f"a prediction changes the batch's '{name}'" for name in _changed(batch, collate(case.encodings)))
    if backbone.training or learning != [parameter.requires_grad for parameter in backbone.parameters()]:
        yield "a prediction changes which mode it is in, or what learns"


def _changed(batch: Batch, original: Batch) -> list[str]:
    fresh = {**collate_parts(original), **original.arrays}
    return [
        name
        for name, tensor in {**collate_parts(batch), **batch.arrays}.items()
        if not torch.equal(tensor, fresh[name])
    ]


def collate_parts(batch: Batch) -> dict[str, torch.Tensor]:
    """Return what every batch holds beside a model's own arrays."""
    return {"present": batch.present, "spans": batch.spans, "lengths": batch.lengths}


def places(case: BackboneCase) -> Faults:
    """The states of a few tokens, asked for alone, are those of the whole input."""
    rows = torch.arange(len(case.encodings))
    at = torch.tensor([encoding.tokens // 2 for encoding in case.encodings])
    wanted = [row for row, encoding in enumerate(case.encodings) if encoding.tokens]
    with torch.inference_mode():
        alone = case.backbone.at_places(case.batch, rows[wanted], at[wanted])
    differ = gap(case.features.hidden[rows[wanted], at[wanted]], alone)
    if not differ <= TOLERANCE:
        yield f"states of one token of each input, asked for alone, differ by {differ:.2g}{_ALLOWED}"


FEATURE_CHECKS: tuple[Check[BackboneCase], ...] = (
    Check("metadata", "weights of unknown licence and origin", metadata),
    Check("shapes", "a mask that marks special tokens or padding as units", shapes),
    Check("no-trace", "a prediction that changes the model", no_trace),
    Check("repeatable", "dropout left on", repeatable),
    Check("padding-invariance", "padding that leaks into features", padding_invariance),
    Check("batch-invariance", "statistics of the batch, state that leaks from row to row", batch_invariance),
    Check("input-matters", "tokens cut off or masked before the model reads them", input_matters),
    Check("empty-input", "an input without units that becomes NaN", empty_input),
    Check("layers", "layers numbered wrongly, a final norm left out", layers),
    Check("places", "a shortcut to few answers that gives others", places),
)
