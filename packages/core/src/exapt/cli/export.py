"""``exapt export``: an adapter's update, written into the weights of its backbone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import rich_click as click

from exapt.cli.output import note, say_json


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--merged", is_flag=True, help="Merge the update into the weights; nothing else is exported.")
@click.option(
    "--format",
    "format_",
    default="exapt",
    help="exapt: an adapter that needs no PEFT. transformers: the whole backbone, for AutoModel.from_pretrained.",
)
@click.option("--backbone", default="", help="FAMILY:PATH of the weights, if they moved or are new to this machine.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(adapter: Path, out: Path, merged: bool, format_: str, backbone: str, device: str, as_json: bool) -> None:
    """Write ADAPTER to the folder OUT with its update merged into the weights, checked to answer the same."""
    from exapt.api import export as write

    done = write(adapter, out, merged=merged, format=format_, backbone=backbone, device=device)
    if as_json:
        say_json({**asdict(done), "folder": str(done.folder)})
    note(f"{', '.join(done.merged)} merged: {done.tensors:,} tensors of {done.parameters:,} numbers in {out}")
