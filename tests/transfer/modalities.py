"""One small question in each modality: tiny models of three families, and tables that can be learned from."""

import csv
import json
import random
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
BACKBONES = {
    "protein": f"esm2:{GOLDEN / 'esm2' / 'given' / 'model'}",
    "dna": f"dnabert:{GOLDEN / 'dnabert' / 'given' / 'model'}",
    "cell": f"scgpt:{GOLDEN / 'scgpt' / 'given' / 'model'}",
}
MODALITIES = tuple(BACKBONES)
INPUTS = {"protein": "sequence", "dna": "sequence", "cell": "cell"}
LANGUAGE = {"protein": "masked-lm", "dna": "masked-lm", "cell": "masked-expression"}
"""The head without labels that goes on with each model's pretraining."""
LETTERS = {"protein": ("DE", "KR", "AGLSTVNQ"), "dna": ("AT", "GC", "ACGT")}


def parts(rows):
    """Return the part of each row: two thirds train, then valid and test alike."""
    return ["train"] * (rows * 2 // 3) + ["valid"] * (rows // 6) + ["test"] * (rows - rows * 2 // 3 - rows // 6)


def table(modality, path, rows=36, seed=0, shift=False, classes=2):
    """Write a table whose label ``kind`` can be read from its inputs; with ``size``, ``domain`` and ``split``.

    ``shift`` makes rows of another domain, in which the same classes look otherwise.
    """
    write = _cells if modality == "cell" else _sequences
    return write(modality, Path(path), rows, seed, shift, classes)


def _sequences(modality, path, rows, seed, shift, classes):
    dice, (low, high, rest) = random.Random(seed), LETTERS[modality]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "kind", "size", "domain", "split"])
        for row, part in enumerate(parts(rows)):
            kind = row % classes
            own = [low, high, rest, low[:1] + high[:1], low[1:] + high[1:], rest[:2]][kind]
            tail = rest[:1] * 6 if shift else ""
            letters = "".join(dice.choice(own * 4 + rest) for _ in range(dice.randrange(20, 30))) + tail
            size = sum(letter in high for letter in letters)
            writer.writerow([f"s{row}", letters, f"k{kind}", size, "far" if shift else "near", part])
    return path


def _cells(modality, path, rows, seed, shift, classes):
    from singlecell.scgpt_models import genes_of

    path, names, rng = path.with_suffix(".jsonl"), genes_of(40), np.random.default_rng(seed)
    with path.open("w") as file:
        for row, part in enumerate(parts(rows)):
            kind = row % classes
            rates = np.where(np.arange(40) % classes == kind, 20, 1) + (8 * (np.arange(40) < 10) if shift else 0)
            counts = rng.poisson(rates).tolist()
            facts = {"kind": f"k{kind}", "size": sum(counts), "domain": "far" if shift else "near", "split": part}
            file.write(json.dumps({"id": f"c{row}", "cell": {"genes": names, "counts": counts}, **facts}) + "\n")
    return path


def recipe(modality, table, strategy="probe", **changes):
    """Return a recipe on the tiny model of a modality: one epoch, two classes of the column ``kind``."""
    return {
        "data": {"path": str(table), "input": INPUTS[modality]},
        "split": {"column": "split"},
        "backbone": BACKBONES[modality],
        "head": {"name": "sequence-classification", "label": "kind"},
        "strategies": strategy if isinstance(strategy, list) else [strategy],
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "patience": 0},
    } | changes
