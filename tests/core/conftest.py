"""The command line as a user meets it, the tiny ESM-2, and distributions that stand in a folder of their own."""

import importlib
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from stevedore import ExtensionManager, _cache

from exapt import plugins
from exapt.cli import cli

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data():
    return TESTS / "data"


@pytest.fixture(scope="session")
def model():
    """Folder of a whole ESM-2, of 28 thousand parameters."""
    return TESTS / "golden" / "esm2" / "given" / "model"


@pytest.fixture(scope="session")
def esm2(model):
    return f"esm2:{model}"


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def _alone(_caches, monkeypatch):
    """Nothing is read from or left in the caches of whoever runs the tests; plugins are discovered anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_caches))
    monkeypatch.setattr(_cache._c, "_dir", str(_caches / "python-entrypoints"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("EXAPT_CACHE", "EXAPT_PLUGINS", "EXAPT_DISABLE_PLUGINS", "EXAPT_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_plugins()


def forget_plugins():
    """Let plugins be discovered again: exapt and stevedore ask once a process."""
    plugins._shared.clear()
    ExtensionManager.ENTRY_POINT_CACHE.clear()
    _cache._c._internal.clear()
    importlib.invalidate_caches()


@pytest.fixture
def exapt():
    """Run ``exapt ARGUMENTS`` in this process; anything but exit code 0, or another that is named, is a failure."""

    def run(*arguments, code=0, env=None):
        forget_plugins()
        result = CliRunner().invoke(cli, [str(word) for word in arguments], env=env, prog_name="exapt")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def refused(exapt):
    """Run ``exapt ARGUMENTS`` and return the one line on stderr with which it refuses; nothing is on stdout."""

    def run(*arguments, code=2, env=None):
        result = exapt(*arguments, code=code, env=env)
        assert result.stdout == ""
        assert result.stderr.startswith("exapt: ")
        assert result.stderr.count("\n") == 1
        assert result.stderr.endswith("\n")
        return result.stderr.removeprefix("exapt: ").removesuffix("\n")

    return run


class Site:
    """A folder like site-packages; ``install`` puts a distribution of one module into it."""

    def __init__(self, folder):
        self.folder = folder
        self.modules = []

    def install(self, distribution, source="", *, name=None, module=None, commands=(), version="1.0"):
        """Install a plugin called ``name`` (the distribution's last word); ``commands`` are entry points of their own."""
        module = module or distribution.replace("-", "_")
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        facts = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (facts / "RECORD").write_text(f"{module}.py,,\n{facts.name}/METADATA,,\n")
        entries = ["[exapt.commands]", *(f"{command} = {module}:{member}" for command, member in commands)]
        if name != "":
            entries += ["[exapt.plugins]", f"{name or distribution.rpartition('-')[2]} = {module}"]
        (facts / "entry_points.txt").write_text("\n".join([*entries, ""]))
        forget_plugins()


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    site = Site(folder)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def flags(data, esm2):
    """Return the flags that train on the peptides in no time, with more, or with some replaced."""

    def _flags(**changes):
        words = {
            "data": data / "peptides.csv",
            "label": "label",
            "split": "split",
            "backbone": esm2,
            "head": "sequence-classification",
            "strategy": "probe",
        } | changes
        named = [word for key, value in words.items() if value is not None for word in (f"--{key}", value)]
        return [*named, "--set", "training.epochs=2"]

    return _flags
