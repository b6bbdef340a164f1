"""What this plugin offers. Nothing heavy is imported before a component is built."""

from __future__ import annotations

from collections.abc import Iterable

from exapt import AugmentationSpec, BackboneSpec, HeadSpec, ReaderSpec, TokenizerSpec, WriterSpec, hookimpl
from exapt_singlecell import geneformer, scgpt
from exapt_singlecell.augmentations import AUGMENTATIONS
from exapt_singlecell.readers import READERS
from exapt_singlecell.writers import WRITERS

exapt_api = 1

FAMILIES = (geneformer, scgpt)


@hookimpl
def exapt_readers() -> Iterable[ReaderSpec]:
    """Yield the files in which cells are kept."""
    yield from READERS


@hookimpl
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield the tokenizers of both families."""
    for family in FAMILIES:
        yield from family.TOKENIZERS


@hookimpl
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield the families of models of cells."""
    for family in FAMILIES:
        yield from family.BACKBONES


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the questions that only one family can answer."""
    yield from scgpt.HEADS


@hookimpl
def exapt_augmentations() -> Iterable[AugmentationSpec]:
    """Yield changes of cells."""
    yield from AUGMENTATIONS


@hookimpl
def exapt_writers() -> Iterable[WriterSpec]:
    """Yield the way back into AnnData."""
    yield from WRITERS
