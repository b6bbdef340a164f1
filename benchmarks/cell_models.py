"""The families of models of cells at their published widths, and the real cells that they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from cell_peers import BinnedTransformer, States, parts
from safetensors.torch import save_file
from scipy import sparse
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from exapt.cells import Cell, Genes

SHARED = Path(__file__).parents[2] / "shared"
DICTIONARIES = SHARED / "golden" / "geneformer" / "dictionaries"
_CELLS = SHARED / "data" / "sc_celltypist_559_unlabelled.h5ad"
_SYMBOLS = SHARED / "data" / "gene_map.csv.gz"
_WHOLE_HUMAN = 60_694
_FAINTEST, _CLEAREST = 0.05, 0.5


@dataclass(frozen=True)
class Table:
    """Cells as a matrix of ``counts`` [cells, genes], and the names of its genes."""

    counts: sparse.csr_matrix
    genes: Genes

    def cells(self) -> list[Cell]:
        """Return the cells one by one."""
        return [Cell(self.genes, places, values) for values, places in parts(self.counts)]

    def rows(self, which: np.ndarray) -> Table:
        """Return some of the cells."""
        return Table(self.counts[which], self.genes)

    def fainter(self, rng: np.random.Generator, shares: np.ndarray) -> Table:
        """Return the cells as they were with ``shares`` [cells] of their molecules counted."""
        counts = self.counts.copy()
        drawn = rng.binomial(counts.data.astype(np.int64), np.repeat(shares, np.diff(counts.indptr)))
        counts.data = drawn.astype(np.float32)
        counts.eliminate_zeros()
        return Table(counts, self.genes)


@cache
def real_cells(names: str) -> Table:
    """Return the 559 real cells of 32,786 genes, under ``symbol`` or ``ensembl`` names."""
    adata = anndata.read_h5ad(_CELLS)
    ids = adata.var["ensembl"].items()
    named = adata.var_names if names == "symbol" else [gene or f"no id: {symbol}" for symbol, gene in ids]
    counts = sparse.csr_matrix(adata.X)
    counts.sort_indices()
    return Table(counts, Genes(tuple(named)))


def mixed_cells(names: str, count: int, seed: int) -> Table:
    """Return real cells of which 5 to 50 % of the molecules were counted, so that they express tens to thousands of genes."""
    rng, table = np.random.default_rng(seed), real_cells(names)
    chosen = table.rows(rng.choice(table.counts.shape[0], count))
    return chosen.fainter(rng, np.exp(rng.uniform(np.log(_FAINTEST), np.log(_CLEAREST), count)))


def dictionary(stem: str) -> dict[str, Any]:
    """Return one of Geneformer V2's dictionaries, as it is published."""
    table = pd.read_parquet(DICTIONARIES / f"{stem}_gc95M.parquet")
    return dict(zip(table["key"], table["value"], strict=True))


@dataclass(frozen=True)
class Family:
    """A family: the names that it knows genes by, how its vectors are pooled, and what writes it and is its peer."""

    title: str
    backbone: str
    names: str
    pooling: str
    write: Callable[[Path], States]
    """Writes a checkpoint into a folder and returns the peer of the same weights."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the options that the real cells need."""
        return {"tokenizer": {"dictionaries": str(DICTIONARIES)}} if self.backbone == "geneformer" else {}


def geneformer(folder: Path, layers: int = 1) -> States:
    """Write a Geneformer V2 of the width of the 104M, without its dictionaries, and return stock BERT."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"hidden_size": 768, "num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": 3072}
    config = BertConfig(**shape, vocab_size=20_275, max_position_embeddings=4096, hidden_act="relu", pad_token_id=0)
    model: Any = BertForMaskedLM(config).eval()
    _shake(model)
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(tensors, folder / "model.safetensors")
    plain = {key: value for key, value in config.to_dict().items() if key != "dtype"}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    return lambda padded, there: (
        model.bert(input_ids=padded["input_ids"], attention_mask=there.long()).last_hidden_state
    )


def whole_human() -> dict[str, int]:
    """Return a vocabulary of as many human symbols as the whole-human scGPT has, and its three special tokens."""
    symbols = sorted(set(pd.read_csv(_SYMBOLS)["symbol"].dropna()))[:_WHOLE_HUMAN]
    return {name: index for index, name in enumerate([*symbols, "<pad>", "<cls>", "<eoc>"])}


def scgpt(folder: Path, layers: int = 4, width: int = 512, heads: int = 8, longest: int = 1200) -> States:
    """Write a scGPT, of the width of the published ones unless told otherwise, and return torch's own transformer."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = whole_human()
    model = BinnedTransformer(len(vocabulary), vocabulary["<pad>"], width, heads, width, layers).eval()
    _shake(model)
    torch.save(dict(model.state_dict()), folder / "best_model.pt")
    shape = {"embsize": width, "nheads": heads, "d_hid": width, "nlayers": layers, "max_seq_len": longest}
    (folder / "args.json").write_text(json.dumps(shape | {"n_bins": 51, "pad_value": -2}), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return lambda padded, there: model(padded["input_ids"], padded["values"], there)


def _shake(model: nn.Module) -> None:
    # Fresh norms and biases are ones and zeros, which would hide a mistake in them.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


GENEFORMER = Family("Geneformer V2 104M, 1 of 12 layers", "geneformer", "ensembl", "mean", geneformer)
SCGPT = Family("scGPT whole-human, 4 of 12 layers", "scgpt", "symbol", "cls", scgpt)
FAMILIES = (GENEFORMER, SCGPT)
