"""Small real runs on the tiny ESM-2: recipes, tables that can be learned, folders byte by byte, processes of their own."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import exapt

TESTS = Path(__file__).parent
DATA = TESTS / "data"
MODEL = TESTS / "golden" / "esm2" / "given" / "model"
STRATEGIES = {
    "probe": "probe",
    "full": "full",
    "partial": {"name": "partial", "blocks": 1},
    "lora": {"name": "lora", "rank": 4, "dropout": 0.1},
    "dora": {"name": "lora", "variant": "dora", "rank": 2},
    "ia3": {"name": "lora", "variant": "ia3"},
    "scratch": "scratch",
}
QUERIES = ["MKTAYIAKQRQISFVKSHF", "DDEDEEDDSA", "KKRKRKLLKK", "GLWSKIKEVGKEAAKAAAKAAGKAALGAVSEAV"]


def charges(path, rows=36, seed=0):
    """Write a table whose label is readable from the letters: ``acid`` or ``base``; with split, number and partner."""
    dice = random.Random(seed)
    parts = ["train"] * (rows * 2 // 3) + ["valid"] * (rows // 6) + ["test"] * (rows // 6)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "partner", "kind", "like", "charge", "split"])
        for row, part in enumerate(parts):
            kind, other = ("acid", "base")[row % 2], ("acid", "base")[row // 2 % 2]
            first, second = _letters(dice, kind), _letters(dice, other)
            charge = sum((letter in "KR") - (letter in "DE") for letter in first)
            writer.writerow([f"s{row}", first, second, kind, "same" if kind == other else "other", charge, part])
    return Path(path)


def _letters(dice, kind):
    own = {"acid": "DE", "base": "KR"}[kind]
    return "".join(dice.choice(own * 4 + "AGLSTVNQ") for _ in range(dice.randrange(8, 24)))


def recipe(table, strategy="probe", **changes):
    """Return a recipe on the tiny ESM-2: two epochs, classes of the column ``kind``."""
    return {
        "data": {"path": str(table), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": f"esm2:{MODEL}",
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategy": STRATEGIES.get(strategy, strategy) if isinstance(strategy, str) else strategy,
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "patience": 0},
    } | changes


def training(**changes):
    """Return the training of ``recipe`` with some of it replaced."""
    return {"training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "patience": 0} | changes}


class Heard:
    """A listener that keeps what it heard."""

    def __init__(self):
        self.events = []

    def __call__(self, run, event):
        self.events.append(event)

    def facts(self, name):
        return [event.facts for event in self.events if event.name == name]

    def of(self, name, fact):
        return [facts[fact] for facts in self.facts(name)]


def listened(given, out=None, **options):
    """Train and return the adapted model with all that was heard."""
    heard = Heard()
    return exapt.train(given, out, listeners=[heard], **options), heard


def contents(folder):
    """Return every file of a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fresh(code, *arguments, launcher=(), check=True, **environment):
    """Run Python code in a process of its own, with JSON arguments as ``given``; return what it printed as its last line."""
    head = "import json, sys\ngiven = json.loads(sys.argv[1])\n"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)} | environment
    command = [sys.executable, *launcher, "-c", head + code, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert not check or done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if check and lines else done
