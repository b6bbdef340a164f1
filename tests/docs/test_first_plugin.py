"""The tutorial of the first plugin, followed to the letter: its files are written, installed and used as it says."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/tutorials/first-plugin.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The author's folder, after ``pip install -e .``, with the table beside it."""
    folder = tmp_path_factory.mktemp("exapt-properties")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    shutil.copy(REPOSITORY / "tests/data/peptides.csv", folder)
    _install(folder)
    return folder


def _install(folder):
    """Write what pip writes for an editable install, which would need the network for its build backend."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    facts = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    facts.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (facts / "METADATA").write_text(metadata)
    points = project["entry-points"].items()
    lines = [line for group, names in points for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))]
    (facts / "entry_points.txt").write_text("\n".join(lines))


def _run(folder, command):
    program, *words = shlex.split(command)
    start = {"exapt": ["-c", "from exapt.cli import main; main()"], "python": []}[program]
    environment = {**os.environ, "PYTHONPATH": str(folder), "EXAPT_CACHE": str(folder / "cache"), "EXAPT_DEVICE": "cpu"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_plugin_is_as_small_as_it_is_called():
    lines = {name: [line for line in text.splitlines() if line.strip()] for name, text in FILES.items()}
    assert {name: len(kept) for name, kept in lines.items()} == {
        "exapt_properties.py": 43,
        "pyproject.toml": 9,
        "test_properties.py": 3,
    }


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(folder):
    said = {}
    for command in COMMANDS:
        if command == "pip install -e .":
            continue
        done = _run(folder, command)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    assert "1 passed" in said["python -m pytest test_properties.py"]
    listed = next(line for line in said["exapt list backbones"].splitlines() if "properties" in line)
    assert listed.split(maxsplit=2) == ["properties", "exapt-properties", "Hydropathy, volume and charge of residues."]
    assert "licence: CC0-1.0" in said["exapt show checkpoint kyte-doolittle"]
    with (folder / "peptides.csv").open() as table, (folder / "predictions.csv").open() as answers:
        rows, predictions = list(csv.DictReader(table)), list(csv.DictReader(answers))
    assert len(predictions) == len(rows)
    right = [row["label"] == given["prediction"] for row, given in zip(rows, predictions, strict=True)]
    # Half of the peptides are antimicrobial, and those are charged: three numbers a residue do better than a coin.
    assert sum(right) / len(right) > 0.5


def test_the_text_names_no_command_that_is_not_run():
    assert [command.split()[0] for command in COMMANDS] == ["pip", "python", *["exapt"] * 5]
