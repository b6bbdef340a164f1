"""DNA models score variants: overlapping k-mers, 6-mers and a causal model alike, on one strand or on both."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import exapt
from exapt.data.variants import Told, VariantTable
from exapt.scoring import Choice, Scoring

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


LONG = WILD * 3
ALIKE = "the model reads the wild type and the mutant alike"
UNKNOWN = "the model does not know the letters that change, or what they change into"
SKIP = "leave such rows without a score with --skip-incomparable"
UNREAD = [
    # A base between two N: every 6-mer, or shorter word, that covers it is unknown before and after.
    ("dnabert", "N{}N", "A", "G", ALIKE),
    ("dnabert", "{}", "A", "N", UNKNOWN),
    ("nucleotide-transformer", "{}", "R", "Y", ALIKE),
    ("nucleotide-transformer", "{}", "A", "R", UNKNOWN),
    ("nucleotide-transformer", "{}", "R", "A", UNKNOWN),
    ("nucleotide-transformer", "{}", "C", "CR", UNKNOWN),
    ("hyenadna", "{}", "R", "Y", ALIKE),
    ("hyenadna", "{}", "A", "R", UNKNOWN),
]


@pytest.mark.parametrize(("name", "around", "ref", "alt", "said"), UNREAD)
def test_what_the_model_cannot_tell_apart_has_no_score(name, around, ref, alt, said, tmp_path):
    wild, mutant = (LONG[:50] + around.format(allele) + LONG[50:] for allele in (ref, alt))
    with pytest.raises(exapt.DataError) as refusal:
        exapt.score([(wild, mutant)], BACKBONES[name])
    assert str(refusal.value) == f"pairs row 1: {said}; {SKIP}"
    table, told = tmp_path / "t.csv", []
    table.write_text(f"sequence,mutant\n{LONG},{LONG[:50]}A{LONG[51:]}\n{wild},{mutant}\n")
    for flag in ("skip_incomparable", "skip_unscorable"):
        found = exapt.score(table, BACKBONES[name], tell=told.append, **{flag: True})
        assert [value is None for value in found] == [False, True]
        reason = {
            ALIKE: "a wild type and a mutant that the model reads alike",
            UNKNOWN: "letters that change and that the model does not know",
        }[said]
        assert told[0] == f"1 row without a score, for {reason}; first t.csv row 2"
        told.clear()


@pytest.mark.parametrize(
    ("name", "scorer"),
    [
        ("dnabert", "pseudo-log-likelihood"),
        ("dnabert", "masked-marginal"),
        ("nucleotide-transformer", "pseudo-log-likelihood"),
        ("hyenadna", "log-likelihood"),
    ],
)
@pytest.mark.parametrize("mutant", ["T", "TCAGGCA"])
def test_unknown_letters_of_the_context_are_neither_asked_for_nor_hidden(name, scorer, mutant):
    scoring = Scoring.of(BACKBONES[name], Choice(scorer=scorer))
    tokenizer = scoring.pairs.tokenizer
    special = np.array(sorted(tokenizer.special))
    wild, other = (LONG[:30] + "R" + LONG[30:33] + allele + LONG[34:] for allele in ("A", mutant))
    asked = list(scoring.scorer.ask(tokenizer, wild, other))
    unknown = [tokenizer.encode(value).arrays[tokenizer.ids] for value in (wild, other)]
    before = {np.flatnonzero(np.isin(ids, special)).tobytes() for ids in unknown}
    assert len(asked) > 0
    for question in asked:
        ids = question.encoding.arrays[tokenizer.ids]
        assert not np.isin(question.tokens, special).any()
        assert np.flatnonzero(np.isin(ids, special) & (ids != tokenizer.mask)).tobytes() in before
    assert (
        scoring.scores(
            list(VariantTable("t", {}, None, Told()).variants(pa.table({"sequence": [wild], "mutant": [other]})))
        )[0]
        != 0
    )
