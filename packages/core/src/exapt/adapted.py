"""A trained or loaded model, ready to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exapt import adapter
from exapt.building import Tallies, build_augmentations, encode, refuse_mistaken, refuse_too_long, source_of
from exapt.data.tables import Examples
from exapt.device import token_budget
from exapt.errors import DataError
from exapt.measuring import predict, score
from exapt.model import Model
from exapt.parts import Array, Augmentation, Encoding, Tokenizer
from exapt.resolve import Resolved
from exapt.rows import Inputs, Rows
from exapt.targets import encode_labels
from exapt.units import (
    answers_of_covered,
    answers_of_pairs,
    answers_of_seen,
    empty_rows,
    labels_of_covered,
    left_out,
    names_of_units,
)
from exapt.windows import in_windows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Asked:
    """What is put to a model: rows, and the example that each row is of.

    Where each window of a long input is an input of its own, a row is a window, and ``places`` are its columns ``start``
    and ``end``: its first and last unit, counted from 1.
    """

    rows: Rows
    examples: Examples
    places: Mapping[str, list[int]]


@dataclass
class Adapted:
    """A backbone with what was learned on it. ``manifest`` is what ``exapt.json`` holds."""

    model: Model
    tokenizer: Tokenizer
    resolved: Resolved
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of the valid and the test part."""
        metrics: dict[str, dict[str, float]] = self.manifest["metrics"]
        return metrics

    def save(self, folder: str | Path) -> None:
        """Write the adapter. Raises ``OutputError`` if the folder exists or cannot be written; then nothing is left."""
        adapter.write(Path(folder), self.model, self.manifest)

    def predict(
        self,
        inputs: Sequence[Any] | Mapping[str, Sequence[Any]],
        ids: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        tallies: Tallies | None = None,
    ) -> pa.Table:
        """Answer for some inputs (a list, or one list per named input); one row each, in their order.

        ``tell`` hears what there is to note of the inputs or, where more are to come, ``tallies`` take them in. Raises
        ``DataError`` for an input that the backbone cannot read, and for lists of unequal length.
        """
        import pyarrow as pa

        told = tallies or self.tallies()
        answers = pa.table(self.answer(self.examples(inputs, ids), told))
        for line in [] if tallies else told.lines():
            tell(line)
        return answers

    def examples(self, inputs: Sequence[Any] | Mapping[str, Sequence[Any]], ids: Sequence[str] | None) -> Examples:
        """Return inputs as examples, numbered from 1 unless they have ids. Raises ``DataError`` for lists of unequal length."""
        import pyarrow as pa

        named = dict(inputs) if isinstance(inputs, Mapping) else {self._only_input(): list(inputs)}
        count = max(map(len, named.values()), default=0)
        ids = list(ids) if ids is not None else [str(number + 1) for number in range(count)]
        for name, values in named.items():
            if len(values) != count:
                raise DataError(f"the input '{name}' has {len(values)} values where another has {count}")
        if named and len(ids) != count:
            raise DataError(f"there are {len(ids)} ids for {count} inputs")
        return Examples(ids, named, {}, pa.table({}))

    def explain(
        self,
        inputs: Sequence[Any] | Mapping[str, Sequence[Any]],
        ids: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        **choice: Any,
    ) -> pa.Table:
        """Return how the answer depends on each letter of some inputs, one row for each substitution or position.

        ``choice`` holds what ``exapt.explain`` takes: ``method``, ``head``, ``target``, ``positions``, ``at``, ``input`` and
        ``probabilities``. Raises ``RecipeError`` for what this adapter cannot be asked.
        """
        from exapt.explanation import Choice, explain_examples

        return explain_examples(self, self.examples(inputs, ids), Choice(**choice), tell=tell)

    def tallies(self) -> Tallies:
        """Return new tallies of inputs, to be told of together by their ``lines`` once all were answered for."""
        return Tallies(self.tokenizer)

    def answer(self, examples: Examples, tallies: Tallies | None = None) -> dict[str, Any]:
        """Return the columns of the answer: ``id``, of cells whether they are ``empty``, then what each head says.

        Beside answers unit by unit stand the names of the ``units``, where they have some.
        """
        asked = self.ask(examples, tallies)
        known: dict[str, Any] = {"id": list(asked.examples.ids), **asked.places}
        if self.resolved.backbone.offer.spec.accepts == "cell":
            known["empty"] = _empty(asked.rows).tolist()
        return {**known, **self._named(asked), **self.decode(self.outputs(asked.rows), asked.rows)}

    def _named(self, asked: Asked) -> dict[str, pa.Array]:
        of_units = ("unit", "pair")
        answered = {asked.rows.answered[name] for name, head in asked.rows.heads.items() if head.answers in of_units}
        inputs = [name for name in asked.examples.inputs if name in answered]
        names = {name: names_of_units(self.tokenizer, asked.examples.inputs[name]) for name in inputs}
        columns = {"units" if len(inputs) == 1 else f"{name}.units": column for name, column in names.items()}
        return {name: column for name, column in columns.items() if column is not None}

    def stream(self, chunks: Iterator[Examples], tallies: Tallies | None = None) -> Iterator[dict[str, Any]]:
        """Answer chunk by chunk, in the order of the input; ``tallies`` takes in what is encoded."""
        for number, examples in enumerate(chunks):
            if number == 0:
                # The kind of the data shows on many records together, so the first chunk stands for all.
                for values in examples.inputs.values():
                    refuse_mistaken(self.tokenizer, values, self.name)
            yield self.answer(examples, tallies)

    @property
    def name(self) -> str:
        """The backbone's name, as the user gave it."""
        return self.resolved.recipe.backbone.name

    @property
    def tasks(self) -> dict[str, str]:
        """What each head's answers are about, by how their columns begin: its name or, of a lone head, its label."""
        if len(self.model.heads) > 1:
            return {f"{name}.": name for name in self.model.heads}
        ((name, chosen),) = self.resolved.heads.items()
        if name != "head" or not chosen.offer.spec.labelled or not isinstance(chosen.label, str):
            return {"": name if name != "head" else chosen.offer.spec.name}
        return {"": chosen.label}

    def ask(self, examples: Examples, tallies: Tallies | None = None) -> Asked:
        """Encode examples, with their labels where they have any."""
        encodings = self._encode(examples, tallies)
        examples, unseen = labels_of_covered(examples, encodings, self.resolved)
        if tallies:
            tallies.note(unseen)
        cuts = in_windows(encodings, self.model.backbone)
        if cuts is None:
            return Asked(self._rows(examples, encodings), examples, {})
        ((name, column),) = self.resolved.recipe.data.inputs.items()
        examples = cuts.examples(examples, [column])
        return Asked(self._rows(examples, {name: cuts.encodings}), examples, cuts.places)

    def _encode(self, examples: Examples, tallies: Tallies | None) -> dict[str, list[Encoding]]:
        encodings = {}
        for name in self.resolved.recipe.data.inputs:
            if name not in examples.inputs:
                raise DataError(
                    f"the input '{name}' is missing; this adapter reads {', '.join(self.resolved.recipe.data.inputs)}"
                )
            parts = (self.resolved.backbone, self.resolved.tokenizer)
            encodings[name] = encode(self.tokenizer, examples.inputs[name], examples.ids, self.name, *parts)
            refuse_too_long(encodings[name], examples.ids, self.model.backbone, self.name, self.resolved.backbone)
            if tallies:
                tallies.count(name, examples.inputs[name], encodings[name])
        return encodings

    def _rows(self, examples: Examples, encodings: Mapping[str, Sequence[Encoding]]) -> Rows:
        heads = {name: self.model.head(name) for name in self.model.heads}
        inputs = {name: Inputs.bare(values) for name, values in encodings.items()}
        rows = Rows(inputs, {}, heads, self.resolved.answered)
        targets = encode_labels(rows, examples, self.resolved)
        source = source_of(examples, self.tokenizer, self.resolved, self._augmentations, self.model.backbone)
        return replace(rows, targets=targets, source=source).settled()

    @cached_property
    def _augmentations(self) -> list[Augmentation]:
        return build_augmentations(self.resolved)

    def outputs(self, rows: Rows) -> list[dict[str, Array]]:
        """Return each row's outputs by head."""
        budget = token_budget(next(self.model.parameters()).device)
        answers = predict(self.model, rows, np.arange(len(rows)), budget)
        return [answers[row] for row in range(len(rows))]

    def decode(self, outputs: Sequence[Mapping[str, Array]], rows: Rows) -> dict[str, Any]:
        """Put the outputs of rows into words, None for a unit that no token covers and for a row without any other.

        Each column is prefixed by its head's name where there are several heads.
        """
        columns: dict[str, Any] = {}
        for name in self.model.heads:
            prefix = f"{name}." if len(self.model.heads) > 1 else ""
            head, own = self.model.head(name), [output[name] for output in outputs]
            encodings = rows.inputs[rows.answered[name]].encodings
            if head.answers == "unit":
                said = answers_of_covered(head, own, encodings)
            elif head.answers == "pair":
                said = answers_of_seen(answers_of_pairs(head, own, encodings), _empty(rows))
            else:
                said = answers_of_seen(head.decode(own), _empty(rows))
            columns |= {f"{prefix}{column}": values for column, values in said.items()}
        return columns

    def evaluate(self, examples: Examples, by: str = "", tallies: Tallies | None = None) -> dict[str, dict[str, float]]:
        """Return metrics of labelled examples: under ``all`` and, if ``by`` names a column, under each of its values.

        Rows of which the model sees nothing are left out, as ``tallies`` are told. Raises ``DataError`` if there is no other,
        or no such column.
        """
        asked = self._seen(self.ask(examples, tallies), tallies)
        rows, outputs = asked.rows, self.outputs(asked.rows)
        report = {"all": {"rows": float(len(rows)), **score(self.model, rows, outputs)}}
        for value, chosen in _groups(asked.examples, by).items():
            part = rows.subset(chosen)
            answers = [outputs[row] for row in chosen]
            report[value] = {"rows": float(len(chosen)), **score(self.model, part, answers)}
        return report

    def _seen(self, asked: Asked, tallies: Tallies | None) -> Asked:
        empty = _empty(asked.rows)
        if not empty.any():
            return asked
        kept = np.flatnonzero(~empty)
        if tallies:
            tallies.note([left_out(len(empty) - len(kept), "the metrics")])
            if not len(kept):
                # It knows better what is amiss with all of them, such as names that no model knows.
                tallies.lines()
        if not len(kept):
            raise DataError("of no row does the model see anything: there is nothing to measure.")
        places = {name: [values[row] for row in kept] for name, values in asked.places.items()}
        return Asked(asked.rows.subset(kept), asked.examples.take(kept), places)

    def _only_input(self) -> str:
        names = list(self.resolved.recipe.data.inputs)
        if len(names) > 1:
            raise DataError(f"this adapter reads several inputs, {', '.join(names)}: give one list for each by name")
        return names[0]


def _empty(rows: Rows) -> Array:
    return empty_rows({name: inputs.encodings for name, inputs in rows.inputs.items()})


def _groups(examples: Examples, by: str) -> dict[str, Array]:
    if not by:
        return {}
    if by not in examples.table.column_names:
        raise DataError(f"there is no column '{by}'. The columns are: {', '.join(examples.table.column_names)}.")
    values = np.array([str(value) for value in examples.table[by].to_pylist()])
    return {f"{by}={value}": np.flatnonzero(values == value) for value in np.unique(values)}
