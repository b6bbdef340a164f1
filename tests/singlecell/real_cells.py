"""Real cells, thinned to what a test has time for, and small models with random weights that know their genes."""

import json
import re

import anndata
import h5py
import numpy as np
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from scipy import sparse
from transformers import BertConfig, BertForMaskedLM

from exapt.cli import cli
from singlecell.cell_tables import shared
from singlecell.geneformer_models import write
from singlecell.scgpt_models import Stock

FAMILIES = ("geneformer-v1", "geneformer-v2", "scgpt")
LENGTH = 80
"""The most tokens of a cell that the models take."""
GENES = 120
PARTS = {"train": 40, "valid": 10, "test": 20}
_WIDTH, _BEFORE = 48, {1: ("<pad>", "<mask>"), 2: ("<pad>", "<mask>", "<cls>", "<eos>")}


def table(name="sc_scmark2k"):
    """Return a real table; skip the test where it is missing."""
    return anndata.read_h5ad(shared(name))


def few(adata, parts=PARTS, genes=GENES):
    """Return the first cells of each type in each part, so many of each type, with the genes that vary most over cells."""
    logged = adata.X.log1p()
    spread = np.asarray(logged.power(2).mean(0) - np.square(logged.mean(0))).ravel()
    adata = adata[:, np.sort(np.argsort(-spread)[:genes])]
    rows = adata.obs.reset_index().groupby(["cell_type", "split"], observed=True).cumcount()
    return adata[rows.to_numpy() < adata.obs["split"].map(parts).to_numpy(int)].copy()


def written(path, adata, **how):
    """Write a table, compressed unless told otherwise."""
    adata.write_h5ad(path, **{"compression": "gzip"} | how)
    return path


def cell_ranger(path, adata):
    """Write the cells as Cell Ranger 3 does, their genes by symbol alone."""
    held = sparse.csr_matrix(adata.X.astype(np.int32))
    count = adata.n_vars
    features = {"id": [f"id{place}" for place in range(count)], "name": list(adata.var_names)}
    features |= {"feature_type": ["Gene Expression"] * count, "genome": ["GRCh38"] * count}
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = held.data, held.indices, held.indptr
        group["shape"], group["barcodes"] = held.shape[::-1], np.array(adata.obs_names, dtype="S18")
        for name, words in features.items():
            group[f"features/{name}"] = np.array(words, dtype="S256")
    return path


def model(family, folder, adata, length=LENGTH):
    """Write a model of a family, which knows the genes of a table, in its published layout; return its name."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    if family == "scgpt":
        _scgpt(folder, adata, length)
        return f"scgpt:{folder}"
    _geneformer(folder, adata, length, int(family[-1]))
    return f"geneformer:{folder}"


def _geneformer(folder, adata, length, version):
    found = dictionaries(adata, version)
    write(folder, found, "_gc104M" if version == 2 else "_gc30M")
    size = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * _WIDTH}
    size |= {"vocab_size": len(found["token_dictionary"]), "max_position_embeddings": length, "hidden_act": "relu"}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0, **size}))
    tensors = BertForMaskedLM(BertConfig(**size)).state_dict()
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in tied}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def dictionaries(adata, version):
    """Return the dictionaries of a Geneformer that knows the genes of a table, with their usual levels in its cells."""
    ids = {name: gene for name, gene in adata.var["ensembl"].items() if re.fullmatch(r"ENSG\d{11}", str(gene))}
    totals = np.asarray(adata.X.sum(1))
    shares = sparse.csc_matrix(adata[:, list(ids)].X.multiply(1e4 / totals))
    ends = zip(shares.indptr, shares.indptr[1:], strict=False)
    medians = {
        gene: float(np.median(shares.data[begin:end])) if end > begin else 1.0
        for gene, (begin, end) in zip(ids.values(), ends, strict=True)
    }
    return {
        "token_dictionary": {name: token for token, name in enumerate((*_BEFORE[version], *medians))},
        "gene_median_dictionary": medians,
        "gene_name_id_dict": ids,
        "ensembl_mapping_dict": {name.upper(): gene for name, gene in ids.items()},
    }


def _scgpt(folder, adata, length):
    names = [*adata.var_names, "<pad>", "<cls>", "<eoc>"]
    shape = {"embsize": _WIDTH, "nheads": 4, "d_hid": 2 * _WIDTH, "nlayers": 2, "max_seq_len": length, "n_bins": 51}
    stock = Stock(len(names), shape["embsize"], shape["nheads"], shape["d_hid"], shape["nlayers"])
    torch.save(dict(stock.state_dict()), folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(shape))
    (folder / "vocab.json").write_text(json.dumps({name: token for token, name in enumerate(names)}))


def recipe(path, backbone, strategy, head, **changes):
    """Return a recipe of a few quick epochs; ``changes`` go to the training, or replace a part of the recipe."""
    training = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "head_learning_rate": 1e-2, "patience": 0}
    parts = {key: changes.pop(key) for key in ("split", "layer", "seed", "tokenizer") if key in changes}
    data = {"path": str(path), **changes.pop("data", {})}
    return {
        "data": data,
        "split": {"column": "split"},
        "backbone": backbone,
        "head": head,
        "strategy": strategy,
        "training": training | changes,
    } | parts


def said(*words, code=0):
    """Run ``exapt WORDS`` and return what it says on stdout and on stderr."""
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


def refused(*words):
    """Return the one line with which ``exapt WORDS`` refuses."""
    out, err = said(*words, code=2)
    assert out == ""
    assert err.startswith("exapt: ")
    assert err.count("\n") == 1
    return err.removeprefix("exapt: ").removesuffix("\n")
