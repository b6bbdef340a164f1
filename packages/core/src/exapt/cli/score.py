"""``exapt score``: the effect of variants, without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt.cli.options import scanning, varying
from exapt.cli.output import note
from exapt.errors import RecipeError
from exapt.settings import setting, settings_of

if TYPE_CHECKING:
    from exapt.data.residues import Numbering
    from exapt.scoring import Choice, Scoring

_SCANNED = ("positions", "rows", "picture")
_OF_TABLES = ("reference", "structure", "numbering", "skip_mismatches")


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
    help="Option of scorer, backbone, tokenizer or reader, such as scorer.units_only=true.",
)
@scanning
@varying
@click.option(
    "--context", type=click.IntRange(min=0), help="Letters kept on each side (default: what the model takes)."
)
@click.option(
    "--average", multiple=True, metavar="AUGMENTATION", help="Average over its views, such as reverse-complement."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV, Parquet or JSONL file; else CSV on stdout.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--format", default="", help="Writer to use, if the file's suffix does not tell.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", help="Of the forward passes.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def score(
    data: Path,
    backbone: str,
    adapter: Path | None,
    device: str,
    scan: bool,
    columns: tuple[str, ...],
    out: Path | None,
    **given: Any,
) -> None:
    """Score each variant of DATA by what a pretrained language model expects.

    DATA is a VCF file, or a table with the columns mutation (A23G, or A23G:K41R), or position (from 1), ref and alt, or
    mutant. Wild types stand in its column sequence, or in --reference, by its column chrom where that holds several. A
    score above 0 says that the model expects the mutant more than the wild type (natural logarithms). With --scan DATA
    holds the wild types alone, in a FASTA file or a table with the column sequence.

    For a model of structures, --structure names those that vary, and the columns structure and chain say which; a mutation
    may name its chain itself (A23G/B), and a whole sequence stand in mutant or sequence. Without it DATA is structures,
    whose own sequences are scored, or scanned.
    """
    named = {what: str(column) for what, column in (setting(one, "--column") for one in columns)}
    _check_together(scan, given)
    scoring = _scoring(backbone, adapter, _choice(given, scan), device)
    if scoring.licence:
        note(f"licence of {scoring.licence}")
    count = _write(scan)(scoring, data, out, columns=named, tell=note, **given)
    if out is not None:
        note(f"{count:,} rows in {out}")


def _write(scan: bool) -> Callable[..., int]:
    if scan:
        from exapt.scanning import scan_file

        return scan_file
    from exapt.scores import score_file

    return score_file


def _check_together(scan: bool, given: dict[str, Any]) -> None:
    """Raise ``RecipeError`` for options that go with something else; leave those of a scan, or of a table of variants."""
    if scan:
        for name in _OF_TABLES:
            if given[name]:
                raise RecipeError(f"--{name.replace('_', '-')} goes with a table of variants, not with --scan")
        del given["reference"], given["skip_mismatches"]
        return
    of_scans = [given.pop(name) for name in _SCANNED]
    if any(of_scans):
        raise RecipeError("--positions, --rows and --picture go with --scan")
    if given["numbering"] and not given["structure"]:
        raise RecipeError("--numbering goes with --structure")


def _choice(given: dict[str, Any], scan: bool) -> Choice:
    """Take what is chosen of scoring out of what is given."""
    from exapt.scoring import Choice

    names = ("scorer", "average", "context", "precision", "structure")
    chosen = {name: given.pop(name) for name in names}
    numbering: Numbering = given.pop("numbering") or "file"
    alone = not scan and chosen["structure"] is None
    return Choice(settings=settings_of(given.pop("settings")), numbering=numbering, alone=alone, **chosen)


def _scoring(backbone: str, adapter: Path | None, choice: Choice, device: str) -> Scoring:
    if bool(backbone) == bool(adapter):
        raise RecipeError("give --backbone, or --adapter: one of them")
    from exapt import api
    from exapt.scoring import Scoring

    if adapter is None:
        return Scoring.of(backbone, choice, device)
    # An adapter is loaded with the files of its tokenizer, a backbone with all options that are given.
    loading = {part: options for part, options in choice.settings.items() if part == "tokenizer"}
    own = {part: options for part, options in choice.settings.items() if part not in loading}
    return Scoring.of_adapter(api.load(adapter, device=device, settings=loading), replace(choice, settings=own), device)
