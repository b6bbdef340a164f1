"""Built-in heads: their options, and what they infer from the labels. The modules themselves are in ``_heads``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from exapt.data.labels import class_name, class_order, is_missing, number, numbers, unit_values
from exapt.errors import DataError, RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, OfLoss, Options

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext

exapt_api = 1


def _names(given: Any) -> Any:
    if not isinstance(given, (list, tuple)):
        return given
    names = tuple(class_name(name) for name in given)
    if len(set(names)) < len(names):
        raise ValueError("each class may be named once only")
    return names


def _each_weight(given: Any) -> Any:
    # Of a union, what does not fit would be told by the names of its branches.
    numbers = isinstance(given, (list, tuple)) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and one > 0 for one in given
    )
    if given not in ("none", "balanced") and not numbers:
        raise ValueError("say none, balanced, or a number above 0 for each class")
    return given


Classes = Annotated[tuple[str, ...], BeforeValidator(_names)]
ClassWeights = Annotated[Literal["none", "balanced"] | tuple[float, ...], BeforeValidator(_each_weight)]

CLASSES = "Names of the classes, in the order of the answers; empty to take them from the labels."
_WEIGHTS = "Weight of each class in the loss: none, balanced (as if all were equally frequent), or a number for each."
MEAN = "Mean of the labels, taken off before learning; inferred."
SCALE = "Standard deviation of the labels, divided out before learning; inferred."


class HeadOptions(Options):
    """What all built-in heads have in common."""

    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the features that is dropped while learning.")
    hidden: int = Field(0, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    standardise: bool = Field(
        True, description="Scale each feature of a frozen backbone by its mean and deviation over training examples."
    )


def check_join(inputs: tuple[str, ...], join: str) -> None:
    """Raise ``ValueError`` if these inputs cannot become one vector by ``join``."""
    if join != "concatenate" and (len(inputs) != 2 or len(set(inputs)) != 2):
        raise ValueError(
            f'join = "{join}" takes two inputs, and the head reads {", ".join(inputs)}: name two in data.inputs and, if '
            "there are more, in the head's inputs"
        )


class SequenceOptions(HeadOptions):
    """One answer per example."""

    pooling: Literal["mean", "cls", "max", "attention"] = Field(
        "mean", description="How token vectors become one; attention learns the weight of each token."
    )
    inputs: tuple[str, ...] = Field(
        ("sequence",), min_length=1, description="Inputs that are read, pooled one by one and joined."
    )
    join: Literal["concatenate", "difference", "symmetric"] = Field(
        "concatenate",
        description="How the vectors of several inputs become one: side by side; of two, the first minus the second; or, of "
        "two, their sum, product and absolute difference, the same in both orders.",
    )

    @model_validator(mode="after")
    def _two(self) -> Self:
        check_join(self.inputs, self.join)
        return self


class PositionOptions(HeadOptions):
    """One answer per unit."""

    inputs: tuple[str] = Field(("sequence",), description="The input whose units are answered for.")


class ClassLossOptions(Options):
    """How heads that tell classes count their mistakes."""

    class_weights: Annotated[ClassWeights, OfLoss()] = Field("none", description=_WEIGHTS)
    loss: Annotated[Literal["cross-entropy", "focal"], OfLoss()] = Field(
        "cross-entropy",
        description="Cross-entropy, or the focal loss, in which examples that are told well count less.",
    )
    gamma: Annotated[float, OfLoss()] = Field(
        2.0, ge=0, description="Of the focal loss: how much less; 0 makes it the cross-entropy."
    )

    @model_validator(mode="after")
    def _of_focal(self) -> Self:
        if self.loss != "focal" and self.gamma != ClassLossOptions.model_fields["gamma"].default:
            raise ValueError('gamma is of the focal loss: say loss = "focal", or leave it out')
        return self


class ClassificationOptions(ClassLossOptions, SequenceOptions):
    """Options of ``sequence-classification``."""

    classes: Classes = Field((), description=CLASSES)


class RegressionOptions(SequenceOptions):
    """Options of ``sequence-regression``."""

    targets: tuple[str, ...] = Field((), description="Names of the targets; empty for target_1, target_2, ...")
    mean: Annotated[tuple[float, ...], OfLoss()] = Field((), description=MEAN)
    scale: Annotated[tuple[float, ...], OfLoss()] = Field((), description=SCALE)


class InteractionOptions(ClassificationOptions):
    """Options of ``interaction``."""

    inputs: tuple[str, ...] = Field(("a", "b"), description="The two inputs, each pooled, in any order.")
    join: Literal["symmetric"] = Field(
        "symmetric", description="Their sum, product and absolute difference: the same in both orders."
    )


class PositionClassificationOptions(ClassLossOptions, PositionOptions):
    """Options of ``position-classification``."""

    classes: Classes = Field((), description=CLASSES)
    ignore: Annotated[tuple[str, ...], OfLoss(metrics=True)] = Field(
        ("",), description="Labels of units that are left out, such as '-'."
    )


class PositionRegressionOptions(PositionOptions):
    """Options of ``position-regression``."""

    mean: Annotated[tuple[float, ...], OfLoss()] = Field((), description=MEAN)
    scale: Annotated[tuple[float, ...], OfLoss()] = Field((), description=SCALE)


Classified = TypeVar("Classified", ClassificationOptions, PositionClassificationOptions)
Measured = TypeVar("Measured", RegressionOptions, PositionRegressionOptions)


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the questions that any backbone can be asked."""
    yield HeadSpec(
        name="sequence-classification",
        summary="Which of two or more classes an example belongs to.",
        options=ClassificationOptions,
        build=_build_classification,
        infer=infer_classification,
        baseline="classification",
    )
    yield HeadSpec(
        name="interaction",
        summary="Whether, or in which way, two inputs interact; the same answer in both orders, but for rounding.",
        options=InteractionOptions,
        build=_build_classification,
        infer=infer_classification,
        baseline="classification",
    )
    yield HeadSpec(
        name="sequence-regression",
        summary="One or many numbers per example.",
        options=RegressionOptions,
        build=_build_regression,
        infer=infer_regression,
        columns="targets",
        baseline="regression",
    )
    yield HeadSpec(
        name="position-classification",
        summary="Which class each unit (residue, base) belongs to.",
        options=PositionClassificationOptions,
        build=_build_position_classification,
        infer=_infer_position_classification,
        answers="unit",
        baseline="classification",
    )
    yield HeadSpec(
        name="position-regression",
        summary="One number per unit (residue, base).",
        options=PositionRegressionOptions,
        build=_build_position_regression,
        infer=_infer_position_regression,
        answers="unit",
        baseline="regression",
    )


def unit_classes(label: Any, ignore: Sequence[str], known: Sequence[str] = ()) -> list[str | None]:
    """Return the class of each unit, None where it is missing or to be ignored; raises ``DataError``.

    Texts that stand for no label, such as ``NA``, are classes where ``known`` names them.
    """
    return [
        None if is_missing(value) or str(value).strip() in ignore else class_name(value)
        for value in unit_values(label, characters=True, known=known)
    ]


def infer_classification(options: ClassificationOptions, labels: Sequence[Any]) -> ClassificationOptions:
    """Return the options with the classes of the labels. Raises ``DataError`` if there are fewer than two."""
    return _with_classes(options, Counter(class_name(label) for label in labels))


def _infer_position_classification(
    options: PositionClassificationOptions, labels: Sequence[Any]
) -> PositionClassificationOptions:
    names = (name for label in labels for name in unit_classes(label, options.ignore))
    return _with_classes(options, Counter(name for name in names if name is not None))


def _with_classes(options: Classified, counts: Mapping[str, int]) -> Classified:
    if len(counts) < 2:
        found = f"has one class only, '{next(iter(counts))}'" if counts else "has no value"
        raise DataError(f"{found}; classification needs two")
    classes = options.classes or class_order(counts)
    return options.model_copy(update={"classes": classes, "class_weights": _weights(options, classes, counts)})


def _weights(
    options: ClassificationOptions | PositionClassificationOptions, classes: Sequence[str], counts: Mapping[str, int]
) -> str | tuple[float, ...]:
    if options.class_weights == "balanced":
        total = sum(counts.get(name, 0) for name in classes)
        # A class that no label has keeps weight 1: nothing can be said of its frequency.
        return tuple(total / (len(classes) * counts[name]) if counts.get(name) else 1.0 for name in classes)
    check_weights(options.class_weights, classes)
    return options.class_weights


def check_weights(weights: str | tuple[float, ...], classes: Sequence[str]) -> None:
    """Raise ``RecipeError`` unless there is a weight for each class, or a word for all."""
    if isinstance(weights, tuple) and len(weights) != len(classes):
        raise RecipeError(f"class_weights has {len(weights)} numbers for {len(classes)} classes")


def infer_regression(options: RegressionOptions, labels: Sequence[Any]) -> RegressionOptions:
    """Return the options with the targets of the labels, and their scale. Raises ``DataError`` if one never varies."""
    rows = [numbers(label) for label in labels]
    sizes = Counter(len(row) for row in rows)
    if len(sizes) > 1:
        raise DataError(f"has {min(sizes)} values in some rows and {max(sizes)} in others")
    columns = list(zip(*rows, strict=True))
    targets = options.targets or tuple(f"target_{at}" for at in range(1, len(columns) + 1))
    if len(targets) != len(columns):
        raise RecipeError(f"targets names {len(targets)} targets, but the labels have {len(columns)}")
    return _with_scale(options.model_copy(update={"targets": targets}), columns)


def _infer_position_regression(options: PositionRegressionOptions, labels: Sequence[Any]) -> PositionRegressionOptions:
    return _with_scale(options, [[number(value) for label in labels for value in unit_values(label, characters=False)]])


def _with_scale(options: Measured, columns: Sequence[Sequence[float]]) -> Measured:
    moments = [_moments([value for value in column if not math.isnan(value)]) for column in columns]
    means, scales = zip(*moments, strict=True)
    return options.model_copy(update={"mean": options.mean or means, "scale": options.scale or scales})


def _moments(values: Sequence[float]) -> tuple[float, float]:
    if len(set(values)) < 2:
        found = f"has one value only, {values[0]:g}" if values else "has no value"
        raise DataError(f"{found}; regression needs two")
    mean = math.fsum(values) / len(values)
    # hypot neither overflows nor underflows, so that differing values never have a deviation of 0.
    return mean, math.hypot(*(value - mean for value in values)) / math.sqrt(len(values))


def _build_classification(options: ClassificationOptions, context: HeadContext) -> Head:
    from exapt.builtin._heads import Classification
    from exapt.builtin._trunk import Pool

    return Classification(options, Pool(options, context))


def _build_position_classification(options: PositionClassificationOptions, context: HeadContext) -> Head:
    from exapt.builtin._heads import Classification
    from exapt.builtin._trunk import Units

    return Classification(options, Units(options, context))


def _build_regression(options: RegressionOptions, context: HeadContext) -> Head:
    from exapt.builtin._heads import Regression
    from exapt.builtin._trunk import Pool

    return Regression(options, Pool(options, context), options.targets)


def _build_position_regression(options: PositionRegressionOptions, context: HeadContext) -> Head:
    from exapt.builtin._heads import Regression
    from exapt.builtin._trunk import Units

    return Regression(options, Units(options, context), ("target_1",))
