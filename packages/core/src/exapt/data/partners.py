"""Pairs of inputs whose order means nothing: which of their sequences stand on both sides of a split.

A pair of which both sequences were learned from is far easier than one of new sequences (Park and Marcotte 2012,
doi:10.1038/nmeth.2259), and a pair that was learned from the other way round is no test at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exapt.data.columns import content_digest

if TYPE_CHECKING:
    from exapt.data.splits import Rows, Split
    from exapt.data.tables import Examples

Pair = tuple[bytes, bytes]


def partners(examples: Examples, split: Split, names: Sequence[str]) -> list[str]:
    """Return what there is to tell of each later part's pairs of the two inputs ``names``; nothing if all of it is new."""
    one, other = ([content_digest(value) for value in examples.inputs[name]] for name in names)
    pairs = list(zip(one, other, strict=True))
    train = [pairs[row] for row in split.train.tolist()]
    later: Mapping[str, Rows] = {"valid": split.valid, "test": split.test}
    return [line for part, rows in later.items() for line in _told(part, [pairs[row] for row in rows.tolist()], train)]


def _told(part: str, pairs: Sequence[Pair], train: Sequence[Pair]) -> list[str]:
    known = {sequence for pair in train for sequence in pair}
    turned = {(other, one) for one, other in train if one != other} - set(train)
    seen = Counter(sum(sequence in known for sequence in pair) for pair in pairs)
    lines = []
    if seen[1] or seen[2]:
        lines.append(
            f"of {len(pairs):,} {part} pairs, {seen[2]:,} have both sequences in train, {seen[1]:,} one and {seen[0]:,} none: "
            "the last tell most of pairs that are new"
        )
    around = sum(pair in turned for pair in pairs)
    if around:
        lines.append(f"{around:,} of {len(pairs):,} {part} pairs stand in train in the other order")
    return lines
