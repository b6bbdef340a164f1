"""``exapt design``. Nothing heavy is imported before it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from pydantic import ValidationError

from exapt import RecipeError, options_of, settings_of
from exapt_esm.designing import DesignOptions

if TYPE_CHECKING:
    import pyarrow as pa


_PLACES = ("fixed", "design_only", "tied")
_METAVARS = {
    "number": "N",
    "temperature": "T,...",
    "seed": "N",
    "batch": "N",
    "numbering": "file|index",
    "omit": "LETTERS",
}


def _design_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each of the options of a design; what is given is read by these options themselves."""
    for name, field in reversed(DesignOptions.model_fields.items()):
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default or "")
        flag = click.option(
            f"--{name.replace('_', '-')}",
            name,
            multiple=name == "tied_chains",
            metavar=_METAVARS.get(name, "PLACES" if name in _PLACES else "TEXT"),
            help=f"{field.description}{f' (default: {default})' if default else ''}",
        )
        command = flag(command)
    return command


@click.command()
@click.argument("structure", type=click.Path(path_type=Path))
@click.option("--backbone", default="", help="Pretrained model: a checkpoint, or FAMILY:PATH.")
@click.option(
    "--adapter", type=click.Path(path_type=Path), help="Adapter that went on with pretraining, in place of --backbone."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="FASTA, CSV, Parquet or JSONL file; else FASTA on stdout."
)
@_design_options
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of backbone, tokenizer or reader, such as reader.separate=true.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
def design(
    structure: Path,
    backbone: str,
    adapter: Path | None,
    out: Path | None,
    settings: tuple[str, ...],
    overwrite: bool,
    device: str,
    **given: Any,
) -> None:
    """Design sequences for the backbone of STRUCTURE, a PDB or mmCIF file or a folder of them.

    Of each structure the first record is its own sequence, with the chains in order and / between them; behind it come the
    designs. Score is the mean of minus the log-likelihoods of the designed residues (natural logarithms): the lower, the
    better the sequence goes with the structure. Places are a chain (B), a residue (A:52A) or a stretch (A:1-10), by the
    residue numbers of the file.
    """
    options = _options(given)
    from exapt_esm.designing.run import Choice, design_file

    chosen = {part: options_of(some, part) for part, some in settings_of(settings).items()}
    choice = Choice(backbone, adapter, chosen, device)
    rows = design_file(structure, out, choice, options, overwrite=overwrite, show=_show, tell=_note)
    if out is not None:
        _note(f"{rows:,} sequences in {out}")


def _options(given: dict[str, Any]) -> DesignOptions:
    """Return the options that were given. Raises ``RecipeError``, with the flag, for the first that cannot be."""
    try:
        return DesignOptions.model_validate({name: value for name, value in given.items() if value not in (None, ())})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        said = fault["msg"].removeprefix("Value error, ")
        said = f"{said[0].lower()}{said[1:]}"
        if not fault["loc"]:
            raise RecipeError(said) from None
        name = str(fault["loc"][0])
        value = given[name] if isinstance(given[name], str) else " ".join(given[name])
        shown = value or "''"
        raise RecipeError(f"--{name.replace('_', '-')} {shown}: {said}") from None


def _show(batch: pa.RecordBatch) -> None:
    from exapt_esm.designing.fasta import records

    for record in records(batch):
        click.echo(record)


def _note(line: str) -> None:
    click.echo(line, err=True)
