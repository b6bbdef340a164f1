"""The golden probe: what an adapter answers on synthetic inputs, kept with it and asked again wherever it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import collate
from exapt.errors import AdapterError
from exapt.model import MicroBatch, Model
from exapt.parts import Array, Encoding, Tokenizer

_PAIRED = 16
"""Units among which pairs are kept: all pairs of a long probe would be most of the manifest."""
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}


def probe(model: Model, tokenizer: Tokenizer, probes: Sequence[Any], inputs: Sequence[str]) -> dict[str, list[Any]]:
    """Return each head's outputs, in fp32, on the plugin's synthetic inputs: what the next machine must reproduce.

    Each of them stands for all the named ``inputs`` at once.
    """
    precision, model.precision = model.precision, "fp32"
    model.eval()
    outputs: dict[str, list[Any]] = {name: [] for name in model.heads}
    for value in probes:
        encoding = tokenizer.encode(value)
        for name, output in _answer(model, encoding, inputs).items():
            if model.head(name).answers == "pair":
                output = output[:, :_PAIRED, :_PAIRED]
            outputs[name].append([float(f"{number:.8g}") for number in output.ravel()])
    model.precision = precision
    return outputs


def _answer(model: Model, encoding: Encoding, inputs: Sequence[str]) -> dict[str, Array]:
    labelled = [name for name in model.heads if model.head(name).labelled]
    answers = _measured(model, encoding, inputs, {}, labelled) if labelled else {}
    targets = {}
    for name in [name for name in model.heads if name not in labelled]:
        encoding, target = model.head(name).pose(encoding, np.random.default_rng(0))
        targets[name] = torch.from_numpy(target)[None]
    return answers | (_measured(model, encoding, inputs, targets, targets) if targets else {})


def _measured(
    model: Model, encoding: Encoding, inputs: Sequence[str], targets: Mapping[str, Tensor], heads: Iterable[str]
) -> dict[str, Array]:
    device = next(model.parameters()).device
    known = {name: target.to(device) for name, target in targets.items()}
    batch = collate([encoding]).to(device)
    with devices.resting():
        answers = model.measured(MicroBatch(dict.fromkeys(inputs, batch), known, 1), heads)
    return {name: answer.float().cpu().numpy() for name, answer in answers.items()}


def check_probe(name: str, kept: Mapping[str, Any], found: Mapping[str, Sequence[Any]]) -> None:
    """Raise ``AdapterError`` if answers found here differ from those kept with the adapter ``name``."""
    said, tolerance = kept["outputs"], kept["tolerance"]["fp32"]
    for head, rows in said.items():
        for number, (there, here) in enumerate(zip(rows, found[head], strict=True)):
            a, b = np.array(there), np.array(here)
            if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance):
                gap = f"by {np.abs(a - b).max():.2g}" if a.shape == b.shape else "in shape"
                raise AdapterError(
                    f"'{name}' answers otherwise here than where it was saved: head '{head}' on probe "
                    f"{number + 1} differs {gap} (tolerance {tolerance:g}); compare its versions with 'exapt doctor'"
                )


def probe_record(model: Model, tokenizer: Tokenizer, probes: Sequence[Any], inputs: Sequence[str]) -> dict[str, Any]:
    """Return the golden probe as it stands in the manifest."""
    outputs = probe(model, tokenizer, probes, inputs)
    return {"inputs": list(probes), "outputs": outputs, "tolerance": dict(_TOLERANCE)}
