"""Two small models, pretrained from nothing: a Nucleotide Transformer on regions before fly genes, a scGPT on cells.

    python benchmarks/transfer/pretrain.py dna MODELS --corpus dm3_upstream2000.fa.gz
    python benchmarks/transfer/pretrain.py cell MODELS --corpus sc_celltypist_559_unlabelled.h5ad sc_scmark2k.h5ad

The corpus of DNA is part of Debian's r-bioc-biostrings 2.66; of its chromosome arms only those are read that are the
*training* part of the fly's promoters in ``dna_promoter_fly``, so that these can be asked about. Of the cells with types
only the training part is read, and no type.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from scipy import sparse

import exapt
from exapt import Adapted, Event, Run
from exapt.labelled import read_table
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve

CURVES = Path(__file__).with_name("pretraining.jsonl")
SEED = 20261121
ARMS = ("chr2L", "chr2R", "chr3L")
"""Chromosome arms of the training part; chr3R selects and chrX tests, and nothing of them is read here."""
WINDOW = 250
_EVERY = 50
_HEADER = re.compile(r">\S+_(\w+)_\d+_([fr])\s+(\w+):(\d+)-(\d+)")
_NUCLEOTIDES = {
    "model_type": "esm",
    "vocab_size": 4107,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 130,
    "position_embedding_type": "rotary",
    "token_dropout": False,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "tie_word_embeddings": False,
    "add_bias_fnn": False,
}
_SCGPT = {"embsize": 128, "nheads": 4, "d_hid": 256, "nlayers": 4, "max_seq_len": 129, "dropout": 0.1}


def windows(fasta: Path) -> list[str]:
    """Return the distinct windows of the training arms, on a grid of genome positions, in the order of the file."""
    found: dict[tuple[str, int], str] = {}
    for strand, first, sequence in _regions(fasta):
        for start in range(-first % WINDOW, len(sequence) - WINDOW + 1, WINDOW):
            window = sequence[start : start + WINDOW]
            if set(window) <= set("ACGT"):
                found.setdefault((strand, first + start), window)
    return list(found.values())


def _regions(fasta: Path) -> Iterator[tuple[str, int, str]]:
    """Yield arm and strand, where on the strand the region begins, counted along it, and the region."""
    with gzip.open(fasta, "rt", encoding="ascii") as lines:
        for is_header, group in itertools.groupby(lines, lambda line: line.startswith(">")):
            if is_header:
                (header,) = group
                told = _HEADER.match(header)
            elif told and told[3] in ARMS:
                first = int(told[4]) if told[2] == "f" else -int(told[5])
                yield f"{told[3]} {told[2]}", first, "".join(line.strip().upper() for line in group)


def write_dna(folder: Path, corpus: Path) -> dict[str, Any]:
    """Write the shape, the 6-mers and the windows of DNA; return the recipe."""
    folder.mkdir(parents=True)
    words = ("".join(word) for word in itertools.product("ATCG", repeat=6))
    tokens = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *words, *"ATCGN"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "config.json").write_text(json.dumps(_NUCLEOTIDES))
    table = folder.with_suffix(".csv")
    pd.DataFrame({"sequence": windows(corpus)}).to_csv(table, index=False)
    backbone = f"nucleotide-transformer:{folder}"
    return _recipe(backbone, "masked-lm", table, {"epochs": 2, "batch_size": 32})


def write_cells(folder: Path, corpus: Sequence[Path]) -> dict[str, Any]:
    """Write the shape, the genes and the cells; return the recipe."""
    folder.mkdir(parents=True)
    tables = [anndata.read_h5ad(path) for path in corpus]
    tables = [table[table.obs["split"] == "train"] if "split" in table.obs else table for table in tables]
    genes = sorted(set(tables[0].var_names) & set(tables[1].var_names))
    names = ["<pad>", "<cls>", "<eoc>", *genes]
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (folder / "args.json").write_text(json.dumps(_SCGPT))
    counts = sparse.vstack([sparse.csr_matrix(table[:, genes].X) for table in tables], format="csr").astype(np.float32)
    cells = [f"{path.stem}:{name}" for path, table in zip(corpus, tables, strict=True) for name in table.obs_names]
    table = folder.with_suffix(".h5ad")
    anndata.AnnData(counts, pd.DataFrame(index=cells), pd.DataFrame(index=genes)).write_h5ad(table)
    return _recipe(f"scgpt:{folder}", "masked-expression", table, {"epochs": 8, "batch_size": 16})


def _recipe(backbone: str, head: str, table: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    rates = {"learning_rate": 1e-3, "head_learning_rate": 1e-3, "patience": 0}
    return {
        "backbone": backbone,
        "data": {"path": str(table)},
        "split": {"fractions": [0.95, 0.05, 0.0]},
        "head": head,
        "strategy": "scratch",
        "training": {**training, **rates},
        "seed": SEED,
    }


def publish(adapted: Adapted, folder: Path, inside: str, decoder: str) -> int:
    """Write the weights under their published names, and return how many there are.

    ``inside`` is what the backbone puts before the names of the model, ``decoder`` what they are to have before those of
    the language model's head, which learned as a head of the run.
    """
    head = {f"{decoder}{name}": value for name, value in adapted.model.head("head").decoder.state_dict().items()}
    own = {name.removeprefix(inside): value for name, value in adapted.model.backbone.state_dict().items()}
    tensors = {**{name: value for name, value in own.items() if not name.startswith(decoder)}, **head}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return sum(value.numel() for value in tensors.values())


def _measured(event: Event) -> dict[str, float]:
    return {key: float(value) for key, value in event.facts.items() if key.startswith("valid.")}


def tokens(recipe: Mapping[str, Any]) -> int:
    """Return how many tokens the rows of a recipe have, those that are held out included."""
    table = read_table(resolve(read_recipe(recipe), current()))
    return sum(encoding.tokens for encodings in table.encodings.values() for encoding in encodings)


def pretrain(name: str, recipe: Mapping[str, Any], folder: Path, inside: str, decoder: str) -> None:
    """Train, write the checkpoint, and add the curve to ``pretraining.jsonl``."""
    curve: list[dict[str, Any]] = []
    losses: list[float] = []
    sizes: dict[str, Any] = {}

    def note(_run: Run, event: Event) -> None:
        sizes.update(event.facts if event.name == "start" else {})
        if event.name == "step":
            losses.append(event.facts["loss"])
        if event.name == "epoch" or (event.name == "step" and len(losses) % _EVERY == 0):
            curve.append({"step": len(losses), "loss": float(np.mean(losses[-_EVERY:])), **_measured(event)})
            print(json.dumps(curve[-1]), flush=True)

    before = time.process_time()
    adapted = exapt.train(recipe, listeners=[note])
    parameters = publish(adapted, folder, inside, decoder)
    facts = {
        "model": name,
        "parameters": parameters,
        "rows": sizes["rows.train"],
        "tokens": tokens(recipe),
        "epochs": recipe["training"]["epochs"],
        "seed": SEED,
        "seconds": round(time.process_time() - before, 1),
        "metrics": adapted.metrics["valid"],
        "curve": curve,
    }
    with CURVES.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(facts, default=float) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dna", "cell"))
    parser.add_argument("models", type=Path, help="Folder that gets a folder for the model.")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    place = given.models / given.what
    if given.what == "dna":
        pretrain("dna", write_dna(place, given.corpus[0]), place, "", "lm_head.")
    else:
        pretrain("cell", write_cells(place, given.corpus), place, "scgpt.", "decoder.")
