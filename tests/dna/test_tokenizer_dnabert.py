"""DNABERT's tokens: a k-mer at each base, whose span is k bases, whatever k and the letters are."""

import pytest

from dna.kmer_models import DNABERT, EXACT, ids, kmers, reader, write_vocabulary
from exapt import DataError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(**options):
    return reader("dnabert", DNABERT / "model", **options)


def of_k(folder, k, **options):
    write_vocabulary(folder, [*SPECIAL, *kmers(k)])
    return reader("dnabert", folder, **options)


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_k_is_that_of_the_vocabulary(k, tmp_path):
    reads = of_k(tmp_path, k)
    encoding = reads.encode("GATTACAGGCAT")
    words = ["GATTACAGGCAT"[start : start + k] for start in range(12 - k + 1)]
    assert ids(encoding) == [2, *(reads.vocabulary[word] for word in words), 3]
    assert encoding.spans.tolist() == [[-1, -1], *([start, start + k - 1] for start in range(12 - k + 1)), [-1, -1]]
    assert (encoding.length, encoding.unknown) == (12, 0)


def test_ids_follow_the_order_of_the_vocabulary(tmp_path):
    tokens = [*kmers(3)[::-1], *SPECIAL]
    write_vocabulary(tmp_path, tokens)
    reads = reader("dnabert", tmp_path)
    encoding = reads.encode("ACGTA")
    assert ids(encoding) == [tokens.index(token) for token in ("[CLS]", "ACG", "CGT", "GTA", "[SEP]")]
    assert (encoding.pads, reads.mask) == ({"input_ids": tokens.index("[PAD]")}, tokens.index("[MASK]"))
    assert reads.special == {tokens.index(token) for token in SPECIAL}


def test_a_vocabulary_with_windows_line_ends_reads_the_same(tmp_path):
    of_k(tmp_path, 3)
    path = tmp_path / "vocab.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert reader("dnabert", tmp_path).vocabulary == of_k(tmp_path, 3).vocabulary


@pytest.mark.parametrize("sequence", ["", "A", "ACGTA"])
def test_a_sequence_shorter_than_k_has_units_and_no_tokens_on_them(sequence):
    encoding = tokenizer().encode(sequence)
    assert (ids(encoding), encoding.length, encoding.spans.tolist()) == ([2, 3], len(sequence), [[-1, -1]] * 2)


def test_an_unknown_letter_makes_its_k_kmers_unknown():
    encoding = tokenizer().encode("ACGTACGTTGNATTAGCCGATCAGGA")
    unknown = [place for place, token in enumerate(ids(encoding)) if token == 1]
    assert unknown == [6, 7, 8, 9, 10, 11]
    assert encoding.unknown == 1


def test_lower_case_reads_as_upper_case_unless_it_is_kept():
    assert ids(tokenizer().encode("acgtACgt")) == ids(tokenizer().encode("ACGTACGT"))
    assert ids(tokenizer(**EXACT).encode("acgtacgt")) == [2, 1, 1, 1, 3]


def test_rna_is_read_when_asked():
    assert ids(tokenizer(rna=True).encode("ACGUACGU")) == ids(tokenizer().encode("ACGTACGT"))


def test_protein_is_refused():
    with pytest.raises(DataError) as refusal:
        tokenizer().encode("MKTAYIAKQR")
    assert str(refusal.value) == "character 'I' at position 6 is no nucleotide; the sequence looks like protein"
