"""Tiny models with random weights that know the genes of a table, in the layouts of the published checkpoints.

They stand in for these where the pages of the documentation are run: no published weights are part of this repository.
"""

import json
import re

import anndata
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

from exapt_singlecell.geneformer import CHECKPOINTS, REPOSITORY
from singlecell.geneformer_models import write
from singlecell.scgpt_models import Stock

PUBLISHED = "geneformer-v2-104m"
_SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


def geneformer_on_hub(cache, table):
    """Put a Geneformer V2 into a cache of the hub, under the name of a published checkpoint, dictionaries and all."""
    (checkpoint,) = (known for known in CHECKPOINTS if known.name == PUBLISHED)
    snapshot = cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / checkpoint.revision
    found = _dictionaries(anndata.read_h5ad(table).var)
    write(snapshot / "geneformer", found, "_gc104M")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"vocab_size": len(found["token_dictionary"]), "max_position_embeddings": 4096, "hidden_act": "relu"}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**shape))
    folder = snapshot / checkpoint.source.removeprefix(f"{REPOSITORY}/")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0, **shape}))
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    kept = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def _dictionaries(var):
    symbols = {symbol: gene for symbol, gene in var["ensembl"].items() if re.fullmatch(r"ENSG\d{11}", gene)}
    genes = sorted(set(symbols.values()))
    return {
        "token_dictionary": {name: token for token, name in enumerate((*_SPECIAL, *genes))},
        "gene_median_dictionary": {gene: 1.0 + place % 5 / 2 for place, gene in enumerate(genes)},
        "gene_name_id_dict": symbols,
        "ensembl_mapping_dict": {symbol.upper(): gene for symbol, gene in symbols.items()},
    }


def scgpt_folder(folder, table):
    """Write a scGPT as its authors do: args.json, vocab.json and best_model.pt."""
    names = [*anndata.read_h5ad(table).var_names, "<pad>", "<cls>", "<eoc>"]
    shape = {"embsize": 32, "nheads": 4, "d_hid": 64, "nlayers": 2, "max_seq_len": 1200, "n_bins": 51}
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = Stock(len(names), shape["embsize"], shape["nheads"], shape["d_hid"], shape["nlayers"])
    torch.save(dict(model.state_dict()), folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(shape))
    (folder / "vocab.json").write_text(json.dumps({name: token for token, name in enumerate(names)}))
