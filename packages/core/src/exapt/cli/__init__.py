"""The command line: ``exapt COMMAND``. Each command is one small file, one call deep."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import rich_click as click

from exapt import __version__
from exapt.cli import compare, doctor, embed, evaluate, inspect, listing, plugins, predict, train
from exapt.errors import ExaptError
from exapt.installed import COMMANDS, PluginInfo, chosen, installed

_CORE: dict[str, click.Command] = {
    command.name or "": command
    for command in (
        train.train,
        predict.predict,
        evaluate.evaluate,
        compare.compare,
        embed.embed,
        inspect.inspect,
        listing.list_,
        listing.show,
        plugins.plugins,
        doctor.doctor,
    )
}


class PluginCommand(click.Command):
    """A command that a plugin brings: imported when it is run, so that ``--help`` imports no plugin."""

    def __init__(self, info: PluginInfo) -> None:
        super().__init__(info.name, help=f"A command of {info.distribution}.", add_help_option=False)
        self.info = info
        self.allow_extra_args = True
        self.ignore_unknown_options = True
        self.context_settings = {"ignore_unknown_options": True, "allow_extra_args": True}

    def invoke(self, ctx: click.Context) -> Any:
        """Import the plugin's command and hand over."""
        from exapt.plugins import load_command

        command: click.Command = load_command(self.info)
        return command.main(args=[*ctx.args], prog_name=ctx.command_path, standalone_mode=False, parent=ctx.parent)


class Exapt(click.RichGroup):
    """Core's commands, then those of plugins; none of them can take the place of one of core's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return core's commands in the order of a day's work, then the others by name."""
        return [*_CORE, *sorted({info.name for info in _brought()} - _CORE.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name. Raises ``UsageError`` if two plugins bring one of that name."""
        if cmd_name in _CORE:
            return _CORE[cmd_name]
        found = [info for info in _brought() if info.name == cmd_name]
        if len(found) > 1:
            sources = " and ".join(info.distribution for info in found)
            ctx.fail(f"the command '{cmd_name}' is brought by {sources}; disable one with EXAPT_DISABLE_PLUGINS")
        return PluginCommand(found[0]) if found else None

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command; what is raised on purpose, by exapt or by click, becomes one line on stderr and an exit code."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except ExaptError as error:
            code = _said(str(error), error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = _said(error.format_message(), error.exit_code)
        except click.Abort:
            code = _said("interrupted", 130)
        sys.exit(code if isinstance(code, int) else 0)


def _said(message: str, code: int) -> int:
    click.echo(f"exapt: {' '.join(message.split())}", err=True)
    return code


def _brought() -> list[PluginInfo]:
    return chosen(installed(COMMANDS))


@click.group(cls=Exapt, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="exapt")
def cli() -> None:
    """Transfer learning with biological foundation models, through plugins."""


def main() -> NoReturn:
    """Run the command line."""
    cli.main(prog_name="exapt")
