"""From resolved parts to working ones: tokenizer, encodings, backbone, heads."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from exapt import device as devices
from exapt.data.tables import Examples
from exapt.errors import DataError, ExaptError, PluginError, RecipeError, TableError
from exapt.model import Model, apply_strategies
from exapt.parts import (
    NO_UNIT,
    Augmentation,
    Backbone,
    Encoding,
    Head,
    HeadContext,
    Learns,
    Strategy,
    Tally,
    Tokenizer,
    Windows,
)
from exapt.resolve import Chosen, Resolved
from exapt.source import Held, Source
from exapt.specs import Options, Windowed

# Fewer letters than this, however they fall, say nothing of what kind of sequence they come from.
_ENOUGH_LETTERS = 60
# Bytes of encodings that are remembered: those of all substitutions of a protein, at the least.
_REMEMBERED = 1 << 25


def build(chosen: Chosen, *arguments: Any) -> Any:
    """Build a component. Raises ``PluginError``, naming it and its distribution, if its own code fails."""
    try:
        return chosen.offer.spec.build(chosen.options, *arguments)
    except (ExaptError, MemoryError):
        raise
    # Whatever a plugin's code raises is reported as that plugin's fault, with the cause kept for a traceback.
    except Exception as error:
        raise _failed(chosen, "cannot be built", error) from error


def _failed(chosen: Chosen, how: str, error: Exception) -> PluginError:
    spec, info = chosen.offer.spec, chosen.offer.info
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return PluginError(f"{spec.kind} '{spec.name}' of {info.distribution} {how}: {said}")


def build_tokenizer(chosen: Chosen) -> Tokenizer:
    """Build a tokenizer."""
    tokenizer: Tokenizer = build(chosen)
    return tokenizer


def inferred_tokenizer(resolved: Resolved) -> Resolved:
    """Return a recipe with what only the files of the checkpoint know written into the tokenizer's options."""
    chosen = resolved.tokenizer
    try:
        options = chosen.offer.spec.infer(chosen.options)
    except (ExaptError, MemoryError):
        raise
    # As in ``build``.
    except Exception as error:
        raise _failed(chosen, "cannot be built", error) from error
    return replace(resolved, tokenizer=replace(chosen, options=options))


def build_strategies(resolved: Resolved) -> dict[str, Strategy]:
    """Build the strategies, by name."""
    return {chosen.offer.spec.name: build(chosen) for chosen in resolved.strategies}


def build_augmentations(resolved: Resolved) -> list[Augmentation]:
    """Build the augmentations."""
    return [build(chosen) for chosen in resolved.augmentations]


def build_backbone(chosen: Chosen, pretrained: bool = True, seed: int = 0) -> Backbone:
    """Build a backbone with its pretrained weights or, from the seed, with fresh ones; in fp32 and evaluation mode."""
    torch.manual_seed(seed)
    backbone: Backbone = build(chosen, pretrained)
    return set_windows(backbone.float().eval(), chosen.options)


def set_windows(backbone: Backbone, options: Options) -> Backbone:
    """Tell a backbone how to read inputs that are longer than it takes, as its options say."""
    if isinstance(options, Windowed):
        read = options.windows
        backbone.windows = None if read == "refuse" else Windows(read, options.overlap)
    return backbone


def build_heads(resolved: Resolved, backbone: Backbone, seed: int, tokenizer: Tokenizer) -> dict[str, Head]:
    """Build the heads, from the seed alone: the same heads stand on pretrained and on fresh backbones."""
    for name in resolved.heads:
        if hasattr(nn.ModuleDict(), name):
            raise RecipeError(f"no head can be called '{name}': torch has taken that name; choose another")
    torch.manual_seed(seed)
    inputs, language = resolved.recipe.data.inputs, backbone.language
    last = resolved.recipe.layer in (-1, len(backbone.blocks()))
    context = HeadContext(
        dict.fromkeys(inputs, backbone.width),
        # A language model reads its last states and no others.
        dict.fromkeys(inputs, language) if language is not None and last else {},
        tokenizer,
    )
    return {name: build(head, context) for name, head in resolved.heads.items()}


def bare_head(resolved: Resolved, name: str) -> Head:
    """Build a head to be asked what it is, such as how it measures; unless it is made of a language model, it has no width."""
    chosen = resolved.heads[name]
    if not chosen.offer.spec.labelled:
        return build_heads(resolved, build_backbone(resolved.backbone), 0, build_tokenizer(resolved.tokenizer))[name]
    head: Head = build(chosen, HeadContext(dict.fromkeys(resolved.recipe.data.inputs, 1)))
    return head


def build_model(
    resolved: Resolved,
    backbone: Backbone,
    tokenizer: Tokenizer,
    strategies: Mapping[str, Strategy],
    device: torch.device,
    seed: int,
) -> tuple[Model, dict[str, Learns]]:
    """Put backbone and heads together and apply the strategies; returns also how each parameter that learns does."""
    heads = build_heads(resolved, backbone, seed, tokenizer)
    backbone.recompute = resolved.training.recompute
    if backbone.recompute and not backbone.stepwise:
        raise RecipeError(
            f"training.recompute needs a backbone that runs block by block; '{resolved.recipe.backbone.name}' does not"
        )
    backbone.layer = resolved.recipe.layer
    weights = {name: head.weight for name, head in resolved.heads.items()}
    model = Model(backbone, heads, weights, resolved.recipe.layer)
    model.questions = resolved.as_recipe()["heads"]
    rates = apply_strategies(model, strategies, resolved.training.epochs)
    model.precision = devices.resolve_precision(resolved.training.precision, device)
    return model.to(device), rates


def source_of(
    examples: Examples,
    tokenizer: Tokenizer,
    resolved: Resolved,
    augmentations: Sequence[Augmentation],
    backbone: Backbone,
) -> Source:
    """Return what rows are made of anew: the examples' own values, encoded as they were the first time."""

    def encode_again(name: str, value: Any) -> Encoding:
        return encode_one(tokenizer, value, name, resolved.backbone, resolved.tokenizer)

    held = [
        Held(f"augmentation '{chosen.offer.spec.name}' of {chosen.offer.info.distribution}", augmentation)
        for chosen, augmentation in zip(resolved.augmentations, augmentations, strict=True)
    ]
    return Source(
        ids=examples.ids,
        values=examples.inputs,
        numbers=np.arange(len(examples)),
        encode=encode_again,
        # A window that has more tokens once it is changed is itself read in windows.
        limit=None if backbone.windows else backbone.max_tokens,
        augmentations=held,
        seed=resolved.recipe.seed,
    )


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
    except TableError:
        raise
    except DataError as error:
        raise DataError(f"'{name}': {error}") from None
    except (ExaptError, MemoryError):
        raise
    # As in ``build``: whatever else a plugin's code raises is that plugin's fault.
    except Exception as error:
        raise _failed(reads, f"fails on '{name}'", error) from error


def remembering(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy of a tokenizer that encodes a sequence once, however often it is asked for within a short time."""
    known: OrderedDict[str, Encoding] = OrderedDict()
    held = 0

    def encode(value: Any) -> Encoding:
        nonlocal held
        if not isinstance(value, str):
            return tokenizer.encode(value)
        found = known.get(value) or tokenizer.encode(value)
        if value not in known:
            held += _size(found)
        known[value] = found
        known.move_to_end(value)
        while held > _REMEMBERED:
            held -= _size(known.popitem(last=False)[1])
        # Whoever asked may write into what it got.
        arrays = {name: array.copy() for name, array in found.arrays.items()}
        return Encoding(arrays, found.pads, found.spans, found.length, found.unknown)

    own = copy(tokenizer)
    # On the copy alone, which stays of the tokenizer's own class: a scorer may know what its tokenizer can do.
    setattr(own, "encode", encode)  # noqa: B010
    return own


def _size(encoding: Encoding) -> int:
    return encoding.spans.nbytes + sum(array.nbytes for array in encoding.arrays.values())


def refuse_mistaken(tokenizer: Tokenizer, values: Sequence[Any], family: str) -> None:
    """Raise ``DataError`` if all the letters there are belong to another kind of sequence, such as DNA given for protein."""
    texts = [value for value in values if isinstance(value, str)]
    letters = {letter.upper() for text in set(texts) for letter in set(text)}
    if sum(map(len, texts)) < _ENOUGH_LETTERS:
        return
    for kind, theirs in tokenizer.mistaken_for.items():
        if letters <= set(theirs):
            raise DataError(
                f"all {len(texts):,} sequences are made of {', '.join(sorted(letters))} alone: they look like {kind}, "
                f"which '{family}' does not read"
            )


def refuse_too_long(
    encodings: Sequence[Encoding], ids: Sequence[str], backbone: Backbone, name: str, chosen: Chosen
) -> None:
    """Raise ``DataError`` for the first input that is longer than the backbone takes, unless it reads in windows."""
    limit = backbone.max_tokens
    if limit is None or backbone.windows:
        return
    too_long = [place for place, encoding in enumerate(encodings) if encoding.tokens > limit]
    if too_long:
        first = encodings[too_long[0]]
        more = f" ({len(too_long)} records are too long)" if len(too_long) > 1 else ""
        in_windows = isinstance(chosen.options, Windowed)
        instead = (
            ', leave it out, or read it in windows: backbone.windows = "pool"' if in_windows else " or leave it out"
        )
        raise DataError(f"'{ids[too_long[0]]}' has {_too_much(first, limit, name)}{more}; shorten it{instead}")


def _too_much(encoding: Encoding, limit: int, name: str) -> str:
    special = int((encoding.spans[:, 0] == NO_UNIT).sum())
    if encoding.tokens - special == encoding.length:
        return f"{encoding.length:,} units; '{name}' takes at most {limit - special:,}"
    return f"{encoding.length:,} units in {encoding.tokens:,} tokens; '{name}' takes at most {limit:,} tokens"


class Tallies:
    """One tally for each input, of all that is encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tallies: dict[str, Tally] = {}
        self._notes: list[str] = []
        self._others: dict[str, Tallies] = {}

    @classmethod
    def joined(cls, others: Mapping[str, Tallies]) -> Tallies:
        """Return the tallies of several tables, by the names of which they are told."""
        first = next(iter(others.values()))
        together = cls(first._tokenizer)
        together._others = dict(others)
        return together

    def count(self, name: str, values: Sequence[Any], encodings: Sequence[Encoding]) -> None:
        """Take in more values of the input ``name``."""
        if name not in self._tallies:
            self._tallies[name] = self._tokenizer.tally()
        self._tallies[name].count(values, encodings)

    def note(self, lines: Sequence[str]) -> None:
        """Take in what else there is to tell."""
        self._notes += lines

    def lines(self) -> list[str]:
        """Return what there is to tell of all inputs. Raises ``DataError`` where too little of them all is known."""
        told = [line for name, tally in self._tallies.items() for line in tally.lines(name)]
        told += [f"{name}: {line}" for name, other in self._others.items() for line in other.lines()]
        return [*told, *self._notes]
