"""``exapt score``: the effect of variants, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.output import note
from exapt.errors import RecipeError
from exapt.settings import setting, settings_of


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", default="", help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
@click.option(
    "--adapter", type=click.Path(path_type=Path), help="Adapter that went on with pretraining, in place of --backbone."
)
@click.option("--scorer", default="", help="How to score (default: what suits the backbone).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of scorer, backbone or tokenizer, such as scorer.units_only=true.",
)
@click.option("--reference", type=click.Path(path_type=Path), help="FASTA file of the sequences that vary.")
@click.option(
    "--context", type=click.IntRange(min=0), help="Letters kept on each side (default: what the model takes)."
)
@click.option(
    "--average", multiple=True, metavar="AUGMENTATION", help="Average over its views, such as reverse-complement."
)
@click.option(
    "--column", "columns", multiple=True, metavar="WHAT=COLUMN", help="Column of DATA, if it is called otherwise."
)
@click.option(
    "--skip-mismatches",
    is_flag=True,
    help="Leave rows whose ref is not in the sequence, which may be missing or end before it, without a score.",
)
@click.option(
    "--skip-incomparable",
    is_flag=True,
    help="Leave rows that model or scorer cannot compare, such as insertions under 6-mers, without a score.",
)
@click.option(
    "--skip-unscorable",
    is_flag=True,
    help="Leave both kinds of rows, and those that the model cannot read or has no room for, without a score.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV, Parquet or JSONL file; else CSV on stdout.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--format", "format_", default="", help="Writer to use, if the file's suffix does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", help="Of the forward passes.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def score(
    data: Path,
    backbone: str,
    adapter: Path | None,
    scorer: str,
    settings: tuple[str, ...],
    context: int | None,
    average: tuple[str, ...],
    columns: tuple[str, ...],
    out: Path | None,
    format_: str,
    precision: str,
    device: str,
    **flags: Any,
) -> None:
    """Score each variant of DATA by what a pretrained language model expects.

    DATA is a VCF file, or a table with the columns mutation (A23G, or A23G:K41R), or position (from 1), ref and alt, or
    mutant. Wild types stand in its column sequence, or in --reference, by its column chrom where that holds several. A
    score above 0 says that the model expects the mutant more than the wild type (natural logarithms).
    """
    chosen, named = settings_of(settings), dict(setting(one, "--column") for one in columns)
    if bool(backbone) == bool(adapter):
        raise RecipeError("give --backbone, or --adapter: one of them")
    from exapt import api
    from exapt.scores import score_file
    from exapt.scoring import Choice, Scoring

    # An adapter is loaded with the files of its tokenizer, a backbone with all options that are given.
    loading = {part: chosen.pop(part) for part in ("tokenizer",) if adapter and part in chosen}
    choice = Choice(scorer, chosen, average, context, precision)
    if adapter:
        scoring = Scoring.of_adapter(api.load(adapter, device=device, settings=loading), choice, device)
    else:
        scoring = Scoring.of(backbone, choice, device)
    if scoring.licence:
        note(f"licence of {scoring.licence}")
    named = {what: str(column) for what, column in named.items()}
    rows = score_file(scoring, data, out, format=format_, columns=named, tell=note, **flags)
    if out is not None:
        note(f"{rows:,} rows in {out}")
