"""What the options of the models of cells have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from exapt import Limit, Sourced


class CellTokenizerOptions(Sourced):
    """How the genes of a cell are read."""

    min_kept: Annotated[float, Limit()] = Field(
        0.5,
        ge=0,
        le=1,
        description="The least share of all counts that has to be of genes that the model knows; below it the table is "
        "refused, as of another species or under other names. 0 accepts all.",
    )


class CellBackboneOptions(Sourced):
    """Where the weights are."""
