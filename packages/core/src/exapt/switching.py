"""Answers of several adapters to the rows of one table, each row's by the adapter that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.adapted import Adapted
from exapt.building import refuse_mistaken
from exapt.data.files import open_writer, own_place
from exapt.data.tables import Examples, stream_examples
from exapt.errors import DataError, OutputError, RecipeError, did_you_mean
from exapt.prediction import Stdout, as_batch, data_options
from exapt.recipe import DataOptions
from exapt.several import Adapters

_CHUNK = 1024
ADAPTER = "adapter"
_READ = ("inputs", "reader", "mutations", "wild_type", "wild_type_is")
"""What of a table adapters have to read in the same way, for it to be read once."""


class Switch:
    """Adapters that answer row by row into columns which are the same, whichever of them are asked.

    A column that several of them say stands once; where they say it in different types, each has its own,
    ``ADAPTER.COLUMN``.
    """

    def __init__(self, adapters: Adapters) -> None:
        self.adapters = adapters
        self._tallies = {name: adapted.tallies() for name, adapted in adapters.items()}
        for name, adapted in adapters.items():
            windows = adapted.model.backbone.windows
            if windows is not None and windows.mode == "score":
                raise RecipeError(
                    f"'{name}' answers for each window of an input: let it answer alone, for a table of its own"
                )
        said = {name: _answered(adapted) for name, adapted in adapters.items()}
        self._columns = _columns(said)
        fields = {self._columns[name][field.name]: field.type for name, schema in said.items() for field in schema}
        first = {"id": fields.pop("id"), ADAPTER: pa.string()}
        self.schema = pa.schema(list((first | fields).items()))

    def answer(self, examples: Examples, names: Sequence[str]) -> pa.Table:
        """Return the answers of the adapters that are named, one for each example, in their order.

        Raises ``DataError``, with the id, for a name that is none of theirs.
        """
        if len(names) != len(examples):
            raise DataError(f"{len(names)} adapters are named for {len(examples)} inputs: name one for each")
        self._check(examples, names)
        parts, rows = [self.schema.empty_table()], [np.empty(0, dtype=np.int64)]
        for name in dict.fromkeys(names):
            rows.append(np.flatnonzero(np.array(names) == name))
            answers = self.adapters[name].answer(examples.take(rows[-1]), self._tallies[name])
            parts.append(self._laid_out(name, as_batch(answers)))
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(rows), kind="stable"))

    def _check(self, examples: Examples, names: Sequence[str]) -> None:
        for who, name in zip(examples.ids, names, strict=True):
            if name not in self.adapters:
                raise DataError(
                    f"'{who}' names the adapter '{name}', which there is not.{did_you_mean(name, self.adapters)} There are: "
                    f"{', '.join(self.adapters)}."
                )

    def _laid_out(self, name: str, answers: pa.RecordBatch) -> pa.Table:
        own = {
            self._columns[name][column]: values
            for column, values in zip(answers.schema.names, answers.columns, strict=True)
        }
        own[ADAPTER] = pa.array([name] * answers.num_rows, pa.string())
        columns = [own.get(field.name, pa.nulls(answers.num_rows, field.type)) for field in self.schema]
        return pa.table(columns, schema=self.schema)

    def lines(self) -> list[str]:
        """Return what there is to tell of all inputs."""
        return list(dict.fromkeys(line for tallies in self._tallies.values() for line in tallies.lines()))


def _answered(adapted: Adapted) -> pa.Schema:
    """Return the columns of an adapter's answers, as its answers to its own probes tell."""
    probes = adapted.manifest["probe"]["inputs"]
    examples = adapted.examples(dict.fromkeys(adapted.resolved.recipe.data.inputs, probes), None)
    return as_batch(adapted.answer(examples)).schema


def _columns(said: Mapping[str, pa.Schema]) -> dict[str, dict[str, str]]:
    """Return what each adapter's columns are called in a table of them all."""
    types: dict[str, set[str]] = {}
    for schema in said.values():
        for field in schema:
            types.setdefault(field.name, set()).add(str(field.type))
    return {
        name: {column: column if len(types[column]) == 1 else f"{name}.{column}" for column in schema.names}
        for name, schema in said.items()
    }


def predict_each(
    adapters: Adapters,
    path: Path,
    out: Path | None,
    column: str,
    *,
    format_: str = "",
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    **flags: Any,
) -> int:
    """Answer for each row of a table with the adapter that its ``column`` names; returns the number of rows.

    ``flags`` are those of ``exapt.prediction.data_options``. Without ``out`` the answers go to stdout as CSV. Raises
    ``RecipeError`` for adapters that read a table in different ways, and ``OutputError`` for a place that only the answers
    of one adapter can go to.
    """
    switch, options = Switch(adapters), _options(adapters, path, flags)
    if out is not None and own_place(out, format_) is not None:
        raise OutputError(
            f"answers of several adapters do not go back into a table: write them to a CSV file, not to '{out}'"
        )
    writing = open_writer(out, format_, overwrite=overwrite) if out else nullcontext(Stdout())
    rows = 0
    with writing as writer:
        for examples in stream_examples(path, options, _CHUNK, tell):
            if not rows:
                _refuse_mistaken(adapters, examples)
            for batch in switch.answer(examples, _names(examples, column)).combine_chunks().to_batches():
                writer.write(batch)
                rows += batch.num_rows
        lines = switch.lines()
    for line in lines:
        tell(line)
    return rows


def _refuse_mistaken(adapters: Adapters, examples: Examples) -> None:
    first = next(iter(adapters.values()))
    for values in examples.inputs.values():
        refuse_mistaken(first.tokenizer, values, first.name)


def _options(adapters: Adapters, path: Path, flags: Mapping[str, Any]) -> DataOptions:
    read = {name: data_options(adapted, path, **flags) for name, adapted in adapters.items()}
    (first, options), *others = read.items()
    for name, other in others:
        for key in _READ:
            one, two = getattr(options, key), getattr(other, key)
            if one != two:
                raise RecipeError(
                    f"'{first}' and '{name}' read tables differently: data.{key} is {one!r} of the one and {two!r} of the "
                    "other; let each answer for a table of its own"
                )
    return options


def _names(examples: Examples, column: str) -> list[str]:
    if column not in examples.table.column_names:
        raise DataError(f"there is no column '{column}'. The columns are: {', '.join(examples.table.column_names)}.")
    names = examples.table[column].to_pylist()
    for who, name in zip(examples.ids, names, strict=True):
        if name is None or not str(name).strip():
            raise DataError(f"'{who}' names no adapter in the column '{column}'")
    return [str(name) for name in names]
