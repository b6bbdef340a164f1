"""Strategies that keep what is learned near what was known, smooth, or averaged: companions of those that say what learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from exapt.errors import RecipeError, listed
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy
    from exapt.recipe import Recipe

exapt_api = 1

_Heads = Mapping[str, tuple[HeadSpec, Any]]
_UNITS = {"unit": "its units", "pair": "pairs of its units"}
_BY_CHANCE = "its vectors start by chance, and not from anything that was pretrained"
_FROM_CHANCE = {"prompt": _BY_CHANCE, "prefix": _BY_CHANCE}


class StartingPointOptions(Options):
    """How hard what learns is held near its start."""

    weight: float = Field(
        0.1,
        gt=0,
        description="Weight of half the squared distance of what learns in the backbone from where it started.",
    )
    new: float = Field(0.0, ge=0, description="Weight of half the squared size of the heads, which have no such start.")


class SmoothingOptions(Options):
    """How far targets are smoothed."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of each target that is spread over all classes.")


class MixupOptions(Options):
    """How examples are mixed."""

    alpha: float = Field(
        0.2,
        gt=0,
        description="Shape of the Beta distribution of the shares: small ones leave most examples nearly alone.",
    )


class AveragingOptions(Options):
    """Which states are averaged, and at which rate what learns goes on meanwhile."""

    share: float = Field(0.75, ge=0, lt=1, description="Share of the epochs after which averaging begins.")
    epoch: int = Field(0, ge=0, description="Epoch, from 1, with which averaging begins instead; 0 to go by the share.")
    steps: int = Field(
        0, ge=0, description="Steps between two states that are averaged; 0 for one at the end of each epoch."
    )
    rate: Literal["constant", "cyclic", "scheduled"] = Field(
        "constant",
        description="Rate of the backbone while states are averaged: constant, falling in each of several cycles, at whose "
        "ends the states are taken, or as training.schedule has it.",
    )
    factor: float = Field(
        0.5, gt=0, le=1, description="What the rate is multiplied by, if constant, or falls to in each cycle."
    )
    cycle: int = Field(1, ge=1, description="Epochs of a cycle.")
    keep: Literal["average", "better"] = Field(
        "average", description="What is kept: the average, or what is better on valid of it and the best epoch."
    )


class InterpolationOptions(Options):
    """Which points are tried between the pretrained model and the tuned one."""

    alphas: tuple[float, ...] = Field(
        tuple(step / 10 for step in range(11)),
        min_length=2,
        description="Points that are tried and reported: 0 is the pretrained backbone, 1 the tuned one.",
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="The point that is kept; without it, the best of them on valid."
    )

    @field_validator("alphas")
    @classmethod
    def _ordered(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= alpha <= 1 for alpha in alphas):
            raise ValueError("each of them lies between 0 and 1")
        return tuple(sorted(set(alphas)))


class StoppingOptions(Options):
    """When to stop."""

    patience: int = Field(5, ge=1, description="Epochs without a better metric after which training stops.")
    metric: str = Field("", description="Metric of the valid part; empty for the head's own.")


class DecayOptions(Options):
    """How fast weights decay."""

    decay: float = Field(
        0.1, ge=0, description="AdamW's decay of weights, of backbone and heads; none of biases and norms."
    )


class DropoutOptions(Options):
    """How much is dropped."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of the features that heads drop while learning.")


def _l2_sp(options: StartingPointOptions) -> Strategy:
    from exapt.builtin._regularised import StartingPoint

    return StartingPoint(options)


def _label_smoothing(options: SmoothingOptions) -> Strategy:
    from exapt.builtin._regularised import LabelSmoothing

    return LabelSmoothing(options)


def _mixup(options: MixupOptions) -> Strategy:
    from exapt.builtin._regularised import Mixup

    return Mixup(options)


def _swa(options: AveragingOptions) -> Strategy:
    from exapt.builtin._averaged import Averaging

    return Averaging(options)


def _wise_ft(options: InterpolationOptions) -> Strategy:
    from exapt.builtin._averaged import Interpolation

    return Interpolation(options)


def _early_stopping(options: StoppingOptions) -> Strategy:
    from exapt.builtin._regularised import EarlyStopping

    return EarlyStopping()


def _weight_decay(options: DecayOptions) -> Strategy:
    from exapt.parts import Strategy

    return Strategy()


def _head_dropout(options: DropoutOptions) -> Strategy:
    from exapt.builtin._regularised import HeadDropout

    return HeadDropout(options)


def _have_classes(_: Any, heads: _Heads) -> None:
    if not any("classes" in type(options).model_fields and not spec.fits for spec, options in heads.values()):
        raise RecipeError(
            "strategy 'label-smoothing' spreads targets over classes, and no head learns any: "
            f"there is {listed(spec.name for spec, _ in heads.values())}"
        )


def _read_vectors(_: Any, heads: _Heads) -> None:
    for name, (spec, options) in heads.items():
        if spec.answers != "input" or not spec.labelled:
            raise RecipeError(
                f"strategy 'mixup' blends one vector of each input, and head '{name}' ({spec.name}) answers for "
                f"{_UNITS.get(spec.answers, 'its tokens')}"
            )
        if getattr(options, "pooling", "") == "attention":
            raise RecipeError(
                f"strategy 'mixup' blends one vector of each input, and head '{name}' reads all tokens: give it another "
                "pooling than attention"
            )


def _have_dropout(_: Any, heads: _Heads) -> None:
    for name, (spec, options) in heads.items():
        own = getattr(options, "dropout", None)
        if own is None:
            raise RecipeError(f"strategy 'head-dropout': head '{name}' ({spec.name}) has no dropout to set")
        if own:
            raise RecipeError(
                f"strategy 'head-dropout': head '{name}' has a dropout of its own, {own:g}; leave one out"
            )


def _begins(options: AveragingOptions, recipe: Recipe) -> None:
    if options.epoch > recipe.training.epochs:
        raise RecipeError(
            f"strategy 'swa' averages from epoch {options.epoch} on, and training has {recipe.training.epochs}: lower its epoch"
        )


def _can_choose(options: InterpolationOptions, recipe: Recipe) -> None:
    if options.alpha is None and not recipe.split.column and recipe.split.fractions[1] == 0:
        raise RecipeError(
            "strategy 'wise-ft' chooses its alpha by the valid part, and split.fractions leaves none: say alpha"
        )


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield what regularises transfer."""
    yield StrategySpec(
        name="l2-sp",
        summary="What learns is held near where it started, the pretrained weights (L2-SP).",
        options=StartingPointOptions,
        build=_l2_sp,
        selects=False,
        needs=frozenset({"learning", "pretrained"}),
        excludes=_FROM_CHANCE,
    )
    yield StrategySpec(
        name="label-smoothing",
        summary="Heads learn classes less surely than the labels say, for probabilities that hold.",
        options=SmoothingOptions,
        build=_label_smoothing,
        selects=False,
        check_heads=_have_classes,
    )
    yield StrategySpec(
        name="mixup",
        summary="Heads learn from features of two examples, blended, with the labels of both.",
        options=MixupOptions,
        build=_mixup,
        selects=False,
        needs=frozenset({"labels"}),
        check_heads=_read_vectors,
    )
    yield StrategySpec(
        name="swa",
        summary="The weights of several epochs are averaged (SWA), and compared with the best epoch.",
        options=AveragingOptions,
        build=_swa,
        selects=False,
        training=lambda options: {} if options.rate == "scheduled" else {"schedule": "constant"},
        check=_begins,
    )
    yield StrategySpec(
        name="wise-ft",
        summary="A point between the pretrained and the tuned weights is kept (WiSE-FT), and the whole curve reported.",
        options=InterpolationOptions,
        build=_wise_ft,
        selects=False,
        needs=frozenset({"learning", "pretrained"}),
        excludes=_FROM_CHANCE,
        check=_can_choose,
    )
    yield from _settings()


def _settings() -> Iterator[StrategySpec]:
    """Yield those that are settings of training or heads under a name of their own."""
    yield StrategySpec(
        name="early-stopping",
        summary="Training stops once the metric of the valid part gets no better; the same as training.patience.",
        options=StoppingOptions,
        build=_early_stopping,
        selects=False,
        needs=frozenset({"valid"}),
        training=lambda options: {
            "patience": options.patience,
            **({"metric": options.metric} if options.metric else {}),
        },
    )
    yield StrategySpec(
        name="weight-decay",
        summary="Weights decay towards zero while they learn; the same as training.weight_decay.",
        options=DecayOptions,
        build=_weight_decay,
        selects=False,
        training=lambda options: {"weight_decay": options.decay},
    )
    yield StrategySpec(
        name="head-dropout",
        summary="Heads drop some of the features while they learn; the same as their option dropout.",
        options=DropoutOptions,
        build=_head_dropout,
        selects=False,
        check_heads=_have_dropout,
    )
