"""Sequence design on a backbone: what can be asked for. Dauparas et al. 2022, doi:10.1126/science.add2187."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from exapt import Options, WriterSpec
from exapt_esm.proteinmpnn import ALPHABET
from exapt_esm.proteinmpnn.scorers import LARGEST_SEED

if TYPE_CHECKING:
    from exapt_esm.designing.fasta import FastaWriter

LETTERS = ALPHABET.removesuffix("X")
"""What can be sampled."""
FASTA = (".fasta", ".fa", ".faa")


def _words(given: Any, what: str) -> Any:
    """Return the parts of a text between commas; what is no text stays.

    Raises ``ValueError``, with ``what`` is named, for a part without anything: it may come of a variable that is not set.
    """
    if not isinstance(given, str):
        return given
    words = tuple(word.strip() for word in given.split(","))
    if not all(words):
        raise ValueError(f"names no {what}{' beside one of its commas' if any(words) else ''}")
    return words


def check_letters(letters: Iterable[str]) -> None:
    """Raise ``ValueError`` for what is none of the twenty amino acids."""
    for letter in letters:
        if letter not in LETTERS:
            raise ValueError(f"'{letter}' is none of the twenty amino acids {LETTERS}")


class DesignOptions(Options):
    """What is designed, and how it is sampled.

    A place is a chain (``B``), a residue of it (``A:52A``) or a stretch of it (``A:1-10``); a text holds several, with commas
    between them.
    """

    number: int = Field(8, ge=1, le=1_000_000, description="Sequences for each structure and temperature.")
    temperature: tuple[float, ...] = Field(
        (0.1,), description="Temperature of sampling, or several, such as 0.1,0.2: the higher, the more diverse."
    )
    chains: tuple[str, ...] | None = Field(
        None, description="Chains to design, such as A,B (default: all). All others are kept, as context."
    )
    fixed: tuple[str, ...] = Field((), description="Places that keep their residues, such as A:1-10,A:52A,B.")
    design_only: tuple[str, ...] | None = Field(None, description="Places that are designed alone, such as A:10-20.")
    omit: str | None = Field(None, description="Residues that are never sampled, such as C or CM.")
    omit_at: tuple[str, ...] = Field((), description="Residues never sampled at some places, such as A:12=CP,B=W.")
    bias: dict[str, float] = Field(
        {}, description="What is added to logits, such as A=-0.5,K=0.2: above 0 a residue becomes more frequent."
    )
    tied: tuple[str, ...] = Field(
        (), description="Stretches of one length that get one sequence, such as A:1-50=B:1-50, for parts that repeat."
    )
    tied_chains: tuple[tuple[str, ...], ...] = Field(
        (), description="Chains that get one sequence, residue number by residue number, such as A,B,C, for homomers."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed. A sample depends on it, its structure and its number alone."
    )
    batch: int = Field(
        8, ge=1, le=10_000, description="Sequences sampled side by side; which are found does not depend on it."
    )
    numbering: Literal["file", "index"] = Field(
        "file",
        description="What numbers of residues are: those of the file, with insertion codes, or places in the chain from 1, "
        "gaps included.",
    )

    @field_validator("chains", mode="before")
    @classmethod
    def _split_chains(cls, given: Any) -> Any:
        return _words(given, "chain")

    @field_validator("fixed", "design_only", "omit_at", "tied", mode="before")
    @classmethod
    def _split_places(cls, given: Any) -> Any:
        return _words(given, "place")

    @field_validator("chains", "design_only")
    @classmethod
    def _any(cls, given: tuple[str, ...] | None, field: ValidationInfo) -> tuple[str, ...] | None:
        # To design at no place is not to design at all of them.
        if given == ():
            raise ValueError(f"names no {'chain' if field.field_name == 'chains' else 'place'}")
        return given

    @field_validator("temperature", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, (int, float)) else _words(given, "temperature")

    @field_validator("temperature")
    @classmethod
    def _above_nothing(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if not given or min(given) <= 0:
            raise ValueError("a temperature is above 0")
        if len(set(given)) < len(given):
            raise ValueError("a temperature is named twice")
        return given

    @field_validator("omit", mode="before")
    @classmethod
    def _letters(cls, given: Any) -> Any:
        return "".join(_words(given, "residue") or ()).upper() or None

    @field_validator("omit")
    @classmethod
    def _some_left(cls, given: str | None) -> str | None:
        # X is no residue, and never sampled anyway.
        check_letters((given or "").replace("X", ""))
        if set(given or "") >= set(LETTERS):
            raise ValueError("all residues are left out: none is left to sample")
        return given

    @field_validator("bias", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        pairs = [word.partition("=") for word in _words(given, "residue")]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("a bias is LETTER=NUMBER, such as A=-0.5")
        names = [letter.strip().upper() for letter, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a residue is named twice")
        return dict(zip(names, (value.strip() for _, _, value in pairs), strict=True))

    @field_validator("bias")
    @classmethod
    def _of_letters(cls, given: dict[str, float]) -> dict[str, float]:
        check_letters(given)
        return given

    @field_validator("tied_chains", mode="before")
    @classmethod
    def _groups(cls, given: Any) -> Any:
        groups = [given] if isinstance(given, str) else given
        return tuple(_words(group, "chain") for group in groups) if isinstance(groups, Sequence) else given

    @field_validator("tied_chains")
    @classmethod
    def _two_at_least(cls, given: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(len(group) < 2 for group in given):
            raise ValueError("name two chains at least, such as A,B")
        return given

    @model_validator(mode="after")
    def _one_way(self) -> DesignOptions:
        if self.fixed and self.design_only:
            raise ValueError("--fixed and --design-only say the same in two ways: give one of them")
        return self


def _fasta(_options: Options, path: Path) -> FastaWriter:
    from exapt_esm.designing.fasta import FastaWriter

    return FastaWriter(path)


WRITERS = (
    WriterSpec(
        name="fasta",
        summary="FASTA of a table with the columns id and sequence, such as designs; other columns are KEY=VALUE.",
        suffixes=FASTA,
        build=_fasta,
    ),
)
