"""The pages that are generated from the code say what the code says now."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "docs" / "generate.py"


def generate(folder, *words):
    (folder / "reference").mkdir(exist_ok=True)
    script = folder / "generate.py"
    script.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)


def test_the_pages_are_fresh():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_page_is_named_and_can_be_written_anew(tmp_path):
    pages = tmp_path / "reference"
    both = "".join(f"{name} is stale: run 'python docs/generate.py'\n" for name in ("cli.md", "components.md"))
    done = generate(tmp_path, "--check")
    assert (done.returncode, done.stderr) == (1, both)
    assert list(pages.iterdir()) == []
    assert generate(tmp_path).returncode == 0
    for name in ("cli.md", "components.md"):
        assert (pages / name).read_text() == (REPOSITORY / "docs" / "reference" / name).read_text()
    (pages / "cli.md").write_text("old")
    done = generate(tmp_path, "--check")
    assert (done.returncode, done.stderr) == (1, "cli.md is stale: run 'python docs/generate.py'\n")


@pytest.mark.parametrize("name", ["cli.md", "components.md"])
def test_the_pages_are_plain_text(name):
    text = (REPOSITORY / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())
    if name == "cli.md":
        helps = text.split("```")[1::2]
        assert max(len(line) for help_text in helps for line in help_text.splitlines()) <= 80


def test_every_command_and_component_has_its_section():
    from exapt.cli import _CORE
    from exapt.plugins import KINDS, Plugins

    commands = (REPOSITORY / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert [line for line in commands.splitlines() if line.startswith("## ")] == [
        "## exapt",
        *(f"## exapt {name}" for name in _CORE),
    ]
    components = (REPOSITORY / "docs/reference/components.md").read_text(encoding="utf-8")
    for kind in KINDS.values():
        for offer in Plugins([]).offers(kind):
            assert f"\n### {offer.spec.name}\n\n{offer.spec.summary}\n" in components
