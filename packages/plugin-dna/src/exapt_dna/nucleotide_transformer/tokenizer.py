"""The Nucleotide Transformers' tokenizer: k-mers side by side, and single letters where none fits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from exapt.parts import NO_UNIT, Encoding, Tokenizer
from exapt.weights import Files
from exapt_dna.kmers import Vocabulary, read_vocabulary
from exapt_dna.letters import BASES, read
from exapt_dna.options import DnaTokenizerOptions

_SPECIAL = ("<unk>", "<pad>", "<mask>", "<cls>")
_SINGLE = BASES + "N"


def files(source: str, revision: str) -> Files:
    """Return the files of a checkpoint."""
    return Files(source, revision, "nucleotide-transformer", "Nucleotide Transformer")


def vocabulary_of(source: str, revision: str) -> Vocabulary:
    """Return a checkpoint's k-mers and letters; raises ``DataError`` if its ``vocab.txt`` holds anything else."""
    return read_vocabulary(files(source, revision), _SPECIAL, _SINGLE)


class NucleotideTokenizer(Tokenizer):
    """``<cls>``, then from left to right a k-mer wherever k known bases stand together, and else a single letter.

    N has a token of its own. A run of other letters, such as R or lower case that is kept, is one ``<unk>`` over all of
    them. After either, k-mers begin anew.
    """

    def __init__(self, vocabulary: Vocabulary, options: DnaTokenizerOptions) -> None:
        self.vocabulary = vocabulary.ids
        self.mask = vocabulary.ids["<mask>"]
        self.special = vocabulary.special
        self._options = options
        self._words = re.compile(f"[{BASES}]{{{vocabulary.k}}}|[{_SINGLE}]|[^{_SINGLE}]+")

    def encode(self, value: Any) -> Encoding:
        """Encode one sequence; raises ``DataError`` for letters that ``read`` refuses."""
        text, unknown = read(value, self._options)
        words = self._words.findall(text)
        unk = self.vocabulary["<unk>"]
        ids = np.array([self.vocabulary["<cls>"], *(self.vocabulary.get(word, unk) for word in words)], dtype=np.int64)
        ends = np.cumsum([0, *map(len, words)])
        spans = np.full((len(ids), 2), NO_UNIT, dtype=np.int64)
        spans[1:, 0], spans[1:, 1] = ends[:-1], ends[1:] - 1
        return Encoding({"input_ids": ids}, {"input_ids": self.vocabulary["<pad>"]}, spans, len(text), unknown)
