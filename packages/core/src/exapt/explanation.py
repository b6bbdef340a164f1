"""Explanations of an adapter's answers, from inputs to a table, or from file to file with heat maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.adapted import Adapted
from exapt.data.files import open_writer
from exapt.data.positions import chosen_positions, positions_of
from exapt.data.tables import Examples, read_examples
from exapt.errors import DataError, RecipeError, did_you_mean, listed
from exapt.heat_maps import HeatMaps, heat_maps
from exapt.mutagenesis import mutagenesis
from exapt.outcome import Choice, Counted, Outcome, Wild
from exapt.prediction import Stdout, data_options
from exapt.saliency import check_gradient, saliency
from exapt.units import left_out

__all__ = ["Choice", "explain_examples", "explain_file", "explain_table"]

_METHODS = {"mutagenesis": mutagenesis, "gradient": saliency}


def explain_examples(
    adapted: Adapted,
    examples: Examples,
    choice: Choice,
    *,
    picture: str | Path | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Return a table of the effects of substitutions, or of attributions, with one row each; ``picture`` shows it.

    ``tell`` hears what has neither. Raises ``RecipeError`` for what the adapter cannot be asked, and ``DataError`` for
    positions that an input does not have.
    """
    outcome = _checked(adapted, choice)
    if not len(examples):
        raise DataError("there are no inputs to explain")
    with heat_maps(picture, examples.ids, overwrite) as pictures:
        table = pa.Table.from_batches(list(_explained(outcome, choice, examples, pictures, tell)))
        pictures.publish()
    return table


def explain_table(
    adapted: Adapted,
    path: Path,
    choice: Choice,
    *,
    picture: str | Path | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    **table: Any,
) -> pa.Table:
    """Return what ``explain_examples`` does of the inputs of a table; ``table`` holds options of ``explain_file``."""
    choice, table = _settled(adapted, choice, table)
    _checked(adapted, choice)
    examples = _examples(adapted, path, tell, **table)
    return explain_examples(adapted, examples, choice, picture=picture, overwrite=overwrite, tell=tell)


def explain_file(
    adapted: Adapted,
    path: Path,
    out: Path | None,
    choice: Choice,
    *,
    picture: Path | None = None,
    format_: str = "",
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    **table: Any,
) -> int:
    """Explain inputs of a table, one by one in its order; returns the number of rows that were written.

    ``table`` holds the options of ``exapt.prediction.data_options``, and ``rows``, the ids of the inputs that are wanted;
    of an adapter that reads several inputs, ``input_`` is the one that varies.
    Without ``out`` the rows go to stdout as CSV. ``picture`` is a file or, of several inputs, a folder. Table and pictures
    are there when both are whole, or not at all.
    """
    choice, table = _settled(adapted, choice, table)
    outcome = _checked(adapted, choice)
    writing_table = open_writer(out, format_, overwrite=overwrite) if out else nullcontext(Stdout())
    examples = _examples(adapted, path, tell, **table)
    rows = 0
    with heat_maps(picture, examples.ids, overwrite).apart_from(out) as pictures, writing_table as writer:
        for batch in _explained(outcome, choice, examples, pictures, tell):
            writer.write(batch)
            rows += batch.num_rows
        # The table goes to its place last, on leaving: the pictures can be taken back.
        pictures.publish()
    return rows


def _settled(adapted: Adapted, choice: Choice, table: dict[str, Any]) -> tuple[Choice, dict[str, Any]]:
    # A column can be named in place of the one input that there is; of several, the one that varies.
    if len(adapted.resolved.recipe.data.inputs) == 1 or not table.get("input_"):
        return choice, table
    return replace(choice, input=table["input_"]), {**table, "input_": None}


def _checked(adapted: Adapted, choice: Choice) -> Outcome:
    if choice.method not in _METHODS:
        hint = did_you_mean(choice.method, _METHODS)
        raise RecipeError(f"unknown method '{choice.method}'.{hint} Methods are: {listed(_METHODS)}.")
    positions_of(choice.positions)
    outcome = Outcome.of(adapted, choice)
    if choice.method == "gradient":
        check_gradient(outcome)
    return outcome


def _examples(
    adapted: Adapted, path: Path, tell: Callable[[str], None], rows: Sequence[str] = (), **options: Any
) -> Examples:
    """Read the rows of a table that are wanted, each id once. Raises ``DataError`` for an id that it does not have."""
    examples, report = read_examples(data_options(adapted, path, **options), {}, keep_labels=False)
    for line in report.told:
        tell(line)
    places: dict[str, int] = {}
    for place, who in enumerate(examples.ids):
        places.setdefault(who, place)
    for who in rows:
        if who not in places:
            raise DataError(f"{path.name} has no row '{who}'.{did_you_mean(who, places)}")
    return examples.take([place for who, place in places.items() if not rows or who in rows])


def _explained(
    outcome: Outcome, choice: Choice, examples: Examples, pictures: HeatMaps, tell: Callable[[str], None]
) -> Iterator[pa.RecordBatch]:
    positions = [
        chosen_positions(choice.positions, len(str(value)), who)
        for who, value in zip(examples.ids, examples.inputs[outcome.input], strict=True)
    ]
    tallies, missing, unseen = outcome.adapted.tallies(), Counter[Counted](), 0
    for row, chosen in enumerate(positions):
        wild = Wild.of(outcome, examples.take([row]), tallies)
        if not wild.seen:
            unseen += 1
            continue
        batch = _METHODS[choice.method](wild, chosen, missing)
        pictures.save(wild.who, **_shown(wild, chosen, batch))
        yield batch
    lines = tallies.lines()
    if unseen == len(positions):
        raise DataError("of no input does the model see anything: there is nothing to explain")
    counted = [f"{count:,} {one if count == 1 else many} left out" for (one, many), count in missing.items()]
    for line in [*lines, *counted, *([left_out(unseen, "the explanation")] if unseen else [])]:
        tell(line)


def _shown(wild: Wild, positions: Sequence[int], batch: pa.RecordBatch) -> dict[str, Any]:
    table = batch.to_pydict()
    targets = set(table["target"])
    target = targets.pop() if len(targets) == 1 else "what is predicted there"
    letters = wild.outcome.bare(wild.text)
    column = {position: place for place, position in enumerate(positions)}
    places = [column[position] for position in table["position"]]
    shown = _attributions if "attribution" in table else _substitutions
    return {
        "columns": [f"{letters[position - 1]}{position}" for position in positions],
        **shown(wild, table, places, len(positions), target),
    }


def _attributions(
    wild: Wild, table: dict[str, list[Any]], places: Sequence[int], width: int, target: str
) -> dict[str, Any]:
    values = np.full((1, width), np.nan)
    values[0, places] = table["attribution"]
    title = f"{wild.who}: gradient x input of {target}"
    return {"values": values, "rows": [""], "title": title, "unit": wild.outcome.counts}


def _substitutions(
    wild: Wild, table: dict[str, list[Any]], places: Sequence[int], width: int, target: str
) -> dict[str, Any]:
    alphabet = wild.outcome.alphabet
    row = {letter: place for place, letter in enumerate(alphabet)}
    own = {(row[letter], place) for letter, place in zip(table["wild_type"], places, strict=True)}
    values = np.full((len(alphabet), width), np.nan)
    values[[row[letter] for letter in table["mutant"]], places] = table["effect"]
    for cell in own:
        values[cell] = 0.0
    title = f"{wild.who}: effect of substitutions on {target}"
    about = {"title": title, "unit": f"change of {wild.outcome.counts}", "marks": own}
    return {"values": values, "rows": list(alphabet), **about}
