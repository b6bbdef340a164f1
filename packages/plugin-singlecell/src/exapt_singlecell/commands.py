"""``exapt annotate`` and ``exapt perturb``. Nothing heavy is imported before one of them is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt import RecipeError, options_of, settings_of

if TYPE_CHECKING:
    import pandas as pd

    from exapt_singlecell.perturbation import Group
    from exapt_singlecell.sources import Space
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
def annotate(reference: Path, query: Path, label: str, out: Path | None, **flags: Any) -> None:
    """Give the cells of QUERY the labels of the REFERENCE cells that a pretrained model puts them beside.

    Without -o the answers go into QUERY itself: obs["exapt_LABEL"], with probability and distance. Options of the reader
    of both files are --set reader.KEY=VALUE, of REFERENCE alone --set reference.KEY=VALUE.
    """
    from exapt_singlecell import transfer
    from exapt_singlecell.labelling import Transfer

    unknown = None if flags["never_unknown"] else flags["unknown"]
    how = Transfer(flags["method"], flags["k"], flags["metric"], unknown)
    asked = transfer.Asked(label, how, "drop" if flags["drop_unlabelled"] else "refuse")
    files = transfer.Files(reference, query, out, flags["overwrite"])
    outcome = transfer.annotate(files, asked, _space(flags), _note)
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
def perturb(cells: Path, genes: str, how: Any, each: bool, out: Path, **flags: Any) -> None:
    """Delete genes of CELLS, or over-express them, and tell how far that moves cells in the space of a model.

    The shift is the cosine distance of a cell's vectors before and after, over the genes that were not perturbed.
    """
    groups = [_group(flags[name], f"--{name}") for name in ("towards", "among")]
    from exapt_singlecell.perturbation import Files, Perturbation, perturb_file

    named = tuple(gene for gene in (word.strip() for word in genes.split(",")) if gene)
    what = Perturbation(named, how, each, *groups)
    frame = perturb_file(Files(cells, out, flags["overwrite"]), what, _space(flags), _note)
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


def _space(flags: Mapping[str, Any]) -> Space:
    """Return where cells are put, with the settings of all parts. Raises ``RecipeError`` for what is no option of a part."""
    from exapt_singlecell.sources import Space

    given = settings_of(flags["settings"])
    unknown = given.keys() - {"backbone", "tokenizer", "reader", "reference"}
    if unknown:
        line = (
            f"there are options of backbone, tokenizer and reader here, not of '{min(unknown)}': --set reader.KEY=VALUE"
        )
        raise RecipeError(line)
    settings = {part: options_of(options, part) for part, options in given.items()}
    return Space(flags["backbone"], flags["pooling"], flags["layer"], settings, flags["device"])


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
