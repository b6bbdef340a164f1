"""``exapt plugins``: what is installed and, if asked, whether it works."""

from __future__ import annotations

from collections import Counter
from typing import Any

import rich_click as click

from exapt.cli.output import note, say, say_json, say_table
from exapt.installed import PluginInfo, chosen, installed


@click.command()
@click.option("--check", is_flag=True, help="Load each plugin, and show what it provides or why it is broken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(check: bool, as_json: bool) -> None:
    """List installed plugins, from their metadata alone."""
    infos = installed()
    if check:
        _check(as_json)
    elif as_json:
        say_json([_facts(info) for info in infos])
    elif not infos:
        say("No plugins are installed; core alone has no backbones. Try: pip install exapt-esm")
    else:
        allowed = set(chosen(infos))
        rows = [
            (i.name, i.distribution, i.version, i.location + ("" if i in allowed else "  (disabled)")) for i in infos
        ]
        say_table(("name", "distribution", "version", "location"), rows)
        _warn(infos)


def _facts(info: PluginInfo) -> dict[str, Any]:
    return {"name": info.name, "distribution": info.distribution, "version": info.version, "location": info.location}


def _warn(infos: list[PluginInfo]) -> None:
    for name, count in Counter(info.name for info in infos).items():
        if count > 1:
            sources = " and ".join(info.distribution for info in infos if info.name == name)
            note(f"'{name}' is the name of {count} plugins, of {sources}; EXAPT_PLUGINS takes distributions too")


def _check(as_json: bool) -> None:
    from exapt.plugins import current

    found = current()
    outside = [plugin for plugin in found.loaded if plugin.info.distribution != "exapt"]
    if as_json:
        say_json([{**_facts(p.info), "fault": p.fault, "provides": p.provides} for p in outside])
        return
    for plugin in outside:
        info = plugin.info
        state = (
            f"BROKEN: {plugin.fault}"
            if plugin.fault
            else "; ".join(f"{kind}: {', '.join(names)}" for kind, names in plugin.provides.items())
        )
        say(f"{info.name}  ({info.distribution} {info.version})  {state or 'provides nothing'}")
    for line in found.conflicts():
        note(line)
