"""Vocabularies of k-mers: read from a checkpoint's ``vocab.txt`` and checked, never made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exapt import DataError
from exapt.weights import Files
from exapt_dna.letters import BASES


@dataclass(frozen=True)
class Vocabulary:
    """Token ids, and how many bases the k-mers among the tokens have.

    ``special`` holds the ids of the tokens that no sequence spells, such as ``[CLS]`` and ``<mask>``.
    """

    ids: Mapping[str, int]
    k: int
    special: frozenset[int]


def read_vocabulary(files: Files, special: Iterable[str], single: str) -> Vocabulary:
    """Return the tokens of a checkpoint: special ones, ``single`` letters, and all k-mers of one k.

    Raises ``DataError`` if ``vocab.txt`` is missing, lacks one of these tokens, or holds any other.
    """
    path = files.need("vocab.txt")
    try:
        # A token's id is the number of its line.
        tokens = path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not a text file; download it again") from None
    odd = next((line for line, token in enumerate(tokens, 1) if token.split() != [token]), 0)
    if odd:
        raise DataError(
            f"'{path}' is no vocabulary of {files.model}: line {odd} holds not one token, but {tokens[odd - 1]!r}"
        )
    words = {token for token in tokens if token[0] not in "[<"}
    fault = (
        _lacking(tokens, [*special, *single])
        or _foreign(words - set(single))
        or ("it names a token twice" if len(set(tokens)) < len(tokens) else "")
        or _incomplete(words - set(single))
    )
    if fault:
        raise DataError(f"'{path}' is no vocabulary of {files.model}: {fault}")
    ids = {token: index for index, token in enumerate(tokens)}
    return Vocabulary(ids, max(map(len, words)), frozenset(ids[token] for token in ids.keys() - words))


def _lacking(tokens: Iterable[str], wanted: Iterable[str]) -> str:
    there = set(tokens)
    lacking = [token for token in wanted if token not in there]
    return f"it lacks {', '.join(lacking)}" if lacking else ""


def _foreign(words: set[str]) -> str:
    # Words before signs: they tell a reader more of what the file is.
    foreign = sorted(
        (word for word in words if not set(word) <= set(BASES)), key=lambda word: (not word.isalpha(), word)
    )
    return f"it holds {', '.join(foreign[:3])}, which no words of A, C, G and T are" if foreign else ""


def _incomplete(words: set[str]) -> str:
    lengths = sorted({len(word) for word in words})
    if not lengths:
        return "it holds no k-mer"
    if len(lengths) > 1:
        return f"it holds words of {' and '.join(map(str, lengths))} bases, where all should have one length"
    whole = len(BASES) ** lengths[0]
    return f"it holds {len(words):,} of the {whole:,} words of {lengths[0]} bases" if len(words) < whole else ""
