"""One token per residue, whatever the letters."""

import pytest

from exapt import DataError

LONG = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRV"


def ids(encoding):
    return encoding.arrays["input_ids"].tolist()


def test_lower_and_mixed_case_read_as_upper_case(tokenizer_of):
    tokenizer = tokenizer_of()
    assert ids(tokenizer.encode("mktayiak")) == ids(tokenizer.encode("MKTAYIAK"))
    assert ids(tokenizer.encode("MKTayiakQR")) == ids(tokenizer.encode("MKTAYIAKQR"))


@pytest.mark.parametrize("sequence", ["", "M", "mkt", f"{LONG}J*", f"JJ{LONG}", LONG + "XXXX", "MK-TA.YI"])
def test_there_are_as_many_tokens_as_residues_and_two(sequence, tokenizer_of):
    encoding = tokenizer_of().encode(sequence)
    assert len(ids(encoding)) == encoding.tokens == len(sequence) + 2
    assert encoding.length == len(sequence)
    assert encoding.spans[1:-1].tolist() == [[unit, unit] for unit in range(len(sequence))]
    assert encoding.spans[[0, -1]].tolist() == [[-1, -1], [-1, -1]]


def test_j_and_stop_read_as_x_and_are_counted(tokenizer_of):
    tokenizer = tokenizer_of()
    strange = tokenizer.encode(f"{LONG}J*")
    assert ids(strange) == ids(tokenizer.encode(f"{LONG}XX"))
    assert strange.unknown == 2
    assert tokenizer.encode(f"{LONG}XBZUO-.").unknown == 0


def test_the_ids_are_those_of_the_checkpoint(copy, tokenizer_of):
    path = copy.folder / "vocab.txt"
    path.write_text("\n".join(reversed(path.read_text().split())))
    assert ids(tokenizer_of(copy.folder).encode("MK")) == [32, 12, 17, 30]


def test_a_vocabulary_with_windows_line_ends_reads_the_same(copy, tokenizer_of):
    path = copy.folder / "vocab.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert tokenizer_of(copy.folder).vocabulary == tokenizer_of().vocabulary


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("MKTAYIAKQRQ7", "character '7' at position 12 is no residue"),
        ("MKT AYI", "character ' ' at position 4 is no residue"),
        ("MKTAYI\n", r"character '\n' at position 7 is no residue"),
        ("MK<mask>A", "character '<' at position 3 is no residue"),
        ("MKäTA", "character 'ä' at position 3 is no residue"),
        ("M\U0001f9ecKT7", "character '\U0001f9ec' at position 2 is no residue"),
        (["MKT"], "a sequence is text, not list"),
        (
            "MKTAJJ*YIA",
            "3 of 10 letters (*, J) are unknown to the model, more than max_unknown = 0.05 allows",
        ),
    ],
)
def test_what_is_refused(sequence, message, tokenizer_of):
    with pytest.raises(DataError) as refusal:
        tokenizer_of().encode(sequence)
    assert str(refusal.value) == message


def test_max_unknown_is_a_share_of_the_letters(tokenizer_of):
    assert tokenizer_of(max_unknown=0.3).encode("MKTAJJ*YIA").unknown == 3
    assert tokenizer_of().encode(f"{LONG[:19]}*").unknown == 1
    with pytest.raises(DataError, match="1 of 19 letters"):
        tokenizer_of().encode(f"{LONG[:18]}*")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<!DOCTYPE html>", "it lacks <cls>, <pad>, <eos>, <mask>, X"),
        ("<cls> <pad> <eos> <mask> X A A", "it names a token twice"),
    ],
)
def test_a_vocabulary_that_is_none(text, what, copy, tokenizer_of):
    (copy.folder / "vocab.txt").write_text(text)
    with pytest.raises(DataError) as refusal:
        tokenizer_of(copy.folder)
    assert str(refusal.value) == f"'{copy.folder}/vocab.txt' is no vocabulary of ESM-2: {what}"


def test_a_binary_vocabulary(copy, tokenizer_of):
    (copy.folder / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError) as refusal:
        tokenizer_of(copy.folder)
    assert str(refusal.value) == f"'{copy.folder}/vocab.txt' is not a text file; download it again"
