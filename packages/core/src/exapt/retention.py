"""What a run leaves of the pretrained language model: its loss on a reference set, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exapt import device as devices
from exapt.building import build, encode, refuse_too_long
from exapt.data.files import table_sha256
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, RecipeError
from exapt.measuring import Report, predict, score
from exapt.model import Model
from exapt.parts import Backbone, Encoding, Head, HeadContext, Tokenizer
from exapt.plugins import current
from exapt.recipe import DataOptions, validated
from exapt.resolve import Chosen, Resolved, read_by
from exapt.rows import Inputs, Rows
from exapt.source import Source
from exapt.specs import HeadSpec
from exapt.windows import in_windows

_HEAD = "reference"
# Which tokens are hidden is the same in every run, whatever its seed, so that runs can be compared.
_SEED = 0


@dataclass
class Retention:
    """A reference set, and the pretrained language model's head as it was before anything learned."""

    head: Head
    rows: Rows
    facts: Mapping[str, Any]
    before: Report

    @classmethod
    def of(cls, resolved: Resolved, options: DataOptions, backbone: Backbone, tokenizer: Tokenizer) -> Retention:
        """Read the set, and take a copy of the head of a backbone that nothing was done to yet.

        Raises ``RecipeError`` if it has no language model, and ``DataError`` for a set that cannot be used.
        """
        options = read_by(options, resolved.backbone.offer.spec.accepts)
        (name,) = options.inputs
        head = _head_of(resolved, backbone, tokenizer, name)
        try:
            examples, _ = read_examples(options, {}, keep_labels=False)
            encodings = _encoded(resolved, backbone, tokenizer, examples, name)
        except DataError as error:
            raise DataError(f"reference: {error}") from None
        source = Source(examples.ids, examples.inputs, np.arange(len(examples)), _never, None, [], _SEED)
        rows = Rows({name: Inputs.bare(encodings)}, {}, {_HEAD: head}, {_HEAD: name}, source).settled()
        facts = {"file": Path(options.path).name, "sha256": table_sha256(options.path, options.format)}
        return cls(head, rows, {**facts, "rows": len(encodings)}, {})

    def measure(self, backbone: Backbone, precision: str) -> Report:
        """Return loss and metrics of the language model on a backbone as it is now."""
        device = next(backbone.parameters()).device
        model = Model(backbone, {_HEAD: self.head.to(device)}, {_HEAD: 1.0}, -1)
        model.precision = precision
        answers = predict(model, self.rows, np.arange(len(self.rows)), devices.token_budget(device), views=False)
        return score(model, self.rows, [answers[row] for row in range(len(self.rows))])

    def told(self, after: Report) -> str:
        """Return in one line what became of the loss."""
        before = self.before
        line = f"reference: the language model's loss was {before['loss']:.4f} before and is {after['loss']:.4f} after"
        if "perplexity" in after:
            line += f" (perplexity {before['perplexity']:.2f} and {after['perplexity']:.2f})"
        return line


def _head_of(resolved: Resolved, backbone: Backbone, tokenizer: Tokenizer, name: str) -> Head:
    """Return a head that asks the pretrained language model: one of those, without labels, that are installed."""
    language, family = backbone.language, resolved.recipe.backbone.name
    if language is None:
        raise RecipeError(
            f"reference: '{family}' has no language model, or this checkpoint came without one: leave reference out"
        )
    context = HeadContext({name: backbone.width}, {name: language}, tokenizer)
    for offer in current().offers(HeadSpec):
        if offer.spec.labelled or offer.spec.towers or offer.spec.answers != "token":
            continue
        given = {"inputs": (name,)} if "inputs" in offer.spec.options.model_fields else {}
        try:
            head: Head = build(Chosen(offer, validated(offer.spec.options, given, "reference")), context)
        except RecipeError:
            # It asks another kind of language model.
            continue
        if head.language is None or head.language.objective == language.objective:
            return head.eval()
    raise RecipeError(f"reference: no installed head asks the language model of '{family}': leave reference out")


def _encoded(
    resolved: Resolved, backbone: Backbone, tokenizer: Tokenizer, examples: Examples, name: str
) -> list[Encoding]:
    family = resolved.recipe.backbone.name
    values = examples.inputs[name]
    encodings = encode(tokenizer, values, examples.ids, family, resolved.backbone, resolved.tokenizer)
    refuse_too_long(encodings, examples.ids, backbone, family, resolved.backbone)
    seen = [encoding for encoding in encodings if not encoding.empty]
    if not seen:
        raise DataError("of no row does the model see anything: there is nothing to measure.")
    cuts = in_windows({name: seen}, backbone)
    return seen if cuts is None else list(cuts.encodings)


def _never(who: str, value: Any) -> Encoding:
    raise AssertionError(f"'{who}' of a reference set is never changed")
