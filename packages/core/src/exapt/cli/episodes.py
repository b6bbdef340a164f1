"""``exapt episodes``: how well a few examples of each class suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from exapt.cli.output import note, number, say, say_json, say_table
from exapt.settings import setting, settings_of


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", default="", help="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
@click.option("--adapter", default="", help="Adapter whose backbone gives the features, in place of a backbone.")
@click.option("--head", default="prototypes", help="What answers: prototypes, nearest-neighbours or ridge.")
@click.option("--ways", default=5, help="Classes of an episode.")
@click.option("--shots", default=5, help="Examples of each class to learn from.")
@click.option("--queries", default=15, help="The most others of each class to answer for.")
@click.option("--episodes", "count", default=100, help="How many episodes; 100 or more.")
@click.option("--label", default="", help="Column of the classes (default: the adapter's, or label).")
@click.option("--classes", default="", help="Classes to draw from, with commas (default: all).")
@click.option("--only", multiple=True, metavar="COLUMN=VALUE", help="Draw from these rows alone, such as split=test.")
@click.option("--input", "inputs", default="", help="Column of the inputs, if it is called otherwise.")
@click.option("--id", "ids", default="", help="Column of the ids.")
@click.option("--reader", default="", help="Reader of DATA, if the file's suffix does not tell.")
@click.option("--layer", default=-1, help="0 embeddings, n after block n, -1 the last.")
@click.option("--scratch", is_flag=True, help="The same model with fresh weights: what transfer must beat.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of head, backbone, tokenizer, reader."
)
@click.option("--seed", default=0, help="Seed of what is drawn.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def episodes(
    data: Path,
    count: int,
    classes: str,
    only: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Draw episodes from the rows of DATA: fit a head to a few examples of each class, and let it answer for others.

    Nothing learns by steps, and features are computed once. Printed are mean accuracy and logarithmic loss over all
    episodes with their 95 % intervals.
    """
    from exapt.api import episodes as play

    flags |= {"episodes": count, "classes": [name.strip() for name in classes.split(",") if name.strip()]}
    flags |= {"only": dict(setting(one, "--only") for one in only), "settings": settings_of(settings)}
    found = play(data, **flags)
    for line in found.notes:
        note(line)
    if as_json:
        say_json(found.as_dict())
        return
    rows = [
        (name, number(of.mean), f"{number(of.low)} to {number(of.high)}")
        for name, of in (("accuracy", found.accuracy), ("log loss", found.log_loss))
    ]
    say_table((found.head, "mean", "95 % interval"), rows)
    say(found.told)
