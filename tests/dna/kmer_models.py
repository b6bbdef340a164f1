"""Checkpoints of DNABERT and Nucleotide Transformer to read: the golden ones, copies to spoil, and other shapes."""

import itertools
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden"
DNABERT = GOLDEN / "dnabert" / "given"
NT1 = GOLDEN / "nucleotide_transformer" / "v1" / "given"
NT2 = GOLDEN / "nucleotide_transformer" / "v2" / "given"
NT = "nucleotide-transformer"
EXACT = {"case": "keep", "max_unknown": 1}
"""The options under which ids are the reference's, whatever the letters."""


def built(family, source, weights=True, **options):
    """Build the backbone of a source, as exapt does: by name, over its options."""
    spec = current().get(BackboneSpec, family).spec
    return spec.build(validated(spec.options, {"source": str(source), **options}, f"backbone '{family}'"), weights)


def reader(family, source, **options):
    """Build the tokenizer of a source."""
    spec = current().get(TokenizerSpec, family).spec
    return spec.build(validated(spec.options, {"source": str(source), **options}, f"tokenizer '{family}'"))


def ids(encoding):
    """Return the ids of an encoding as a list."""
    return encoding.arrays["input_ids"].tolist()


class Copy:
    """A copy of a golden checkpoint in a folder of its own."""

    def __init__(self, golden, folder):
        shutil.copytree(golden / "model", folder)
        self.folder = folder
        self.file = next(path for path in folder.iterdir() if path.stem in ("model", "pytorch_model"))
        binary = self.file.suffix == ".bin"
        self.tensors = torch.load(self.file, weights_only=True) if binary else load_file(self.file)

    def save(self, tensors, name=""):
        """Write other weights in place of those that there are."""
        self.file.unlink()
        self.file = self.folder / (name or self.file.name)
        save = torch.save if self.file.suffix == ".bin" else save_file
        save({name: tensor.contiguous() for name, tensor in tensors.items()}, self.file)

    def configure(self, **changes):
        """Change keys of the configuration; None takes one out."""
        path = self.folder / "config.json"
        merged = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))


def kmers(k):
    """Return all words of k bases in the order of published vocabularies."""
    return ["".join(word) for word in itertools.product("ATCG", repeat=k)]


def write_vocabulary(folder, tokens):
    """Write a vocabulary, one token a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


class Gated(nn.Module):
    """Version 2's widening layer, put into stock ESM's place."""

    def __init__(self, width, inner):
        super().__init__()
        self.dense = nn.Linear(width, 2 * inner, bias=False)

    def forward(self, hidden):
        """Return the second half, gated by the first."""
        gate, passed = self.dense(hidden).split(self.dense.out_features // 2, -1)
        return nn.functional.silu(gate) * passed


def shaken(model, spread=0.5):
    """Give every parameter of a model, norms and biases too, values that show."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread * 0.2)
    return model.eval()


def published(model, folder, **config):
    """Write a stock model as its authors did: plain names, plain keys."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    said = {key: value for key, value in model.config.to_dict().items() if key != "dtype"}
    (folder / "config.json").write_text(json.dumps(said | config))
