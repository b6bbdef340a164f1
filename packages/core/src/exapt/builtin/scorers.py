"""Built-in scorers of variants. The code is in ``_scorers``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from exapt.hookspecs import hookimpl
from exapt.specs import Options, ScorerSpec

if TYPE_CHECKING:
    from exapt.parts import Scorer

exapt_api = 1


class ScorerOptions(Options):
    """Options of all built-in scorers."""

    units_only: bool = Field(
        False,
        description="Share the probability out among the tokens that stand for units alone, as if no special token could "
        "stand in their place; published scores are over the whole vocabulary.",
    )


class MaskedMarginalOptions(ScorerOptions):
    """Options of masked marginals."""

    max_hidden: float = Field(
        0.5,
        gt=0,
        le=1,
        description="The largest share of the tokens that may be hidden at once, where wild type and mutant have unequal "
        "numbers of them; above it the variant is refused.",
    )


class LogLikelihoodOptions(ScorerOptions):
    """Options of log-likelihoods."""

    special: bool = Field(False, description="Count special tokens too, such as the one that ends an input.")


def _masked_marginal(options: MaskedMarginalOptions) -> Scorer:
    from exapt.builtin._scorers import MaskedMarginal

    return MaskedMarginal(options)


def _wild_type_marginal(options: ScorerOptions) -> Scorer:
    from exapt.builtin._scorers import WildTypeMarginal

    return WildTypeMarginal(options)


def _pseudo_log_likelihood(options: ScorerOptions) -> Scorer:
    from exapt.builtin._scorers import PseudoLogLikelihood

    return PseudoLogLikelihood(options)


def _log_likelihood(options: LogLikelihoodOptions) -> Scorer:
    from exapt.builtin._scorers import LogLikelihood

    return LogLikelihood(options)


@hookimpl
def exapt_scorers() -> Iterable[ScorerSpec]:
    """Yield the ways to score that need a language model's probabilities alone."""
    yield ScorerSpec(
        name="masked-marginal",
        summary="The tokens that differ, hidden together: how much more the mutant's are expected.",
        options=MaskedMarginalOptions,
        build=_masked_marginal,
        objective="masked",
    )
    yield ScorerSpec(
        name="wild-type-marginal",
        summary="The tokens that differ, nothing hidden: one pass for all substitutions of an input.",
        options=ScorerOptions,
        build=_wild_type_marginal,
        objective="masked",
    )
    yield ScorerSpec(
        name="pseudo-log-likelihood",
        summary="Every token hidden in turn, mutant minus wild type: the scorer for insertions and deletions.",
        options=ScorerOptions,
        build=_pseudo_log_likelihood,
        objective="masked",
    )
    yield ScorerSpec(
        name="log-likelihood",
        summary="Every token from those before it, mutant minus wild type.",
        options=LogLikelihoodOptions,
        build=_log_likelihood,
        objective="causal",
    )
