"""The DNABERT tokenizer: one k-mer begins at each base."""

from __future__ import annotations

from typing import Any

import numpy as np

from exapt import DataError
from exapt.parts import NO_UNIT, Array, Encoding, Tokenizer
from exapt.weights import Files
from exapt_dna.kmers import Vocabulary, read_vocabulary
from exapt_dna.letters import BASES, read
from exapt_dna.options import DnaTokenizerOptions

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def files(source: str, revision: str) -> Files:
    """Return the files of a DNABERT checkpoint."""
    return Files(source, revision, "dnabert", "DNABERT")


def vocabulary_of(source: str, revision: str) -> Vocabulary:
    """Return a checkpoint's k-mers; raises ``DataError`` if it has none, and says so if it is a DNABERT-2."""
    checkpoint = files(source, revision)
    if checkpoint.find("vocab.txt") is None and checkpoint.find("tokenizer.json") is not None:
        raise DataError(
            f"'{source}' has a tokenizer.json of word pieces, as DNABERT-2 has, in place of DNABERT's vocab.txt of "
            f"k-mers; name it as dnabert2:{source}"
        )
    return read_vocabulary(checkpoint, _SPECIAL, "")


class DnabertTokenizer(Tokenizer):
    """``[CLS]``, a k-mer for each base but the last k - 1, ``[SEP]``.

    Token i of the k-mers covers bases i to i + k - 1. A k-mer with any letter but A, C, G and T is ``[UNK]``, and a
    sequence shorter than k has no k-mer.
    """

    def __init__(self, vocabulary: Vocabulary, options: DnaTokenizerOptions) -> None:
        self.vocabulary = vocabulary.ids
        self.mask = vocabulary.ids["[MASK]"]
        self.special = vocabulary.special
        self._k = vocabulary.k
        self._options = options
        self._ids = _table(vocabulary)
        self._letters = np.full(128, -1, dtype=np.int64)
        self._letters[[ord(base) for base in BASES]] = range(len(BASES))

    def encode(self, value: Any) -> Encoding:
        """Encode one sequence; raises ``DataError`` for letters that ``read`` refuses."""
        text, unknown = read(value, self._options)
        words = max(len(text) - self._k + 1, 0)
        ids = np.empty(words + 2, dtype=np.int64)
        ids[0], ids[-1] = self.vocabulary["[CLS]"], self.vocabulary["[SEP]"]
        ids[1:-1] = self._words(text, words)
        spans = np.full((words + 2, 2), NO_UNIT, dtype=np.int64)
        spans[1:-1] = np.arange(words)[:, None] + [0, self._k - 1]
        return Encoding({"input_ids": ids}, {"input_ids": self.vocabulary["[PAD]"]}, spans, len(text), unknown)

    def _words(self, text: str, words: int) -> Array:
        letters = self._letters[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
        number = np.zeros(words, dtype=np.int64)
        known = np.ones(words, dtype=bool)
        for offset in range(self._k if words else 0):
            letter = letters[offset : offset + words]
            number = number * len(BASES) + letter
            known &= letter >= 0
        return np.where(known, self._ids[np.where(known, number, 0)], self.vocabulary["[UNK]"])


def _table(vocabulary: Vocabulary) -> Array:
    """Return the ids [4 ** k] of all k-mers, by the number that their letters spell to the base of four."""
    ids = np.empty(len(BASES) ** vocabulary.k, dtype=np.int64)
    for word, index in vocabulary.ids.items():
        if index not in vocabulary.special:
            ids[int("".join(str(BASES.index(letter)) for letter in word), len(BASES))] = index
    return ids
