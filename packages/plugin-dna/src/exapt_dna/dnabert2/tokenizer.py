"""The DNABERT-2 tokenizer: byte-pair word pieces, read from the checkpoint's own file.

Byte-pair encoding: Sennrich et al. 2016, doi:10.18653/v1/P16-1162.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tokenizers

from exapt import DataError
from exapt.parts import NO_UNIT, Encoding, Tokenizer
from exapt.weights import Files
from exapt_dna.letters import BASES, read
from exapt_dna.options import DnaTokenizerOptions

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_TRIAL = "ACGTTGCATTAGCCGNNATCGGA"


def files(source: str, revision: str) -> Files:
    """Return the files of a DNABERT-2 checkpoint."""
    return Files(source, revision, "dnabert2", "DNABERT-2")


def read_pieces(source: str, revision: str) -> tokenizers.Tokenizer:
    """Return the word pieces of a checkpoint's ``tokenizer.json``; raises ``DataError`` if it is none of DNABERT-2."""
    checkpoint = files(source, revision)
    given, path = checkpoint.json("tokenizer.json"), checkpoint.need("tokenizer.json")
    # What a file says of cutting and padding is for other programs: no base is to be lost, and core pads.
    given |= {"truncation": None, "padding": None}
    try:
        pieces = tokenizers.Tokenizer.from_str(json.dumps(given))
    # The library raises nothing narrower.
    except Exception as error:
        said = " ".join(str(error).split())
        raise DataError(f"'{path}' is no vocabulary of DNABERT-2: {said}") from None
    lacking = [token for token in (*SPECIAL, *BASES) if pieces.token_to_id(token) is None]
    if lacking:
        raise DataError(f"'{path}' is no vocabulary of DNABERT-2: it lacks {', '.join(lacking)}")
    if not _spells(pieces):
        raise DataError(f"'{path}' is no vocabulary of DNABERT-2: its word pieces do not spell {_TRIAL}")
    return pieces


def _spells(pieces: tokenizers.Tokenizer) -> bool:
    """Return whether the pieces of a sequence lead through it, base by base, with unknown letters one by one."""
    found = pieces.encode(_TRIAL, add_special_tokens=False)
    parts = [_TRIAL[start:stop] for start, stop in found.offsets]
    unknown = [part for part, name in zip(parts, found.tokens, strict=True) if name == "[UNK]"]
    return unknown == ["N", "N"] and "".join(parts) == _TRIAL


class Dnabert2Tokenizer(Tokenizer):
    """``[CLS]``, word pieces that lead through all letters, ``[SEP]``.

    A piece stands for one base or many. Each letter other than A, C, G and T is an ``[UNK]`` of its own, and cuts the
    pieces around it.
    """

    def __init__(self, pieces: tokenizers.Tokenizer, options: DnaTokenizerOptions) -> None:
        self.vocabulary = pieces.get_vocab()
        self.mask = self.vocabulary["[MASK]"]
        self.special = frozenset(self.vocabulary[name] for name in SPECIAL)
        self._pieces = pieces
        self._options = options

    def encode(self, value: Any) -> Encoding:
        """Encode one sequence; raises ``DataError`` for letters that ``read`` refuses."""
        text, unknown = read(value, self._options)
        found = self._pieces.encode(text, add_special_tokens=False)
        ids = np.array([self.vocabulary["[CLS]"], *found.ids, self.vocabulary["[SEP]"]], dtype=np.int64)
        spans = np.full((len(ids), 2), NO_UNIT, dtype=np.int64)
        spans[1:-1] = np.array(found.offsets, dtype=np.int64).reshape(-1, 2) - [0, 1]
        return Encoding({"input_ids": ids}, {"input_ids": self.vocabulary["[PAD]"]}, spans, len(text), unknown)
