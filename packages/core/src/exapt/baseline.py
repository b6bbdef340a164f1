"""The simple model that transfer has to beat: linear, on k-mers of the whole (and, where all inputs have one length, on
the letter at each place), on a window around each unit or, of cells, on the logarithm of each gene's share.

It answers in the form of a head's own outputs (logits, or values on the learned scale), so that one head decodes and
measures both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from exapt.baseline_views import Shares, Windows, Words
from exapt.cells import Cell
from exapt.errors import RecipeError

Array = npt.NDArray[Any]
Kind = Literal["classification", "multilabel", "regression"]
Score = Callable[[Sequence[Array], Sequence[Array]], float]
"""How well outputs fit targets: the higher the better, NaN where it cannot be said."""

MOST_POSITIONS = 50_000
"""Of more positions than these, so many are drawn to learn from."""
FOLDS = 3
PENALTIES = tuple(10.0**power for power in range(-3, 4))
LEAST_SHARE = 1e-6
"""The probability of a class that the training rows lack: its logarithm must be finite."""


class Baseline:
    """A fitted baseline; ``fit_baseline`` makes it."""

    def __init__(self, words: Words | Windows | Shares, model: _Model) -> None:
        self._words = words
        self._model = model

    @property
    def size(self) -> int:
        """Number of coefficients and intercepts."""
        return sum(
            model.coef_.size + np.size(model.intercept_) for model in self._model.parts() if hasattr(model, "coef_")
        )

    def predict(self, inputs: Sequence[Any]) -> list[Array]:
        """Return one output per input: [answers], or [units, answers] if it was fitted per position."""
        _check_kind(inputs)
        if not inputs:
            return []
        rows = self._model.answer(self._words.rows(inputs)).astype(np.float32)
        if not self._words.per_unit:
            return list(rows)
        return np.split(rows, np.cumsum([len(text) for text in inputs])[:-1])


def fit_baseline(
    kind: Kind,
    position: bool,
    train_inputs: Sequence[Any],
    train_targets: Sequence[Array],
    valid_inputs: Sequence[Any] = (),
    valid_targets: Sequence[Array] = (),
    seed: int = 0,
    answers: int | None = None,
    score: Score | None = None,
) -> Baseline:
    """Fit a linear model to encoded targets; the valid part, or cross-validation where there is none, sets its penalty.

    ``answers`` is the number of classes, where the targets need not hold the last of them. The penalty is the one with
    the highest ``score(outputs, targets)``, without it the one with the least error. Raises ``RecipeError`` for inputs
    that are neither text nor cells or, per position, have not one letter per unit.
    """
    cells = _check_kind([*train_inputs, *valid_inputs])
    if cells and position:
        raise RecipeError("the baseline of cells answers for whole cells only")
    random = np.random.default_rng(seed)
    words = (Shares if cells else Windows if position else Words)(train_inputs)
    x, y = _table(kind, words, train_inputs, train_targets, random)
    trials = list(_folds(x, y, random))
    if len(valid_inputs):
        trials = [(x, y, *_table(kind, words, valid_inputs, valid_targets, random))]
    make = _maker(kind, answers or (int(y.max(initial=0)) + 1 if y.ndim == 1 else y.shape[1]))
    # From the strongest penalty down, so that the most cautious of equals is kept.
    costs = {penalty: sum(_cost(make(penalty), score, *trial) for trial in trials) for penalty in reversed(PENALTIES)}
    best = min(costs, key=costs.__getitem__)
    return Baseline(words, make(best).fit(x, y))


class _Model(Protocol):
    def fit(self, x: Any, y: Array) -> _Model: ...

    def answer(self, x: Any) -> Array: ...

    def cost(self, x: Any, y: Array) -> float: ...

    def parts(self) -> list[LogisticRegression | Ridge]: ...


class _Classes:
    """Logistic regression over class indices ``y`` [n]; answers with log-probabilities [n, classes]."""

    def __init__(self, penalty: float, classes: int) -> None:
        self._model = LogisticRegression(C=1 / penalty, max_iter=1000)
        self._classes = classes
        self._seen = np.empty(0, dtype=np.int64)

    def fit(self, x: Any, y: Array) -> _Classes:
        self._seen = np.unique(y)
        if len(self._seen) > 1:
            _fit(self._model, x, y)
        return self

    def answer(self, x: Any) -> Array:
        found = np.full((x.shape[0], self._classes), np.log(LEAST_SHARE))
        # A probability that is too small for a number is one of the least share, as any smaller than it.
        with np.errstate(divide="ignore"):
            found[:, self._seen] = self._model.predict_log_proba(x) if len(self._seen) > 1 else 0.0
        return np.maximum(found, np.log(LEAST_SHARE))

    def cost(self, x: Any, y: Array) -> float:
        return float(-self.answer(x)[np.arange(len(y)), y].sum())

    def parts(self) -> list[LogisticRegression | Ridge]:
        return [self._model]


class _Labels:
    """One logistic regression per label, where ``y`` [n, labels] is 0 or 1; answers with logits [n, labels]."""

    def __init__(self, penalty: float, labels: int) -> None:
        self._models = [_Classes(penalty, 2) for _ in range(labels)]

    def fit(self, x: Any, y: Array) -> _Labels:
        for model, truth in zip(self._models, y.T, strict=True):
            known = _known(truth)
            model.fit(x[known], truth[known].astype(np.int64))
        return self

    def answer(self, x: Any) -> Array:
        return np.stack([np.diff(model.answer(x), axis=1)[:, 0] for model in self._models], 1)

    def cost(self, x: Any, y: Array) -> float:
        columns = [(model, truth, _known(truth)) for model, truth in zip(self._models, y.T, strict=True)]
        return sum(model.cost(x[known], truth[known].astype(np.int64)) for model, truth, known in columns)

    def parts(self) -> list[LogisticRegression | Ridge]:
        return [part for model in self._models for part in model.parts()]


class _Numbers:
    """One ridge regression per target ``y`` [n, targets], NaN where one is missing; answers [n, targets]."""

    def __init__(self, penalty: float, targets: int) -> None:
        self._models = [Ridge(alpha=penalty) for _ in range(targets)]

    def fit(self, x: Any, y: Array) -> _Numbers:
        for model, truth in zip(self._models, y.T, strict=True):
            known = ~np.isnan(truth)
            _fit(model, x[known], truth[known].astype(np.float64))
        return self

    def answer(self, x: Any) -> Array:
        return np.stack([model.predict(x) for model in self._models], 1)

    def cost(self, x: Any, y: Array) -> float:
        return float(np.nansum((self.answer(x) - y) ** 2))

    def parts(self) -> list[LogisticRegression | Ridge]:
        return list(self._models)


def _maker(kind: Kind, answers: int) -> Callable[[float], _Model]:
    makers: dict[str, Callable[[float, int], _Model]] = {
        "classification": _Classes,
        "multilabel": _Labels,
        "regression": _Numbers,
    }
    return lambda penalty: makers[kind](penalty, answers)


def _fit(model: LogisticRegression | Ridge, x: Any, y: Array) -> None:
    with warnings.catch_warnings():
        # With next to no penalty the optimum lies at infinity; such a fit is judged by its cost like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)


def _cost(model: _Model, score: Score | None, x: Any, y: Array, valid_x: Any, valid_y: Array) -> float:
    if not len(valid_y):
        return 0.0
    model.fit(x, y)
    if score is None:
        return model.cost(valid_x, valid_y)
    found = score(list(model.answer(valid_x).astype(np.float32)), list(valid_y))
    return float("inf") if np.isnan(found) else -found


def _folds(x: Any, y: Array, random: np.random.Generator) -> Iterator[tuple[Any, Array, Any, Array]]:
    if len(y) < 2 * FOLDS:
        return
    order = random.permutation(len(y))
    if y.ndim == 1:
        # Dealt out class by class, so that a rare class reaches every fold that it can.
        order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), dtype=np.int64)
    fold[order] = np.arange(len(y)) % FOLDS
    for held in range(FOLDS):
        learn, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        yield x[learn], y[learn], x[test], y[test]


def _table(
    kind: Kind,
    words: Words | Windows | Shares,
    inputs: Sequence[Any],
    targets: Sequence[Array],
    random: np.random.Generator,
) -> tuple[Any, Array]:
    if words.per_unit and any(len(text) != len(target) for text, target in zip(inputs, targets, strict=True)):
        raise RecipeError("the baseline per position needs inputs of one letter per unit")
    y = np.concatenate([np.asarray(target) for target in targets]) if words.per_unit else np.stack(targets)
    y = y.ravel() if kind == "classification" else y.reshape(len(y), -1)
    known = {"classification": y >= 0, "multilabel": _known(y), "regression": ~np.isnan(y)}[kind]
    chosen = np.flatnonzero(known.reshape(len(y), -1).any(1))
    if words.per_unit and len(chosen) > MOST_POSITIONS:
        chosen = np.sort(random.choice(chosen, MOST_POSITIONS, replace=False))
    return words.rows(inputs, chosen), y[chosen]


def _known(truth: Array) -> Array:
    return np.asarray((truth == 0) | (truth == 1))


def _check_kind(inputs: Sequence[Any]) -> bool:
    """Return whether the inputs are cells; raises ``RecipeError`` unless all are, or all are text."""
    cells = sum(isinstance(value, Cell) for value in inputs)
    strange = [value for value in inputs if not isinstance(value, (Cell, str))]
    if strange or 0 < cells < len(inputs):
        what = type(strange[0]).__name__ if strange else "both"
        raise RecipeError(f"the baseline reads text or cells, not {what}")
    return cells > 0
