"""Answers of one's own, put back into AnnData by its writer, and small adapters that answer."""

import anndata
import h5py
import numpy as np
import pyarrow as pa
import pytest

import exapt as library
from exapt import OutputError
from exapt.data.files import open_writer
from exapt.testing import inline
from singlecell.answering_models import WIDTH, Plugin, written

BACKBONE = ("--backbone", "weighed")


def trained(folder):
    """Return a function that trains heads on the tiny model, once each, and gives the adapter's folder."""
    table = written(folder)
    heads = {
        "kind": {"head": {"name": "sequence-classification", "label": "kind"}},
        "size": {"head": {"name": "sequence-regression", "label": "size"}},
        "both": {
            "heads": {
                "kind": {"name": "sequence-classification", "label": "kind"},
                "kind_size": {"name": "sequence-regression", "label": "size"},
            }
        },
    }

    def train(name):
        if not (folder / name).exists():
            with inline(Plugin):
                library.train(
                    {
                        "data": {"path": str(table), "reader": {"layer": "counts"}},
                        "split": {"column": "split"},
                        "backbone": "weighed",
                        "strategy": "probe",
                        "training": {"epochs": 20, "batch_size": 16, "head_learning_rate": 0.05},
                        **heads[name],
                    },
                    folder / name,
                )
        return folder / name

    return train


def embeddings(ids, width=WIDTH, empty=None, seed=1):
    """Return one batch of embeddings."""
    numbers = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), width)
    marks = np.zeros(len(ids), dtype=bool) if empty is None else np.asarray(empty)
    return pa.record_batch({"id": pa.array(ids), "empty": pa.array(marks), "embedding": column})


def put(source, out, batches, answers="embedding", names=None, replace=False, facts=None):
    """Write answers of one's own with the writer that the suffix of ``out`` asks for."""
    names = names or {"": "mine" if answers == "embedding" else "task"}
    about = {"source": source, "answers": answers, "names": names, "facts": facts or {"by": "hand"}}
    with inline(Plugin), open_writer(out, overwrite=replace, about=about) as writer:
        for batch in batches:
            writer.write(batch)


def unwilling(*arguments, error=OutputError, **named):
    """Return the sentence with which the writer refuses."""
    with pytest.raises(error) as caught:
        put(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_of(path):
    """Return the names of the cells in a file."""
    with h5py.File(path) as file:
        return file["obs/_index"].asstr()[()].tolist()


def names_of_any(path):
    """Return the names of the cells in a file."""
    return list(anndata.read_h5ad(path, backed="r").obs_names)
