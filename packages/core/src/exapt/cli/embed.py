"""``exapt embed``: features of a backbone as it was published."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from exapt.cli.output import note
from exapt.errors import OutputError
from exapt.settings import options_of, settings_of


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Parquet, npz or safetensors file, or one like DATA; without it DATA itself, if embeddings can stand there.",
)
@click.option("--per", type=click.Choice(["sequence", "residue"]), default="sequence", help="One vector for each.")
@click.option(
    "--pooling", type=click.Choice(["mean", "max", "cls"]), default="mean", help="How a sequence gets its vector."
)
@click.option("--layer", default=-1, help="0 embeddings, n after block n, -1 the last.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of backbone, tokenizer or reader, such as backbone.windows=pool.",
)
@click.option("--input", "input_", help="Column of the inputs (default: what the backbone reads, such as sequence).")
@click.option("--id", "id_", default="", help="Column of the ids.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def embed(
    data: Path,
    backbone: str,
    out: Path | None,
    per: str,
    pooling: str,
    layer: int,
    settings: tuple[str, ...],
    input_: str | None,
    id_: str,
    reader: str,
    format_: str,
    overwrite: bool,
    device: str,
) -> None:
    """Write the features of each row of DATA to a file.

    What is done is kept in OUT.parts until the end: the same command goes on where it was interrupted.
    """
    from exapt.data.files import own_place
    from exapt.embedding import Embedder, embed_file
    from exapt.recipe import DataOptions

    out = out or own_place(data, format_)
    if out is None:
        raise OutputError(f"say with -o which file the embeddings of '{data}' go to")
    chosen = settings_of(settings)
    reading = options_of(chosen.pop("reader", {}), "reader")
    embedder = Embedder.of(backbone, "none" if per == "residue" else pooling, layer, device, chosen)
    if embedder.licence:
        note(f"licence of {embedder.licence}")
    named = {"inputs": {"sequence": input_}} if input_ else {}
    options = DataOptions(path=str(data), format=reader, reader=reading, id=id_, **named)
    rows = embed_file(embedder, data, out, data=options, format=format_, overwrite=overwrite, tell=note)
    note(f"{rows:,} rows in {out}")
