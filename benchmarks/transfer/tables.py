"""The tables of the sets, made from the real data: what is learned from, what selects, what is measured."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

PIECE, READ = 250, 120
POOL = {"train": 240, "valid": 60, "test": 150}
"""Rows from which the few labelled ones are drawn, and that are measured: to read thousands would cost more than to learn."""
_SHARED = {
    "CD4+/CD25 T Reg": "CD4 T",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T",
    "CD4+/CD45RO+ Memory": "CD4 T",
    "CD8+ Cytotoxic T": "CD8 T",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    "CD14+ Monocyte": "myeloid",
    "T_cells_CD4+": "CD4 T",
    "T_cells_CD8+": "CD8 T",
    "Macrophages": "myeloid",
}
"""Types that both sets of cells have, under one name; macrophages are what monocytes become."""


def write(folder: Path, data: Path, examples: Path) -> None:
    """Write all tables into ``folder``, unless they are there: from the folder ``data`` of real data and the ``examples``."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "complete").exists():
        return
    germline = pd.read_csv(examples / "germline_v.csv")
    for name, measured in (("germline", 128), ("antibodies", 48)):
        asked = germline[germline["split"] == "test"].sample(measured, random_state=0)
        pd.concat([germline[germline["split"] != "test"], asked]).to_csv(folder / f"{name}.csv", index=False)
    _write_chains(folder, germline)
    _write_genes(folder, germline)
    _write_bacteria(folder, pd.read_csv(data / "dna_bacteria_species.csv.gz"))
    _write_cells(folder, data)
    (folder / "zinc_fingers.csv").write_text((examples / "zinc_fingers.csv").read_text())
    (folder / "zinc_fingers").mkdir()
    for structure in (examples / "zinc_fingers").iterdir():
        (folder / "zinc_fingers" / structure.name).write_text(structure.read_text())
    (folder / "complete").touch()


def _write_chains(folder: Path, germline: pd.DataFrame) -> None:
    """Which chain is this gene of: learned of human genes, asked of those of mice."""
    known = germline[germline["chain"].isin(["A", "B", "H", "K"])]
    human, mouse = (known[known["organism"] == species] for species in ("human", "mouse"))
    _write_shift(folder, "chains", human, mouse, "chain")


def _write_shift(folder: Path, name: str, source: pd.DataFrame, target: pd.DataFrame, label: str) -> None:
    """Write ``name``.csv, whose test part is of the target, and ``name``_target.csv, without labels.

    The target's training rows are what may be learned from without labels; its other rows are measured.
    """
    measured = target[target["split"] != "train"].assign(split="test")
    pd.concat([source[source["split"] != "test"], measured]).to_csv(folder / f"{name}.csv", index=False)
    target[target["split"] == "train"].drop(columns=label).to_csv(folder / f"{name}_target.csv", index=False)


def _write_genes(folder: Path, germline: pd.DataFrame) -> None:
    """Human or mouse: of genes of T-cell receptors, then of genes of antibodies, and in the end of the former again."""
    known = germline[germline["organism"].isin(["human", "mouse"])]
    receptors, antibodies = (known[known["chain"].isin(list(chains))] for chains in ("AB", "HK"))
    receptors.to_csv(folder / "genes_first.csv", index=False)
    after = receptors[receptors["split"] == "test"]
    pd.concat([antibodies[antibodies["split"] != "test"], after]).to_csv(folder / "genes_second.csv", index=False)


def _write_bacteria(folder: Path, pieces: pd.DataFrame) -> None:
    """Pieces of six genomes; and their reads, of which those of the training rows have no labels."""
    known = _pool(pieces).assign(sequence=lambda rows: rows["sequence"].str[:PIECE])
    known.to_csv(folder / "bacteria.csv", index=False)
    starts = np.random.default_rng(0).integers(0, PIECE - READ, len(known))
    cut = [sequence[start : start + READ] for sequence, start in zip(known["sequence"], starts, strict=True)]
    reads = known.assign(sequence=cut)
    # No read is of a piece that is learned from with its label: those are drawn from the other half.
    of_train = reads[reads["split"] == "train"].index
    labelled, unlabelled = of_train[::2], of_train[1::2]
    rest = [known[known["split"] == "valid"], reads[reads["split"] == "test"]]
    pd.concat([known.loc[labelled], *rest]).to_csv(folder / "reads.csv", index=False)
    reads.loc[unlabelled].drop(columns="label").to_csv(folder / "reads_target.csv", index=False)


def _pool(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``POOL`` of the rows of each part, and all of the parts that it does not name."""
    parts = rows.groupby("split", sort=False)
    return pd.concat([part.sample(min(POOL.get(name, len(part)), len(part)), random_state=0) for name, part in parts])


def _write_cells(folder: Path, data: Path) -> None:
    source, target = (_cells(data / name) for name in ("sc_scmark2k.h5ad", "sc_pbmc68k_700.h5ad"))
    source = source[_pool(source.obs).index].copy()
    source.write_h5ad(folder / "cells.h5ad")
    source.X = _logarithms(source.X)
    measured = target[target.obs["split"] != "train"].copy()
    measured.obs["split"] = "test"
    both = anndata.concat([source[source.obs["split"] != "test"], measured], join="outer", fill_value=0)
    both.write_h5ad(folder / "types.h5ad")
    source.write_h5ad(folder / "types_first.h5ad")
    after = source[source.obs["split"] == "test"]
    later = target[target.obs["split"] != "test"]
    anndata.concat([later, after], join="outer", fill_value=0).write_h5ad(folder / "types_second.h5ad")
    unlabelled = target[target.obs["split"] == "train"].copy()
    del unlabelled.obs["type"]
    unlabelled.write_h5ad(folder / "types_target.h5ad")


def _cells(path: Path) -> anndata.AnnData:
    """Return the cells of the types that both sets have, with nothing but counts, type and part."""
    cells = anndata.read_h5ad(path)
    kept = cells.obs["cell_type"].isin(_SHARED).to_numpy()
    facts = {
        "type": cells.obs["cell_type"].astype(str).map(_SHARED)[kept].to_numpy(),
        "split": cells.obs["split"].astype(str)[kept].to_numpy(),
    }
    index = pd.Index([f"{path.stem}:{name}" for name in cells.obs_names[kept]])
    values = sparse.csr_matrix(cells.X)[kept].astype(np.float32)
    return anndata.AnnData(values, pd.DataFrame(facts, index=index), pd.DataFrame(index=cells.var_names))


def _logarithms(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the logarithms of counts in ten thousand of the cell's, as the other set of cells comes."""
    scale = 1e4 / np.asarray(counts.sum(1)).ravel()
    return sparse.csr_matrix(counts.multiply(scale[:, None])).log1p().astype(np.float32)
