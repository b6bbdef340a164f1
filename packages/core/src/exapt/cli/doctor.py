"""``exapt doctor``: what this machine has."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import rich_click as click

from exapt.cli.output import number, say, say_json

_TOLD = ("torch", "transformers", "peft", "accelerate", "safetensors", "pyarrow", "scikit-learn", "numpy")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show device, versions, cache and plugins."""
    facts = _facts()
    if as_json:
        say_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for name, inner in value.items():
                say(f"  {name}: {inner}")
        else:
            say(f"{key}: {value}")


def _facts() -> dict[str, Any]:
    from exapt import device as devices
    from exapt.features import cache_size
    from exapt.installed import cache_folder
    from exapt.plugins import current

    device = devices.choose()
    return {
        "device": devices.describe(device),
        "precision": devices.resolve_precision("auto", device),
        "versions": {name: importlib.metadata.version(name) for name in ("exapt", *_TOLD)},
        "cache": {"folder": str(cache_folder()), "megabytes": number(round(cache_size() / 1e6, 1))},
        "plugins": {
            f"{plugin.info.name} ({plugin.info.distribution} {plugin.info.version})": plugin.fault or "works"
            for plugin in current().loaded
            if plugin.info.distribution != "exapt"
        },
    }
