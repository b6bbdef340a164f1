"""Checkpoints of Geneformer to read: the golden ones, copies to spoil, and other shapes."""

import json
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from exapt.cells import Cell, Genes
from exapt.recipe import validated
from exapt_singlecell.geneformer import BACKBONES, TOKENIZERS

GOLDEN = Path(__file__).parents[1] / "golden" / "geneformer"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "geneformer" / "dictionaries"
GIVEN = {version: GOLDEN / version / "given" for version in ("v1", "v2")}
STEMS = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")
(BACKBONE,) = BACKBONES
(TOKENIZER,) = TOKENIZERS


def built(source, weights=True, **options):
    """Build the backbone of a source over its options."""
    return BACKBONE.build(validated(BACKBONE.options, {"source": str(source), **options}, "backbone"), weights)


def reader(source, **options):
    """Build the tokenizer of a source over its options."""
    return TOKENIZER.build(validated(TOKENIZER.options, {"source": str(source), **options}, "tokenizer"))


def ids(encoding):
    """Return the ids of an encoding as a list."""
    return encoding.arrays["input_ids"].tolist()


def inputs_of(version):
    """Return the golden inputs of a version: its table's genes and its cells."""
    return json.loads((GIVEN[version] / "inputs.json").read_text())


def table_of(inputs):
    """Return the genes of the golden table: its columns, and behind them those that no column is of."""
    columns = inputs["gene_columns"]
    others = {gene for entry in inputs["entries"] for gene in entry["counts"]} - set(columns)
    return Genes((*columns, *sorted(others)))


def cell_of(entry, genes):
    """Return a golden cell."""
    return Cell.from_dense(genes, [entry["counts"].get(name, 0) for name in genes.names])


def cell(raw=True, **counts):
    """Return a cell of a table of its own."""
    return Cell.from_dense(Genes(tuple(counts)), list(counts.values()), raw)


class Copy:
    """A copy of a golden checkpoint in a folder of its own."""

    def __init__(self, version, folder):
        shutil.copytree(GIVEN[version] / "model", folder)
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


def dictionaries(version):
    """Return the four golden dictionaries of a version by the beginnings of their file names."""
    return {stem: json.loads((GIVEN[version] / "model" / f"{stem}.json").read_text()) for stem in STEMS}


def write(folder, found, suffix="", ending=".pkl"):
    """Write dictionaries as they are published, or as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in found.items():
        path = folder / f"{stem}{suffix}{ending}"
        path.write_bytes(pickle.dumps(content) if ending == ".pkl" else json.dumps(content).encode())


def read_pickle(path):
    """Return a dictionary that these tests have written."""
    return pickle.loads(path.read_bytes())


def bare(folder):
    """Take all dictionaries out of a folder."""
    for stem in STEMS:
        for path in folder.glob(f"{stem}*"):
            path.unlink()


def shaken(model, spread=0.1):
    """Give every parameter of a model, norms and biases too, values that show."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval()


def other(folder, genes=30, special=True, **config):
    """Write a Geneformer of another shape as its authors would, and return stock BERT with its weights."""
    names = [f"ENSG{number:011d}" for number in range(100, 100 + genes)]
    before = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if special else [])]
    tokens = {name: token for token, name in enumerate([*before, *names])}
    medians = {name: 0.5 + number % 7 / 4 for number, name in enumerate(names)}
    write(folder, {"token_dictionary": tokens, "gene_median_dictionary": medians})
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}
    shape |= {"vocab_size": len(tokens), "max_position_embeddings": 16, "hidden_act": "relu", "pad_token_id": 0}
    torch.manual_seed(genes)
    model = shaken(BertForMaskedLM(BertConfig(**shape | config)))
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    said = {key: value for key, value in model.config.to_dict().items() if key != "dtype"}
    (folder / "config.json").write_text(json.dumps(said | config))
    return model
