"""``exapt annotate`` and ``exapt perturb``. Nothing heavy is imported before one of them is run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt import RecipeError

if TYPE_CHECKING:
    import pandas as pd

    from exapt_singlecell.perturbation import Group
    from exapt_singlecell.transfer import Outcome


def _of_model(command: Any) -> Any:
    """Add the options by which a model is chosen."""
    flags = (
        click.option("--backbone", required=True, help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO."),
        click.option(
            "--pooling", type=click.Choice(["mean", "max", "cls"]), default="mean", help="How a cell gets its vector."
        ),
        click.option("--layer", default=-1, help="0 embeddings, n after block n, -1 the last."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of backbone, tokenizer or reader, such as reader.layer=counts.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the file, or earlier answers in it."),
        click.option("--device", default="", help="cpu, cuda, mps or auto."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("query", type=click.Path(path_type=Path))
@click.option("--label", required=True, help="Column of obs that holds the labels of REFERENCE.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Copy of QUERY with the answers, or a table of them alone."
)
@click.option(
    "--method",
    type=click.Choice(["neighbours", "prototypes"]),
    default="neighbours",
    help="Votes of the nearest cells, or the nearest mean of a class.",
)
@click.option("-k", default=15, help="Neighbours that vote.")
@click.option("--metric", type=click.Choice(["cosine", "euclidean"]), default="cosine", help="How far cells are apart.")
@click.option("--unknown", default=0.99, help="Quantile of REFERENCE's own distances beyond which a cell is unknown.")
@click.option("--never-unknown", is_flag=True, help="Give every cell a label, however far it is.")
@click.option("--drop-unlabelled", is_flag=True, help="Leave cells of REFERENCE without a label out.")
@_of_model
def annotate(
    reference: Path,
    query: Path,
    label: str,
    out: Path | None,
    method: Any,
    k: int,
    metric: Any,
    unknown: float,
    never_unknown: bool,
    drop_unlabelled: bool,
    settings: tuple[str, ...],
    **model: Any,
) -> None:
    """Give the cells of QUERY the labels of the REFERENCE cells that a pretrained model puts them beside.

    Without -o the answers go into QUERY itself: obs["exapt_LABEL"], with probability and distance. Options of the reader
    of both files are --set reader.KEY=VALUE, of REFERENCE alone --set reference.KEY=VALUE.
    """
    from exapt_singlecell import transfer
    from exapt_singlecell.labelling import Transfer

    how = Transfer(method, k, metric, None if never_unknown else unknown)
    rest: dict[str, Any] = {
        "unlabelled": "drop" if drop_unlabelled else "refuse",
        "settings": settings_of(settings),
        "out": out,
    }
    outcome = transfer.annotate(reference, query, label, model.pop("backbone"), how, tell=_note, **rest, **model)
    for line in _lines(outcome):
        click.echo(line)
    _note(f"{outcome.cells:,} cells in {out or query}")


@click.command()
@click.argument("cells", type=click.Path(path_type=Path))
@click.option(
    "--genes", required=True, help="Genes to perturb together, with commas, as CELLS or the model names them."
)
@click.option("--how", type=click.Choice(["delete", "overexpress"]), default="delete", help="What is done to them.")
@click.option("--each", is_flag=True, help="Perturb each gene on its own, and tell the mean over cells.")
@click.option("--towards", metavar="COLUMN=VALUE", help="Tell how much nearer cells come to these.")
@click.option("--among", metavar="COLUMN=VALUE", help="Perturb these cells alone.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="CSV, Parquet or JSONL file.")
@_of_model
def perturb(
    cells: Path,
    genes: str,
    how: Any,
    each: bool,
    towards: str | None,
    among: str | None,
    out: Path,
    settings: tuple[str, ...],
    **model: Any,
) -> None:
    """Delete genes of CELLS, or over-express them, and tell how far that moves cells in the space of a model.

    The shift is the cosine distance of a cell's vectors before and after, over the genes that were not perturbed.
    """
    groups = (_group(towards, "--towards"), _group(among, "--among"))
    from exapt_singlecell.perturbation import Perturbation, perturb_file

    named = tuple(gene for gene in (word.strip() for word in genes.split(",")) if gene)
    what = Perturbation(named, how, each, *groups)
    chosen = settings_of(settings)
    frame = perturb_file(cells, model.pop("backbone"), what, out, settings=chosen, tell=_note, **model)
    if not each:
        click.echo(_mean(frame))
    _note(f"{len(frame):,} {'genes' if each else 'cells'} in {out}")


def _note(line: str) -> None:
    click.echo(line, err=True)


def _group(given: str | None, flag: str) -> Group | None:
    if given is None:
        return None
    column, equals, value = given.partition("=")
    if not equals:
        raise RecipeError(f"{flag} takes COLUMN=VALUE, not '{given}'")
    return column.strip(), value.strip()


def settings_of(given: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return ``PART.KEY=VALUE``s by part and key. Raises ``RecipeError`` for what is none."""
    found: dict[str, dict[str, Any]] = {}
    for one in given:
        place, equals, value = one.partition("=")
        part, dot, key = place.strip().partition(".")
        if not (equals and dot and part and key):
            raise RecipeError(f"--set takes PART.KEY=VALUE, such as reader.layer=counts, not '{one}'")
        found.setdefault(part, {})[key] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _lines(outcome: Outcome) -> list[str]:
    """Say how many cells are of each class and, where the truth is known, how many are right."""
    names = [*outcome.names, "unknown"]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  {outcome.counts[name]:>9,}  {outcome.counts[name] / outcome.cells:7.1%}" for name in names
    ]
    score, (strangers, unknown) = outcome.balanced_accuracy(), outcome.strangers()
    if score == score:
        lines.append(f"balanced accuracy on the labels that the query has: {score:.4f}")
    if strangers:
        lines.append(f"{unknown:,} of {strangers:,} cells of classes that the reference lacks are unknown")
    return lines


def _mean(frame: pd.DataFrame) -> str:
    from exapt_singlecell.perturbation import interval

    moved = frame["shift"].dropna().to_numpy()
    told = interval("shift", moved)
    shift, low, high = told.values()
    return (
        f"mean shift {shift:.3g} (95 % interval {low:.3g} to {high:.3g}) over {len(moved):,} cells; "
        f"{len(frame) - len(moved):,} are as they were"
    )
