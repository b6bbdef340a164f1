"""Heads for few examples: their options, and what they infer from the labels. The modules are in ``_few_shot`` and others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from exapt.builtin.heads import (
    CLASSES,
    MEAN,
    SCALE,
    Classes,
    ClassificationOptions,
    RegressionOptions,
    check_join,
    infer_classification,
    infer_regression,
)
from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, OfLoss, Options

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext
    from exapt.recipe import Recipe

exapt_api = 1

_DISTANCE = "How far apart two vectors are: their squared Euclidean distance, or 1 minus their cosine."
_TEMPERATURE = (
    "What distances are divided by to become probabilities; 0 to fit it, each training example left out in turn."
)
_NEIGHBOURS = "How many of the nearest training examples answer; all where there are fewer."
_SUPPORT = "The most training examples that are kept, drawn evenly over the classes; no more than there are: inferred."


class FittedOptions(Options):
    """What all heads that are fitted to pooled features have in common."""

    pooling: Literal["mean", "cls", "max"] = Field("mean", description="How token vectors become one.")
    inputs: tuple[str, ...] = Field(
        ("sequence",), min_length=1, description="Inputs that are read, pooled one by one and joined."
    )
    join: Literal["concatenate", "difference", "symmetric"] = Field(
        "concatenate",
        description="How the vectors of several inputs become one: side by side; of two, the first minus the second; or, of "
        "two, their sum, product and absolute difference, the same in both orders.",
    )
    standardise: bool = Field(True, description="Scale each feature by its mean and deviation over training examples.")

    @model_validator(mode="after")
    def _two(self) -> Self:
        check_join(self.inputs, self.join)
        return self


class FittedClasses(FittedOptions):
    """One class per example."""

    classes: Classes = Field((), description=CLASSES)


class FittedNumbers(FittedOptions):
    """One or many numbers per example."""

    targets: tuple[str, ...] = Field((), description="Names of the targets; empty for target_1, target_2, ...")
    mean: Annotated[tuple[float, ...], OfLoss()] = Field((), description=MEAN)
    scale: Annotated[tuple[float, ...], OfLoss()] = Field((), description=SCALE)


class PrototypeOptions(FittedClasses):
    """Options of ``prototypes``."""

    distance: Literal["euclidean", "cosine"] = Field("euclidean", description=_DISTANCE)
    temperature: float = Field(0.0, ge=0, description=_TEMPERATURE)


class NeighbourOptions(FittedClasses):
    """Options of ``nearest-neighbours``."""

    neighbours: int = Field(10, ge=1, description=_NEIGHBOURS)
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description=_DISTANCE)
    temperature: float = Field(0.0, ge=0, description=_TEMPERATURE)
    support: int = Field(10_000, ge=1, description=_SUPPORT)


class NeighbourRegressionOptions(FittedNumbers):
    """Options of ``nearest-neighbours-regression``."""

    neighbours: int = Field(10, ge=1, description=_NEIGHBOURS)
    distance: Literal["euclidean", "cosine"] = Field("euclidean", description=_DISTANCE)
    temperature: float = Field(0.0, ge=0, description=_TEMPERATURE)
    support: int = Field(10_000, ge=1, description=_SUPPORT)


_PENALTY = "Weight of the squared coefficients; 0 to choose it by the error of each training example left out in turn."


class RidgeOptions(FittedClasses):
    """Options of ``ridge``."""

    penalty: float = Field(0.0, ge=0, description=_PENALTY)
    temperature: float = Field(0.0, ge=0, description=_TEMPERATURE.replace("distances", "scores"))


class RidgeRegressionOptions(FittedNumbers):
    """Options of ``ridge-regression``."""

    penalty: float = Field(0.0, ge=0, description=_PENALTY)


class ContrastiveOptions(FittedClasses):
    """Options of ``contrastive``."""

    projection: int = Field(64, ge=2, description="Width of the vectors that are contrasted.")
    hidden: int = Field(0, ge=0, description="Width of the layer before them; 0 for that of the features.")
    contrast: float = Field(0.1, gt=0, description="What cosines are divided by in the contrastive loss.")
    space: Literal["features", "projection"] = Field(
        "features",
        description="Where prototypes stand and inputs are answered: among the features, the projection thrown away, or among "
        "its vectors, which can learn on a frozen backbone too.",
    )
    distance: Literal["euclidean", "cosine"] = Field("cosine", description=_DISTANCE)
    temperature: float = Field(0.0, ge=0, description=_TEMPERATURE)


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield heads that few examples suffice for."""
    yield HeadSpec(
        name="prototypes",
        summary="Which class, by the nearest mean of a class: fitted in closed form.",
        options=PrototypeOptions,
        build=_build_prototypes,
        infer=_infer_classes,
        baseline="classification",
        fits=True,
        learns=False,
    )
    yield HeadSpec(
        name="nearest-neighbours",
        summary="Which class, by the nearest training examples and a calibrated distance to them.",
        options=NeighbourOptions,
        build=_build_neighbours,
        infer=_infer_neighbours,
        baseline="classification",
        fits=True,
        learns=False,
    )
    yield HeadSpec(
        name="nearest-neighbours-regression",
        summary="One or many numbers, by the nearest training examples and a calibrated distance to them.",
        options=NeighbourRegressionOptions,
        build=_build_neighbours_regression,
        infer=_infer_neighbours_regression,
        columns="targets",
        baseline="regression",
        fits=True,
        learns=False,
    )
    yield HeadSpec(
        name="ridge",
        summary="Which class, by ridge regression onto the classes: fitted in closed form.",
        options=RidgeOptions,
        build=_build_ridge,
        infer=_infer_classes,
        baseline="classification",
        fits=True,
        learns=False,
    )
    yield HeadSpec(
        name="ridge-regression",
        summary="One or many numbers, by ridge regression: fitted in closed form.",
        options=RidgeRegressionOptions,
        build=_build_ridge_regression,
        infer=_infer_targets,
        columns="targets",
        baseline="regression",
        fits=True,
        learns=False,
    )
    yield HeadSpec(
        name="contrastive",
        summary="Which class, by prototypes of features that learn to lie together by class (supervised contrast).",
        options=ContrastiveOptions,
        build=_build_contrastive,
        infer=_infer_classes,
        baseline="classification",
        fits=True,
        check=_check_contrastive,
    )


Classed = TypeVar("Classed", bound=FittedClasses)
Numbered = TypeVar("Numbered", bound=FittedNumbers)


def _infer_classes(options: Classed, labels: Sequence[Any]) -> Classed:
    known = infer_classification(ClassificationOptions(classes=options.classes), labels)
    return options.model_copy(update={"classes": known.classes})


def _infer_targets(options: Numbered, labels: Sequence[Any]) -> Numbered:
    asked = RegressionOptions(targets=options.targets, mean=options.mean, scale=options.scale)
    known = infer_regression(asked, labels)
    return options.model_copy(update={"targets": known.targets, "mean": known.mean, "scale": known.scale})


def _infer_neighbours(options: NeighbourOptions, labels: Sequence[Any]) -> NeighbourOptions:
    return _infer_classes(options, labels).model_copy(update={"support": min(options.support, len(labels))})


def _infer_neighbours_regression(
    options: NeighbourRegressionOptions, labels: Sequence[Any]
) -> NeighbourRegressionOptions:
    return _infer_targets(options, labels).model_copy(update={"support": min(options.support, len(labels))})


def _check_contrastive(options: ContrastiveOptions, recipe: Recipe) -> None:
    if options.space == "features" and all(named.name == "probe" for named in recipe.strategies):
        raise RecipeError(
            "head 'contrastive' answers by features that learn, and of a 'probe' none does: choose another strategy, such as "
            "'lora', or space = \"projection\""
        )


def _build_prototypes(options: PrototypeOptions, context: HeadContext) -> Head:
    from exapt.builtin._few_shot import FittedClassification, Prototypes

    return FittedClassification(options, Prototypes(options, context))


def _build_neighbours(options: NeighbourOptions, context: HeadContext) -> Head:
    from exapt.builtin._few_shot import FittedClassification
    from exapt.builtin._neighbours import NeighbourClasses

    return FittedClassification(options, NeighbourClasses(options, context))


def _build_neighbours_regression(options: NeighbourRegressionOptions, context: HeadContext) -> Head:
    from exapt.builtin._few_shot import FittedRegression
    from exapt.builtin._neighbours import NeighbourNumbers

    return FittedRegression(options, NeighbourNumbers(options, context))


def _build_ridge(options: RidgeOptions, context: HeadContext) -> Head:
    from exapt.builtin._few_shot import FittedClassification
    from exapt.builtin._ridge import RidgeClasses

    return FittedClassification(options, RidgeClasses(options, context))


def _build_ridge_regression(options: RidgeRegressionOptions, context: HeadContext) -> Head:
    from exapt.builtin._few_shot import FittedRegression
    from exapt.builtin._ridge import RidgeNumbers

    return FittedRegression(options, RidgeNumbers(options, context))


def _build_contrastive(options: ContrastiveOptions, context: HeadContext) -> Head:
    from exapt.builtin._contrastive import Contrastive

    return Contrastive(options, context)
