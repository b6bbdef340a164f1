"""How well a few examples suffice: episodes over the rows of a table, under a backbone or an adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.building import build, build_backbone, build_tokenizer, encode, refuse_too_long
from exapt.data.files import table_sha256
from exapt.data.labels import class_name, class_order
from exapt.data.splits import by_column
from exapt.data.tables import Examples, read_examples
from exapt.embedding import named_parts
from exapt.episodic import Draw, Episodes, play
from exapt.errors import DataError, RecipeError, did_you_mean, listed
from exapt.features import forward_all
from exapt.loading import load
from exapt.manifest import read_manifest
from exapt.parts import Array, Backbone, Encoding, Head, HeadContext, Tokenizer
from exapt.plugins import Offer, Plugins, current
from exapt.recipe import DataOptions, read_recipe, validated
from exapt.resolve import Chosen, read_by, resolve_backbone
from exapt.specs import HeadSpec, Windowed
from exapt.units import empty_rows, left_out

_TEST = 2
"""The number of the test part, as splits count them; the model was chosen by the part before."""


@dataclass(frozen=True)
class Asked:
    """Of what model episodes are, and of which rows: see ``exapt.episodes``."""

    backbone: str = ""
    adapter: str | Path | Adapted = ""
    head: str = "prototypes"
    label: str = ""
    inputs: str = ""
    ids: str = ""
    reader: str = ""
    only: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()
    layer: int = -1
    scratch: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    device: str = ""

    def __post_init__(self) -> None:
        if bool(self.backbone) == bool(self.adapter):
            raise RecipeError("give a backbone or an adapter, one of them: under what model are episodes to be?")
        unread = self.settings.keys() - (
            {"head", "reader"} if self.adapter else {"head", "reader", "backbone", "tokenizer"}
        )
        if unread:
            raise RecipeError(
                f"of {'an adapter' if self.adapter else 'episodes'}, nothing of '{min(unread)}' can be set"
            )
        if self.adapter and (self.scratch or self.layer != -1):
            what = "scratch" if self.scratch else "layer"
            raise RecipeError(f"{what} is of a backbone as it was published, and an adapter has its own: leave it out")

    def options(self, part: str) -> dict[str, Any]:
        """Return what is set of one part."""
        return dict(self.settings.get(part, {}))


@dataclass(frozen=True)
class Model:
    """What gives the features."""

    name: str
    backbone: Backbone
    tokenizer: Tokenizer
    parts: tuple[Chosen, Chosen]
    layer: int
    precision: str

    def encodings(self, examples: Examples) -> dict[str, list[Encoding]]:
        """Return each input as the model reads it. Raises ``DataError``, with the id, for one that it cannot read."""
        found = {}
        for name, values in examples.inputs.items():
            found[name] = encode(self.tokenizer, values, examples.ids, self.name, *self.parts)
            refuse_too_long(found[name], examples.ids, self.backbone, self.name, self.parts[0])
        return found

    def features(self, encodings: Mapping[str, Sequence[Encoding]], pooling: str, drawn: Array) -> dict[str, Tensor]:
        """Return the pooled features [rows, width] of each input; of rows that are not ``drawn``, zeros."""
        budget = devices.token_budget(next(self.backbone.parameters()).device)
        found = {}
        for name, values in encodings.items():
            found[name] = torch.zeros(len(values), self.backbone.width)
            chosen = [values[row] for row in drawn]
            for rows, features in forward_all(self.backbone, chosen, self.layer, self.precision, budget):
                found[name][drawn[rows]] = features.pool(pooling)
        return found


def episodes(path: Path, draw: Draw, asked: Asked) -> Episodes:
    """Return how well a head answers in episodes drawn from a table, whose features are computed once.

    Raises ``DataError`` before any weights are loaded if the table has too few classes, or examples of one.
    """
    plugins = current()
    offer = _head_offer(asked.head, plugins)
    data, label = _data(path, asked, plugins)
    given = {"inputs": tuple(data.inputs), **asked.options("head")}
    options = validated(offer.spec.options, given, f"head '{offer.spec.name}'")
    examples, notes = _rows(data, label, asked)
    notes += _learned_from(path, data, examples, asked)
    names = np.array([class_name(value) for value in examples.labels["head"]])
    draw.check(_counts(names))
    model = _model(asked, plugins)
    encodings = model.encodings(examples)
    empty = empty_rows(encodings)
    if empty.any():
        notes.append(left_out(int(empty.sum()), "all episodes"))
        draw.check(_counts(names[~empty]))
    counts = _counts(names[~empty])
    rows = [np.flatnonzero((names == name) & ~empty) for name in counts]
    head = _head(offer, options, draw, dict.fromkeys(data.inputs, model.backbone.width))
    features = model.features(encodings, head.reads, draw.drawn(rows))
    accuracies, losses = play(head, features, rows, draw)
    return Episodes(offer.spec.name, model.name, draw, counts, accuracies, losses, notes)


def _counts(names: Array) -> dict[str, int]:
    counts = Counter(names.tolist())
    return {name: counts[name] for name in class_order(counts)}


def _head_offer(name: str, plugins: Plugins) -> Offer[HeadSpec]:
    offer = plugins.get(HeadSpec, name)
    if not _closed(offer):
        closed = listed(one.spec.name for one in plugins.offers(HeadSpec) if _closed(one))
        raise RecipeError(
            f"head '{offer.spec.name}' cannot answer in episodes, where nothing learns by steps: use {closed}"
        )
    return offer


def _closed(offer: Offer[HeadSpec]) -> bool:
    """Whether a head of classes is fitted, and nothing else of it learns."""
    spec = offer.spec
    if not (spec.fits and spec.baseline == "classification" and spec.answers == "input"):
        return False
    head = _head(offer, spec.options(), Draw(ways=2, shots=1), {"sequence": 1})
    return not any(one.requires_grad for one in head.parameters())


def _head(offer: Offer[HeadSpec], options: Any, draw: Draw, widths: Mapping[str, int]) -> Head:
    """Return a head for the classes of an episode, whose names are their places."""
    labels = [str(way) for way in range(draw.ways) for _ in range(draw.shots)]
    chosen = Chosen(offer, offer.spec.infer(options, labels))
    head: Head = build(chosen, HeadContext(widths))
    return head.eval()


def _data(path: Path, asked: Asked, plugins: Plugins) -> tuple[DataOptions, str]:
    """Return how to read the table, and its column of labels."""
    given = {"path": str(path), "format": asked.reader, "id": asked.ids}
    reader = asked.options("reader")
    if asked.backbone:
        spec = resolve_backbone(plugins, *_named(asked))[0].offer.spec
        named = {"inputs": {"sequence": asked.inputs}} if asked.inputs else {}
        return read_by(DataOptions(**given, reader=reader, **named), spec.accepts), asked.label or "label"
    recipe = asked.adapter.resolved.recipe if isinstance(asked.adapter, Adapted) else _recipe_of(Path(asked.adapter))
    inputs = dict(recipe.data.inputs)
    if asked.inputs and len(inputs) != 1:
        raise DataError(f"this adapter reads several inputs, {', '.join(inputs)}; one column cannot be named for them")
    own = [head.label for head in recipe.heads.values() if isinstance(head.label, str)]
    update = {**given, "reader": reader or recipe.data.reader, "labels": "", "masks": "", "mask": ""}
    update["inputs"] = dict.fromkeys(inputs, asked.inputs) if asked.inputs else inputs
    return recipe.data.model_copy(update=update), asked.label or next(iter(own), "label")


def _learned_from(path: Path, data: DataOptions, examples: Examples, asked: Asked) -> list[str]:
    """Return a note of the rows that an adapter may have learned from, if the table is its own."""
    if not asked.adapter:
        return []
    of_run = asked.adapter.manifest if isinstance(asked.adapter, Adapted) else read_manifest(Path(asked.adapter))
    if of_run["data"]["sha256"] != table_sha256(path, data.format):
        return []
    split = read_recipe(of_run["recipe"]).split
    parts = by_column(split, examples, whole=False) if split.column else np.zeros(len(examples), np.int64)
    count = int((parts != _TEST).sum())
    way = (
        f"--only {split.column}={next(iter(split.test), 'test')}" if split.column else "--only or --classes for others"
    )
    return [f"{count:,} rows may have been learned from, the table being the adapter's own: use {way}"] if count else []


def _recipe_of(folder: Path) -> Any:
    return read_recipe(read_manifest(folder)["recipe"])


def _named(asked: Asked) -> Any:
    return named_parts(asked.backbone, {part: asked.options(part) for part in ("backbone", "tokenizer")})


def _rows(data: DataOptions, label: str, asked: Asked) -> tuple[Examples, list[str]]:
    """Return the labelled rows that episodes are drawn from, and what there is to tell of the table."""
    examples, report = read_examples(data, {"head": label})
    for column, value in asked.only.items():
        if column not in examples.table.column_names:
            raise DataError(f"there is no column '{column}'.{did_you_mean(column, examples.table.column_names)}")
        there = np.array([str(one) for one in examples.table[column].to_pylist()])
        if not (there == str(value)).any():
            raise DataError(
                f"no row has '{value}' in column '{column}'.{did_you_mean(str(value), set(there.tolist()))}"
            )
        examples = examples.take(np.flatnonzero(there == str(value)))
    return _of_classes(examples, asked.classes), report.lines()


def _of_classes(examples: Examples, wanted: Sequence[str]) -> Examples:
    if not wanted:
        return examples
    names = [class_name(value) for value in examples.labels["head"]]
    for name in wanted:
        if name not in names:
            raise DataError(f"no row is of the class '{name}'.{did_you_mean(name, set(names))}")
    return examples.take([row for row, name in enumerate(names) if name in wanted])


def _model(asked: Asked, plugins: Plugins) -> Model:
    if asked.adapter:
        adapted = asked.adapter if isinstance(asked.adapter, Adapted) else load(asked.adapter, device=asked.device)
        resolved, name = (
            adapted.resolved,
            adapted.name if isinstance(asked.adapter, Adapted) else Path(asked.adapter).name,
        )
        _refuse_windows(resolved.backbone)
        parts = (resolved.backbone, resolved.tokenizer)
        return Model(
            name, adapted.model.backbone, adapted.tokenizer, parts, adapted.model.layer, adapted.model.precision
        )
    chosen, _, reads = resolve_backbone(plugins, *_named(asked))
    _refuse_windows(chosen)
    where = devices.choose(asked.device)
    backbone = build_backbone(chosen, not asked.scratch)
    layer, last = backbone.features_layer if asked.layer == -1 else asked.layer, len(backbone.blocks())
    if not -1 <= layer <= last:
        raise RecipeError(f"there is no layer {layer}: '{asked.backbone}' has layers 0 to {last}")
    tokenizer, precision = build_tokenizer(reads), devices.resolve_precision("auto", where)
    return Model(asked.backbone, backbone.to(where), tokenizer, (chosen, reads), layer, precision)


def _refuse_windows(chosen: Chosen) -> None:
    if isinstance(chosen.options, Windowed) and chosen.options.windows == "score":
        raise RecipeError('an episode compares whole inputs: use backbone windows = "pool"')
