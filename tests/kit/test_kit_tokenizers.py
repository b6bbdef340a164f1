"""Each check of a tokenizer fails on a tokenizer that was made to have the fault."""

import itertools
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from exapt.cells import Cell
from exapt.errors import DataError
from exapt.parts import Encoding, unit_spans
from exapt.testing import CHECKS, LETTERS, ConformanceError, check_tokenizer
from exapt.testing.tiny import Letters
from kit.structure_tokenizers import STRUCTURE_FAULTS

INPUTS = ("MKTAYIAKQR", "ACDEF")


class PadsForgotten(Letters):
    def encode(self, value):
        return replace(super().encode(value), pads={})


class RowsShort(Letters):
    def encode(self, value):
        given = super().encode(value)
        return replace(given, arrays={"input_ids": given.arrays["input_ids"][1:]})


class TailDropped(Letters):
    """Reads pairs of letters, and forgets an odd one at the end."""

    def encode(self, value):
        given = super().encode(value)
        kept = 1 + len(value) // 2 * 2
        return replace(given, arrays={"input_ids": given.arrays["input_ids"][:kept]}, spans=given.spans[:kept])


class RunsCollapsed(Letters):
    """Reads a run of X as one token, as a vocabulary without X does."""

    def encode(self, value):
        return super().encode(
            "".join(next(run) if letter == "X" else "".join(run) for letter, run in itertools.groupby(value))
        )


class BeyondTheEnd(Letters):
    def encode(self, value):
        given = super().encode(value)
        return replace(given, spans=np.where(given.spans >= 0, given.spans + 1, -1))


class Backwards(Letters):
    def encode(self, value):
        given = super().encode(value)
        return replace(given, spans=np.vstack([given.spans[:1], given.spans[:0:-1]]))


class LettersMerged(Letters):
    vocabulary: ClassVar = {**Letters.vocabulary, "K": Letters.vocabulary["R"]}


class StrangeSwallowed(Letters):
    """Maps what it does not know to X and says nothing."""

    def encode(self, value):
        return super().encode("".join(letter if letter.upper() in self.vocabulary else "X" for letter in value))


class RefusedWithoutPlace(Letters):
    def encode(self, value):
        try:
            return super().encode(value)
        except DataError:
            raise DataError("no word") from None


class CrashesOnStrange(Letters):
    def encode(self, value):
        return super().encode("".join(letter for letter in value if self.vocabulary[letter.upper()]))


class LowerCaseUnknown(Letters):
    """Has no lower case in its vocabulary: every such letter becomes one id, uncounted."""

    def encode(self, value):
        if not value.isupper():
            return super().encode("X" * len(value)) if value.isalpha() else super().encode(value)
        return super().encode(value)


class VocabularyGrows(Letters):
    """Numbers letters as they come."""

    def __init__(self):
        self.vocabulary = {}

    def encode(self, value):
        if not value.isalpha():
            return super().encode(value)
        ids = [self.vocabulary.setdefault(letter, len(self.vocabulary) + 2) for letter in value.upper()]
        return Encoding(
            {"input_ids": np.array([1, *ids])}, {"input_ids": 0}, unit_spans(len(value), before=1), len(value)
        )


class Remembers(Letters):
    """Begins with the last letter that it has seen."""

    def encode(self, value):
        given = super().encode(value)
        first, self.last = getattr(self, "last", 1), given.arrays["input_ids"][-1]
        return replace(given, arrays={"input_ids": np.array([first, *given.arrays["input_ids"][1:]])})


class EmptyIsAUnit(Letters):
    def encode(self, value):
        return super().encode(value or "X")


class NoVocabulary(Letters):
    vocabulary: ClassVar = {}

    def encode(self, value):
        return Letters().encode(value)


class AnotherEachTime(Letters):
    """Holds a vocabulary entry that depends on when it was built."""

    builds = itertools.count(100)

    def __init__(self):
        self.vocabulary = {**Letters.vocabulary, "<build>": next(self.builds)}


class Genes(Letters):
    """Reads the genes that a cell expresses, named by letters, in the order of the table."""

    def encode(self, value):
        cell = Cell.of(value)
        known = [unit for unit, name in enumerate(cell.names) if name in self.vocabulary]
        ids = np.array([self.vocabulary[cell.names[unit]] for unit in known], dtype=np.int64)
        spans = np.repeat(np.array(known, dtype=np.int64)[:, None], 2, 1)
        unknown = len(cell.places) - len(known)
        return Encoding({"input_ids": ids}, {"input_ids": 0}, spans, len(cell.places), unknown)


class StrangersForgotten(Genes):
    def encode(self, value):
        return replace(super().encode(value), unknown=0)


class UnitsOfTheTable(Genes):
    """Counts the genes of the table, expressed or not."""

    def encode(self, value):
        return replace(super().encode(value), length=len(Cell.of(value).genes))


class GenesTwice(Genes):
    def encode(self, value):
        given = super().encode(value)
        spans = given.spans.copy()
        spans[1:] = spans[:1]
        return replace(given, spans=spans)


class PlacesRead(Genes):
    """Reads where in the table a gene stands."""

    def encode(self, value):
        given = super().encode(value)
        return replace(given, arrays={"input_ids": Cell.of(value).places[: given.tokens].astype(np.int64)})


CELLS = ({"genes": ["A", "B", "C"], "counts": [2, 0, 1]}, {"genes": ["C", "D"], "counts": [1, 5]})


class NamesForgotten(Letters):
    def unit_names(self, value):
        return list(value) if value.startswith("M") else None


class NamesOfTokens(Letters):
    def unit_names(self, value):
        return ["<cls>", *value]


CELL_FAULTS = [
    (StrangersForgotten, "genes-counted: input 0 with a gene that is not known counts 0 unknown in 3 units"),
    (UnitsOfTheTable, "genes-counted: input 0 expresses 2 genes, but has 3 units"),
    (GenesTwice, "genes-counted: input 0 has a token on several genes, or a gene under several tokens"),
    (
        PlacesRead,
        "silent-genes: input 0 gives other tokens where its table has one more gene, which it does not express",
    ),
]
FAULTS = [
    (PadsForgotten, "arrays-fit: input 0 has arrays input_ids, but pads for none"),
    (RowsShort, "arrays-fit: input 0 has 10 rows of 'input_ids' for 11 tokens"),
    (TailDropped, "units-covered: input 1 has no token on unit 4 of 5"),
    (RunsCollapsed, "units-covered: input 2 has 7 letters, but 5 units"),
    (BeyondTheEnd, "units-covered: input 0 has a token on units 10 to 10 of 10"),
    (Backwards, "units-covered: input 0 has a token on units 8 to 8 after one on 9 to 9"),
    (NamesForgotten, "units-named: the units of input 1 have no names, but those of others have"),
    (NamesOfTokens, "units-named: input 0 has 11 names for 10 units"),
    (LettersMerged, "letters-told-apart: input 0 reads the same with 'K' and with 'R' at position 6"),
    (StrangeSwallowed, "strange-letters-counted: input 0 with '?' at position 6 is read with 0 unknown units"),
    (
        RefusedWithoutPlace,
        "strange-letters-counted: input 0 with '?' at position 6 is refused without character and position: no word",
    ),
    (CrashesOnStrange, "strange-letters-counted: it raises KeyError: '?'"),
    (
        LowerCaseUnknown,
        "lower-case-on-purpose: input 0 in lower case reads the same with 'm' and with 'a' at position 1",
    ),
    (Remembers, "repeatable: input 0 gives other tokens when it is read in another order"),
    (VocabularyGrows, "repeatable: input 1 gives other tokens when it is read by a tokenizer built anew"),
    (EmptyIsAUnit, "empty-input: an empty sequence has 1 units and 1 tokens on units"),
    (
        NoVocabulary,
        "known-by-its-vocabulary: its vocabulary is empty, so that another tokenizer could not be told from it",
    ),
    (AnotherEachTime, "known-by-its-vocabulary: two builds have different fingerprints"),
]


@pytest.mark.parametrize(("kind", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_tokenizer_with_a_fault_is_told_of_it(kind, message):
    spec = replace(LETTERS, build=lambda _options: kind())
    with pytest.raises(ConformanceError) as caught:
        check_tokenizer(spec, inputs=(*INPUTS, "MXXXKAR", "RKR"))
    assert str(caught.value) == f"tokenizer 'tiny-letters' fails {message}"


@pytest.mark.parametrize(("kind", "message"), CELL_FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_tokenizer_of_cells_with_a_fault_is_told_of_it(kind, message):
    spec = replace(LETTERS, build=lambda _options: kind())
    with pytest.raises(ConformanceError) as caught:
        check_tokenizer(spec, inputs=CELLS)
    assert message in str(caught.value)


def test_a_tokenizer_may_read_cells():
    check_tokenizer(replace(LETTERS, build=lambda _options: Genes()), inputs=CELLS)


def test_a_vocabulary_in_the_order_of_a_set_is_found_in_another_process(tmp_path, monkeypatch):
    (tmp_path / "set_order_plugin.py").write_text(
        """
from exapt import TokenizerSpec, hookimpl

exapt_api = 1

def build(options):
    from exapt.testing.tiny import Letters
    tokenizer = Letters()
    unordered = {letter for letter in Letters.vocabulary if len(letter) == 1}
    tokenizer.vocabulary = {**Letters.vocabulary, **{letter: n for n, letter in enumerate(unordered, 2)}}
    return tokenizer

TOKENIZER = TokenizerSpec(name="set-order", summary="Numbers letters in the order of a set.", build=build)

@hookimpl
def exapt_tokenizers():
    yield TOKENIZER
"""
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    import set_order_plugin

    with pytest.raises(ConformanceError) as caught:
        check_tokenizer(set_order_plugin.TOKENIZER, inputs=INPUTS)
    assert (
        str(caught.value) == "tokenizer 'set-order' fails repeatable: the inputs give other tokens in a fresh process"
    )


def test_a_tokenizer_may_count_what_it_does_not_know():
    class Counts(Letters):
        def encode(self, value):
            known = "".join(letter if letter.upper() in self.vocabulary else "X" for letter in value)
            return replace(
                super().encode(known), unknown=sum(letter.upper() not in self.vocabulary for letter in value)
            )

    check_tokenizer(replace(LETTERS, build=lambda _options: Counts()), inputs=INPUTS)


def test_a_tokenizer_may_read_overlapping_words():
    class Threes(Letters):
        """Overlapping words of three letters, as DNA models have them."""

        def encode(self, value):
            letters = super().encode(value).arrays["input_ids"][1:]
            words = [letters[at : at + 3] @ [900, 30, 1] for at in range(len(value) - 2)]
            starts = np.arange(len(words))
            return Encoding(
                {"ids": np.array(words, dtype=np.int64)}, {"ids": 0}, np.stack([starts, starts + 2], 1), len(value)
            )

    check_tokenizer(replace(LETTERS, build=lambda _options: Threes()), inputs=INPUTS)


def test_every_check_of_a_tokenizer_has_a_fault_that_it_finds():
    assert {message.partition(":")[0] for _, message in (*FAULTS, *CELL_FAULTS, *STRUCTURE_FAULTS)} == {
        check.name for check in CHECKS["tokenizer"]
    }
