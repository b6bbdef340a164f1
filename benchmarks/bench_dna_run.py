"""One run on a whole real table, 50,518 mutants of the lac promoter, from random weights, beside a linear model."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import peers
import torch
from dna_models import nt2

import exapt
from exapt.baseline import fit_baseline
from exapt.events import Event, Run
from exapt.labelled import read_table
from exapt.metrics import regressions
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve

_TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "dna_lac_sortseq.csv.gz"


def recipe(model: Path) -> dict[str, object]:
    """Return the run: the whole table in its own split, two passes over it, everything learning."""
    return {
        "data": {"path": str(_TABLE), "input": "sequence"},
        "split": {"column": "split"},
        "backbone": f"nucleotide-transformer:{model}",
        "head": {"name": "sequence-regression", "label": "label"},
        "strategy": "full",
        "training": {"epochs": 2, "batch_size": 64, "learning_rate": 1e-3, "patience": 0},
    }


def told(_run: Run, event: Event) -> None:
    """Print the sizes of each run and the seconds since the start."""
    if event.name in ("start", "end"):
        facts = "  ".join(f"{key} {value}" for key, value in event.facts.items() if not isinstance(value, dict))
        print(f"  {time.monotonic() - _START:6.0f} s  {event.name}: {facts}")


def linear(given: dict[str, object]) -> tuple[float, float]:
    """Return Spearman's correlation and CPU seconds of the linear model of ``exapt compare`` on the same parts."""
    start = time.process_time()
    table = read_table(resolve(read_recipe(given), current()))
    inputs, labels = table.examples.inputs["sequence"], table.examples.labels["head"]
    parts = {part: getattr(table.split, part).tolist() for part in ("train", "valid", "test")}
    sequences = {part: [inputs[row] for row in rows] for part, rows in parts.items()}
    targets = {part: [np.array([float(labels[row])]) for row in rows] for part, rows in parts.items()}
    learned, chosen = ((sequences[part], targets[part]) for part in ("train", "valid"))
    baseline = fit_baseline("regression", False, *learned, *chosen)
    answers = np.concatenate(baseline.predict(sequences["test"]))
    found = regressions(answers[:, None], np.concatenate(targets["test"])[:, None], ["expression"])
    return found["spearman"], time.process_time() - start


if __name__ == "__main__":
    _START = time.monotonic()
    measure.one_thread()
    peers.quiet()
    if not _TABLE.is_file():
        sys.exit(f"{_TABLE.name} is no part of this repository, and not in ../shared/data either")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EXAPT_CACHE"] = f"{folder}/cache"
        nt2(Path(folder) / "model", width=128, layers=2, heads=4)
        given = recipe(Path(folder) / "model")
        start = time.process_time()
        learned = exapt.train(given, listeners=[told]).metrics["test"]["spearman"]
        seconds = time.process_time() - start
    print("\nSpearman on the test part and CPU seconds")
    print(f"  {'Nucleotide Transformer v2, 128 x 2, full':42} {learned:6.3f} {seconds:8.0f}")
    print("  {:42} {:6.3f} {:8.0f}".format("k-mers and one-hot, linear", *linear(given)))
