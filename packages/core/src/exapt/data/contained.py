"""Sequences that stand letter by letter within others: related whatever their letters, even where programs mask repeats."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from exapt.data.alphabets import reverse_complement
from exapt.data.homology import Judge

_CELLS: Final = 5e9
"""Sequences times letters of all of them up to which they are sought: that takes seconds."""


def contained(sequences: Sequence[str], judge: Judge) -> Iterator[tuple[int, int]]:
    """Yield the numbers of each sequence and of those that hold it, DNA on both strands, unless chance would do it."""
    longest = max(map(len, sequences))
    if len(sequences) * judge.letters > _CELLS:
        return
    text = "\n".join(sequences)
    begins = [0, *accumulate(len(sequence) + 1 for sequence in sequences)]
    for number, sequence in enumerate(sequences):
        if len(sequence) == longest or not judge.beyond_chance(len(sequence)):
            continue
        strands = {sequence, reverse_complement(sequence)} if judge.rule.kind == "dna" else {sequence}
        for holder in sorted({holder for strand in strands for holder in _holders(strand, text, begins)} - {number}):
            yield number, holder


def _holders(sequence: str, text: str, begins: Sequence[int]) -> Iterator[int]:
    place = text.find(sequence)
    while place >= 0:
        holder = bisect_right(begins, place) - 1
        yield holder
        place = text.find(sequence, begins[holder + 1])
