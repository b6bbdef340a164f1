"""The HyenaDNA tokenizer: one token for each base."""

from __future__ import annotations

from typing import Any

import numpy as np

from exapt.parts import Encoding, Tokenizer, unit_spans
from exapt_dna.hyenadna import HyenaDnaTokenizerOptions
from exapt_dna.hyenadna.shape import VOCABULARY, files, read_shape
from exapt_dna.letters import read

_ENDS = {"sep": ((), ("[SEP]",)), "cls-sep": (("[CLS]",), ("[SEP]",)), "none": ((), ())}
_OF_LAYOUT = {"hf": "sep", "original": "cls-sep"}


def ends_of(options: HyenaDnaTokenizerOptions) -> str:
    """Return which special tokens go around a sequence: those chosen, or those of the checkpoint's own tokenizer."""
    shape = read_shape(files(options.source, options.revision))
    return _OF_LAYOUT[shape.layout] if options.ends == "published" else options.ends


class HyenaDnaTokenizer(Tokenizer):
    """One token per base, and special tokens around them as ``ends`` says.

    A, C, G, T and N have tokens of their own; any other letter is ``[UNK]``. The model reads in one direction, so that
    no token can be hidden from it.
    """

    def __init__(self, options: HyenaDnaTokenizerOptions, ends: str) -> None:
        self.vocabulary = VOCABULARY
        self.special = frozenset(index for token, index in VOCABULARY.items() if len(token) > 1)
        self._options = options
        self._before, self._after = ([VOCABULARY[token] for token in tokens] for tokens in _ENDS[ends])
        self._ids = np.full(128, VOCABULARY["[UNK]"], dtype=np.int64)
        for letter in "ACGTN":
            self._ids[ord(letter)] = VOCABULARY[letter]

    def encode(self, value: Any) -> Encoding:
        """Encode one sequence; raises ``DataError`` for letters that ``read`` refuses."""
        text, unknown = read(value, self._options)
        bases = self._ids[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
        ids = np.concatenate([np.array(self._before, dtype=np.int64), bases, np.array(self._after, dtype=np.int64)])
        spans = unit_spans(len(text), len(self._before), len(self._after))
        return Encoding({"input_ids": ids}, {"input_ids": VOCABULARY["[PAD]"]}, spans, len(text), unknown)
