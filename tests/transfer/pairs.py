"""Pairs to align: peptides and the genes that encode them, cells and sequences of one kind."""

import csv
import json
import random

import numpy as np

from runs import MODEL, TESTS
from singlecell.scgpt_models import genes_of

HYENA = TESTS / "golden" / "hyenadna" / "given" / "hf"
# One codon for each of the twenty.
LETTERS, BASES = "ACDEFGHIKLMNPQRSTVWY", "GCTTGCGATGAATTCGGTCACATTAAACTGATGAACCCGCAGCGTAGCACCGTTTGGTAC"
CODONS = {letter: BASES[3 * place : 3 * place + 3] for place, letter in enumerate(LETTERS)}
PARTS = ["train"] * 7 + ["valid"] + ["test"] * 2


def peptides(rows=150, seed=0):
    """Return peptides, each of a composition of its own."""
    dice = random.Random(seed)
    letters = [random.Random(f"{seed} {row}").sample(LETTERS, 5) for row in range(rows)]
    return ["".join(dice.choice(few) for _ in range(dice.randrange(14, 22))) for few in letters]


def gene(peptide):
    return "".join(CODONS[letter] for letter in peptide)


def written(path, **columns):
    """Write columns of equal length as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def tables(folder, rows=150, shuffled=False):
    """Write ``proteins.csv`` and, in another order, ``genes.csv``; shuffled, the genes are those of other proteins."""
    made = peptides(rows)
    names = [f"p{row}" for row in range(rows)]
    order = random.Random(1).sample(range(rows), rows)
    proteins = written(
        folder / "proteins.csv", id=names, sequence=made, split=[PARTS[row % len(PARTS)] for row in range(rows)]
    )
    encoded = [gene(made[order[row] if shuffled else row]) for row in range(rows)]
    genes = written(folder / "genes.csv", name=[names[row] for row in order], bases=[encoded[row] for row in order])
    return proteins, genes


def recipe(proteins, genes, **changes):
    """Return the recipe of an alignment of tiny ESM-2 with tiny HyenaDNA."""
    return {
        "towers": {
            "protein": {"data": {"path": str(proteins)}, "backbone": f"esm2:{MODEL}"},
            "gene": {
                "data": {"path": str(genes), "input": "bases"},
                "pair": "name",
                "backbone": f"hyenadna:{HYENA}",
            },
        },
        "split": {"column": "split"},
        "training": {"epochs": 40, "batch_size": 32, "learning_rate": 4e-3},
    } | changes


def cells_and_words(folder, rows=48, seed=0):
    """Write cells, and sequences of the same three kinds: rows of one id are of one kind, and have no more in common."""
    names, rng, dice = genes_of(40), np.random.default_rng(seed), random.Random(seed)
    kinds = [row % 3 for row in range(rows)]
    parts = ["train" if row < rows * 2 // 3 else "valid" if row < rows * 5 // 6 else "test" for row in range(rows)]
    cells = folder / "cells.jsonl"
    with cells.open("w", encoding="utf-8") as file:
        for row, kind in enumerate(kinds):
            counts = rng.poisson(np.where(np.arange(40) % 3 == kind, 20, 1)).tolist()
            record = {"id": f"r{row}", "cell": {"genes": names, "counts": counts}, "kind": f"k{kind}"}
            file.write(json.dumps({**record, "split": parts[row]}) + "\n")
    letters = ["".join(dice.choice(("DE", "KR", "FW")[kind] * 3 + "AGLS") for _ in range(15)) for kind in kinds]
    words = written(
        folder / "words.csv",
        id=[f"r{row}" for row in range(rows)],
        sequence=letters,
        kind=[f"k{kind}" for kind in kinds],
    )
    return cells, words
