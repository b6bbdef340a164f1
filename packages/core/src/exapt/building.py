"""From resolved parts to working ones: tokenizer, encodings, backbone, heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from exapt import device as devices
from exapt.errors import DataError, ExaptError, PluginError, RecipeError
from exapt.model import Model, apply_strategies
from exapt.parts import Backbone, Encoding, Head, HeadContext, Strategy, Tokenizer
from exapt.resolve import Chosen, Resolved

# Fewer letters than this, however they fall, say nothing of what kind of sequence they come from.
_ENOUGH_LETTERS = 60


def build(chosen: Chosen, *arguments: Any) -> Any:
    """Build a component. Raises ``PluginError``, naming it and its distribution, if its own code fails."""
    spec, info = chosen.offer.spec, chosen.offer.info
    try:
        return spec.build(chosen.options, *arguments)
    except (ExaptError, MemoryError):
        raise
    # Whatever a plugin's code raises is reported as that plugin's fault, with the cause kept for a traceback.
    except Exception as error:
        raise PluginError(
            f"{spec.kind} '{spec.name}' of {info.distribution} cannot be built: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def build_tokenizer(chosen: Chosen) -> Tokenizer:
    """Build a tokenizer."""
    tokenizer: Tokenizer = build(chosen)
    return tokenizer


def build_strategies(resolved: Resolved) -> list[Strategy]:
    """Build the strategies."""
    return [build(chosen) for chosen in resolved.strategies]


def build_backbone(chosen: Chosen, pretrained: bool = True, seed: int = 0) -> Backbone:
    """Build a backbone with its pretrained weights or, from the seed, with fresh ones; in fp32 and evaluation mode."""
    torch.manual_seed(seed)
    backbone: Backbone = build(chosen, pretrained)
    return backbone.float().eval()


def build_heads(resolved: Resolved, backbone: Backbone, seed: int) -> dict[str, Head]:
    """Build the heads, from the seed alone: the same heads stand on pretrained and on fresh backbones."""
    for name in resolved.heads:
        if hasattr(nn.ModuleDict(), name):
            raise RecipeError(f"no head can be called '{name}': torch has taken that name; choose another")
    torch.manual_seed(seed)
    context = HeadContext(dict.fromkeys(resolved.recipe.data.inputs, backbone.width))
    return {name: build(head, context) for name, head in resolved.heads.items()}


def build_model(
    resolved: Resolved, backbone: Backbone, strategies: list[Strategy], device: torch.device, seed: int
) -> tuple[Model, dict[str, float]]:
    """Put backbone and heads together and apply the strategies; returns also the rate of each parameter that learns."""
    heads = build_heads(resolved, backbone, seed)
    weights = {name: head.weight for name, head in resolved.heads.items()}
    model = Model(backbone, heads, weights, resolved.recipe.layer)
    rates = apply_strategies(model, strategies)
    model.precision = devices.resolve_precision(resolved.training.precision, device)
    return model.to(device), rates


def probe_inputs(backbone: Chosen) -> list[Any]:
    """Return a backbone's probe inputs as they stand in a manifest. Raises ``PluginError`` if they cannot stand there."""
    spec, info = backbone.offer.spec, backbone.offer.info
    what = f"backbone '{spec.name}' of {info.distribution}"
    if not spec.probes:
        raise PluginError(f"{what} has no probe inputs, so that no adapter of it could be verified")
    try:
        inputs: list[Any] = json.loads(json.dumps(list(spec.probes), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PluginError(f"{what} has a probe input that JSON cannot hold: {error}") from None
    return inputs


def encode(
    tokenizer: Tokenizer, values: Sequence[Any], ids: Sequence[str], family: str, backbone: Chosen, reads: Chosen
) -> list[Encoding]:
    """Encode all values of one input, for the ``backbone`` whose tokenizer was made of ``reads``.

    Raises ``DataError``, with the id, for a value that cannot be read, and for data that are of another kind altogether.
    """
    refuse_mistaken(tokenizer, values, family)
    return [encode_one(tokenizer, value, name, backbone, reads) for value, name in zip(values, ids, strict=True)]


def encode_one(tokenizer: Tokenizer, value: Any, name: str, backbone: Chosen, reads: Chosen) -> Encoding:
    """Encode one value.

    Raises ``DataError``, with the id, for one that cannot be read, and ``PluginError`` if the tokenizer itself fails.
    """
    if backbone.offer.spec.accepts == "sequence" and not isinstance(value, str):
        raise DataError(f"'{name}': is {value!r}, not a sequence")
    try:
        return tokenizer.encode(value)
    except DataError as error:
        raise DataError(f"'{name}': {error}") from None
    except (ExaptError, MemoryError):
        raise
    # As in ``build``: whatever else a plugin's code raises is that plugin's fault.
    except Exception as error:
        spec, info = reads.offer.spec, reads.offer.info
        raise PluginError(
            f"{spec.kind} '{spec.name}' of {info.distribution} fails on '{name}': {_said(error)}"
        ) from error


def refuse_mistaken(tokenizer: Tokenizer, values: Sequence[Any], family: str) -> None:
    """Raise ``DataError`` if all the letters there are belong to another kind of sequence, such as DNA given for protein."""
    texts = [value for value in values if isinstance(value, str)]
    letters = {letter.upper() for text in texts for letter in set(text)}
    if sum(map(len, texts)) < _ENOUGH_LETTERS:
        return
    for kind, theirs in tokenizer.mistaken_for.items():
        if letters <= set(theirs):
            raise DataError(
                f"all {len(texts):,} sequences are made of {', '.join(sorted(letters))} alone: they look like {kind}, "
                f"which '{family}' does not read"
            )


def refuse_too_long(encodings: Sequence[Encoding], ids: Sequence[str], limit: int | None, family: str) -> None:
    """Raise ``DataError`` for the first input that is longer than the model takes."""
    if limit is None:
        return
    too_long = [place for place, encoding in enumerate(encodings) if encoding.tokens > limit]
    if too_long:
        first = encodings[too_long[0]]
        extra = first.tokens - first.length
        more = f" ({len(too_long)} records are too long)" if len(too_long) > 1 else ""
        raise DataError(
            f"'{ids[too_long[0]]}' has {first.length:,} units; '{family}' takes at most {limit - extra:,}{more}; "
            f"shorten it or leave it out"
        )


class Unknown:
    """Counts, over all that is encoded, the letters that the vocabulary does not know."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    def count(self, name: str, encodings: Sequence[Encoding]) -> None:
        """Take in more values of the input ``name``."""
        letters, records, values = self._counts.get(name, (0, 0, 0))
        self._counts[name] = (
            letters + sum(encoding.unknown for encoding in encodings),
            records + sum(encoding.unknown > 0 for encoding in encodings),
            values + len(encodings),
        )

    def lines(self) -> list[str]:
        """Return one line for each input in which such letters occur."""
        return [
            f"{letters:,} unknown letters in {records:,} of {values:,} values of '{name}'"
            for name, (letters, records, values) in self._counts.items()
            if letters
        ]


def unknown_report(encodings: Mapping[str, Sequence[Encoding]]) -> list[str]:
    """Return one line for each input in which letters occur that the vocabulary does not know."""
    unknown = Unknown()
    for name, values in encodings.items():
        unknown.count(name, values)
    return unknown.lines()
