"""Nucleotide Transformer's tokens: k-mers side by side, single letters where none fits, spans over every base."""

import random

import pytest

from dna.kmer_models import EXACT, NT, NT1, NT2, ids, kmers, reader, write_vocabulary

V2 = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"]


def words(encoding, reads):
    names = {index: token for token, index in reads.vocabulary.items()}
    return [names[index] for index in ids(encoding)]


def of_k(folder, k, **options):
    write_vocabulary(folder, [*V2, *kmers(k), *"ATCGN"])
    return reader(NT, folder, **options)


@pytest.mark.parametrize("k", [3, 6])
def test_k_is_that_of_the_vocabulary(k, tmp_path):
    reads = of_k(tmp_path, k)
    encoding = reads.encode("GATTACAGGCATCC")
    found = [*("GATTACAGGCATCC"[start : start + k] for start in range(0, 12, k)), "C", "C"]
    assert words(encoding, reads) == ["<cls>", *found]
    whole = [[start, start + k - 1] for start in range(0, 12, k)]
    assert encoding.spans.tolist() == [[-1, -1], *whole, [12, 12], [13, 13]]
    assert (encoding.length, encoding.unknown) == (14, 0)


def test_the_3mer_model_has_the_ids_that_it_was_published_with(tmp_path):
    assert ids(of_k(tmp_path, 3).encode("ATTCCGATTCCGATTCCG")) == [3, 11, 49, 11, 49, 11, 49]


@pytest.mark.parametrize("golden", [NT1, NT2], ids=["v1", "v2"])
def test_mask_pad_and_special_tokens(golden):
    reads = reader(NT, golden / "model")
    assert (reads.mask, reads.encode("A").pads) == (2, {"input_ids": 1})
    assert reads.special == set(range(4 if golden == NT1 else 6))


def test_ids_follow_the_order_of_the_vocabulary(tmp_path):
    tokens = [*"NGCTA", *kmers(3)[::-1], *V2[::-1]]
    write_vocabulary(tmp_path, tokens)
    reads = reader(NT, tmp_path)
    assert ids(reads.encode("ACGT")) == [tokens.index(token) for token in ("<cls>", "ACG", "T")]
    assert reads.mask == tokens.index("<mask>")


def test_an_n_begins_the_kmers_anew_and_a_run_of_unknown_letters_is_one_token():
    reads = reader(NT, NT1 / "model", **EXACT)
    encoding = reads.encode("ATTCCGNACGTACATRYSGATTACacgtN")
    assert words(encoding, reads) == [
        *("<cls>", "ATTCCG", "N", "ACGTAC", "A", "T", "<unk>", "GATTAC", "<unk>", "N"),
    ]
    assert encoding.spans[1:].tolist() == [
        *([0, 5], [6, 6], [7, 12], [13, 13], [14, 14], [15, 17], [18, 23], [24, 27], [28, 28]),
    ]
    assert encoding.unknown == 9


@pytest.mark.parametrize("seed", range(5))
def test_the_spans_cover_every_base_once_and_in_order(seed):
    dice = random.Random(seed)
    sequence = "".join(dice.choices("ACGTacgtNRY", [9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1], k=dice.randrange(1, 200)))
    encoding = reader(NT, NT2 / "model", **EXACT).encode(sequence)
    covered = [unit for first, last in encoding.spans[1:].tolist() for unit in range(first, last + 1)]
    assert covered == list(range(len(sequence)))


def test_lower_case_reads_as_upper_case_unless_it_is_kept():
    reads = reader(NT, NT1 / "model")
    assert ids(reads.encode("attccgATTCCG")) == ids(reads.encode("ATTCCGATTCCG"))


def test_rna_is_read_when_asked():
    assert ids(reader(NT, NT1 / "model", rna=True).encode("AUUCCG")) == [3, 367]


def test_an_empty_sequence_is_cls_alone():
    encoding = reader(NT, NT1 / "model").encode("")
    assert (ids(encoding), encoding.spans.tolist(), encoding.length) == ([3], [[-1, -1]], 0)
