"""Strategies that adapt to a domain without labels: features that no longer tell domains apart, or labels that carry over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from exapt.errors import RecipeError, listed
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy
    from exapt.recipe import Recipe

exapt_api = 1

ALIKE = (
    "strategy 'consistency' compares two views of an input, and nothing makes them differ: name an augmentation that changes "
    "training inputs, or a dropout in the head or in what learns of the backbone"
)
"""What is said where both views of an input are one."""
_DROPLESS = ("probe", "self-training", "consistency", "gradual-mixing")
"""Strategies beside which nothing of the backbone learns, and no head is given a dropout."""
_APART = {"maml": "its steps are of tasks of labelled rows alone, and rows of another domain are never seen"}


class AdversarialOptions(Options):
    """How hard the features are trained against a discriminator of domains."""

    weight: float = Field(
        1.0,
        gt=0,
        description="Weight, at its height, of the reversed gradient of the discriminator's loss. That is a mean over domains, "
        "where the paper adds up source and target: 1 is its lambda of 0.5, 2 its lambda of 1.",
    )
    width: int = Field(128, ge=1, description="Units of the discriminator's two hidden layers.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout between the discriminator's layers.")
    steepness: float = Field(
        10.0, gt=0, description="How early in training the weight rises: 2 / (1 + exp(-steepness x progress)) - 1."
    )


class CoralOptions(Options):
    """How strongly the second moments of the features are matched."""

    weight: float = Field(1.0, gt=0, description="Weight of the distance between the domains.")
    means: bool = Field(True, description="Match the means too; the paper matches covariances alone.")


class MmdOptions(Options):
    """How strongly the distributions of the features are matched, and by which kernels."""

    weight: float = Field(1.0, gt=0, description="Weight of the distance between the domains.")
    bandwidths: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        min_length=1,
        description="Widths of the Gaussian kernels, as multiples of the median squared distance of the rows of a step.",
    )


class SelfTrainingOptions(Options):
    """Which of a model's own answers about the target domain become labels."""

    threshold: float = Field(0.9, gt=0, lt=1, description="Least probability of an answer that becomes a label.")
    begin: int = Field(1, ge=0, description="Epochs of the labelled rows alone, before the first round.")
    every: int = Field(1, ge=1, description="Epochs between two rounds, in each of which all labels are made anew.")
    balance: bool = Field(
        True,
        description="Take as many answers of each class that has sure ones, the surest; not all sure ones. A class without any "
        "gives no label and holds back none of the others; where one class alone has any, a round gives no labels.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        description="Weight of the loss on these labels: of each step a mean over the rows, or units, that have a label, "
        "however few they are.",
    )


class ConsistencyOptions(Options):
    """What it means that the answers for two views of an input agree."""

    method: Literal["agree", "fixmatch"] = Field(
        "agree",
        description="agree: the squared difference between the answers for both views. fixmatch: a sure answer for one view "
        "is the label of the other.",
    )
    threshold: float = Field(0.95, gt=0, lt=1, description="Least probability of an answer that becomes a label.")
    weight: float = Field(1.0, gt=0, description="Weight of the loss.")


class GradualMixingOptions(Options):
    """How far, and how fast, features move from the one domain to the other."""

    share: float = Field(1.0, gt=0, le=1, description="Largest share of the target domain in a mixed row.")
    until: float = Field(0.8, gt=0, le=1, description="Share of the training after which it is reached.")
    weight: float = Field(1.0, gt=0, description="Weight of the loss on mixed rows.")


def _asked(recipe: Recipe) -> list[HeadSpec]:
    from exapt.plugins import current

    return [current().get(HeadSpec, head.name).spec for head in recipe.heads.values()]


def _some_domain(name: str) -> Any:
    def check(options: Any, recipe: Recipe) -> None:
        if recipe.target is None and not recipe.data.domain:
            raise RecipeError(
                f"strategy '{name}' brings domains together: name the table of another domain as target.path or, of the rows "
                "that are learned from, the column of their domains as data.domain"
            )

    return check


def _matching(name: str) -> Any:
    """Return a check that a step can have two rows of each of two domains."""

    def check(options: Any, recipe: Recipe) -> None:
        _some_domain(name)(options, recipe)
        least = 4 if recipe.target is None else 2
        if recipe.training.batch_size < least:
            of = "one domain has no two rows" if least == 2 else "no two domains have two rows each"
            raise RecipeError(
                f"strategy '{name}' matches how the rows of a step are distributed, and of training.batch_size = "
                f"{recipe.training.batch_size} {of}: raise it, to 32 say"
            )

    return check


def _classifying(name: str, answers: tuple[str, ...]) -> Any:
    """Return a check that some head learns classes by gradients, of what it can take ``answers`` for."""

    def check(options: Any, recipe: Recipe) -> None:
        specs = _asked(recipe)
        if not any(one.baseline == "classification" and one.answers in answers and not one.fits for one in specs):
            kinds = " or of each unit" if "unit" in answers else ""
            raise RecipeError(
                f"strategy '{name}' takes a head's surest classes for labels, of whole inputs{kinds}; there is "
                f"{listed(spec.name for spec in specs)}: ask with a head such as sequence-classification, or adapt "
                "by 'adversarial', 'coral' or 'mmd', which look at features alone"
            )

    return check


def _check_consistency(options: ConsistencyOptions, recipe: Recipe) -> None:
    specs = _asked(recipe)
    if options.method == "fixmatch":
        _classifying("consistency", ("input",))(options, recipe)
    elif not any(spec.labelled and spec.answers == "input" and not spec.fits for spec in specs):
        raise RecipeError(
            f"strategy 'consistency' compares answers about whole inputs; there is {listed(spec.name for spec in specs)}, "
            "and what is said of units moves with them"
        )
    if not recipe.augmentations and not _may_drop(recipe):
        raise RecipeError(ALIKE)


def _may_drop(recipe: Recipe) -> bool:
    """Return whether there may be dropout, as far as a recipe tells: in what learns of the backbone, or in a head."""
    if any(name not in _DROPLESS for name in (strategy.name for strategy in recipe.strategies)):
        return True
    for named, spec in zip(recipe.heads.values(), _asked(recipe), strict=True):
        known = spec.options.model_fields.get("dropout")
        # A head without that option may have dropout all the same.
        if known is None or named.options.get("dropout", known.default):
            return True
    return False


def _check_mixed(options: GradualMixingOptions, heads: Mapping[str, tuple[HeadSpec, Any]]) -> None:
    """Raise ``RecipeError`` for a head whose classes are learned of mixed rows and which reads tokens, which are not mixed."""
    for name, (spec, given) in heads.items():
        mixed = spec.baseline == "classification" and spec.answers == "input" and not spec.fits
        if mixed and getattr(given, "pooling", "") == "attention":
            raise RecipeError(tokens_read(name))


def tokens_read(head: str) -> str:
    """Return what is said of a ``head`` whose features are not mixed."""
    return (
        f"strategy 'gradual-mixing' mixes one vector of each input, and head '{head}' reads tokens: choose the pooling 'mean', "
        "'cls' or 'max'"
    )


def _adversarial(options: AdversarialOptions) -> Strategy:
    from exapt.builtin._domains import Adversarial

    return Adversarial(options)


def _coral(options: CoralOptions) -> Strategy:
    from exapt.builtin._domains import Matching, coral

    return Matching("coral", options.weight, coral(options))


def _mmd(options: MmdOptions) -> Strategy:
    from exapt.builtin._domains import Matching, mmd

    return Matching("mmd", options.weight, mmd(options))


def _self_training(options: SelfTrainingOptions) -> Strategy:
    from exapt.builtin._pseudo_labels import SelfTraining

    return SelfTraining(options)


def _consistency(options: ConsistencyOptions) -> Strategy:
    from exapt.builtin._consistency import Consistency

    return Consistency(options)


def _gradual_mixing(options: GradualMixingOptions) -> Strategy:
    from exapt.builtin._gradual_mixing import GradualMixing

    return GradualMixing(options)


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield adversarial, coral, mmd, self-training, consistency and gradual-mixing."""
    yield StrategySpec(
        name="adversarial",
        summary="Features from which a discriminator cannot tell the domain (DANN): its gradient is reversed.",
        options=AdversarialOptions,
        build=_adversarial,
        selects=False,
        excludes=_APART,
        needs=frozenset({"learning"}),
        check=_some_domain("adversarial"),
    )
    yield StrategySpec(
        name="coral",
        summary="Features whose means and covariances are those of the other domain (Deep CORAL).",
        options=CoralOptions,
        build=_coral,
        selects=False,
        excludes=_APART,
        needs=frozenset({"learning"}),
        check=_matching("coral"),
    )
    yield StrategySpec(
        name="mmd",
        summary="Features distributed as in the other domain, by the maximum mean discrepancy of several kernels.",
        options=MmdOptions,
        build=_mmd,
        selects=False,
        excludes=_APART,
        needs=frozenset({"learning"}),
        check=_matching("mmd"),
    )
    yield StrategySpec(
        name="self-training",
        summary="The model's surest answers about the target domain become labels, anew in each round.",
        options=SelfTrainingOptions,
        build=_self_training,
        selects=False,
        excludes=_APART,
        needs=frozenset({"target", "labels"}),
        check=_classifying("self-training", ("input", "unit")),
    )
    yield StrategySpec(
        name="consistency",
        summary="Answers about two views of one input of the target domain agree (or FixMatch).",
        options=ConsistencyOptions,
        build=_consistency,
        selects=False,
        excludes=_APART,
        needs=frozenset({"target", "labels"}),
        check=_check_consistency,
    )
    yield StrategySpec(
        name="gradual-mixing",
        summary="Rows are mixed with ever more of like rows of the target domain, feature by feature.",
        options=GradualMixingOptions,
        build=_gradual_mixing,
        selects=False,
        excludes=_APART,
        needs=frozenset({"target", "labels"}),
        check=_classifying("gradual-mixing", ("input",)),
        check_heads=_check_mixed,
    )
