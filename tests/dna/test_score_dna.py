"""DNA models score variants: overlapping k-mers, 6-mers and a causal model alike, on one strand or on both."""

from pathlib import Path

import numpy as np
import pytest

import exapt

GOLDEN = Path(__file__).parents[1] / "golden"
BACKBONES = {
    "dnabert": f"dnabert:{GOLDEN / 'dnabert' / 'given' / 'model'}",
    "hyenadna": f"hyenadna:{GOLDEN / 'hyenadna' / 'given' / 'original'}",
    "nucleotide-transformer": f"nucleotide-transformer:{GOLDEN / 'nucleotide_transformer' / 'v2' / 'given' / 'model'}",
}
WILD = "ACGTTGCAACGGTATCCGATTACAGGCATTACGGCTA"
PAIRS = [(WILD, WILD[:20] + base + WILD[21:]) for base in "CG"]
FLIPPED = str.maketrans("ACGT", "TGCA")


def other_strand(pair):
    return tuple(value[::-1].translate(FLIPPED) for value in pair)


@pytest.mark.parametrize("name", BACKBONES)
def test_both_strands_are_averaged(name):
    here = exapt.score(PAIRS, BACKBONES[name])
    there = exapt.score([other_strand(pair) for pair in PAIRS], BACKBONES[name])
    both = exapt.score(PAIRS, BACKBONES[name], average=["reverse-complement"])
    np.testing.assert_allclose(both, (np.array(here) + np.array(there)) / 2, atol=1e-4)
    assert not np.allclose(here, there, atol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_variants_of_a_genome_are_scored_in_what_the_model_takes(name, tmp_path):
    genome = "".join(np.random.default_rng(0).choice(list("ACGT"), 2000))
    (tmp_path / "genome.fa").write_text(f">chr1\n{genome}\n")
    place = 1234
    alt = "A" if genome[place] != "A" else "C"
    (tmp_path / "calls.vcf").write_text(
        "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\n"
        f"chr1\t{place + 1}\t.\t{genome[place].lower()}\t{alt}\n"
        f"chr1\t{place + 1}\t.\t{genome[place]}\t{alt}\n"
    )
    one, other = exapt.score(tmp_path / "calls.vcf", BACKBONES[name], reference=tmp_path / "genome.fa")
    assert one == other
    assert abs(one) > 1e-4
