"""What the DNA models' options have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from exapt import Limit, Sourced, Windowed


class DnaTokenizerOptions(Sourced):
    """How the letters of a sequence are read."""

    case: Literal["upper", "keep"] = Field(
        "upper",
        description="Read lower case as upper case, or keep it: the models know no lower-case letter, so that "
        "soft-masked repeats become unknown.",
    )
    rna: bool = Field(False, description="Read U as T, for sequences of RNA.")
    max_unknown: Annotated[float, Limit()] = Field(
        0.05,
        ge=0,
        le=1,
        description="The largest share of a sequence's letters that may be other than A, C, G and T; above it the "
        "sequence is refused.",
    )


class DnaBackboneOptions(Sourced, Windowed):
    """Where the weights are, and what becomes of sequences that are too long."""
