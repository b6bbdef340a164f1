"""Small tables of cells as AnnData, and what a reader makes of their files."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from exapt import DataError, hookimpl
from exapt.cells import cells_of
from exapt.plugins import Plugins
from exapt_singlecell.readers import READERS

SHARED = Path(__file__).parents[3] / "shared" / "data"
SPECS = {spec.name: spec for spec in READERS}


class Readers:
    """A plugin of these readers alone."""

    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_readers():
        return READERS


PLUGINS = Plugins([], [Readers])


def counts(cells=7, genes=5):
    """Return counts of which two thirds are 0; the third cell is empty."""
    chance = np.random.default_rng(4)
    made = chance.poisson(3, (cells, genes)) * (chance.random((cells, genes)) < 0.5)
    made[2] = 0
    return made.astype(np.float32)


def cells_by_genes(values=None, **parts):
    """Return AnnData of counts, as compressed sparse rows unless given."""
    values = sparse.csr_matrix(counts()) if values is None else values
    cells, genes = values.shape
    obs = pd.DataFrame(index=[f"c{number}" for number in range(1, cells + 1)])
    var = pd.DataFrame(index=[f"G{number}" for number in range(1, genes + 1)])
    return anndata.AnnData(values, **{"obs": obs, "var": var, **parts})


def read(path, reader="h5ad", **options):
    """Return the whole table that a reader makes of a file."""
    spec = SPECS[reader]
    return pa.Table.from_batches(list(spec.build(spec.options(**options), path)))


def dense(table):
    """Return the values [cells, genes] of a table's cells, and check that each is in order and holds no 0."""
    cells = cells_of(table["cell"])
    for cell in cells:
        assert (np.diff(cell.places) > 0).all()
        assert (cell.values != 0).all()
    found = np.zeros((len(cells), len(cells[0].genes)), dtype=np.float32)
    for row, cell in enumerate(cells):
        found[row, cell.places] = cell.values
    return found


def genes(table):
    """Return the names of the genes that all cells of a table share."""
    (names,) = {cell.genes.names for cell in cells_of(table["cell"])}
    return list(names)


def shared(name):
    """Return the path of a real table; skip the test where it is missing."""
    path = SHARED / f"{name}.h5ad"
    if not path.is_file():
        pytest.skip(f"{path.name} is no part of this repository, and not in ../shared/data either")
    return path


def refusal(path, reader="h5ad", **options):
    """Return the sentence by which a reader refuses a file."""
    with pytest.raises(DataError) as raised:
        read(path, reader, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)
