"""``exapt embed``: features of a backbone as it was published."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from exapt.cli.output import note
from exapt.cli.train import settings_of


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Parquet, npz or safetensors file.")
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
    help="Option of backbone or tokenizer, such as backbone.windows=pool.",
)
@click.option("--input", "input_", default="sequence", help="Column of the inputs.")
@click.option("--id", "id_", default="", help="Column of the ids.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def embed(
    data: Path,
    backbone: str,
    out: Path,
    per: str,
    pooling: str,
    layer: int,
    settings: tuple[str, ...],
    input_: str,
    id_: str,
    reader: str,
    format_: str,
    overwrite: bool,
    device: str,
) -> None:
    """Write the features of each row of DATA to a file.

    What is done is kept in OUT.parts until the end: the same command goes on where it was interrupted.
    """
    from exapt.embedding import Embedder, embed_file
    from exapt.recipe import DataOptions

    chosen = settings_of(settings)
    embedder = Embedder.of(backbone, "none" if per == "residue" else pooling, layer, device, chosen)
    if embedder.licence:
        note(f"licence of {embedder.licence}")
    options = DataOptions(path=str(data), format=reader, inputs={"sequence": input_}, id=id_)
    rows = embed_file(embedder, data, out, data=options, format=format_, overwrite=overwrite, tell=note)
    note(f"{rows:,} rows in {out}")
