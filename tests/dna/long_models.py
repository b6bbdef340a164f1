"""Checkpoints of DNABERT-2 and HyenaDNA to read: the golden ones, copies to spoil, and word pieces made here."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace

from exapt import DataError
from exapt.parts import Encoding, unit_spans
from exapt.plugins import current
from exapt.recipe import validated
from exapt.specs import BackboneSpec, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden"
DNABERT2 = GOLDEN / "dnabert2" / "given"
HYENA = GOLDEN / "hyenadna" / "given"
PUBLISHED_PIECES = Path(__file__).parents[3] / "shared" / "golden" / "dnabert2" / "given" / "model" / "tokenizer.json"
EXACT = {"case": "keep", "max_unknown": 1}
"""The options under which ids are the reference's, whatever the letters."""
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
READ = {"dnabert2": (SPECIAL.index("[PAD]"), 1, 1), "hyenadna": (4, 0, 1)}


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


def encoded(family, numbers):
    """Wrap reference ids, so that a model is tested apart from its tokenizer."""
    pad, before, after = READ[family]
    units = max(len(numbers) - before - after, 0)
    spans = unit_spans(units, before, after)[: len(numbers)]
    return Encoding({"input_ids": np.array(numbers)}, {"input_ids": pad}, spans, units)


def refusal(make, *arguments, **options):
    """Return the sentence in which something is refused."""
    with pytest.raises(DataError) as refused:
        make(*arguments, **options)
    return str(refused.value)


def write_pieces(path, size=4096, **changes):
    """Write byte-pair word pieces of DNA: every word of up to five bases, and as many of six as there is room for."""
    words = ("".join(word) for length in range(2, 7) for word in itertools.product("ACGT", repeat=length))
    longer = list(itertools.islice(words, size - len(SPECIAL) - 4))
    names = [*SPECIAL, *"ACGT", *longer]
    vocabulary = {name: index for index, name in enumerate(names)}
    pieces = Tokenizer(BPE(vocabulary, [(word[:-1], word[-1]) for word in longer], unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.add_special_tokens(list(SPECIAL))
    path.write_text(json.dumps(json.loads(pieces.to_str()) | changes))


class Copy:
    """A copy of a checkpoint in a folder of its own, with word pieces where it lacks them."""

    def __init__(self, golden, folder):
        shutil.copytree(golden, folder)
        self.folder = folder
        self.file = next(path for path in folder.iterdir() if path.stem in ("model", "pytorch_model", "weights"))
        self.whole = load_file(self.file) if self.file.suffix == ".safetensors" else self._loaded()
        self.tensors = self.whole.get("state_dict", self.whole)
        if golden.parent == DNABERT2:
            write_pieces(folder / "tokenizer.json")

    def _loaded(self):
        return torch.load(self.file, weights_only=True)

    def save(self, tensors, name="", **beside):
        """Write other weights in place of those that there are; ``beside`` goes beside them into a ``weights.ckpt``."""
        self.file.unlink()
        self.file = self.folder / (name or self.file.name)
        kept = {key: tensor.contiguous() for key, tensor in tensors.items()}
        if self.file.suffix == ".safetensors":
            save_file(kept, self.file)
        else:
            torch.save({"state_dict": kept, **beside} if self.file.suffix == ".ckpt" else kept, self.file)

    def configure(self, **changes):
        """Change keys of the configuration; None takes one out."""
        path = self.folder / "config.json"
        merged = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))


def drawn(source, weights=True, **options):
    """Build a backbone and give every parameter of it, norms and biases too, values that show."""
    backbone = built(source[0], source[1], weights, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return backbone


DAMAGED = [
    (b"<!DOCTYPE html><title>Sign in</title>", "is a web page, not the weights; download it again"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder",
    ),
    (b"", "is damaged, cut short, or holds more than tensors; download it again"),
    (b"\x00" * 200, "is damaged, cut short, or holds more than tensors; download it again"),
]


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __reduce__(self):
        return (print, ("executed",))
