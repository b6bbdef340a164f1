"""Answers back into AnnData: embeddings as obsm, predictions and parts as columns of obs, their provenance in uns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exapt import Annotating, WriterSpec

if TYPE_CHECKING:
    from exapt_singlecell.writers.h5ad import Answers, Column, Embeddings


class H5adAdditions(Annotating):
    """What is added to a copy of an AnnData file."""


def build_h5ad(options: H5adAdditions, path: Path) -> Embeddings | Answers | Column:
    """Return a copy of the AnnData file that was asked about, for answers to be added to."""
    from exapt_singlecell.writers.h5ad import Answers, Column, Embeddings

    kinds: dict[str, type[Embeddings | Answers | Column]] = {
        "embedding": Embeddings,
        "prediction": Answers,
        "column": Column,
    }
    return kinds[options.answers](options, path)


WRITERS = (
    WriterSpec(
        name="h5ad",
        summary="The AnnData file that was asked about, with embeddings in obsm, predictions and parts in obs.",
        options=H5adAdditions,
        suffixes=(".h5ad",),
        build=build_h5ad,
    ),
)
