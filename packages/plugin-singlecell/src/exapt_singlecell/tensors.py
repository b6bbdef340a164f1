"""Names of tensors in files of weights: what training programs put in front of them, and which ones are not read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

# In front of all names where a model was saved inside another: for several devices, compiled, or as a part of a trainer.
_WRAPPERS = re.compile(r"(?:(?:module|model|_orig_mod)\.)*")


def bare(name: str) -> str:
    """Return the name of a tensor without what wraps its model, such as ``module.``."""
    return _WRAPPERS.sub("", name, count=1)


def unwrapped(given: Mapping[str, Tensor], inside: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Return tensors by their bare names if all of those ``inside`` a model, by beginning of the name, are wrapped alike."""
    wrappers = {name[: len(name) - len(bare(name))] for name in given if bare(name).startswith(inside)}
    if len(wrappers) != 1:
        return given
    (wrapper,) = wrappers
    return {name.removeprefix(wrapper): tensor for name, tensor in given.items()}


def told(names: Sequence[str]) -> list[str]:
    """Return the line that tells of tensors that are not read; none if all are."""
    if not names:
        return []
    return [f"{len(names)} tensors of the checkpoint are not read: {counted(names)}"]


def counted(names: Sequence[str]) -> str:
    """Return the parts of a model that tensors are of, with their numbers."""
    parts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{part} {number}" for part, number in sorted(parts.items()))
