"""Real cells through the command line: the same in every order and format, and refused in one line where they must be."""

import os
import pickle
import shutil

import anndata
import numpy as np
import pyarrow.parquet
import pytest
from scipy import io, sparse

from runs import fresh
from singlecell.answering_models import check_kept, listed, slots
from singlecell.real_cells import FAMILIES, cell_ranger, dictionaries, few, model, refused, said, table, written

pytestmark = pytest.mark.usefixtures("caches")
every_family = pytest.mark.parametrize("family", FAMILIES)
PARTS = {"train": 12, "valid": 4, "test": 4}
AGAIN = "Fetch or write the file again."


@pytest.fixture(scope="module")
def cells():
    """Return cells of which each expresses more or fewer genes than a model takes."""
    return few(table(), PARTS)


@pytest.fixture(scope="module")
def whole(cells, models, folder):
    """Return the embeddings [cells, width] of one file under each family, by family."""
    path = written(folder / "whole.h5ad", cells)
    return {family: embedded(path, models[family]) for family in FAMILIES}


def embedded(path, backbone, *words):
    """Return the embeddings of a file, as the command line writes them."""
    out = path.with_name(f"{path.name}.parquet")
    said("embed", path, "--backbone", backbone, "-o", out, "--overwrite", *words)
    return vectors(out)


def vectors(path):
    return np.stack(pyarrow.parquet.read_table(path)["embedding"].to_pylist())


@every_family
def test_neither_order_nor_neighbours_change_a_cell(family, cells, models, whole, tmp_path):
    order = np.random.default_rng(0).permutation(len(cells))
    shuffled = embedded(written(tmp_path / "shuffled.h5ad", cells[order]), models[family])
    np.testing.assert_allclose(shuffled, whole[family][order], atol=1e-6)
    pieces = [
        embedded(written(tmp_path / f"{begin}.h5ad", cells[begin : begin + 37]), models[family]) for begin in (0, 37)
    ]
    np.testing.assert_allclose(np.concatenate(pieces), whole[family], atol=1e-6)
    alone = embedded(written(tmp_path / "alone.h5ad", cells[11:12]), models[family])
    np.testing.assert_allclose(alone, whole[family][11:12], atol=1e-6)


def as_csc(path, adata):
    return written(path / "cells.h5ad", anndata.AnnData(sparse.csc_matrix(adata.X), adata.obs, adata.var))


def as_dense(path, adata):
    return written(path / "cells.h5ad", anndata.AnnData(adata.X.toarray(), adata.obs, adata.var), compression=None)


def as_layer(path, adata):
    held = {"counts": adata.X}
    return written(path / "cells.h5ad", anndata.AnnData(adata.X.log1p(), adata.obs, adata.var, layers=held))


def as_raw(path, adata):
    whole = anndata.AnnData(adata.X.log1p(), adata.obs, adata.var)
    whole.raw = adata
    return written(path / "cells.h5ad", whole[:, :7].copy())


def as_10x(path, adata):
    return cell_ranger(path / "cells.h5", adata)


def as_mtx(path, adata):
    io.mmwrite(path / "matrix.mtx", adata.X.T.astype(int))
    (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    lines = (f"id{place}\t{name}\tGene Expression\n" for place, name in enumerate(adata.var_names))
    (path / "features.tsv").write_text("".join(lines))
    return path


LAYOUTS = {
    as_csc: (),
    as_dense: (),
    as_layer: ("--set", "reader.layer=counts"),
    as_raw: ("--set", "reader.layer=raw"),
    as_10x: ("--set", "reader.genes=name"),
    as_mtx: ("--set", "reader.genes=name"),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_same_cells_in_every_format_are_the_same_bit_by_bit(layout, cells, models, whole, tmp_path):
    (tmp_path / "cells").mkdir()
    path = layout(tmp_path / "cells", cells)
    for family in ("geneformer-v2", "scgpt"):
        np.testing.assert_array_equal(embedded(path, models[family], *LAYOUTS[layout]), whole[family])


@pytest.mark.slow
def test_another_process_gives_the_same_bits(models, whole, folder):
    outs = {family: str(folder / f"{family}-elsewhere.parquet") for family in FAMILIES}
    code = "import exapt\nfor name, out in given[2].items(): exapt.embed(given[0], given[1][name], out=out)\nprint(json.dumps(1))"
    fresh(code, str(folder / "whole.h5ad"), models, outs, PYTHONHASHSEED="7")
    for family, out in outs.items():
        np.testing.assert_array_equal(vectors(folder / out), whole[family])


def test_all_genes_of_a_genome(folder):
    adata = table("sc_celltypist_559_unlabelled")
    for family, known in (("geneformer-v1", False), ("scgpt", True)):
        path = written(folder / f"{family}.h5ad", adata[:24].copy())
        before = slots(path)
        _, notes = said("embed", path, "--backbone", model(family, folder / f"wide-{family}", adata))
        slot = f"X_exapt_{family.partition('-')[0]}"
        check_kept(before, slots(path), (), (f"/obsm/{slot}", "/uns/exapt"))
        assert notes.splitlines()[-1] == f"24 rows in {path}"
        assert ("the model knows 32,786 of 32,786 genes of 'cell', 100.0% of the counts\n" in notes) == known
        assert len(np.unique(anndata.read_h5ad(path).obsm[slot], axis=0)) == 24


def test_normalised_cells_are_refused_unless_meant(folder):
    adata = table("sc_pbmc68k_700")
    path = written(folder / "pbmc.h5ad", adata)
    families = ("geneformer-v2", "scgpt")
    names = [model(family, folder / f"pbmc-{family}", adata, length=64) for family in families]
    before = path.read_bytes()
    for name in names:
        line = refused("embed", path, "--backbone", name)
        assert line.startswith("X of pbmc.h5ad has no counts, but 1.591 for the gene ")
    normalised = ("--set", "reader.values=normalised")
    assert "Geneformer reads raw counts: name their layer" in refused(
        "embed", path, "--backbone", names[0], *normalised
    )
    assert path.read_bytes() == before
    said("embed", path, "--backbone", names[1], *normalised)
    assert anndata.read_h5ad(path).obsm["X_exapt_scgpt"].shape == (700, 48)


def test_empty_cells_are_kept_counted_and_marked(cells, models, tmp_path):
    empty = cells.copy()
    empty.X = empty.X.multiply((np.arange(len(empty)) % 20 != 3)[:, None]).tocsr()
    path = written(tmp_path / "cells.h5ad", empty)
    for family in FAMILIES:
        _, notes = said("embed", path, "--backbone", models[family], "--overwrite")
        assert "3 of 60 cells of 'cell' express no gene that the model knows" in notes.splitlines()
        told = anndata.read_h5ad(path)
        name = family.partition("-")[0]
        assert told.obs[f"exapt_{name}_empty"].to_numpy().nonzero()[0].tolist() == [3, 23, 43]
        assert (~told.obsm[f"X_exapt_{name}"].any(1)).nonzero()[0].tolist() == [3, 23, 43]


def logged(adata):
    adata.layers["umi"] = adata.X.copy()
    adata.X = adata.X.log1p()


def with_value(value):
    """Return what puts a value in the place of the first that a table holds."""

    def change(adata):
        adata.X.data[0] = value

    return change


def renamed(adata):
    adata.var_names = [f"gene-{place}" for place in range(adata.n_vars)]


def twice(adata):
    adata.var_names = [adata.var_names[min(place, adata.n_vars - 2)] for place in range(adata.n_vars)]


def first(adata):
    """Return how a message names the first value of a table."""
    return f"for the gene '{adata.var_names[adata.X.indices[0]]}' in the cell '{adata.obs_names[0]}'"


NONE = "No other layer holds counts; take a file that does."
SCGPT = 'scGPT reads such values too, with values = "normalised".'
UNIQUE = "Call var_names_make_unique(), or name a column without repeats in the option genes."
KNOWN = "'ENSG00000087086', 'ENSG00000251562', 'ENSG00000167996'"
FAULTS = {
    "logged": (
        logged,
        "X of cells.h5ad has no counts, but {logged} {first}. Counts are in the layer 'umi': set layer = \"umi\".",
    ),
    "negative": (with_value(-2), f"X of cells.h5ad has -2 {{first}}: expression is never negative. {NONE}"),
    "halves": (with_value(2.5), f"X of cells.h5ad has no counts, but 2.5 {{first}}. {NONE} {SCGPT}"),
    "infinite": (with_value(np.inf), f"X of cells.h5ad has inf {{first}}. {AGAIN}"),
    "renamed": (
        renamed,
        "the model knows none of the 120 genes: the table has 'gene-0', 'gene-1', 'gene-2', the model "
        f"{KNOWN}; name the column of var that holds their Ensembl ids or symbols, "
        "--set reader.genes=COLUMN (data.reader.genes for train); var has the columns {columns}",
    ),
    "twice": (twice, f"var of cells.h5ad has '{{last}}' twice in its names. {UNIQUE}"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_cells_that_no_model_can_read(fault, cells, models, tmp_path):
    change, line = FAULTS[fault]
    adata = cells.copy()
    words = {
        "first": first(adata),
        "last": adata.var_names[-2],
        "columns": ", ".join(adata.var.select_dtypes(exclude="number")),
        "logged": f"{np.log1p(adata.X.data[0]):g}",
    }
    change(adata)
    path = written(tmp_path / "cells.h5ad", adata)
    assert set(left_alone(path, models["geneformer-v2"])) == {line.format(**words)}


def test_a_layer_that_there_is_not(cells, models, tmp_path):
    path = written(tmp_path / "cells.h5ad", cells)
    assert set(left_alone(path, models["scgpt"], "layer=umi")) == {
        "cells.h5ad has no layer 'umi'. Its layers are: none; leave the option layer empty for X."
    }


def left_alone(path, backbone, *reader):
    """Return the lines in which a table is refused by all that learns, embeds or writes, which leave nothing behind."""
    before, there = path.read_bytes(), listed(path.parent)
    read, learn = ([word for one in reader for word in ("--set", f"{of}reader.{one}")] for of in ("", "data."))
    flags = ("--data", path, "--label", "cell_type", "--split", "split", "--head", "sequence-classification")
    rest = ("--strategy", "probe", "--backbone", backbone, *learn, "--out", path.with_name("out"))
    lines = [
        refused("embed", path, "--backbone", backbone, *read),
        refused("embed", path, "--backbone", backbone, *read, "-o", path.with_name("out.parquet")),
        refused("train", *flags, *rest),
    ]
    assert path.read_bytes() == before
    assert listed(path.parent) == there
    return lines


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_that_is_cut_off(share, cells, models, tmp_path):
    path = written(tmp_path / "cells.h5ad", cells)
    size = path.stat().st_size
    held = int(size * share)
    os.truncate(path, held)
    for line in left_alone(path, models["scgpt"]):
        assert line == f"cells.h5ad is cut off: it has {held:,} of {size:,} bytes. Copy or download the file again."


def test_dictionaries_of_other_weights(cells, models, tmp_path):
    path = written(tmp_path / "cells.h5ad", cells)
    folder = shutil.copytree(models["geneformer-v2"].partition(":")[2], tmp_path / "model")
    other = dictionaries(cells, 1)["token_dictionary"]
    (folder / "token_dictionary_gc104M.pkl").write_bytes(pickle.dumps(other))
    assert set(left_alone(path, f"geneformer:{folder}")) == {
        f"'{folder}/token_dictionary_gc104M.pkl' has 120 tokens, but the weights of '{folder}' know 122: it is the token "
        "dictionary of another Geneformer; name the folder of their own dictionaries as tokenizer.dictionaries"
    }


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "stem", ["token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict"]
)
def test_a_pickle_with_code(stem, cells, models, tmp_path):
    path = written(tmp_path / "cells.h5ad", cells)
    folder = shutil.copytree(models["geneformer-v2"].partition(":")[2], tmp_path / "model")
    (folder / f"{stem}_gc104M.pkl").write_bytes(pickle.dumps({"<pad>": Payload(tmp_path / "executed")}))
    assert set(left_alone(path, f"geneformer:{folder}")) == {
        f"'{folder}/{stem}_gc104M.pkl' asks for '{os.mkdir.__module__}.mkdir' to be run, which exapt does not do; take the "
        "dictionary as JSON or Parquet"
    }
