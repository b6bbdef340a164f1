"""Heads that are fitted in closed form: shown all training rows at once, as the model sees them now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import micro_batches
from exapt.errors import DataError, PluginError
from exapt.model import Model
from exapt.parts import Head, Pooled
from exapt.rows import Rows


def fit_heads(model: Model, rows: Rows, budget: int) -> None:
    """Fit all heads that are fitted to the features of some rows, without gradients; others stay as they are.

    Raises ``DataError`` for features that are no finite numbers, to which nothing can be fitted.
    """
    fitted = [name for name in model.heads if model.head(name).fits]
    if not fitted:
        return
    model.eval()
    device = next(model.parameters()).device
    vectors = {
        reading: pooled_features(model, rows, reading, budget)
        for reading in {model.head(name).reads for name in fitted}
    }
    if not all(bool(value.isfinite().all()) for inputs in vectors.values() for value in inputs.values()):
        raise DataError(
            f"the features to which head '{fitted[0]}' is to be fitted became nan or infinite; lower "
            "training.learning_rate or check the backbone's weights"
        )
    for name in fitted:
        head = model.head(name)
        targets = torch.from_numpy(np.stack(list(rows.targets[name]))).to(device)
        fit_head(
            head, {key: Pooled(head.reads, value.to(device)) for key, value in vectors[head.reads].items()}, targets
        )


def fit_head(head: Head, features: Mapping[str, Any], targets: Tensor) -> None:
    """Put what a head finds in the features of all rows into its buffers.

    Raises ``PluginError`` for a buffer that it does not have, or has in another shape.
    """
    buffers = dict(head.named_buffers())
    with devices.resting():
        for name, value in head.fit(features, targets).items():
            there = buffers.get(name)
            if there is None or there.shape != value.shape:
                has = "is none" if there is None else f"is {list(there.shape)}"
                raise PluginError(f"{type(head).__name__} fits '{name}' {list(value.shape)}, and its buffer {has}")
            there.copy_(value)


def pooled_features(model: Model, rows: Rows, reading: str, budget: int) -> dict[str, Tensor]:
    """Return the vectors [rows, width], on the CPU, of each input under a pooling, inputs as they are."""
    device = next(model.parameters()).device
    found: dict[str, Tensor] = {}
    for part in micro_batches(rows.tokens, np.arange(len(rows)), budget):
        for name, inputs in rows.inputs.items():
            with devices.resting():
                vectors = model.features(inputs.take(part, device))[reading].pool(reading).float().cpu()
            if name not in found:
                found[name] = torch.empty(len(rows), vectors.shape[1])
            found[name][part] = vectors
    return found
