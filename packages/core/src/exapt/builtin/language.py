"""Built-in heads that go on with a model's own pretraining. The modules are in ``_language``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, OfLoss, Options

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext

exapt_api = 1


class LanguageOptions(Options):
    """What both objectives have in common."""

    inputs: tuple[str] = Field(("sequence",), description="The input whose tokens are asked for.")


class MaskedOptions(LanguageOptions):
    """Options of ``masked-lm``."""

    probability: Annotated[float, OfLoss(metrics=True)] = Field(
        0.15, gt=0, lt=1, description="Share of the tokens that is asked for, about."
    )
    masked: Annotated[float, OfLoss(metrics=True)] = Field(
        0.8, ge=0, le=1, description="Share of those that is hidden by the mask token."
    )
    random: Annotated[float, OfLoss(metrics=True)] = Field(
        0.1, ge=0, le=1, description="Share of those that a random token replaces; the rest stays as it is."
    )

    @model_validator(mode="after")
    def _shares(self) -> MaskedOptions:
        if self.masked + self.random > 1 + 1e-9:
            raise ValueError("masked and random are shares of the same tokens: they add up to 1 at most")
        return self


class CausalOptions(LanguageOptions):
    """Options of ``causal-lm``."""


def _build_masked(options: MaskedOptions, context: HeadContext) -> Head:
    from exapt.builtin._language import Masked

    return Masked(options, context)


def _build_causal(options: CausalOptions, context: HeadContext) -> Head:
    from exapt.builtin._language import Causal

    return Causal(options, context)


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the objectives of language models."""
    yield HeadSpec(
        name="masked-lm",
        summary="Which tokens are hidden: goes on with the pretraining of a masked language model, without labels.",
        options=MaskedOptions,
        build=_build_masked,
        answers="token",
        labelled=False,
    )
    yield HeadSpec(
        name="causal-lm",
        summary="Which token comes next: goes on with the pretraining of a causal language model, without labels.",
        options=CausalOptions,
        build=_build_causal,
        answers="token",
        labelled=False,
    )
