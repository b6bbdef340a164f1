"""Perturbation in silico: shifts against what the model itself says, over the same genes, and the tables made of them."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats

from exapt import ExaptError
from exapt.data.batching import collate
from exapt.testing import inline
from exapt_singlecell import plugin, scgpt
from exapt_singlecell.perturbation import perturb
from singlecell import geneformer_models, scgpt_models
from singlecell.answering_models import Plugin, cells
from singlecell.cell_tables import shared
from singlecell.command_line import refused, said

GENES = {
    "geneformer": [f"ENSG{number:011d}" for number in range(100, 130)],
    "scgpt": [*scgpt.PROBES[1]["genes"], *(f"GENE{number}" for number in range(14, 30))],
}


def rename(folder, names):
    """Give genes of a vocabulary other names."""
    path = folder / "vocab.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({names.get(name, name): token for name, token in held.items()}))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return folders of small models of both families; of Geneformer's 16 places, two are for special tokens."""
    folder = tmp_path_factory.mktemp("models")
    geneformer_models.other(folder / "geneformer")
    scgpt_models.other(folder / "scgpt", max_seq_len=16)
    rename(folder / "scgpt", {f"GENE{number}": name for number, name in enumerate(GENES["scgpt"])})
    return folder


def table(family, rows=12, seed=0, rate=1.0):
    """Return cells that express some of the model's genes and one that it does not know; the fourth is empty."""
    counts = np.random.default_rng(seed).poisson(rate, (rows, 31)).astype(np.float32)
    counts[3, :30] = 0
    obs = pd.DataFrame({"kind": ["a", "b", None] * (rows // 3)}, index=[f"cell-{row}" for row in range(rows)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[*GENES[family], "other"]))


def parts(source, family):
    """Return tokenizer and backbone."""
    made = {"geneformer": geneformer_models, "scgpt": scgpt_models}[family]
    return made.reader(source), made.built(source)


def states(backbone, encoding):
    """Return the states of the units that a model reads, by unit."""
    with torch.inference_mode():
        features = backbone(collate([encoding]))
    return {int(unit): state for unit, state in zip(encoding.spans[:, 0], features.hidden[0], strict=True) if unit >= 0}


def expected(source, family, adata, genes, how):
    """Return the shift of each cell, put together from the states of its genes one by one."""
    tokenizer, backbone = parts(source, family)
    shifts = []
    for counts in adata.X.toarray():
        cell = geneformer_models.Cell.from_dense(geneformer_models.Genes(tuple(adata.var_names)), counts)
        units = {adata.var_names[place]: unit for unit, place in enumerate(cell.places)}
        changed = {units[gene] for gene in genes if gene in units}
        before = states(backbone, tokenizer.encode(cell))
        after = states(backbone, tokenizer.perturbed(cell, genes, how))
        stay = sorted((before.keys() & after.keys()) - changed)
        if not stay or (how == "delete" and before.keys() == after.keys()):
            shifts.append(np.nan)
            continue
        means = [torch.stack([found[unit] for unit in stay]).double().mean(0) for found in (before, after)]
        shifts.append(1 - float(torch.cosine_similarity(*means, dim=0)))
    return np.array(shifts)


@pytest.mark.parametrize("how", ["delete", "overexpress"])
@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
@pytest.mark.parametrize("rate", [0.4, 2.0])
def test_shifts_are_of_the_genes_that_stay(family, how, rate, models):
    adata, genes = table(family, rate=rate), GENES[family][4:6]
    before = adata.copy()
    with inline(plugin):
        found = perturb(adata, f"{family}:{models / family}", genes, how)
    wanted = expected(models / family, family, adata, genes, how)
    assert found["shift"].to_numpy() == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert (found["shift"].dropna() > 1e-5).any()
    assert found["perturbed"].tolist() == (~np.isnan(wanted)).tolist()
    assert not found.loc["cell-3", "perturbed"]
    assert found.index.tolist() == adata.obs_names.tolist()
    assert (adata.X != before.X).nnz == 0
    assert (adata.obs.columns.tolist(), len(adata.uns), len(adata.obsm)) == (["kind"], 0, 0)


@pytest.mark.parametrize("how", ["delete", "overexpress"])
@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_the_golden_models_move_cells(family, how):
    source = {"geneformer": geneformer_models.GIVEN["v2"] / "model", "scgpt": scgpt_models.MODEL}[family]
    known = {"geneformer": geneformer_models.inputs_of("v2")["gene_columns"], "scgpt": scgpt_models.genes_of(40)}[
        family
    ]
    counts = np.random.default_rng(1).poisson(1.5, (6, len(known))).astype(np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=known))
    tokenizer, _ = parts(source, family)
    cell = geneformer_models.Cell.from_dense(geneformer_models.Genes(tuple(known)), counts[0])
    gene = cell.names[int(tokenizer.encode(cell).spans[3, 0])]
    with inline(plugin):
        found = perturb(adata, f"{family}:{source}", [gene], how, settings={"tokenizer": {"min_kept": 0}})
    wanted = expected(source, family, adata, [gene], how)
    assert found["shift"].to_numpy() == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert (found["shift"] > 1e-5).any()


def test_deleting_what_a_cell_does_not_express_is_no_perturbation(models):
    adata = table("scgpt", rate=0.25)
    gene = GENES["scgpt"][7]
    with inline(plugin):
        found = perturb(adata, f"scgpt:{models / 'scgpt'}", gene)
    expresses = adata[:, gene].X.toarray().ravel() > 0
    assert 0 < expresses.sum() < 11
    # None of these cells expresses more than the model takes.
    assert ((adata.X.toarray() > 0).sum(1) < 16).all()
    assert found["perturbed"].tolist() == expresses.tolist()
    assert found["shift"].isna().tolist() == (~expresses).tolist()


def in_front(family, adata):
    """Return a gene, and which cells it stands in front of all others or in the highest bin of already."""
    counts = adata.X.toarray()
    counts[:, 0] = 0
    counts[::2, 0] = 500
    adata.X = sparse.csr_matrix(counts)
    return GENES[family][0], np.arange(adata.n_obs) % 2 == 0


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_over_expressing_what_stands_in_front_is_no_perturbation(family, pooling, each, models):
    adata = table(family)
    gene, before = in_front(family, adata)
    with inline(plugin):
        found = perturb(adata, f"{family}:{models / family}", [gene], "overexpress", each=each, pooling=pooling)
    if each:
        assert found.loc[gene, ["cells", "unchanged"]].tolist() == [5, 7]
        assert found.loc[gene, "shift"] > 1e-7
        return
    # The fourth cell expresses nothing else.
    moved = ~before & (np.arange(12) != 3)
    assert found["perturbed"].tolist() == moved.tolist()
    assert found["shift"].isna().tolist() == (~moved).tolist()
    assert (found["shift"][moved] > 1e-7).all()


def test_no_distance_is_below_0(models):
    """Before the first block nothing moves, and rounding goes either way."""
    with inline(plugin):
        found = perturb(
            table("scgpt", rows=60), f"scgpt:{models / 'scgpt'}", GENES["scgpt"][:1], pooling="max", model_layer=0
        )
    assert found["perturbed"].sum() > 20
    assert found["shift"].dropna().between(0, 1e-12).all()


@pytest.mark.parametrize("how", ["delete", "overexpress"])
def test_a_gene_does_not_count_in_its_own_effect(how, models):
    """Before the first block no gene says anything of another, so that nothing else of a cell may move."""
    with inline(plugin):
        found = perturb(table("scgpt"), f"scgpt:{models / 'scgpt'}", GENES["scgpt"][:3], how, model_layer=0)
    assert found["perturbed"].sum() == 11
    assert found["shift"].dropna().to_numpy() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_the_models_own_vector_is_compared_where_asked(family, models):
    adata, gene = table(family), GENES[family][4]
    with inline(plugin):
        found = perturb(adata, f"{family}:{models / family}", [gene], "overexpress", pooling="cls")
    tokenizer, backbone = parts(models / family, family)
    cell = geneformer_models.Cell.from_dense(geneformer_models.Genes(tuple(adata.var_names)), adata.X.toarray()[0])
    encodings = [tokenizer.encode(cell), tokenizer.perturbed(cell, [gene], "overexpress")]
    with torch.inference_mode():
        before, after = (backbone(collate([encoding])).summary[0] for encoding in encodings)
    assert found["shift"].iloc[0] == pytest.approx(1 - float(torch.cosine_similarity(before, after, dim=0)), abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_each_gene_on_its_own_is_the_mean_of_its_cells(pooling, models):
    adata, backbone = table("geneformer"), f"geneformer:{models / 'geneformer'}"
    genes = [*GENES["geneformer"][2:5], GENES["geneformer"][2]]
    with inline(plugin):
        found = perturb(adata, backbone, genes, each=True, pooling=pooling)
        alone = {gene: perturb(adata, backbone, [gene], pooling=pooling)["shift"].dropna() for gene in genes}
    assert found.index.tolist() == genes[:3]
    assert found.columns.tolist() == ["cells", "unchanged", "shift", "shift_low", "shift_high"]
    for gene, row in found.iterrows():
        shifts = alone[gene]
        assert (row["cells"], row["unchanged"]) == (len(shifts), 12 - len(shifts))
        low, high = stats.t.interval(0.95, len(shifts) - 1, shifts.mean(), stats.sem(shifts))
        assert row[["shift", "shift_low", "shift_high"]].tolist() == pytest.approx([shifts.mean(), low, high], abs=1e-6)


def test_a_gene_that_too_few_cells_express_has_no_interval(models):
    adata = table("scgpt")
    counts = adata.X.toarray()
    counts[:, 8:10] = 0
    counts[1, 9] = 1
    adata.X = sparse.csr_matrix(counts)
    with inline(plugin):
        found = perturb(adata, f"scgpt:{models / 'scgpt'}", GENES["scgpt"][8:10], each=True)
    assert found["cells"].tolist() == [0, 1]
    assert found["unchanged"].tolist() == [12, 11]
    assert found["shift"].isna().tolist() == [True, False]
    assert found["shift_low"].isna().all()


def test_cells_come_nearer_to_a_group_or_move_away(models):
    adata, backbone = table("scgpt", rows=60), f"scgpt:{models / 'scgpt'}"
    counts = adata.X.toarray()
    # The groups express one gene each, and a deleted one takes cells away from those that live by it.
    counts[:, :2] = 0
    counts[::3, 0], counts[1::3, 1] = 50, 50
    adata.X = sparse.csr_matrix(counts)
    genes = GENES["scgpt"][:2]
    with inline(plugin):
        single = perturb(adata, backbone, genes[1:], "overexpress", towards=("kind", "b"))
        among = perturb(adata, backbone, genes[1:], "overexpress", towards=("kind", "b"), among=("kind", "a"))
        each = perturb(adata, backbone, genes, "overexpress", each=True, towards=("kind", "b"), among=("kind", "a"))
    group = (adata.obs["kind"] == "b").to_numpy()
    assert single["towards"].isna().tolist() == group.tolist()
    assert among.index.tolist() == adata.obs_names[adata.obs["kind"] == "a"].tolist()
    pd.testing.assert_series_equal(among["towards"], single["towards"][among.index], rtol=1e-3)
    assert each.loc[genes[1], "towards"] == pytest.approx(among["towards"].mean(), rel=1e-3)
    assert each.columns.tolist()[5:] == ["towards", "towards_low", "towards_high"]
    assert each.loc[genes[1], "towards"] > each.loc[genes[0], "towards"]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"genes": []}, "name a gene to perturb"),
        ({"genes": ["MISSING"]}, "scGPT knows no gene 'MISSING'; name genes by symbol, case and all"),
        ({"how": "drop"}, "there is no way 'drop' to perturb a cell; the ways are delete and overexpress"),
        ({"towards": ("type", "a")}, "adata has no column 'type'; its columns are: kind"),
        ({"towards": ("kind", "c")}, "adata has no cell whose 'kind' is 'c'"),
        ({"among": ("kind", "c")}, "adata has no cell whose 'kind' is 'c'"),
    ],
)
def test_what_cannot_be_perturbed_is_refused(how, sentence, models):
    with inline(plugin), pytest.raises(ExaptError) as raised:
        perturb(table("scgpt"), f"scgpt:{models / 'scgpt'}", **{"genes": GENES["scgpt"][:1], **how})
    assert str(raised.value) == sentence


def test_a_model_that_cannot_change_genes_is_refused():
    with inline(Plugin), pytest.raises(ExaptError) as raised:
        perturb(cells(), "weighed", ["G1"], layer="counts")
    assert str(raised.value) == "'weighed' cannot perturb cells: its tokenizer has no way to change genes"


def test_perturb_writes_a_table(models, tmp_path):
    adata = table("scgpt")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backbone = f"scgpt:{models / 'scgpt'}"
    words = ("perturb", tmp_path / "cells.h5ad", "--backbone", backbone, "--genes", "CD3E, GENE14")
    out, err = said(*words, "--how", "overexpress", "-o", tmp_path / "shifts.csv", plugin=plugin)
    with inline(plugin):
        wanted = perturb(adata, backbone, ["CD3E", "GENE14"], "overexpress")
        each = perturb(adata, backbone, ["CD3E", "GENE14"], each=True, towards=("kind", "a"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "shifts.csv", index_col="cell"), wanted)
    assert out[0].startswith(f"mean shift {wanted['shift'].mean():.3g} (95 % interval ")
    assert out[0].endswith("over 11 cells; 1 are as they were")
    assert err[-1] == f"12 cells in {tmp_path / 'shifts.csv'}"
    out, err = said(*words, "--each", "--towards", "kind=a", "-o", tmp_path / "genes.parquet", plugin=plugin)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "genes.parquet").set_index("gene"), each)
    assert (out, err[-1]) == ([], f"2 genes in {tmp_path / 'genes.parquet'}")
    assert refused(*words, "-o", tmp_path / "shifts.csv", plugin=plugin) == (
        f"'{tmp_path / 'shifts.csv'}' exists already. Remove it, or name another file."
    )
    assert refused(*words, "--towards", "kind", "-o", tmp_path / "more.csv", plugin=plugin) == (
        "--towards takes COLUMN=VALUE, not 'kind'"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "genes.parquet", "shifts.csv"]


def test_real_cells_move_when_genes_go(tmp_path):
    adata = anndata.read_h5ad(shared("sc_scmark2k"))[:24].copy()
    scgpt_models.other(tmp_path / "model", genes=adata.n_vars, max_seq_len=4000)
    rename(tmp_path / "model", {f"GENE{number}": name for number, name in enumerate(adata.var_names)})
    genes = adata.var_names[[0, 4, 900]].tolist()
    with inline(plugin):
        found = perturb(adata, f"scgpt:{tmp_path / 'model'}", genes, each=True)
    assert found["cells"].tolist() == (adata[:, genes].X.toarray() > 0).sum(0).tolist()
    assert (found["shift"] > 0).all()
    assert (found["shift"] < 0.01).all()
