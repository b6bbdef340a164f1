"""Models of cells on an AnnData in memory, as scverse's tools are called: answers go where ``exapt`` would write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from anndata import AnnData

import exapt
from exapt import Adapted, Embedder, RecipeError
from exapt.cells import Cell, cells_of
from exapt.parts import Array, Tally
from exapt_singlecell.in_memory import put, target, tell
from exapt_singlecell.perturbation import perturb
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.readers.h5ad import batches_of
from exapt_singlecell.transfer import transfer_labels
from exapt_singlecell.writers.answers import Predictions, embedding_key, empty_key, record_of

__all__ = ["embed", "perturb", "predict", "transfer_labels"]

Values = Literal["counts", "normalised"]
Piece = tuple[list[str], list[Cell]]

# What an adapter's manifest tells of where its answers come from.
_TOLD = ("exapt", "plugins", "backbone", "tokenizer", "data", "metrics", "recipe")


def embed(
    adata: AnnData,
    backbone: str,
    *,
    key_added: str | None = None,
    layer: str | None = None,
    genes: str = "",
    values: Values = "counts",
    pooling: str = "mean",
    model_layer: int = -1,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "",
    copy: bool = False,
) -> AnnData | None:
    """Put the features of each cell under a pretrained model into ``obsm["X_exapt_<name>"]`` [cells, width].

    ``layer``, ``genes`` and ``values`` say how the table is read (see ``exapt show reader h5ad``); ``pooling`` is mean, max or
    cls; ``model_layer`` counts blocks of the model; ``settings`` holds options of the ``backbone`` and its ``tokenizer``.
    ``obs["exapt_<name>_empty"]`` marks cells without a known gene, if there are any; ``uns["exapt"]`` says where all comes from.
    A view becomes a table of its own, the file of a backed table stays as it is. Which genes are known is logged.
    """
    options = H5adOptions(layer=layer or "", genes=genes, values=values)
    if pooling == "none":
        raise RecipeError("obsm has one vector for each cell: pooling is mean, max or cls")
    adata = target(adata, copy)
    embedder = Embedder.of(backbone, pooling, model_layer, device, settings)
    _check(embedder.accepts, backbone)
    slot = key_added or embedding_key(embedder.short_name)
    tally = embedder.tokenizer.tally()
    vectors, empty = _vectors(embedder, _pieces(adata, options), tally)
    columns = {empty_key(slot): empty} if empty.any() else {}
    facts = {**embedder.key, "reader": options.model_dump(mode="json")}
    lines = [*embedder.backbone.notes, *tally.lines("cell")]
    put(adata, {slot: record_of(facts, list(columns), [slot])}, columns, {slot: vectors})
    _tell(lines, embedder.licence)
    return adata if copy else None


def _vectors(embedder: Embedder, pieces: Iterable[Piece], tally: Tally) -> tuple[Array, Array]:
    """Return an array [cells, width], and which cells [cells] have no known gene."""
    vectors, empty = [], []
    for ids, cells in pieces:
        encodings = embedder.encode(cells, ids)
        tally.count(cells, encodings)
        vectors.append(embedder.vectors(encodings).astype(np.float32))
        empty += [encoding.empty for encoding in encodings]
    return np.concatenate(vectors), np.array(empty)


def predict(
    adata: AnnData,
    adapter: Adapted | str | Path,
    *,
    layer: str | None = None,
    genes: str | None = None,
    values: Values | None = None,
    backbone: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "",
    copy: bool = False,
) -> AnnData | None:
    """Put what an adapter says of each cell into ``obs["exapt_<task>"]``, and of a class its probability beside it.

    Cells are read as the adapter learned to, unless ``layer``, ``genes`` or ``values`` say otherwise; ``backbone``,
    ``settings`` and ``device`` are those of ``exapt.load``. The answer for a cell without a known gene is missing.
    ``uns["exapt"]`` says where all comes from. A view becomes a table of its own, the file of a backed table stays as it
    is. Which genes are known is logged.
    """
    adata = target(adata, copy)
    loading: dict[str, Any] = {"backbone": backbone, "settings": settings, "device": device}
    adapted = adapter if isinstance(adapter, Adapted) else exapt.load(adapter, **loading)
    _check(adapted.resolved.backbone.offer.spec.accepts, adapted.name)
    given = {"layer": layer, "genes": genes, "values": values}
    learned = {key: value for key, value in adapted.resolved.recipe.data.reader.items() if key in given}
    options = H5adOptions(**learned | {key: value for key, value in given.items() if value is not None})
    tallies, predictions = adapted.tallies(), Predictions(adapted.tasks)
    for ids, cells in _pieces(adata, options):
        for batch in adapted.predict(cells, ids, tallies=tallies).to_batches():
            predictions.add(batch)
    facts = {key: adapted.manifest[key] for key in _TOLD} | {"reader": options.model_dump(mode="json")}
    lines = tallies.lines()
    put(adata, {slot: record_of(facts, keys) for slot, keys in predictions.keys.items()}, predictions.columns(), {})
    of = adapted.manifest["backbone"]
    _tell(lines, "" if of["commercial"] else f"{of['name']}: {of['licence']}, no commercial use")
    return adata if copy else None


def _check(accepts: str, name: str) -> None:
    if accepts != "cell":
        raise RecipeError(f"'{name}' reads a {accepts}, not cells")


def _pieces(adata: AnnData, options: H5adOptions) -> Iterator[Piece]:
    """Yield the names and the cells of the pieces in which a file would be read, so that all sums come out the same."""
    for batch in batches_of(adata, options):
        yield batch.column("id").to_pylist(), cells_of(pa.chunked_array([batch.column("cell")]))


def _tell(lines: Sequence[str], licence: str) -> None:
    for line in [*lines, *([f"licence of {licence}"] if licence else [])]:
        tell(line)
