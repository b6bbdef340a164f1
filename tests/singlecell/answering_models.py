"""A tiny model of cells without files, tables that it can learn from, and AnnData files looked at byte by byte."""

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from click.testing import CliRunner
from scipy import sparse
from torch import nn

from exapt import BackboneSpec, Options, TokenizerSpec, hookimpl
from exapt.cells import Cell
from exapt.cli import cli
from exapt.parts import NO_UNIT, Backbone, Encoding, Tokenizer
from exapt.testing import inline
from exapt_singlecell.matching import Match, Matcher, MatchTally
from exapt_singlecell.readers import READERS
from exapt_singlecell.writers import WRITERS

WIDTH = 8
KNOWN = {f"G{number}": number for number in range(1, 21)}
VOCABULARY = {"<pad>": 0, **KNOWN}


class Counted(Tokenizer):
    """One token for each known gene that a cell expresses, with its value."""

    def __init__(self):
        self.vocabulary = VOCABULARY
        self.matcher = Matcher(
            lambda names: Match.of(names, ([KNOWN[name]] if name in KNOWN else [] for name in names))
        )

    def tally(self):
        return MatchTally(self.matcher, 0.5)

    def encode(self, value):
        cell = Cell.of(value)
        tokens = self.matcher.of(cell.genes).tokens[cell.places]
        units = np.flatnonzero(tokens > 0)
        spans = np.stack([units, units], axis=1)
        arrays = {"input_ids": tokens[units], "values": cell.values[units]}
        if not len(units):
            # A batch has at least one token a cell.
            spans, arrays = np.full((1, 2), NO_UNIT), {"input_ids": np.zeros(1, int), "values": np.zeros(1, "f4")}
        return Encoding(arrays, {"input_ids": 0, "values": 0}, spans, len(cell.places), len(tokens) - len(units))


class Weighed(Backbone):
    """A vector for each gene, times the logarithm of its count."""

    width = WIDTH

    def __init__(self):
        super().__init__()
        self.genes = nn.Embedding(len(VOCABULARY), WIDTH)

    def forward(self, batch):
        return batch.features(self.genes(batch["input_ids"].long()) * torch.log1p(batch["values"])[..., None])


def _build(_options, _weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Weighed()


class Plugin:
    """A model of cells, with the readers and writers of AnnData."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_readers():
        return READERS

    @staticmethod
    @hookimpl
    def exapt_writers():
        return WRITERS

    @staticmethod
    @hookimpl
    def exapt_tokenizers():
        yield TokenizerSpec(name="counted", summary="Counts.", build=lambda options: Counted())

    @staticmethod
    @hookimpl
    def exapt_backbones():
        probe = {"genes": ["G1", "G2", "G9"], "counts": [4, 0, 1]}
        facts = {"tokenizer": "counted", "modality": "cell", "accepts": "cell", "probes": (probe,)}
        yield BackboneSpec(name="weighed", summary="Weighed.", options=Options, build=_build, **facts)


def exapt(*words, code=0, plugins=(Plugin,)):
    """Run ``exapt WORDS`` with these plugins alone and return what it says on stderr."""
    with inline(*plugins):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stdout == ""
    return result.stderr


def refused(*words, **how):
    """Return the one line with which ``exapt WORDS`` refuses."""
    said = exapt(*words, code=2, **how)
    assert said.startswith("exapt: ")
    assert said.count("\n") == 1
    return said.removeprefix("exapt: ").removesuffix("\n")


def cells(rows=90, empty=(4,), seed=0):
    """Return AnnData with something in every slot: types that G1 to G10 tell apart, sizes, donors; some cells are empty."""
    chance = np.random.default_rng(seed)
    kinds = np.array(["T/NK", "B", "mono"])[np.arange(rows) % 3]
    rates = np.where((np.arange(22) // 4)[None] == (np.arange(rows) % 3)[:, None], 6.0, 0.7)
    counts = chance.poisson(rates).astype(np.float32)
    counts[list(empty), :20] = 0
    names = [f"cell-{row}" for row in range(rows)]
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(kinds, ["T/NK", "mono", "B", "never"]),
            "size": counts.sum(1).astype(np.float64),
            "donor": [f"d{row // 10}" for row in range(rows)],
            "checked": pd.array([True, None, False] * (rows // 3), dtype="boolean"),
            "split": np.array(["train", "train", "train", "valid", "test"])[np.arange(rows) // 3 % 5],
        },
        index=names,
    )
    var = pd.DataFrame({"symbol": [f"sym{n}" for n in range(22)]}, index=[*KNOWN, "X1", "X2"])
    adata = anndata.AnnData(sparse.csr_matrix(np.log1p(counts)), obs=obs, var=var)
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.obsm["X_pca"] = chance.normal(size=(rows, 5))
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(rows)}, index=names)
    adata.obsp["near"] = sparse.eye(rows, format="csr")
    adata.varm["PCs"] = chance.normal(size=(22, 5))
    adata.uns["log"] = {"note": "text", "deep": {"array": np.arange(7), "words": np.array(["a", "b"], dtype=object)}}
    adata.raw = adata[:, :20]
    return adata


COUNTS = ("--set", "reader.layer=counts")


def written(folder, adata=None, name="cells.h5ad", **how):
    """Write AnnData, compressed unless told otherwise, and return the path."""
    path = folder / name
    (cells() if adata is None else adata).write_h5ad(path, **{"compression": "gzip"} | how)
    return path


def slots(path):
    """Return all that a file holds, by place: of each group its attributes, of each dataset how and with which bytes it lies."""
    found = {}
    raw = path.read_bytes()
    with h5py.File(path) as file:
        found["/"] = ("group", _attributes(file))
        file.visititems(lambda name, item: found.update({f"/{name}": _stored(item, raw)}))
    return found


def _stored(item, raw):
    if isinstance(item, h5py.Group):
        return "group", _attributes(item)
    layout = (item.dtype.str, item.dtype.metadata and sorted(item.dtype.metadata), item.shape, item.maxshape)
    packed = (item.chunks, item.compression, item.compression_opts, item.shuffle, item.fillvalue)
    return (
        "dataset",
        _attributes(item),
        layout,
        repr(packed),
        _bytes(item, raw),
        repr(np.asarray(item[()]).tolist() if item.size else ""),
    )


def _bytes(item, raw):
    if item.chunks:
        return [
            item.id.read_direct_chunk(item.id.get_chunk_info(n).chunk_offset) for n in range(item.id.get_num_chunks())
        ]
    begin = item.id.get_offset()
    return None if begin is None else raw[begin : begin + item.id.get_storage_size()]


def _attributes(item):
    return {name: (str(item.attrs.get_id(name).dtype), _plain(item, value)) for name, value in item.attrs.items()}


def _plain(item, value):
    return item.file[value].name if isinstance(value, h5py.Reference) else np.asarray(value).tolist()


def check_kept(before, after, obs=(), others=()):
    """Check that all that was there is there as it was, and that nothing is new but these columns of obs and other slots."""
    order = ("/obs", "column-order")
    told = {place: after[place] for place in before}
    (dtype, columns), was = told["/obs"][1].pop(order[1]), before["/obs"][1].pop(order[1])
    assert (dtype, columns) == (was[0], [*was[1], *obs])
    assert told == before
    wanted = (*(f"/obs/{column}" for column in obs), *others)
    new = after.keys() - before.keys()
    assert all(place.startswith(wanted) for place in new), new
    assert set(wanted) <= new


def listed(folder):
    """Return the names of a folder's files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
