"""Any number of labels per example: the head's options, and what it infers. The module itself is in ``_multilabel``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from exapt.builtin.heads import CLASSES, Classes, ClassLossOptions, SequenceOptions, check_weights
from exapt.data.labels import class_order, class_set, is_set
from exapt.errors import DataError, RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext

exapt_api = 1


class MultilabelOptions(ClassLossOptions, SequenceOptions):
    """Options of ``sequence-multilabel``."""

    classes: Classes = Field((), description=CLASSES)
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which on a label is given.")


@hookimpl
def exapt_heads() -> Iterator[HeadSpec]:
    """Yield sequence-multilabel."""
    yield HeadSpec(
        name="sequence-multilabel",
        summary="Which labels, any number of them, an example has.",
        options=MultilabelOptions,
        build=_build,
        infer=_infer,
        columns="classes",
        baseline="multilabel",
    )


def _infer(options: MultilabelOptions, labels: Sequence[Any]) -> MultilabelOptions:
    classes = options.classes or _classes(labels)
    if options.class_weights == "balanced":
        weights = tuple(_balance(flags) for flags in zip(*(_flags(label, classes) for label in labels), strict=True))
        return options.model_copy(update={"classes": classes, "class_weights": weights})
    check_weights(options.class_weights, classes)
    return options.model_copy(update={"classes": classes})


def _classes(labels: Sequence[Any]) -> tuple[str, ...]:
    if any(isinstance(label, tuple) for label in labels):
        raise RecipeError("labels from several columns need their names in the head's 'classes', one for each column")
    classes = class_order(name for label in labels for name in class_set(label))
    if not classes:
        raise DataError("has no label in any row")
    return classes


def _flags(label: Any, classes: Sequence[str]) -> list[float]:
    """Return of each class 1 where it applies, 0 where not and NaN where that is not known."""
    if isinstance(label, tuple):
        return [is_set(value) for value in label]
    names = class_set(label)
    return [float(name in names) for name in classes]


def _balance(flags: Sequence[float]) -> float:
    """Return how many rows lack a label for each that has it; 1 if all have it or none: its frequency says nothing."""
    having, lacking = flags.count(1.0), flags.count(0.0)
    return lacking / having if having and lacking else 1.0


def _build(options: MultilabelOptions, context: HeadContext) -> Head:
    from exapt.builtin._multilabel import Multilabel
    from exapt.builtin._trunk import Pool

    return Multilabel(options, Pool(options, context))
