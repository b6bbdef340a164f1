"""A model that designs: as it was published, or gone on with in an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from exapt import Adapted, DataError, Embedder, RecipeError, load
from exapt.parts import Backbone, Encoding, LanguageModel, Tokenizer
from exapt.structures import Structure
from exapt_esm.proteinmpnn.backbone import ProteinMpnn

Settings = Mapping[str, Mapping[str, Any]]
_TAKE = "take one of ProteinMPNN, such as proteinmpnn-vanilla-020"


@dataclass(frozen=True)
class Designer:
    """A model, what tells letters of its last states, and the tokenizer that it reads with; ``notes`` are to be told of it."""

    name: str
    model: ProteinMpnn
    out: nn.Module
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, backbone: str, settings: Settings, device: str = "") -> Self:
        """Load a backbone by name; ``settings`` are of ``backbone`` and ``tokenizer``.

        Raises ``RecipeError`` for one that does not design.
        """
        embedder = Embedder.of(backbone, device=device, settings=settings)
        model = _of_structures(embedder.backbone, f"'{backbone}' reads {embedder.accepts}s")
        licence = (f"licence of {embedder.licence}",) if embedder.licence else ()
        return cls(backbone, model, model.language.head, embedder.tokenizer, (*model.notes, *licence))

    @classmethod
    def at(cls, folder: Path, settings: Settings, device: str = "") -> Self:
        """Load an adapter; ``settings`` are of its ``tokenizer``. Raises ``RecipeError`` for one that does not design."""
        return cls.of_adapter(load(folder, settings=settings, device=device), folder.name)

    @classmethod
    def of_adapter(cls, adapted: Adapted, name: str = "") -> Self:
        """Take a model that goes on with telling letters. Raises ``RecipeError`` for any other."""
        name = name or adapted.name
        model = _of_structures(adapted.model.backbone, f"'{name}' was learned on another model")
        heads = [adapted.model.head(head).language for head in adapted.model.heads]
        learned = next((language for language in heads if language is not None), None)
        if learned is None:
            raise RecipeError(f"'{name}' has no head that tells residues, such as inverse-folding, and cannot design")
        return cls(name, model.eval(), _ordered(learned, name), adapted.tokenizer)

    def encode(self, name: str, structure: Structure) -> Encoding:
        """Return a structure as the model reads it. Raises ``DataError``, with its name, for one that it cannot read."""
        try:
            return self.tokenizer.encode(structure)
        except DataError as error:
            raise DataError(f"'{name}': {error}") from None


def _of_structures(backbone: Backbone, other: str) -> ProteinMpnn:
    if not isinstance(backbone, ProteinMpnn):
        raise RecipeError(f"{other} and does not design sequences for structures; {_TAKE}")
    return backbone


def _ordered(language: LanguageModel, name: str) -> nn.Module:
    if language.objective != "ordered":
        raise RecipeError(f"'{name}' is a {language.objective} language model, which does not design; {_TAKE}")
    return language.head.eval()
