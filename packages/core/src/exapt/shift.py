"""The domain that a model is for, and how far it stands from the one that is learned from, before training and after."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from exapt.building import build_augmentations, refuse_too_long, source_of
from exapt.errors import DataError
from exapt.features import encodings_digest
from exapt.labelled import Other
from exapt.measuring import Report
from exapt.model import Model
from exapt.parts import Array, Encoding, Tokenizer
from exapt.resolve import Resolved
from exapt.rows import Inputs, Rows
from exapt.targets import encode_labels
from exapt.under_way import pooled
from exapt.windows import in_windows

DOMAINS = "domains"
"""Under what name the report stands among what strategies tell of a run."""
TARGET, _SOURCE = "the target", "the source"
_MOST, _LEAST = 1000, 4
"""Rows of each domain that the classifier sees, both halves together; with fewer than the least nothing can be told."""


@dataclass(frozen=True)
class Target:
    """The rows of the domain that a model is for: ``rows``, without labels, to adapt to, and some of them to measure on.

    ``measured`` holds the rows with labels, once for all heads of which the same rows have one.
    """

    rows: Rows
    measured: tuple[Rows, ...]

    def report(self, evaluate: Callable[[Rows], Report]) -> Report:
        """Return loss and metrics of all heads that have labels here; none if no head has."""
        found: Report = {}
        for rows in self.measured:
            values = evaluate(rows)
            found |= {**values, "loss": found.get("loss", 0.0) + values["loss"]}
        return found


def target_of(
    other: Other,
    model: Model,
    tokenizer: Tokenizer,
    resolved: Resolved,
    inputs: Callable[[list[Encoding]], Inputs] | None,
) -> Target:
    """Return the rows of a target table, with the features that ``inputs`` keeps of them, if it keeps any.

    Raises ``DataError`` for one that is too long for the model, and for a label that no head knows.
    """
    name = resolved.recipe.backbone.name
    try:
        for values in other.encodings.values():
            refuse_too_long(values, other.examples.ids, model.backbone, name, resolved.backbone)
        rows, known = _rows(other, model, tokenizer, resolved)
    except DataError as error:
        raise DataError(f"target: {error}") from None
    try:
        measured = tuple(_measured(rows, known, other, resolved))
    except DataError as error:
        end = "" if str(error)[-1] in ".?" else "."
        raise DataError(
            f"target: {error}{end} Labels of the target only measure: name them alike, or leave their column out"
        ) from None
    if inputs is not None and not rows.renewed:
        kept = {name: inputs(list(values.encodings)) for name, values in rows.inputs.items()}
        rows, measured = replace(rows, inputs=kept), tuple(_with(part, kept) for part in measured)
    return Target(rows.settled(), tuple(part.rows.settled() for part in measured))


@dataclass(frozen=True)
class _Measured:
    rows: Rows
    chosen: Array


def _with(part: _Measured, inputs: Mapping[str, Inputs]) -> _Measured:
    return replace(
        part, rows=replace(part.rows, inputs={name: kept.subset(part.chosen) for name, kept in inputs.items()})
    )


def _rows(
    other: Other, model: Model, tokenizer: Tokenizer, resolved: Resolved
) -> tuple[Rows, dict[str, tuple[Array, Array]]]:
    """Return the rows, and of each head those that have a label and the examples that they are of."""
    encodings, examples = dict(other.encodings), other.examples
    cuts = in_windows(encodings, model.backbone)
    owner = np.arange(len(examples))
    if cuts is not None:
        ((name, column),) = resolved.recipe.data.inputs.items()
        encodings, examples, owner = {name: cuts.encodings}, cuts.examples(examples, [column]), cuts.owner
    source = source_of(examples, tokenizer, resolved, build_augmentations(resolved), model.backbone)
    heads = {name: model.head(name) for name in model.heads}
    inputs = {name: Inputs.bare(values) for name, values in encodings.items()}
    rows = Rows(inputs, {}, heads, resolved.answered, source)
    known = {name: np.flatnonzero(np.isin(owner, chosen)) for name, chosen in other.known.items()}
    return rows, {name: (chosen, owner[chosen]) for name, chosen in known.items() if len(chosen)}


def _measured(
    rows: Rows, known: Mapping[str, tuple[Array, Array]], other: Other, resolved: Resolved
) -> Iterable[_Measured]:
    everything = np.arange(len(rows))
    groups: dict[bytes, list[str]] = {everything.tobytes(): rows.posed} if rows.posed else {}
    chosen_of = {everything.tobytes(): everything}
    for name, (chosen, _) in known.items():
        groups.setdefault(chosen.tobytes(), []).append(name)
        chosen_of[chosen.tobytes()] = chosen
    for key, names in groups.items():
        part = rows.subset(chosen_of[key])
        targets: dict[str, Sequence[Array]] = {}
        for name in (name for name in names if name in known):
            labels = {name: other.examples.labels[name]}
            examples = replace(other.examples, labels=labels).take(known[name][1])
            targets |= encode_labels(part, examples, resolved)
        heads = {name: head for name, head in rows.heads.items() if name in names}
        yield _Measured(replace(part, heads=heads, targets=targets), chosen_of[key])


class Shift:
    """How well a linear classifier tells the domains apart by the mean features of their rows.

    It learns from one half of the rows, as many of each domain, and is judged on the other, then the other way round: its
    error is what bounds how far a model can carry over (Ben-David et al. 2010, doi:10.1007/s10994-009-5152-4).
    """

    def __init__(self, model: Model, domains: Mapping[str, Rows], seed: int, budget: int) -> None:
        self.model, self.seed, self.budget = model, seed, budget
        words = {name: _words(rows) for name, rows in domains.items()}
        shared = _shared(words.values())
        chosen = {name: _distinct(own, shared, seed) for name, own in words.items()}
        kept = [name for name, rows in chosen.items() if len(rows) >= _LEAST]
        self.size = min((len(chosen[name]) for name in kept), default=0)
        self.domains = [domains[name].subset(chosen[name][: self.size]) for name in kept if len(kept) > 1]
        self.notes = [*_overlap(words, shared), *_left_out(chosen, kept)]
        self.before = self._accuracy()

    def report(self) -> dict[str, Any]:
        """Return the accuracy ``before`` and ``after``, that of ``chance``, and the ``rows`` of each domain; {} of too few rows."""
        if self.before is None:
            return {}
        after = self.before if self.model.frozen else self._accuracy()
        assert after is not None
        chance = 1 / len(self.domains)
        return {"before": self.before, "after": after, "chance": chance, "rows": self.size}

    def _accuracy(self) -> float | None:
        if not self.domains:
            return None
        vectors = [
            np.concatenate(list(pooled(self.model, rows, self.budget).values()), axis=1) for rows in self.domains
        ]
        return told_apart(vectors)


def told_apart(domains: Sequence[Array]) -> float:
    """Return the share of rows whose domain a linear classifier of the other half tells; ``domains`` are each [rows, width]."""
    number = np.repeat(np.arange(len(domains)), [len(vectors) for vectors in domains])
    half = np.concatenate([np.arange(len(vectors)) % 2 for vectors in domains])
    vectors = np.concatenate(domains).astype(np.float64)
    right = np.zeros(len(number), dtype=bool)
    for judged in (0, 1):
        seen, unseen = half != judged, half == judged
        spread = vectors[seen].std(0)
        scaled = (vectors - vectors[seen].mean(0)) / np.where(spread > 0, spread, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=1000).fit(scaled[seen], number[seen])
        right[unseen] = model.predict(scaled[unseen]) == number[unseen]
    return float(np.mean([right[number == domain].mean() for domain in range(len(domains))]))


def _words(rows: Rows) -> list[str]:
    """Return what stands for the inputs of each row: the same for those that are the same."""
    return [encodings_digest([inputs.encodings[row] for inputs in rows.inputs.values()]) for row in range(len(rows))]


def _shared(domains: Iterable[Sequence[str]]) -> set[str]:
    seen: set[str] = set()
    found: set[str] = set()
    for words in map(set, domains):
        found |= words & seen
        seen |= words
    return found


def _distinct(words: Sequence[str], but: Collection[str], seed: int) -> Array:
    """Return some rows, at random, no two of which hold the same inputs: one that is seen again tells nothing.

    Nor does one that ``but`` names, which another domain holds too: of which it is, nobody could tell.
    """
    found: dict[str, int] = {}
    for row in np.random.default_rng(seed).permutation(len(words)).tolist():
        if words[row] not in but:
            found.setdefault(words[row], row)
        if len(found) == _MOST:
            break
    return np.array(list(found.values()), dtype=np.int64)


def _overlap(words: Mapping[str, Sequence[str]], shared: Collection[str]) -> list[str]:
    if not shared:
        return []
    if TARGET not in words:
        return [f"{len(shared):,} inputs stand in several domains: what tells domains apart leaves them out"]
    both = sum(word in shared for word in words[TARGET])
    return [
        f"{both:,} of {len(words[TARGET]):,} inputs of the target stand in the training part too: they are learned from with "
        "their labels, so that the target is nearer than new inputs will be; what tells domains apart leaves them out"
    ]


def _left_out(chosen: Mapping[str, Array], kept: Sequence[str]) -> list[str]:
    """Say which domains the classifier leaves out, and why there is none where fewer than two remain."""
    few = [f"{name} ({len(rows)})" for name, rows in chosen.items() if name not in kept]
    if not few or len(chosen) < 2:
        return []
    told = f"of fewer than {_LEAST} distinct rows, a domain cannot be told from others: {', '.join(few)}"
    return [f"{told}; without two others, nothing is told of how far domains are apart" if len(kept) < 2 else told]


def parted(train: Rows, target: Rows | None, names: Sequence[str]) -> dict[str, Rows]:
    """Return the rows of each domain: of train and target or, without one, of those that the rows of train are of, by name."""
    if target is not None:
        return {_SOURCE: train, TARGET: target}
    if train.domains is None:
        return {}
    return {
        f"'{names[domain]}'": train.subset(np.flatnonzero(train.domains == domain))
        for domain in np.unique(train.domains)
    }


def domains_report(shift: Shift, metrics: Mapping[str, Report], metric: str) -> dict[str, Any]:
    """Return how well the domains are told apart, what there is to note of that and, where one is the target, the ``metric`` on
    it and on the source.
    """
    told: dict[str, Any] = {"classifier": shift.report(), "notes": shift.notes}
    if "target" in metrics:
        source = {part: metrics[part][metric] for part in ("valid", "test") if metric in metrics[part]}
        told |= {"metric": metric, "source": source, "target": metrics["target"].get(metric)}
    return {key: value for key, value in told.items() if value not in (None, {}, [])}
