"""Metrics: pure functions on arrays, the one place where an answer is compared with the truth.

A metric that the data leave undefined (a correlation with something constant, a rank metric of a single class) is left
out of the result, never given as NaN or 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn import metrics as scores

Array = npt.NDArray[Any]

LOWER_IS_BETTER = frozenset({"ece", "loss", "mae", "median_rank", "mse", "perplexity", "rmse"})
"""The metrics of which less is better, by their last name: ``valid.loss`` and ``ddg.rmse`` are among them."""

CALIBRATION_BINS = 15

RECALLS = (1, 5, 10)
"""Of how many answers, at the top, retrieval is measured."""
_QUERIES = 1024

CONTACT_RANGES = {"medium": (12, 23), "long": (24, np.inf)}
"""How many units apart along the sequence a pair is, least and most, by the name of the range."""


def better(metric: str, a: float | None, b: float | None) -> bool:
    """Return whether the value ``a`` of a metric beats ``b``; a value that is missing or NaN beats nothing."""
    if a is None or np.isnan(a):
        return False
    if b is None or np.isnan(b):
        return True
    return a < b if metric.rpartition(".")[2] in LOWER_IS_BETTER else a > b


def classification(probabilities: Array, targets: Array) -> dict[str, float]:
    """Return the metrics of ``probabilities`` [n, classes] against class indices ``targets`` [n].

    ``auroc`` and ``auprc`` are of the second class where there are two, else the mean over classes against the rest.
    """
    if not len(targets):
        return {}
    predicted = probabilities.argmax(1)
    seen = np.unique(targets)
    found = {
        "accuracy": scores.accuracy_score(targets, predicted),
        # The macro recall over the classes that occur: balanced_accuracy_score, without its warning about the others.
        "balanced_accuracy": scores.recall_score(targets, predicted, labels=seen, average="macro", zero_division=0),
        "macro_f1": scores.f1_score(targets, predicted, average="macro", zero_division=0),
        "ece": calibration_error(probabilities.max(1), predicted == targets),
    }
    if len(seen) > 1:
        found["mcc"] = scores.matthews_corrcoef(targets, predicted)
    truths = np.equal.outer(targets, np.arange(probabilities.shape[1]))
    columns = slice(1, None) if probabilities.shape[1] == 2 else slice(None)
    return _floats(found | _ranking(probabilities.T[columns], truths.T[columns]))


def multilabel(probabilities: Array, targets: Array, threshold: float = 0.5) -> dict[str, float]:
    """Return the metrics of ``probabilities`` [n, labels] against ``targets`` [n, labels]; only 0 and 1 count.

    ``auroc`` and ``auprc`` are means over the labels that have both values.
    """
    real = (targets == 0) | (targets == 1)
    if not real.any():
        return {}
    chosen = probabilities >= threshold
    known = [(label, real[:, label]) for label in range(real.shape[1]) if real[:, label].any()]
    truths = [targets[rows, label] == 1 for label, rows in known]
    answers = [chosen[rows, label] for label, rows in known]
    certain = [probabilities[rows, label] for label, rows in known]
    found = {
        "macro_f1": np.mean([_f1(truth, answer) for truth, answer in zip(truths, answers, strict=True)]),
        "micro_f1": _f1(np.concatenate(truths), np.concatenate(answers)),
    }
    return _floats(found | _ranking(certain, truths))


def regression(predictions: Array, targets: Array) -> dict[str, float]:
    """Return the metrics of ``predictions`` [n] against ``targets`` [n]; targets that are NaN are left out."""
    real = ~np.isnan(targets)
    predicted, truth = predictions[real].astype(np.float64), targets[real].astype(np.float64)
    if not len(truth):
        return {}
    found = {
        "rmse": np.sqrt(scores.mean_squared_error(truth, predicted)),
        "mae": scores.mean_absolute_error(truth, predicted),
    }
    if _varies(truth):
        found["r2"] = scores.r2_score(truth, predicted)
    if _varies(truth) and _varies(predicted):
        found["pearson"] = _pearson(predicted, truth)
        found["spearman"] = _pearson(stats.rankdata(predicted), stats.rankdata(truth))
    return _floats(found)


def regressions(predictions: Array, targets: Array, names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of several targets [n, targets]: of each as ``<name>.<metric>``, and the means over them."""
    if len(names) == 1:
        return regression(predictions[:, 0], targets[:, 0])
    each = {name: regression(predictions[:, at], targets[:, at]) for at, name in enumerate(names)}
    kinds = sorted({metric for found in each.values() for metric in found})
    means = {kind: np.mean([found[kind] for found in each.values() if kind in found]) for kind in kinds}
    return _floats(means | {f"{name}.{kind}": value for name, found in each.items() for kind, value in found.items()})


def contacts(outputs: Iterable[Array], targets: Iterable[Array], least: int = 1) -> dict[str, float]:
    """Return the precision of the highest ``outputs`` [units, units] of each input against ``targets`` [units, units].

    Targets are 1, 0 or NaN (unknown); pairs of the upper triangle are judged. ``long_precision_L2`` is the share of contacts
    among the L/2 likeliest pairs that are 24 or more units apart, where L counts the units of which anything is known, if
    only the place on the diagonal; it is the mean over the inputs that have such a contact. ``medium`` are those 12 to 23
    apart. Where all pairs nearer than ``least`` are unknown, a range that begins nearer is left out: it would be another.
    """
    found: dict[str, list[float]] = {}
    for output, target in zip(outputs, targets, strict=True):
        for name, value in _contact_precision(output, target, least).items():
            found.setdefault(name, []).append(value)
    return _floats({name: np.mean(values) for name, values in found.items()})


def _contact_precision(output: Array, target: Array, nearest: int) -> dict[str, float]:
    known = ~np.isnan(target)
    units, found = int(known.any(1).sum()), {}
    first, second = np.nonzero(np.triu(known, 1))
    apart = second - first
    for name, (least, most) in CONTACT_RANGES.items():
        judged = (apart >= least) & (apart <= most)
        i, j = first[judged], second[judged]
        order = np.argsort(-output[i, j].astype(np.float64), kind="stable")
        right = target[i, j][order]
        # Without a contact, all orders of the pairs are equally good.
        for share in (1, 2, 5) if right.any() and least >= nearest else ():
            # Where there are fewer pairs than asked for, all of them are judged.
            found[f"{name}_precision_L{share if share > 1 else ''}"] = float(right[: max(1, units // share)].mean())
    return found


def retrieval(pairs: Array, inputs: Array, towers: Sequence[str]) -> dict[str, float]:
    """Return how well each side of ``pairs`` [n, 2, width], unit vectors of two ``towers``, finds the other by cosine.

    ``inputs`` [n, 2] number the distinct inputs of each side: other pairs with an input of this one are no wrong answers to
    it, and are left out of the ranking. ``recall@k`` is the share of pairs whose other side is among the first k, ``mrr``
    the mean of 1 / rank, both of ``ONE_to_OTHER`` and as the mean of both directions; ``chance`` is what a random order has.
    Those that tie count as in a random order. Left out are pairs that have no wrong answer, and a k at which chance finds all.
    """
    rivals = np.array([(inputs != own).all(1).sum() for own in inputs], np.int64)
    asked = rivals > 0
    if not asked.any():
        return {}
    rivals = rivals[asked]
    found: dict[str, float] = {}
    for one, other in ((0, 1), (1, 0)):
        above, tied = _ahead(pairs[:, one], pairs[:, other], inputs)
        direction = f"{towers[one]}_to_{towers[other]}"
        found |= {f"{direction}.{name}": value for name, value in _found(above[asked], tied[asked], rivals).items()}
    kinds = [name.rpartition(".")[2] for name in found]
    means = {kind: np.mean([value for name, value in found.items() if name.endswith(f".{kind}")]) for kind in kinds}
    return _floats(
        means
        | found
        | {f"chance.{name}": value for name, value in _found(np.zeros_like(rivals), rivals, rivals).items()}
    )


def _ahead(queries: Array, among: Array, inputs: Array) -> tuple[Array, Array]:
    """Return how many rivals [n] stand above each query's own partner, and how many [n] tie with it."""
    above, tied = np.empty((2, len(queries)), np.int64)
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        cosines = queries[rows].astype(np.float64) @ among.T.astype(np.float64)
        own = np.take_along_axis(cosines, np.arange(len(queries))[rows, None], 1)
        rival = (inputs[rows, None] != inputs[None]).all(-1)
        above[rows], tied[rows] = ((cosines > own) & rival).sum(1), ((cosines == own) & rival).sum(1)
    return above, tied


def _found(above: Array, tied: Array, rivals: Array) -> dict[str, float]:
    """Return what is expected where one right answer and ``tied`` [n] others stand in a random order, below ``above`` [n]."""
    shares = {k: np.clip((k - above) / (tied + 1), 0, 1) for k in RECALLS if (rivals >= k).any()}
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, rivals.max() + 2))])
    return {
        **{f"recall@{k}": np.mean(share) for k, share in shares.items()},
        "mrr": np.mean((harmonic[above + tied + 1] - harmonic[above]) / (tied + 1)),
        "median_rank": np.median(1 + above + tied / 2),
    }


def calibration_error(confidences: Array, correct: Array) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over bins of equal width."""
    bins = np.clip(np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    believed = np.bincount(bins, confidences, CALIBRATION_BINS)
    happened = np.bincount(bins, correct, CALIBRATION_BINS)
    return float(np.abs(believed - happened).sum() / len(confidences))


def _ranking(certain: Iterable[Array], truths: Iterable[Array]) -> dict[str, Any]:
    pairs = [(c, truth) for c, truth in zip(certain, truths, strict=True) if truth.any() and not truth.all()]
    if not pairs:
        return {}
    return {
        "auroc": np.mean([scores.roc_auc_score(truth, c) for c, truth in pairs]),
        "auprc": np.mean([scores.average_precision_score(truth, c) for c, truth in pairs]),
    }


def _f1(truth: Array, answer: Array) -> float:
    return float(scores.f1_score(truth, answer, zero_division=0))


def _varies(values: Array) -> bool:
    # What varies by rounding only counts as constant: its correlations would be noise.
    return len(values) > 1 and bool(values.std() > 1e-12 * np.abs(values).max())


def _pearson(a: Array, b: Array) -> float:
    return float(np.clip(stats.pearsonr(a, b).statistic, -1, 1))


def _floats(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items()}
