"""``exapt predict``: answers for new data, in the order of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.options import reading
from exapt.cli.output import note
from exapt.settings import loading_options


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
def predict(
    adapter: Path, data: Path, out: Path | None, backbone: str, device: str, settings: tuple[str, ...], **flags: Any
) -> None:
    """Answer for each row of DATA with ADAPTER, in the order of DATA.

    Columns: id, prediction and probability_CLASS; with several heads or targets HEAD.prediction.TARGET; for answers
    per position, lists.
    """
    from exapt.api import load
    from exapt.data.files import own_place
    from exapt.prediction import predict_file

    reading, loading = loading_options(settings)
    out = out or own_place(data, flags["format_"])
    adapted = load(adapter, backbone=backbone, device=device, settings=loading)
    facts = adapted.manifest["backbone"]
    if not facts["commercial"]:
        note(f"licence of {facts['name']}: {facts['licence']}, which forbids commercial use")
    rows = predict_file(adapted, data, out, settings=reading, tell=note, **flags)
    if out is not None:
        note(f"{rows:,} rows in {out}")
