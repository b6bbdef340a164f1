"""The letters of DNA: which are read, which are counted, and which are refused with their position."""

import pytest

from exapt import DataError
from exapt_dna.letters import AMBIGUOUS, BASES, read
from exapt_dna.options import DnaTokenizerOptions


def letters(value, **options):
    return read(value, DnaTokenizerOptions(**options))


def refusal(value, **options):
    with pytest.raises(DataError) as refused:
        letters(value, **options)
    return str(refused.value)


def test_lower_case_is_read_as_upper_case_unless_it_is_kept():
    assert letters("acgtACGT") == ("ACGTACGT", 0)
    assert letters("acgtACGT", case="keep", max_unknown=1) == ("acgtACGT", 4)


def test_lower_case_that_is_kept_is_unknown():
    assert refusal("acgtACGTACGT", case="keep") == (
        "4 of 12 letters (a, c, g, t) are unknown to the model, more than max_unknown = 0.05 allows"
    )


def test_every_letter_of_iupac_is_read_and_counted():
    assert letters(BASES + AMBIGUOUS, max_unknown=1) == ("ACGTRYSWKMBDHVN", 11)
    assert letters(AMBIGUOUS.lower(), max_unknown=1) == (AMBIGUOUS, 11)


def test_max_unknown_is_a_share_of_the_letters():
    assert letters("ACGT" * 5 + "N") == ("ACGT" * 5 + "N", 1)
    assert letters("ACGT" * 19 + "NRYN") == ("ACGT" * 19 + "NRYN", 4)
    assert refusal("ACGT" * 4 + "N") == (
        "1 of 17 letters (N) are unknown to the model, more than max_unknown = 0.05 allows"
    )
    assert (
        refusal("ACGTN", max_unknown=0)
        == "1 of 5 letters (N) are unknown to the model, more than max_unknown = 0 allows"
    )
    assert refusal("NRNY", max_unknown=0.5) == (
        "4 of 4 letters (N, R, Y) are unknown to the model, more than max_unknown = 0.5 allows"
    )


def test_u_is_read_as_t_only_when_asked():
    assert letters("ACGUacgu", rna=True) == ("ACGTACGT", 0)
    assert letters("ACGUacgu", rna=True, case="keep", max_unknown=1) == ("ACGTacgt", 4)
    assert refusal("ACGUACGU") == "character 'U' at position 4 is RNA; set tokenizer.rna = true to read U as T"
    assert refusal("acgu") == "character 'u' at position 4 is RNA; set tokenizer.rna = true to read U as T"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ACGT-ACGT", "character '-' at position 5 is no nucleotide"),
        ("ACGT ACGT", "character ' ' at position 5 is no nucleotide"),
        ("ACGT\n", r"character '\n' at position 5 is no nucleotide"),
        ("ACGT*", "character '*' at position 5 is no nucleotide"),
        ("7ACGT", "character '7' at position 1 is no nucleotide"),
        ("ACGTß", "character 'ß' at position 5 is no nucleotide"),
        ("AC\U0001f9ecT", "character '\U0001f9ec' at position 3 is no nucleotide"),
        ("ACGT<mask>", "character '<' at position 5 is no nucleotide"),
        ("MKTAYIAKQR", "character 'I' at position 6 is no nucleotide; the sequence looks like protein"),
        ("mktayiakqr", "character 'i' at position 6 is no nucleotide; the sequence looks like protein"),
        (None, "a sequence is text, not NoneType"),
        (["ACGT"], "a sequence is text, not list"),
    ],
)
def test_what_is_refused(value, message):
    assert refusal(value, max_unknown=1) == message


def test_an_empty_sequence_has_no_letters():
    assert letters("") == ("", 0)
    assert letters("", max_unknown=0) == ("", 0)
