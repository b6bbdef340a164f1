"""The light half never imports the heavy half, core never a plugin, and a plugin no more of exapt than its public face."""

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import exapt

ROOT = Path(exapt.__file__).parent
REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "pyarrow",
    "numpy",
    "sklearn",
    "scipy",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "matplotlib",
    "optuna",
)

LIGHT = {
    "exapt",
    "exapt.errors",
    "exapt.specs",
    "exapt.hookspecs",
    "exapt.events",
    "exapt.installed",
    "exapt.plugins",
    "exapt.recipe",
    "exapt.composition",
    "exapt.resolve",
    "exapt.manifest",
    "exapt.places",
    "exapt.settings",
    "exapt.toml_text",
    "exapt.data",
    "exapt.data.labels",
    "exapt.builtin",
    *(
        f"exapt.builtin.{name}"
        for name in (
            "alignment",
            "contact",
            "continual",
            "efficient",
            "few_shot",
            "heads",
            "language",
            "meta_learning",
            "multilabel",
            "readers",
            "regularised",
            "runlog",
            "schedules",
            "scorers",
            "strategies",
            "writers",
        )
    ),
    *(f"exapt.cli.{path.stem}" for path in (ROOT / "cli").glob("*.py") if path.stem != "__init__"),
    "exapt.cli",
}
# DESIGN's arrows, as they now are: each of these imports at its top only what stands on lines above it.
ARROWS = (
    {"exapt.errors", "exapt.events"},
    {"exapt.specs", "exapt.hookspecs", "exapt.installed", "exapt.data.labels", "exapt.manifest"},
    {"exapt.places", "exapt.settings", "exapt.builtin.heads"},
    {"exapt.plugins", "exapt.recipe", *(name for name in LIGHT if name.startswith("exapt.builtin."))},
    {"exapt.composition"},
    {"exapt.resolve"},
)


def python(code, *arguments, forbidden=HEAVY):
    """Run code in a fresh interpreter in which importing what is forbidden is an error."""
    guard = f"""
    import sys

    class Guard:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {forbidden!r}:
                raise RuntimeError(f"{{name}} was imported")

    sys.meta_path.insert(0, Guard())
    """
    words = [sys.executable, "-c", dedent(guard) + dedent(code), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_guard_guards():
    assert "RuntimeError: torch was imported" in python("import torch").stderr


def test_the_light_half_and_the_plugins_import_nothing_heavy():
    modules = [*sorted(LIGHT), "exapt_dna.plugin", "exapt_esm", "exapt_esm.plugin", "exapt_antiberty"]
    done = python(f"import importlib\nfor name in {modules!r}:\n    importlib.import_module(name)\nprint('done')")
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("words", ["plugins --check", "list", "list checkpoints", "show head sequence-regression"])
def test_listing_imports_nothing_heavy(words):
    done = python("from exapt.cli import main; main()", *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("words", ["--help", "plugins", "train --help", "--version"])
def test_help_and_plugins_import_no_pydantic_either(words):
    forbidden = (*HEAVY, "pydantic", "pydantic_core", "pluggy", "stevedore", "exapt_esm", "exapt_antiberty")
    done = python("from exapt.cli import main; main()", *words.split(), forbidden=forbidden)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def name_of(path, root=ROOT.parent):
    """Return the dotted name of a source file."""
    words = path.relative_to(root).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def sources():
    return {name_of(path): path for path in ROOT.rglob("*.py")}


def at_top(path):
    """Names of the modules that a file imports when it is itself imported."""
    return set(_imports(ast.parse(path.read_text(encoding="utf-8")).body))


def anywhere(path):
    """Names of the modules that a file imports at any time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(_imports([node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]))


def _imports(statements):
    known = sources()
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member if member in known else node.module for member in members)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _imports(node.body)


def test_every_light_module_exists():
    assert sources().keys() >= LIGHT


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_only_light_ones(name):
    found = at_top(sources()[name])
    assert not {module for module in found if module.partition(".")[0] in HEAVY}
    assert {module for module in found if module.partition(".")[0] == "exapt"} <= LIGHT


def test_the_arrows_point_one_way():
    above = {"exapt"}
    for layer in ARROWS:
        for name in layer:
            ours = {module for module in at_top(sources()[name]) if module.partition(".")[0] == "exapt"}
            assert ours <= above | (layer if name == "exapt.plugins" else set()), name
        above |= layer


@pytest.mark.parametrize("name", sorted(sources()))
def test_core_imports_no_plugin_and_nothing_imports_the_commands(name):
    found = anywhere(sources()[name])
    assert not {module for module in found if module.startswith(("exapt_", "antiberty"))}
    if not name.startswith("exapt.cli"):
        assert not {module for module in found if module.startswith("exapt.cli")}
    if not name.startswith("exapt.testing"):
        assert not {module for module in found if module.startswith("exapt.testing")}


def plugin_sources():
    return sorted([*(REPOSITORY / "packages").glob("plugin-*/src/**/*.py"), *(REPOSITORY / "examples").rglob("*.py")])


@pytest.mark.parametrize("path", plugin_sources(), ids=lambda path: path.name)
def test_plugins_import_only_the_public_face(path):
    ours = {module for module in anywhere(path) if module.partition(".")[0] == "exapt"}
    assert ours <= {"exapt", "exapt.cells", "exapt.parts", "exapt.pictures", "exapt.structures", "exapt.weights"}
    package = path.stem if "src" not in path.parts else path.parts[path.parts.index("src") + 1]
    others = {module.partition(".")[0] for module in anywhere(path) if module.startswith("exapt_")}
    assert others <= {package}


def test_there_are_plugins_to_look_at():
    assert {"plugin.py", "exapt_antiberty.py"} <= {path.name for path in plugin_sources()}


def test_only_one_module_knows_stevedore():
    knowing = {name for name, path in sources().items() if "stevedore" in " ".join(anywhere(path))}
    assert knowing == {"exapt.plugins"}


def test_all_is_sorted_and_exactly_what_is_public():
    assert exapt.__all__ == sorted(exapt.__all__)
    assert set(exapt.__all__) == {*exapt._HOME_OF, "__version__"}
    for name in exapt.__all__:
        assert getattr(exapt, name) is not None
    typed = {
        alias.name
        for node in ast.walk(ast.parse(Path(exapt.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.If)
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }
    assert typed == set(exapt.__all__) - {"__version__"}


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match=r"^module 'exapt' has no attribute 'trian'$"):
        exapt.trian  # noqa: B018
