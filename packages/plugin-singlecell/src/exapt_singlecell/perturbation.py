"""Perturbation in silico: which genes move cells, how far, and towards which others.

Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9, for models of ranked genes; models of binned genes likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from anndata import AnnData
from scipy.stats import t as student

from exapt import DataError, Embedder, RecipeError, open_writer
from exapt.parts import Array
from exapt_singlecell.in_memory import tell
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.shifts import How, Shifts
from exapt_singlecell.sources import Piece, Source, Space, Tell, embedded, encoded, introduce

__all__ = ["Files", "Perturbation", "perturb", "perturb_file"]

Group = tuple[str, str]
"""A column of obs, and the value that cells of the group have there."""


@dataclass(frozen=True)
class Perturbation:
    """What is done to cells: ``genes`` change together or, one after the other, each on its own.

    ``towards`` is a group of cells to whose centroid the distance is told, ``among`` the group that is perturbed.
    """

    genes: tuple[str, ...]
    how: How = "delete"
    each: bool = False
    towards: Group | None = None
    among: Group | None = None

    def __post_init__(self) -> None:
        if self.how not in ("delete", "overexpress"):
            raise RecipeError(f"there is no way '{self.how}' to perturb a cell; the ways are delete and overexpress")
        if not self.genes:
            raise RecipeError("name a gene to perturb")

    @property
    def changes(self) -> list[tuple[str, ...]]:
        """Which genes change together."""
        genes = tuple(dict.fromkeys(self.genes))
        return [(gene,) for gene in genes] if self.each else [genes]


def perturb(
    adata: AnnData,
    backbone: str,
    genes: Sequence[str],
    how: How = "delete",
    *,
    each: bool = False,
    towards: Group | None = None,
    among: Group | None = None,
    layer: str = "",
    gene_names: str = "",
    values: Literal["counts", "normalised"] = "counts",
    pooling: str = "mean",
    model_layer: int = -1,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "",
) -> pd.DataFrame:
    """Return how far each cell moves in the space of a model when genes are deleted from it, or over-expressed.

    One row a cell: ``perturbed``, whether anything changed, and ``shift``, the cosine distance of its embeddings before
    and after, both pooled over the same genes without the perturbed ones; NaN for a cell in which nothing changed, such as one
    whose over-expressed genes stood in front, or in the highest bin, before. With
    ``each``, one row a gene, perturbed on its own: ``cells`` and ``unchanged`` count, ``shift`` is the mean over cells,
    with its 95 % interval (``low``, ``high``; of cells as if each were sampled on its own). With ``towards``, such as
    ``("cell_type", "Macrophages")``, there is also the change in cosine similarity to the centroid of those cells, above 0
    if a cell comes nearer; they themselves have none. ``among`` perturbs one group alone. ``layer``, ``gene_names`` (a
    column of var) and ``values`` say how the table is read; ``pooling`` to ``device`` are those of ``tl.embed``. After
    Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9. ``adata`` stays as it is.
    """
    what = Perturbation(_listed(genes), how, each, towards, among)
    source = Source.of(adata, H5adOptions(layer=layer, genes=gene_names, values=values), "adata")
    space = Space(backbone, pooling, model_layer, settings or {}, device)
    return _frame(space.load(), source, what, tell)


@dataclass(frozen=True)
class Files:
    """The file of some cells, and that of the table of their shifts, of a suffix that a writer knows."""

    cells: Path
    out: Path
    overwrite: bool = False


def perturb_file(files: Files, what: Perturbation, space: Space, tell: Tell = tell) -> pd.DataFrame:
    """Do the same to the cells of a file, and write the table to a file too.

    Settings of the ``space`` may also be of the ``reader``.
    """
    parts = dict(space.settings)
    source = Source.at(files.cells, parts.pop("reader", {}))
    with open_writer(files.out, overwrite=files.overwrite) as writer:
        frame = _frame(replace(space, settings=parts).load(), source, what, tell)
        writer.write(pa.RecordBatch.from_pandas(frame.reset_index(), preserve_index=False))
    return frame


def _listed(genes: Sequence[str]) -> tuple[str, ...]:
    return (genes,) if isinstance(genes, str) else tuple(genes)


def _frame(embedder: Embedder, source: Source, what: Perturbation, tell: Tell) -> pd.DataFrame:
    introduce(embedder, tell)
    goal = None if what.towards is None else _centroid(embedder, source, what.towards)
    shifts = Shifts(embedder, what.changes, what.how, goal)
    ids: list[str] = []
    found: list[tuple[Array, Array]] = []
    for piece, encodings in encoded(embedder, source, tell):
        rows = np.flatnonzero(_members(piece, what.among)) if what.among else np.arange(len(encodings))
        if not len(rows):
            continue
        if not ids:
            shifts.check(piece.cells[rows[0]])
        shift, gain = shifts.of([piece.cells[row] for row in rows], [encodings[row] for row in rows])
        if what.towards is not None:
            gain[:, _members(piece, what.towards)[rows]] = np.nan
        ids += [piece.ids[row] for row in rows]
        found.append((shift, gain))
    if not ids:
        raise DataError(_nobody(source, what.among))
    table = tuple(np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return _by_gene(what, *table) if what.each else _by_cell(what, ids, *table)


def _centroid(embedder: Embedder, source: Source, group: Group) -> Array:
    """Return the mean vector [width] of the cells of a group that express anything that the model knows."""
    total, count = np.zeros(embedder.backbone.width), 0
    for points in embedded(embedder, source, lambda line: None):
        rows = _members(points.piece, group) & ~points.empty
        total += points.vectors[rows].sum(0, dtype=np.float64)
        count += int(rows.sum())
    if not count:
        raise DataError(_nobody(source, group))
    return total / count


def _nobody(source: Source, group: Group | None) -> str:
    column, value = group or ("", "")
    return f"{source.name} has no cell whose '{column}' is '{value}'" if group else f"{source.name} has no cells"


def _members(piece: Piece, group: Group) -> Array:
    column, value = group
    return np.array([label == str(value) for label in piece.labels(column)], dtype=bool)


def _by_cell(what: Perturbation, ids: Sequence[str], shifts: Array, gains: Array) -> pd.DataFrame:
    columns = {"perturbed": ~np.isnan(shifts[0]), "shift": shifts[0]}
    columns |= {} if what.towards is None else {"towards": gains[0]}
    return pd.DataFrame(columns, index=pd.Index(ids, name="cell"))


def _by_gene(what: Perturbation, shifts: Array, gains: Array) -> pd.DataFrame:
    rows = []
    for shift, gain in zip(shifts, gains, strict=True):
        moved = shift[~np.isnan(shift)]
        row: dict[str, Any] = {"cells": len(moved), "unchanged": len(shift) - len(moved), **interval("shift", moved)}
        if what.towards is not None:
            row |= interval("towards", gain[~np.isnan(gain)])
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index([gene for (gene,) in what.changes], name="gene"))


def interval(name: str, values: Array) -> dict[str, float]:
    """Return the mean of some values and its 95 % interval after Student; NaN where there are too few."""
    mean = float(values.mean()) if len(values) else np.nan
    half = np.nan
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
