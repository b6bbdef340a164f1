"""From resolved parts to working ones: tokenizer, encodings, backbone, heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from exapt import device as devices
from exapt.errors import DataError, ExaptError, PluginError
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
        text = " ".join(str(error).split())
        raise PluginError(
            f"{spec.kind} '{spec.name}' of {info.distribution} cannot be built: {type(error).__name__}: {text}"
        ) from error


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


def encode(tokenizer: Tokenizer, values: Sequence[Any], ids: Sequence[str], family: str) -> list[Encoding]:
    """Encode all values of one input.

    Raises ``DataError``, with the id, for a value that cannot be read, and for data that are of another kind altogether.
    """
    refuse_mistaken(tokenizer, values, family)
    return [_encode_one(tokenizer, value, name) for value, name in zip(values, ids, strict=True)]


def _encode_one(tokenizer: Tokenizer, value: Any, name: str) -> Encoding:
    try:
        return tokenizer.encode(value)
    except DataError as error:
        raise DataError(f"'{name}': {error}") from None


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


def unknown_report(encodings: Mapping[str, Sequence[Encoding]]) -> list[str]:
    """Return one line for each input in which letters occur that the vocabulary does not know."""
    lines = []
    for name, all_of_it in encodings.items():
        unknown = sum(encoding.unknown for encoding in all_of_it)
        records = sum(encoding.unknown > 0 for encoding in all_of_it)
        if unknown:
            lines.append(f"{unknown:,} unknown letters in {records:,} of {len(all_of_it):,} values of '{name}'")
    return lines
