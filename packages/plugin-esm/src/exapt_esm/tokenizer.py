"""The ESM-2 tokenizer: one token for each residue, always."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from exapt import DataError
from exapt.parts import Encoding, Tokenizer, unit_spans
from exapt_esm.weights import files

_SPECIAL = ("<cls>", "<pad>", "<eos>", "<mask>", "X")
_REFUSED = -1


def read_vocabulary(source: str, revision: str) -> dict[str, int]:
    """Return a checkpoint's token ids, read from its ``vocab.txt``; raises ``DataError`` if it is none of ESM-2."""
    path = files(source, revision).need("vocab.txt")
    try:
        tokens = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not a text file; download it again") from None
    lacking = [token for token in _SPECIAL if token not in tokens]
    if lacking:
        raise DataError(f"'{path}' is no vocabulary of ESM-2: it lacks {', '.join(lacking)}")
    if len(set(tokens)) < len(tokens):
        raise DataError(f"'{path}' is no vocabulary of ESM-2: it names a token twice")
    return {token: index for index, token in enumerate(tokens)}


class Esm2Tokenizer(Tokenizer):
    """``<cls>``, one token per residue, ``<eos>``.

    Case does not matter. A letter without a token of its own (J), and the stop ``*``, read as X and are counted as
    unknown. Published tokenizers make one ``<unk>`` of a whole run of those, which shifts every label behind it.
    """

    mistaken_for: Mapping[str, str] = {"DNA or RNA": "ACGTUN"}

    def __init__(self, vocabulary: Mapping[str, int], max_unknown: float) -> None:
        self.vocabulary = vocabulary
        self.mask = vocabulary["<mask>"]
        self.special = frozenset(index for token, index in vocabulary.items() if token.startswith("<"))
        self._max_unknown = max_unknown
        self._ids = np.full(128, _REFUSED, dtype=np.int64)
        self._unknown = np.zeros(128, dtype=bool)
        for character in f"{string.ascii_letters}*-.":
            known = vocabulary.get(character.upper())
            self._ids[ord(character)] = vocabulary["X"] if known is None else known
            self._unknown[ord(character)] = known is None

    def encode(self, value: Any) -> Encoding:
        """Encode one sequence.

        Raises ``DataError`` for a character that is neither a letter nor ``*``, ``-`` or ``.``, and for too many
        unknown letters.
        """
        if not isinstance(value, str):
            raise DataError(f"a sequence is text, not {type(value).__name__}")
        # Characters beyond ASCII become '?', one for one, which is refused below at its own position.
        codes = np.frombuffer(value.encode("ascii", "replace"), dtype=np.uint8)
        ids = np.empty(len(codes) + 2, dtype=np.int64)
        ids[0], ids[-1] = self.vocabulary["<cls>"], self.vocabulary["<eos>"]
        ids[1:-1] = self._ids[codes]
        if (ids == _REFUSED).any():
            first = int((ids == _REFUSED).argmax()) - 1
            raise DataError(f"character {value[first]!r} at position {first + 1} is no residue")
        unknown = int(self._unknown[codes].sum())
        self._refuse_unknown(value, unknown)
        pads = {"input_ids": self.vocabulary["<pad>"]}
        return Encoding({"input_ids": ids}, pads, unit_spans(len(codes), 1, 1), len(codes), unknown)

    def _refuse_unknown(self, value: str, unknown: int) -> None:
        if unknown > self._max_unknown * len(value):
            which = ", ".join(sorted({letter for letter in value.upper() if self._unknown[ord(letter)]}))
            raise DataError(
                f"{unknown} of {len(value)} letters ({which}) are unknown to the model, "
                f"more than max_unknown = {self._max_unknown:g} allows"
            )
