"""The command line: ``exapt COMMAND``. Each command is one small file, one call deep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from exapt import __version__
from exapt.cli import (
    align,
    classify,
    compare,
    compare_tasks,
    distil,
    doctor,
    embed,
    episodes,
    evaluate,
    explain,
    export,
    find_rate,
    inspect,
    learn_in_sequence,
    leave_one_out,
    listing,
    plugins,
    predict,
    retrieve,
    score,
    search,
    split,
    train,
)
from exapt.cli.output import printable
from exapt.errors import ExaptError, did_you_mean
from exapt.installed import PluginInfo, commands

_CORE: dict[str, click.Command] = {
    command.name or "": command
    for command in (
        split.split,
        train.train,
        predict.predict,
        evaluate.evaluate,
        explain.explain,
        export.export,
        compare.compare,
        compare_tasks.compare_tasks,
        leave_one_out.leave_one_out,
        learn_in_sequence.learn_in_sequence,
        distil.distil,
        find_rate.find_rate,
        search.search,
        embed.embed,
        episodes.episodes,
        score.score,
        align.align,
        retrieve.retrieve,
        classify.classify,
        inspect.inspect,
        listing.list_,
        listing.show,
        plugins.plugins,
        doctor.doctor,
    )
}


class PluginCommand(click.Command):
    """A command that a plugin brings: imported when it is run, so that ``--help`` imports no plugin."""

    def __init__(self, name: str, infos: Sequence[PluginInfo]) -> None:
        self.infos = infos
        super().__init__(name, help=f"A command of {self.sources}.", add_help_option=False)

    @property
    def sources(self) -> str:
        """The distributions that bring it."""
        return " and ".join(info.distribution for info in self.infos)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave all arguments, ``--help`` and ``--`` among them, to the plugin's own command."""
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> None:
        """Import the plugin's command and hand over. Raises ``UsageError`` if two plugins bring one of that name."""
        from exapt.plugins import load_command

        if len(self.infos) > 1:
            raise click.UsageError(
                f"The command '{self.name}' is brought by {self.sources}; disable one with EXAPT_DISABLE_PLUGINS."
            )
        command: click.Command = load_command(self.infos[0])
        with command.make_context(self.name, [*ctx.args], parent=ctx.parent) as inner:
            command.invoke(inner)


class Exapt(click.Group):
    """Core's commands, then those of plugins; none of them can take the place of one of core's.

    Its own help is plain text, for to draw it with rich takes longer than all else that ``--help`` does.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return core's commands in the order of a day's work, then the others by name."""
        return [*_CORE, *sorted({info.name for info in commands()} - _CORE.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name."""
        if cmd_name in _CORE:
            return _CORE[cmd_name]
        found = [info for info in commands() if info.name == cmd_name]
        return PluginCommand(cmd_name, found) if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was meant. Raises ``UsageError``, with the nearest, for one that there is not."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command '{args[0]}'.{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command; what is raised on purpose, by exapt or by click, becomes one line on stderr and an exit code."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except ExaptError as error:
            code = _said(printable(str(error)), error.exit_code)
        except NoArgsIsHelpError as error:
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


@click.group(cls=Exapt, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="exapt")
def cli() -> None:
    """Transfer learning with biological foundation models, through plugins."""


def main() -> NoReturn:
    """Run the command line."""
    cli.main(prog_name="exapt")
