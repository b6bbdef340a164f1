"""``exapt plugins``: what is installed and, if asked, whether it works."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import rich_click as click

from exapt.cli.output import note, say, say_json, say_table
from exapt.installed import PluginInfo, chosen, installed, unknown_words

if TYPE_CHECKING:
    from exapt.plugins import Loaded


@click.command()
@click.option("--check", is_flag=True, help="Load each plugin, and show what it provides or why it is broken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(check: bool, as_json: bool) -> None:
    """List the installed plugins.

    Without --check only metadata are read, and no plugin is imported. EXAPT_PLUGINS=NAME,... lets only those load,
    EXAPT_DISABLE_PLUGINS=NAME,... all but those; a NAME is a plugin's short name or its distribution.
    """
    infos = installed()
    rows = _checked(infos) if check else [_facts(info, info in chosen(infos)) for info in infos]
    if as_json:
        say_json(rows)
    elif not rows:
        say("No plugins are installed; core alone has no backbones. Try: pip install exapt-esm")
    elif check:
        for row in rows:
            say(f"{row['name']}  ({row['distribution']} {row['version']})  {_state(row)}")
    else:
        say_table(
            ("name", "distribution", "version", "location"),
            [[*list(row.values())[:3], row["location"] + ("" if row["enabled"] else "  (disabled)")] for row in rows],
        )
    _warn(infos, check)


def _facts(info: PluginInfo, enabled: bool) -> dict[str, Any]:
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "location": info.location,
        "enabled": enabled,
    }


def _checked(infos: list[PluginInfo]) -> list[dict[str, Any]]:
    from exapt.plugins import current

    loaded: dict[PluginInfo, Loaded] = {plugin.info: plugin for plugin in current().loaded}
    return [
        {
            **_facts(info, info in loaded),
            "fault": loaded[info].fault if info in loaded else "",
            "provides": loaded[info].provides if info in loaded else {},
        }
        for info in infos
    ]


def _state(row: dict[str, Any]) -> str:
    if not row["enabled"]:
        return "disabled"
    if row["fault"]:
        return f"BROKEN: {row['fault']}"
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in row["provides"].items()) or "provides nothing"


def _warn(infos: list[PluginInfo], check: bool) -> None:
    for line in unknown_words(infos):
        note(line)
    for name, count in Counter(info.name for info in infos).items():
        if count > 1:
            sources = " and ".join(info.distribution for info in infos if info.name == name)
            note(f"'{name}' is the name of {count} plugins, of {sources}; EXAPT_PLUGINS takes distributions too")
    if check:
        from exapt.plugins import current

        for line in current().conflicts():
            note(line)
