"""How likely inputs are by themselves: log-likelihood, perplexity, and how much of each the model would have guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import pyarrow as pa

from exapt.building import Tallies, encode, refuse_too_long
from exapt.data.files import open_table
from exapt.data.placements import structure_field
from exapt.data.tables import stream_examples
from exapt.expectations import Logits, recovered, told
from exapt.parts import Question
from exapt.recipe import DataOptions
from exapt.scoring import Scoring

# Structures that are asked about together.
_ROWS = 64


@dataclass(frozen=True)
class Likelihood:
    """How likely an input is: in ``units`` that the model tells, as the mean natural-log probability of each.

    ``recovery`` is the share of them of which the model expects none more than what stands there.
    """

    units: int
    log_likelihood: float
    recovery: float

    @property
    def perplexity(self) -> float:
        """Of how many equally likely letters the model would have to choose."""
        return exp(-self.log_likelihood)


def likelihoods(scoring: Scoring, values: Sequence[Any], ids: Sequence[str], tallies: Tallies) -> list[Likelihood]:
    """Return how likely inputs are. Raises ``DataError``, with the id, for one that the model cannot read."""
    pairs = scoring.pairs
    encodings = encode(pairs.tokenizer, values, ids, pairs.name, *pairs.parts)
    refuse_too_long(encodings, ids, scoring.expectations.backbone, pairs.name, pairs.parts[0])
    tallies.count("structure", values, encodings)
    asked = (
        (row, question)
        for row, (name, value) in enumerate(zip(ids, values, strict=True))
        for question in scoring.asked_alone(f"'{name}'", value)
    )
    totals = scoring.expectations.measured(asked, len(values), (told, recovered, _weight))
    return [Likelihood(round(units), log / units, share / units) for log, share, units in totals.tolist()]


def _weight(question: Question, logits: Logits) -> float:
    return float(question.weights.sum())


def holds_structures(path: Path, reader: str = "", options: Mapping[str, Any] | None = None) -> bool:
    """Return whether a table holds structures. A pipe, which can be read only once, does not."""
    if not (path.is_file() or path.is_dir()):
        return False
    first = next(iter(open_table(path, reader, options=options)), None)
    return first is not None and bool(structure_field(first.schema))


def likelihood_table(
    scoring: Scoring,
    path: Path,
    *,
    reader: str = "",
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[pa.RecordBatch]:
    """Yield how likely each structure's own letters are: id, residues, log_likelihood, perplexity and recovery.

    At the end, ``tell`` hears what there is to tell of the structures.
    """
    reading = dict(scoring.choice.reading)
    options = DataOptions(path=str(path), format=reader, reader=reading, inputs={"structure": "structure"})
    tallies, rows = Tallies(scoring.pairs.tokenizer), 0
    for examples in stream_examples(path, options, _ROWS, tell):
        found = likelihoods(scoring, examples.inputs["structure"], examples.ids, tallies)
        yield _batch(examples.ids, found)
        rows += len(found)
        progress(rows)
    for line in tallies.lines():
        tell(line)


def _batch(ids: Sequence[str], found: Sequence[Likelihood]) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "id": pa.array(ids, pa.string()),
            "residues": pa.array([one.units for one in found], pa.int64()),
            "log_likelihood": pa.array([one.log_likelihood for one in found], pa.float32()),
            "perplexity": pa.array([one.perplexity for one in found], pa.float32()),
            "recovery": pa.array([one.recovery for one in found], pa.float32()),
        }
    )
