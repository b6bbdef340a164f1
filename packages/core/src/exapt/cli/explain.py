"""``exapt explain``: on which letters an answer depends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.options import named, reading
from exapt.cli.output import note
from exapt.settings import loading_options


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV, Parquet or JSONL file; else CSV on stdout.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Heat map: a PNG, SVG or PDF file or, of several inputs, a folder for one PNG each.",
)
@click.option(
    "--method", default="mutagenesis", show_default=True, help="mutagenesis, or gradient for gradient x input."
)
@click.option("--head", default="", help="Head whose answers are explained, where there are several.")
@click.option(
    "--target", default="", help="Class, label or value that is explained (default: the class that is predicted)."
)
@click.option("--probabilities", is_flag=True, help="Explain the probability of the class, not its logit.")
@click.option("--positions", callback=named, help="Positions that vary, such as 5-40,57 (default: all).")
@click.option(
    "--at",
    type=int,
    help="Position whose answer is explained, of answers per position (default: the one that varies).",
)
@click.option("--rows", callback=named, help="Ids of the inputs, with commas (default: all).")
@click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell.")
@reading
@click.option("--overwrite", is_flag=True, help="Replace the table and the pictures if they exist.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def explain(
    adapter: Path,
    data: Path,
    out: Path | None,
    method: str,
    head: str,
    target: str,
    probabilities: bool,
    positions: str,
    at: int | None,
    rows: str,
    backbone: str,
    settings: tuple[str, ...],
    device: str,
    **flags: Any,
) -> None:
    """Show on which letters of DATA the answers of ADAPTER depend, as a table and as a heat map.

    mutagenesis replaces each letter by each other: columns id, head, target, position, wild_type, mutant and effect, the
    answer to the mutant minus that to the wild type. gradient multiplies each letter's embedding by the gradient of the
    answer: columns id, head, target, position, letter and attribution. Where ADAPTER reads several inputs, --input names
    the one that varies.
    """
    from exapt.api import load
    from exapt.explanation import Choice, explain_file

    reading, loading = loading_options(settings)
    adapted = load(adapter, backbone=backbone, device=device, settings=loading)
    facts = adapted.manifest["backbone"]
    if not facts["commercial"]:
        note(f"licence of {facts['name']}: {facts['licence']}, which forbids commercial use")
    choice = Choice(method, head, target, positions, at, probabilities=probabilities)
    flags["rows"] = [who.strip() for who in rows.split(",") if who.strip()]
    count = explain_file(adapted, data, out, choice, settings=reading, tell=note, **flags)
    if out is not None:
        note(f"{count:,} rows in {out}")
