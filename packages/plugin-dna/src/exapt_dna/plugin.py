"""What this plugin offers. Nothing heavy is imported before a component is built."""

from __future__ import annotations

from collections.abc import Iterable

from exapt import AugmentationSpec, BackboneSpec, TokenizerSpec, hookimpl
from exapt_dna import dnabert, dnabert2, hyenadna, nucleotide_transformer
from exapt_dna.augmentations import AUGMENTATIONS

exapt_api = 1

FAMILIES = (dnabert, dnabert2, hyenadna, nucleotide_transformer)


@hookimpl
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield the tokenizers of all families."""
    for family in FAMILIES:
        yield from family.TOKENIZERS


@hookimpl
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield the families of DNA models."""
    for family in FAMILIES:
        yield from family.BACKBONES


@hookimpl
def exapt_augmentations() -> Iterable[AugmentationSpec]:
    """Yield the changes of DNA that keep its meaning."""
    yield from AUGMENTATIONS
