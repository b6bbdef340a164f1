"""Checkpoints of scGPT to read: the golden one, copies to spoil, and other shapes beside torch's own transformer."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from exapt.cells import Cell, Genes
from exapt_singlecell import scgpt

GOLDEN = Path(__file__).parents[1] / "golden" / "scgpt" / "given"
MODEL = GOLDEN / "model"
(TOKENIZER,), (BACKBONE,), (HEAD,) = scgpt.TOKENIZERS, scgpt.BACKBONES, scgpt.HEADS


def built(source=MODEL, weights=True):
    """Build the backbone of a folder."""
    return BACKBONE.build(BACKBONE.options(source=str(source)), weights)


def reader(source=MODEL, **options):
    """Build the tokenizer of a folder."""
    return TOKENIZER.build(TOKENIZER.options(source=str(source), **options))


def cell(counts, raw=True):
    """Return a cell of a table that has these genes alone."""
    return Cell.from_dense(Genes(tuple(counts)), list(counts.values()), raw)


def cells(genes, rows, raw=True):
    """Return cells of one table."""
    shared = Genes(tuple(genes))
    return [Cell.from_dense(shared, row, raw) for row in rows]


def tokens(encoding):
    """Return ids and bins as lists."""
    return encoding.arrays["input_ids"].tolist(), encoding.arrays["values"].tolist()


def genes_of(count, source=MODEL):
    """Return the first genes of a vocabulary."""
    return [name for name in json.loads((source / "vocab.json").read_text()) if not name.startswith("<")][:count]


class Copy:
    """A copy of the golden checkpoint in a folder of its own."""

    def __init__(self, folder):
        shutil.copytree(MODEL, folder)
        self.folder = folder
        self.tensors = torch.load(folder / "best_model.pt", weights_only=True)

    def save(self, tensors):
        """Write other weights in place of those that there are."""
        torch.save(tensors, self.folder / "best_model.pt")

    def configure(self, **changes):
        """Change keys of args.json; an ellipsis takes one out."""
        self._write("args.json", changes)

    def rename(self, **changes):
        """Change entries of vocab.json; an ellipsis takes one out."""
        self._write("vocab.json", changes)

    def _write(self, name, changes):
        path = self.folder / name
        merged = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not ...}))


class Stock(nn.Module):
    """scGPT out of torch's own transformer, packed projections and all, under the published names."""

    def __init__(self, genes, width, heads, inner, layers):
        super().__init__()
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(genes, width), "enc_norm": nn.LayerNorm(width)})
        self.value_encoder = nn.ModuleDict(
            {"linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width), "norm": nn.LayerNorm(width)}
        )
        block = nn.TransformerEncoderLayer(width, heads, inner, 0.1, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)

    def hidden_states(self, ids, values, present):
        """Return the embeddings and the states after each block."""
        genes, said = self.encoder, self.value_encoder
        hidden = said["linear2"](torch.relu(said["linear1"](values.unsqueeze(-1).clamp(max=512))))
        states = [genes["enc_norm"](genes["embedding"](ids)) + said["norm"](hidden)]
        for layer in self.transformer_encoder.layers:
            # With a gradient asked for, torch does not take its short cut, which zeroes padding.
            states.append(layer(states[-1], src_key_padding_mask=~present))
        return states


def other(folder, width=24, heads=3, inner=40, layers=3, genes=50, seed=0, **said):
    """Write a scGPT of another shape and another order of genes, and return torch's own with its weights."""
    torch.manual_seed(seed)
    stock = Stock(genes + 3, width, heads, inner, layers).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(stock.state_dict()), folder / "best_model.pt")
    shape = {"embsize": width, "nheads": heads, "d_hid": inner, "nlayers": layers, "dropout": 0.1}
    (folder / "args.json").write_text(json.dumps(shape | said))
    names = [f"GENE{number}" for number in range(genes)] + ["<cls>", "<pad>", "<eoc>"]
    ids = np.random.default_rng(seed).permutation(len(names)).tolist()
    (folder / "vocab.json").write_text(json.dumps(dict(zip(names, ids, strict=True))))
    return stock
