"""The commands of this package, run as ``exapt`` runs them."""

from unittest.mock import patch

from click.testing import CliRunner

from exapt.cli import cli
from exapt.installed import PluginInfo
from exapt.testing import inline

COMMANDS = [
    PluginInfo(name, "exapt-singlecell", "0.2.0", "", f"exapt_singlecell.commands:{name}")
    for name in ("annotate", "perturb")
]


def said(*words, plugin, code=0):
    """Run ``exapt WORDS`` with this plugin alone and return the lines on stdout and those on stderr."""
    with inline(plugin), patch("exapt.cli.commands", lambda: COMMANDS):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout.splitlines(), result.stderr.splitlines()


def refused(*words, plugin):
    """Return the one line with which ``exapt WORDS`` refuses."""
    out, (line,) = said(*words, plugin=plugin, code=2)
    assert not out
    return line.removeprefix("exapt: ")
