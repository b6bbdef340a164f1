"""``exapt learn-in-sequence``: tasks one after the other, and what is left of each."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from exapt.cli.output import Watching, note, say, say_json, say_table


@click.command("learn-in-sequence")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the adapters and the matrix.")
@click.option("--method", default="", help="finetune, ewc, l2-sp, replay or separate, in place of the one in PLAN.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted sequence.")
@click.option("--device", default="", help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def learn_in_sequence(plan: Path, out: Path, method: str, resume: bool, device: str, as_json: bool) -> None:
    """Learn the tasks of PLAN one after the other on one backbone, and tell what is left of each.

    PLAN (TOML or JSON) is a recipe for all tasks, with a table [[tasks]] for what differs in each. Printed are the metric
    of each task after each task, the average at the end, forgetting and backward transfer.
    """
    from exapt import api

    watching = Watching()
    try:
        found = api.learn_in_sequence(plan, out, method=method, resume=resume, device=device, listeners=[watching])
    except KeyboardInterrupt:
        note("interrupted; the same command with --resume goes on" if out.exists() else "interrupted")
        raise Exit(130) from None
    finally:
        watching.close()
    if as_json:
        say_json(found.as_dict())
        return
    say_table((found.method, *found.tasks), found.rows())
    say("")
    say(found.verdict)
