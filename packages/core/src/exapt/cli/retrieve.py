"""``exapt retrieve``: the nearest inputs of the other modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.aligned import aligned, loaded, tables
from exapt.cli.output import note, say_json


@click.command()
@click.argument("alignment", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path))
@click.option("--among", type=click.Path(path_type=Path), required=True, help="Table of the other tower, to look in.")
@click.option("--top", default=5, show_default=True, help="How many to give for each query.")
@aligned("among")
def retrieve(alignment: Path, queries: Path, among: Path, top: int, as_json: bool, **flags: Any) -> None:
    """Find for each row of QUERIES the nearest rows of another modality, with ALIGNMENT.

    Columns: query, rank, match and similarity, the cosine in the common space. Ids are those of the tables.
    """
    from exapt.alignment.asking import Destination, retrieve_rows, write_rows

    opened = loaded(alignment, flags)
    own, other = tables(queries, among, "among", flags)
    rows = retrieve_rows(opened, own, other, top, tower=flags["tower"], tell=note)
    if as_json:
        say_json(rows.to_pylist())
        return
    written = write_rows(rows, Destination(flags["out"], flags["format_"], flags["overwrite"]))
    if flags["out"] is not None:
        note(f"{written:,} rows in {flags['out']}")
