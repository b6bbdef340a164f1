"""``exapt predict``: answers for new data, in the order of the input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt.cli.options import named, reading
from exapt.cli.output import note
from exapt.errors import RecipeError
from exapt.settings import loading_options

if TYPE_CHECKING:
    from exapt.adapted import Adapted


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="CSV, Parquet or JSONL file, or one like DATA; without it DATA itself, if answers can stand there, else stdout.",
)
@click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell.")
@reading
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option(
    "--also",
    multiple=True,
    metavar="[NAME=]FOLDER",
    help="Another adapter of the same backbone, whose weights are in memory once; repeat it for more.",
)
@click.option(
    "--adapter-column", callback=named, help="Column of DATA that names the adapter of each row, with --also."
)
def predict(
    adapter: Path,
    data: Path,
    out: Path | None,
    also: tuple[str, ...],
    adapter_column: str,
    settings: tuple[str, ...],
    **flags: Any,
) -> None:
    """Answer for each row of DATA with ADAPTER, in the order of DATA.

    Columns: id, prediction and probability_CLASS; with several heads or targets HEAD.prediction.TARGET; for answers
    per position, lists. With --also, a column of DATA says which adapter answers for a row, by the last name of its
    folder or by NAME, and a column adapter says which did.
    """
    from exapt.data.files import own_place

    reading, loading = loading_options(settings)
    given = {"backbone": flags.pop("backbone"), "device": flags.pop("device"), "settings": loading}
    if also or adapter_column:
        rows = _by_several([adapter, *also], adapter_column, given, data, out, settings=reading, **flags)
    else:
        out = out or own_place(data, flags["format_"])
        rows = _by_one(adapter, given, data, out, settings=reading, **flags)
    if out is not None:
        note(f"{rows:,} rows in {out}")


def _by_one(adapter: Path, given: dict[str, Any], data: Path, out: Path | None, **flags: Any) -> int:
    from exapt.api import load
    from exapt.prediction import predict_file

    adapted = load(adapter, **given)
    _tell_licence(adapted)
    return predict_file(adapted, data, out, tell=note, **flags)


def _by_several(
    folders: Sequence[str | Path], column: str, given: dict[str, Any], data: Path, out: Path | None, **flags: Any
) -> int:
    from exapt.api import load_all
    from exapt.several import by_name
    from exapt.switching import predict_each

    if len(folders) < 2 or not column:
        raise RecipeError(
            "--also and --adapter-column go together: other adapters, and the column that says whose a row is"
        )
    adapters = load_all(by_name(folders), **given)
    _tell_licence(next(iter(adapters.values())))
    return predict_each(adapters, data, out, column, tell=note, **flags)


def _tell_licence(adapted: Adapted) -> None:
    facts = adapted.manifest["backbone"]
    if not facts["commercial"]:
        note(f"licence of {facts['name']}: {facts['licence']}, which forbids commercial use")
