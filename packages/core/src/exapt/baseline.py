"""The simple model that transfer has to beat: linear, on k-mers of the whole (and, where all inputs have one length, on
the letter at each place), or on a window around each unit.

It answers in the form of a head's own outputs (logits, or values on the learned scale), so that one head decodes and
measures both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize

from exapt.errors import RecipeError

Array = npt.NDArray[Any]
Kind = Literal["classification", "multilabel", "regression"]
Score = Callable[[Sequence[Array], Sequence[Array]], float]
"""How well outputs fit targets: the higher the better, NaN where it cannot be said."""

LONGEST_WORD = 3
REACH = 7
"""How many units to each side of a position its window holds."""
MOST_POSITIONS = 50_000
"""Of more positions than these, so many are drawn to learn from."""
FOLDS = 3
PENALTIES = tuple(10.0**power for power in range(-3, 4))
LEAST_SHARE = 1e-6
"""The probability of a class that the training rows lack: its logarithm must be finite."""


class Baseline:
    """A fitted baseline; ``fit_baseline`` makes it."""

    def __init__(self, words: _Words | _Windows, model: _Model) -> None:
        self._words = words
        self._model = model

    @property
    def size(self) -> int:
        """Number of coefficients and intercepts."""
        return sum(
            model.coef_.size + np.size(model.intercept_) for model in self._model.parts() if hasattr(model, "coef_")
        )

    def predict(self, inputs: Sequence[str]) -> list[Array]:
        """Return one output per input: [answers], or [units, answers] if it was fitted per position."""
        _check_text(inputs)
        if not inputs:
            return []
        rows = self._model.answer(self._words.rows(inputs)).astype(np.float32)
        if not self._words.per_unit:
            return list(rows)
        return np.split(rows, np.cumsum([len(text) for text in inputs])[:-1])


def fit_baseline(
    kind: Kind,
    position: bool,
    train_inputs: Sequence[str],
    train_targets: Sequence[Array],
    valid_inputs: Sequence[str] = (),
    valid_targets: Sequence[Array] = (),
    seed: int = 0,
    answers: int | None = None,
    score: Score | None = None,
) -> Baseline:
    """Fit a linear model to encoded targets; the valid part, or cross-validation where there is none, sets its penalty.

    ``answers`` is the number of classes, where the targets need not hold the last of them. The penalty is the one with
    the highest ``score(outputs, targets)``, without it the one with the least error. Raises ``RecipeError`` for inputs
    that are not text or, per position, have not one letter per unit.
    """
    _check_text([*train_inputs, *valid_inputs])
    random = np.random.default_rng(seed)
    words = (_Windows if position else _Words)(train_inputs)
    x, y = _table(kind, words, train_inputs, train_targets, random)
    trials = list(_folds(x, y, random))
    if len(valid_inputs):
        trials = [(x, y, *_table(kind, words, valid_inputs, valid_targets, random))]
    make = _maker(kind, answers or (int(y.max(initial=0)) + 1 if y.ndim == 1 else y.shape[1]))
    # From the strongest penalty down, so that the most cautious of equals is kept.
    costs = {penalty: sum(_cost(make(penalty), score, *trial) for trial in trials) for penalty in reversed(PENALTIES)}
    best = min(costs, key=costs.__getitem__)
    return Baseline(words, make(best).fit(x, y))


class _Words:
    """Frequencies of words of 1 to 3 letters, each length counting the same; and places, if all inputs are as long.

    Aligned inputs (mutants, windows around a site) differ in where a letter stands: without places the baseline would
    be too easy to beat.
    """

    per_unit: ClassVar[bool] = False

    def __init__(self, inputs: Sequence[str]) -> None:
        self._counters = [
            CountVectorizer(analyzer="char", ngram_range=(length, length), lowercase=False, dtype=np.float64)
            for length in range(1, LONGEST_WORD + 1)
            if any(len(text) >= length for text in inputs)
        ]
        for counter in self._counters:
            counter.fit(inputs)
        lengths = {len(text) for text in inputs}
        self._places = lengths.pop() if len(lengths) == 1 else 0
        self._codes = _letter_codes(inputs)

    def rows(self, inputs: Sequence[str], chosen: Array | slice = slice(None)) -> Any:
        """Return a sparse matrix [inputs, words], or only the ``chosen`` of its rows."""
        texts = np.asarray(inputs, dtype=object)[chosen]
        blocks = [normalize(counter.transform(texts)) for counter in self._counters]
        if self._places:
            padded = [[*_coded(text, self._codes), *[0] * self._places][: self._places] for text in texts]
            blocks.append(_one_hot(np.asarray(padded).reshape(-1, self._places), len(self._codes)))
        return sparse.hstack(blocks, format="csr")


class _Windows:
    """Which letter stands at each of the 15 places around a position, beyond the ends none."""

    per_unit: ClassVar[bool] = True

    def __init__(self, inputs: Sequence[str]) -> None:
        self._codes = _letter_codes(inputs)

    def rows(self, inputs: Sequence[str], chosen: Array | slice = slice(None)) -> Any:
        """Return a sparse matrix [units of all inputs, places x letters], or only the ``chosen`` of its rows."""
        # One long row of codes with room between the inputs, so that no window sees its neighbour.
        room = [0] * REACH
        codes = np.asarray([c for text in inputs for c in (*room, *_coded(text, self._codes), *room)], dtype=np.int64)
        starts = np.cumsum([REACH, *(len(text) + 2 * REACH for text in inputs)])[:-1]
        centres = np.concatenate([start + np.arange(len(text)) for start, text in zip(starts, inputs, strict=True)])
        around = np.arange(-REACH, REACH + 1)
        return _one_hot(codes[centres[chosen][:, None] + around], len(self._codes))


def _letter_codes(inputs: Sequence[str]) -> dict[str, int]:
    return {letter: code for code, letter in enumerate(sorted(set().union(*inputs)), start=1)}


def _coded(text: str, codes: Mapping[str, int]) -> list[int]:
    return [codes.get(letter, 0) for letter in text]


def _one_hot(codes: Array, letters: int) -> Any:
    # [rows, places] of codes 0 (no known letter) to ``letters`` becomes a sparse [rows, places x (letters + 1)].
    rows, places = codes.shape
    columns = codes + np.arange(places) * (letters + 1)
    ends = np.arange(rows + 1) * places
    return sparse.csr_matrix((np.ones(columns.size), columns.ravel(), ends), shape=(rows, places * (letters + 1)))


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
    kind: Kind, words: _Words | _Windows, inputs: Sequence[str], targets: Sequence[Array], random: np.random.Generator
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


def _check_text(inputs: Sequence[Any]) -> None:
    for value in inputs:
        if not isinstance(value, str):
            raise RecipeError(f"the baseline reads text only, not {type(value).__name__}")
