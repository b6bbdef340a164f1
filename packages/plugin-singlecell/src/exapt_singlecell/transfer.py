"""Label transfer: cells of a query get the labels of the reference cells that a pretrained model puts them beside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from anndata import AnnData

from exapt import DataError, Embedder, RecipeError, open_writer
from exapt_singlecell.in_memory import put, records_of, target, tell
from exapt_singlecell.labelling import UNKNOWN, Labeller, Transfer
from exapt_singlecell.readers import H5adOptions
from exapt_singlecell.sources import Points, Source, Space, Tell, embedded, introduce, kept
from exapt_singlecell.writers.answers import Predictions, empty_key, record_of

__all__ = ["Asked", "Files", "Outcome", "annotate", "transfer_labels"]

Unlabelled = Literal["refuse", "drop"]

# What of a record says in which space an embedding is: two that agree on it can be compared.
_SPACE = ("weights", "options", "tokenizer", "tokenizer_options", "pooling", "layer")


def transfer_labels(
    reference: AnnData,
    query: AnnData,
    label: str,
    *,
    backbone: str = "",
    use_rep: str = "",
    method: Literal["neighbours", "prototypes"] = "neighbours",
    k: int = 15,
    metric: Literal["cosine", "euclidean"] = "cosine",
    unknown: float | None = 0.99,
    unlabelled: Unlabelled = "refuse",
    layer: str = "",
    genes: str = "",
    values: Literal["counts", "normalised"] = "counts",
    reference_reader: Mapping[str, Any] | None = None,
    pooling: str = "mean",
    model_layer: int = -1,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "",
    copy: bool = False,
) -> AnnData | None:
    """Put a label of the reference into ``obs["exapt_<label>"]`` of the query, with its probability and distance beside it.

    Cells are compared where ``backbone`` puts them or, embedded before, by ``use_rep``, a key of obsm of both. ``method``
    lets the ``k`` nearest cells vote, each by the inverse of its distance (as in Lotfollahi et al. 2022,
    doi:10.1038/s41587-021-01001-7), or takes the nearest mean of a class (prototypes: Snell et al. 2017, arXiv:1703.05175).
    A cell farther away than the quantile ``unknown`` of the label's own cells (1: than all of them), each left out in turn,
    is 'unknown', as is one without a gene that the model knows; with None only the latter is. Cells of the reference
    without a label are refused, or dropped and counted. ``layer``, ``genes`` and ``values`` say how both tables are read,
    ``reference_reader`` how the reference is where it differs; ``pooling`` to ``device`` are those of ``tl.embed``.
    ``uns["exapt"]`` says where all comes from. Raises ``DataError`` for tables that cannot be compared.
    """
    if bool(backbone) == bool(use_rep):
        raise RecipeError("give backbone or use_rep, one of them: by what are cells compared?")
    how, adata = Transfer(method, k, metric, unknown), target(query, copy)
    if use_rep:
        compared = _by_slot(reference, adata, use_rep)
    else:
        reading = {"layer": layer, "genes": genes, "values": values}
        of_query = H5adOptions(**reading)
        of_reference = H5adOptions(**{**reading, **(reference_reader or {})})
        sources = (Source.of(reference, of_reference, "the reference"), Source.of(adata, of_query, "the query"))
        readers = {"reader": of_query.model_dump(mode="json"), "reference_reader": of_reference.model_dump(mode="json")}
        space = Space(backbone, pooling, model_layer, settings or {}, device)
        compared = _by_model(space.load(), *sources, readers, tell)
    labels = Labels.of(compared.reference, Asked(label, how, unlabelled), tell)
    predictions = Predictions({"": label})
    for batch, _ in labels.answers(compared.query):
        predictions.add(batch)
    ((slot, keys),) = predictions.keys.items()
    columns = predictions.columns()
    if UNKNOWN not in columns[slot].categories:
        columns[slot] = columns[slot].add_categories(UNKNOWN)
    put(adata, {slot: record_of({**compared.facts, **labels.facts}, keys)}, columns, {})
    return adata if copy else None


@dataclass(frozen=True)
class Asked:
    """The label that a query is asked for, how, and what becomes of cells of the reference that have none."""

    label: str
    how: Transfer
    unlabelled: Unlabelled = "refuse"


@dataclass(frozen=True)
class Files:
    """A reference and a query. Answers go into a copy of the query at ``out``, into itself without one, or into a table of
    their own, as the suffix tells.
    """

    reference: Path
    query: Path
    out: Path | None = None
    overwrite: bool = False


def annotate(files: Files, asked: Asked, space: Space, tell: Tell = tell) -> Outcome:
    """Do the same from file to file, in memory that does not grow with the query, and return what came out.

    Settings of the ``space`` may also be of the ``reader`` of both files and, where it differs, of the ``reference``.
    Raises ``DataError`` for tables that cannot be compared, ``OutputError`` for a place that cannot be written to.
    """
    parts, label, query = dict(space.settings), asked.label, files.query
    reader = parts.pop("reader", {})
    of_reference = {**reader, **parts.pop("reference", {})}
    embedder = replace(space, settings=parts).load()
    sources = (Source.at(files.reference, of_reference), Source.at(query, reader))
    readers = {"reader": dict(reader), "reference_reader": of_reference}
    about = {"source": query, "answers": "prediction", "names": {"": label}, "facts": {}}
    # The place is looked at before the reference is embedded, which may take long.
    with open_writer(files.out or query, overwrite=files.overwrite, about=about) as writer:
        compared = _by_model(embedder, *sources, readers, tell)
        labels = Labels.of(compared.reference, asked, tell)
        writer.add_facts({**compared.facts, **labels.facts})
        outcome = Outcome(labels.names)
        for batch, points in labels.answers(compared.query):
            writer.write(batch)
            outcome.add(batch, points.piece.labels(label) if points.piece.has(label) else [])
    return outcome


@dataclass(frozen=True)
class _Compared:
    """Both tables in one space, and where that comes from."""

    reference: Iterable[Points]
    query: Iterable[Points]
    facts: Mapping[str, Any]


def _by_model(
    embedder: Embedder, reference: Source, query: Source, readers: Mapping[str, Any], tell: Tell
) -> _Compared:
    introduce(embedder, tell)
    known, asked = (embedded(embedder, source, tell) for source in (reference, query))
    return _Compared(known, asked, {**embedder.key, **readers})


def _by_slot(reference: AnnData, query: AnnData, key: str) -> _Compared:
    ours, theirs = (_space(adata, key) for adata in (query, reference))
    differing = [name for name in _SPACE if ours and theirs and ours[name] != theirs[name]]
    if differing:
        raise DataError(
            f"'{key}' is not the same in both tables: the {differing[0]} of the query's is {ours[differing[0]]!r}, of the "
            f"reference's {theirs[differing[0]]!r}; embed both with one model"
        )
    pairs = ((reference, "the reference"), (query, "the query"))
    known, asked = ([kept(adata, key, empty_key(key), name)] for adata, name in pairs)
    return _Compared(known, asked, {"use_rep": key, **ours})


def _space(adata: AnnData, key: str) -> dict[str, Any]:
    """Return what the record of an embedding says of its space; nothing where it has no record of exapt's."""
    with suppress(KeyError, TypeError, ValueError):
        record = json.loads(records_of(adata)[key])
        return {name: record[name] for name in _SPACE}
    return {}


class Labels:
    """What was learned of a reference: labels for cells in its space, and the ``facts`` to keep with them."""

    def __init__(self, labeller: Labeller, facts: Mapping[str, Any]) -> None:
        self._labeller = labeller
        self.names = labeller.names
        self.facts = {**labeller.facts, **facts}

    @classmethod
    def of(cls, points: Iterable[Points], asked: Asked, tell: Tell) -> Self:
        """Learn from the labelled cells of a reference; those without a known gene are left out and counted.

        Raises ``DataError`` for a column that is not there, unless they may be dropped for cells without a label, and
        for fewer than two classes.
        """
        label, vectors, labels, name = asked.label, [], [], "the reference"
        empty = np.zeros(0, dtype=bool)
        for some in points:
            vectors.append(some.vectors)
            labels += some.piece.labels(label)
            empty, name = np.append(empty, some.empty), some.piece.name
        missing = np.array([one is None for one in labels], dtype=bool)
        if missing.any():
            said = f"{missing.sum():,} of {len(missing):,} cells of {name} have no '{label}'"
            if asked.unlabelled != "drop":
                raise DataError(f'{said}: label them, or leave them out by --drop-unlabelled (unlabelled="drop")')
            tell(f"{said} and are left out")
        if (empty & ~missing).any():
            lost = f"{(empty & ~missing).sum():,} of {(~missing).sum():,} labelled cells"
            tell(f"left out of {name}, without a gene that the model knows: {lost}")
        rows = np.flatnonzero(~missing & ~empty)
        if not len(rows):
            raise DataError(f"{name} has no cell with a label and a known gene")
        chosen = [str(labels[row]) for row in rows]
        counts = {"label": label, "classes": dict(Counter(chosen)), "unlabelled": int(missing.sum())}
        facts = {"reference": {"name": name, **counts, "empty": int((empty & ~missing).sum())}}
        return cls(Labeller(np.concatenate(vectors)[rows], chosen, asked.how), facts)

    def answers(self, points: Iterable[Points]) -> Iterator[tuple[pa.RecordBatch, Points]]:
        """Yield what is said of the cells of a query, beside them."""
        for some in points:
            yield self._labeller.answers(some.piece.ids, some.vectors, some.empty), some


class Outcome:
    """What became of a query: cells of each class of the reference and, where the truth is known, how much of it is right."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.counts: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        """Cells by truth and answer."""

    def add(self, batch: pa.RecordBatch, truths: Sequence[str | None]) -> None:
        """Take in some answers, with the labels that the cells have already, if they have any."""
        told = batch.column("prediction").to_pylist()
        self.counts.update(told)
        self.pairs.update((truth, one) for truth, one in zip(truths, told, strict=False) if truth is not None)

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.counts.total()

    def balanced_accuracy(self) -> float:
        """Return the mean share of right answers over the reference's classes that the query has; NaN if it has none.

        An unknown cell of such a class is a wrong answer.
        """
        shares = [self.pairs[name, name] / count for name in self.names if (count := self._of(name))]
        return float(np.mean(shares)) if shares else float("nan")

    def strangers(self) -> tuple[int, int]:
        """Return how many cells are of classes that the reference lacks, and how many of these are unknown."""
        others = {truth for truth, _ in self.pairs} - set(self.names)
        return sum(map(self._of, others)), sum(self.pairs[truth, UNKNOWN] for truth in others)

    def _of(self, truth: str) -> int:
        return sum(count for (one, _), count in self.pairs.items() if one == truth)
