"""Real tables of DNA, thinned to what a test has time for, and a small checkpoint of each family to learn them with."""

import csv
import gzip
import shutil
from pathlib import Path

import pytest

from dna.kmer_models import DNABERT, NT, NT1, NT2
from dna.long_models import DNABERT2, HYENA, PUBLISHED_PIECES, Copy

ROOT = Path(__file__).parents[2]
LAC = ROOT / "examples" / "data" / "lac_promoter.csv"
SHARED = ROOT.parent / "shared" / "data"
FAMILIES = ("dnabert", "dnabert2", "hyenadna", "nt-v1", "nt-v2")


def checkpoint(family, folder):
    """Return the name of a family's small checkpoint, in its published layout, with windows for what is too long for it."""
    given = {
        "dnabert": DNABERT / "model",
        "hyenadna": HYENA / "original",
        "nt-v1": NT1 / "model",
        "nt-v2": NT2 / "model",
    }
    name = NT if family.startswith("nt-") else family
    source = given[family] if family in given else _dnabert2(folder / family)
    return {"name": f"{name}:{source}", "windows": "pool"}


def _dnabert2(folder):
    # Its own word pieces are no part of this repository: where they are missing, those made for the tests stand in.
    copy = Copy(DNABERT2 / "model", folder)
    if PUBLISHED_PIECES.is_file():
        shutil.copyfile(PUBLISHED_PIECES, folder / "tokenizer.json")
    return copy.folder


def shared(name):
    """Return the rows of a table that may be read but not copied; skip the test where it is missing."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is no part of this repository, and not in ../shared/data either")
    held = path.read_bytes()
    text = (gzip.decompress(held) if path.suffix == ".gz" else held).decode()
    return list(csv.DictReader(text.splitlines()))


def lac(rows):
    """Return about so many mutants of the lac promoter, evenly from the whole table."""
    with LAC.open() as file:
        table = list(csv.DictReader(file))
    return table[:: len(table) // rows]


def write(path, rows):
    """Write rows as a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fasta(path, rows):
    """Write the sequences of rows as FASTA."""
    path.write_text("".join(f">s{number}\n{row['sequence']}\n" for number, row in enumerate(rows)))
    return path


def each(rows, column, count):
    """Return the first ``count`` rows of each value of a column."""
    seen, kept = {}, []
    for row in rows:
        seen[row[column]] = seen.get(row[column], 0) + 1
        if seen[row[column]] <= count:
            kept.append(row)
    return kept
