"""Scans of DNA: k-mers, causal models, both strands; each score is that of the mutation by itself."""

from pathlib import Path

import pytest

import exapt

GOLDEN = Path(__file__).parents[1] / "golden"
DNABERT = f"dnabert:{GOLDEN / 'dnabert' / 'given' / 'model'}"
HYENADNA = f"hyenadna:{GOLDEN / 'hyenadna' / 'given' / 'hf'}"
TRANSFORMER = f"nucleotide-transformer:{GOLDEN / 'nucleotide_transformer' / 'v2' / 'given' / 'model'}"
WILD = "ACGTTGCAAGGCTTAACGTCCATG"


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        (DNABERT, {}),
        (DNABERT, {"average": ["reverse-complement"]}),
        (DNABERT, {"scorer": "wild-type-marginal"}),
        (HYENADNA, {}),
        (HYENADNA, {"context": 8}),
        (TRANSFORMER, {}),
    ],
    ids=["k-mers", "both-strands", "wild-type", "causal", "context", "6-mers"],
)
def test_scores_are_those_of_the_mutations_one_by_one(backbone, options):
    table = exapt.scan([WILD], backbone, positions="1,9-10,24", **options)
    assert table["mutation"].to_pylist() == [
        *("A1C", "A1G", "A1T", "A9C", "A9G", "A9T", "G10A", "G10C", "G10T", "G24A", "G24C", "G24T")
    ]
    places = zip(table["position"].to_pylist(), table["mutant"].to_pylist(), strict=True)
    pairs = [(WILD, WILD[: position - 1] + letter + WILD[position:]) for position, letter in places]
    alone = [exapt.score([pair], backbone, **options)[0] for pair in (pairs[0], pairs[4], pairs[11])]
    assert [table["score"][row].as_py() for row in (0, 4, 11)] == pytest.approx(alone, abs=1e-5)


def test_letters_that_are_no_bases_are_left_out():
    told = []
    table = exapt.scan({"p": f"ACGNTR{WILD}{WILD}"}, HYENADNA, positions="1-8", tell=told.append)
    assert sorted(set(table["position"].to_pylist())) == [1, 2, 3, 5, 7, 8]
    assert told[0] == "2 positions are left out, of letters that are none of ACGT; first N4 of 'p'"
