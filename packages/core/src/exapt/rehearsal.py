"""A run up to where it would begin to learn, on fresh weights: what can be known of it before hours go into another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from exapt import device as devices
from exapt.building import (
    build_augmentations,
    build_backbone,
    build_model,
    build_strategies,
    build_tokenizer,
    refuse_too_long,
    source_of,
)
from exapt.labelled import Table
from exapt.measuring import predict, score
from exapt.model import Model
from exapt.parts import Backbone, Tokenizer
from exapt.recipe import Recipe, TrainingOptions
from exapt.resolve import Resolved
from exapt.retention import Retention
from exapt.rows import Inputs, Rows
from exapt.targets import encode_labels
from exapt.trainer import refuse_unknown_metric
from exapt.training import known, layered, read
from exapt.windows import in_windows


def rehearse(recipe: Recipe, device: torch.device) -> None:
    """Raise what a run would raise before it learns, as far as neither its weights nor what it stands upon have a say."""
    resolved, table, _ = read(known(recipe)[0])
    tokenizer = build_tokenizer(resolved.tokenizer)
    # Of blocks and layers fresh weights tell as much as pretrained ones, which an earlier stage may have yet to learn.
    backbone = build_backbone(resolved.backbone, False, recipe.seed)
    _refuse_too_long(resolved, table, backbone)
    resolved = layered(resolved, backbone)
    if recipe.reference is not None:
        Retention.of(resolved, recipe.reference, backbone, tokenizer)
    model, _ = build_model(resolved, backbone, tokenizer, build_strategies(resolved), device, recipe.seed)
    # What a strategy puts before the tokens takes of their room.
    _refuse_too_long(resolved, table, backbone)
    if in_windows(dict(table.encodings), backbone) is None:
        valid = _rows(resolved, table, model, tokenizer).subset(table.split.valid).settled()
        if resolved.training.metric and len(valid):
            _measure(resolved.training, valid, model)


def _refuse_too_long(resolved: Resolved, table: Table, backbone: Backbone) -> None:
    for encodings in table.encodings.values():
        refuse_too_long(encodings, table.examples.ids, backbone, resolved.recipe.backbone.name, resolved.backbone)


def _rows(resolved: Resolved, table: Table, model: Model, tokenizer: Tokenizer) -> Rows:
    heads = {name: model.head(name) for name in model.heads}
    inputs = {name: Inputs.bare(encodings) for name, encodings in table.encodings.items()}
    source = source_of(table.examples, tokenizer, resolved, build_augmentations(resolved), model.backbone)
    bare = Rows(inputs, {}, heads, resolved.answered, source)
    return replace(bare, targets=encode_labels(bare, table.examples, resolved, table.split))


def _measure(options: TrainingOptions, valid: Rows, model: Model) -> None:
    """Raise ``MetricError`` if the metric that is to choose an epoch is not measured on the valid part."""
    budget = options.max_tokens or devices.token_budget(next(model.parameters()).device)
    answers = predict(model, valid, np.arange(len(valid)), budget, views=False)
    refuse_unknown_metric(options.metric, score(model, valid, [answers[row] for row in range(len(valid))]))
