"""``exapt --help`` and ``exapt plugins``, against the least script that lists entry points and prints a help page."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import measure

_STARTS, _ROUNDS = 3, 12
_LIMIT = 2.0
_BARE = '''
import importlib.metadata
import click

@click.command()
def cli():
    """List the plugins that are installed."""

for entry in importlib.metadata.entry_points(group="exapt.plugins"):
    click.echo(f"{entry.name} {entry.dist.name} {entry.dist.version}")
cli(["--help"])
'''


def start(command: list[str], env: Mapping[str, str]) -> None:
    """Start a command several times over."""
    for _ in range(_STARTS):
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)


def compiled_once(folder: Path) -> dict[str, str]:
    """Return an environment in which every module is compiled at the first start, as it is where nothing forbids it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**env, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def compare(folder: Path) -> None:
    """Measure, and say what start-up costs beside the bare script."""
    bare, env = folder / "bare.py", compiled_once(folder)
    bare.write_text(_BARE, encoding="utf-8")
    exapt = str(Path(sys.executable).parent / "exapt")
    named = "click + importlib.metadata"
    commands = {
        "exapt --help": [exapt, "--help"],
        "exapt plugins": [exapt, "plugins"],
        named: [sys.executable, str(bare)],
    }
    case = measure.Case({name: partial(start, command, env) for name, command in commands.items()}, _STARTS)
    for variant in case.variants.values():
        variant()
    rounds = measure.measure(lambda number: case, _ROUNDS)
    ours = [name for name in commands if name.startswith("exapt")]
    measure.report("Start-up", rounds, ours, named, None, unit="starts")
    for name in ours:
        times = measure.ratio(measure.healthy(rounds), name, named)
        print(f"  {name}: {times:.2f}x the bare script; at most {_LIMIT:g}x: {'met' if times <= _LIMIT else 'NOT met'}")


if __name__ == "__main__":
    measure.one_thread()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder))
