"""``exapt split``: a table with a column of parts, and what leaks between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.output import note, say_json, say_table
from exapt.errors import OutputError
from exapt.settings import reader_options


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="CSV, JSONL or Parquet file, or one like DATA; without it DATA itself, if a column can be added there.",
)
@click.option("--kind", type=click.Choice(["dna", "protein"]), help="What the sequences are, to compare them.")
@click.option("--homology", type=float, help="Identity from which two sequences stand in one part; 0 does not look.")
@click.option("--coverage", type=float, help="Share of the shorter sequence that an alignment must span (0.5).")
@click.option("--evalue", type=float, help="Chance hits from which an alignment is not significant (0.001).")
@click.option("--engine", type=click.Choice(["auto", "mmseqs", "pyopal"]), help="What compares the sequences.")
@click.option("--group", help="Column whose groups must not be torn apart; not with --column.")
@click.option("--column", help="Column whose values are dealt out by --valid and --test, such as chromosomes.")
@click.option("--valid", help="Values of --column whose rows are the valid part, with commas.")
@click.option("--test", help="Values of --column whose rows are the test part, with commas; others are train.")
@click.option(
    "--origins",
    help="Columns, with commas, of which to tell the values that stand on both sides (of cells also unasked: donor, batch, ...).",
)
@click.option("--fractions", help="Shares of train, valid and test (0.8,0.1,0.1).")
@click.option(
    "--leakage",
    "leaks_out",
    type=click.Path(path_type=Path),
    help="Write each valid and test row's nearest row of train to this file.",
)
@click.option("--seed", type=int, help="Seed of the split.")
@click.option(
    "--input", "input_", help="Column of the inputs; several with commas (default: sequence, or the column of cells)."
)
@click.option("--id", "id_", default="", help="Column of the ids.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the reader: reader.KEY=VALUE.")
@click.option("--name", default="split", help="What the new column is called.")
@click.option("--overwrite", is_flag=True, help="Replace the file, or a column of that name in it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def split(
    data: Path,
    out: Path | None,
    kind: str | None,
    input_: str | None,
    id_: str,
    reader: str,
    settings: tuple[str, ...],
    name: str,
    leaks_out: Path | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write DATA with a column that says train, valid or test.

    Of a table of cells, an h5ad file gets it as a column of obs, and any other file all columns but the cells.

    With --kind, sequences are compared, DNA on both strands: with --homology, families of related ones stand in one part
    each; and printed is how many rows stand how near to a row of train.
    """
    from exapt.data.files import own_place
    from exapt.recipe import DataOptions
    from exapt.splitting import split_file

    out = out or own_place(data)
    if out is None:
        raise OutputError(f"say with -o which file the parts of '{data}' go to")
    lists = {key: _listed(flags[key]) for key in ("valid", "test", "origins", "fractions") if flags[key] is not None}
    named = {"inputs": {column: column for column in _listed(input_)}} if input_ is not None else {}
    options = DataOptions(path=str(data), format=reader, reader=reader_options(settings), id=id_, **named)
    given = {**flags, **lists}
    done = split_file(options, given, out, kind=kind or "", name=name, leaks_out=leaks_out, overwrite=overwrite)
    for line in done.notes:
        note(line)
    note(f"{sum(done.rows.values()):,} rows in {out}")
    if as_json:
        say_json({"rows": done.rows, "families": done.families, "identity": done.leaks})
        return
    say_table(("part", "rows"), [(part, f"{count:,}") for part, count in done.rows.items()])
    if done.leaks:
        names = next(iter(done.leaks.values()))
        say_table(
            ("identity to train", *done.leaks),
            [(band, *(f"{counts[band]:,}" for counts in done.leaks.values())) for band in names],
        )


def _listed(given: str) -> list[str]:
    return [word.strip() for word in given.split(",")]
