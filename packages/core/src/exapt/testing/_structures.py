# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""What the kit asks of inputs that are structures: how to cut one, to move a residue of it, to lose its atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exapt.errors import DataError
from exapt.structures import ABSENT, Structure
from exapt.testing._check import Check, Faults
from exapt.testing._tokenizers import TokenizerCase, same

# By so many Å a residue is moved: more than noise, less than it would take to break a chain.
_MOVE = 0.5


def is_structure(value: Any) -> bool:
    """Tell whether an input is a structure, as readers make it or as probes write it."""
    return isinstance(value, Structure) or (isinstance(value, Mapping) and value.keys() == {"chains", "atoms"})


def halved(value: Any) -> Structure:
    """Return the first half of a structure, one position more if it is odd."""
    whole = Structure.of(value)
    units = (len(whole) + 1) // 2
    chains = tuple(chain for chain, start in zip(whole.chains, whole.starts, strict=False) if start < units)
    starts = np.minimum(whole.starts[: len(chains) + 1], units)
    return Structure(chains, starts, whole.letters[:units], whole.numbers[:units], whole.atoms[:units])


def seen(value: Any) -> Sequence[int]:
    """Return the positions of a structure whose atoms are all there."""
    return [int(place) for place in np.flatnonzero(np.isfinite(Structure.of(value).atoms).all((1, 2)))]


def moved(value: Any, place: int) -> Structure:
    """Return a structure with one residue moved by half an Å."""
    structure = Structure.of(value)
    atoms = structure.atoms.copy()
    atoms[place] += np.float32(_MOVE)
    return structure.with_atoms(atoms)


def lost(value: Any, place: int) -> Structure:
    """Return a structure with one residue that was not seen."""
    structure = Structure.of(value)
    atoms = structure.atoms.copy()
    atoms[place] = np.nan
    letters = structure.letters[:place] + ABSENT + structure.letters[place + 1 :]
    return structure.with_letters(letters).with_atoms(atoms)


def ends(places: Sequence[int]) -> list[int]:
    """Return the first, the middle and the last of some places."""
    return sorted({places[0], places[len(places) // 2], places[-1]}) if places else []


def positions_counted(case: TokenizerCase) -> Faults:
    """A unit is a position of a chain, also one whose residue was not seen, and no token stands for two."""
    for place, value in enumerate(case.inputs):
        if not is_structure(value):
            continue
        encoding, positions = case.encodings[place], len(Structure.of(value))
        if encoding.length != positions:
            yield f"input {place} has {positions} positions, but {encoding.length} units"
        real = encoding.spans[(encoding.spans >= 0).any(1)]
        if (real[:, 0] != real[:, 1]).any() or (np.diff(real[:, 0]) <= 0).any():
            yield f"input {place} has a token on several positions, or positions out of order"
        yield from _one_less(case, place, value)


def _one_less(case: TokenizerCase, place: int, value: Any) -> Faults:
    for position in ends(seen(value)):
        try:
            less = case.tokenizer.encode(lost(value, position))
        except DataError:
            continue
        if less.length != case.encodings[place].length:
            yield f"input {place} has {less.length} units without the residue at position {position + 1}"
        elif less.covered[position]:
            yield f"input {place} has a token on position {position + 1}, where no residue was seen"


def atoms_told_apart(case: TokenizerCase) -> Faults:
    """Another place of a residue, and another residue in its place, is another input."""
    for place, value in enumerate(case.inputs):
        for position in ends(seen(value)) if is_structure(value) else ():
            if same(case.encodings[place], case.tokenizer.encode(moved(value, position))):
                yield f"input {place} reads the same with the residue at position {position + 1} moved by {_MOVE} Å"
            letters = Structure.of(value).letters
            letter = "G" if letters[position] != "G" else "A"
            other = Structure.of(value).with_letters(letters[:position] + letter + letters[position + 1 :])
            if same(case.encodings[place], case.tokenizer.encode(other)):
                yield f"input {place} reads the same with '{letter}' at position {position + 1}"


STRUCTURE_CHECKS: tuple[Check[TokenizerCase], ...] = (
    Check("positions-counted", "labels that slip to other residues behind a gap", positions_counted),
    Check("atoms-told-apart", "coordinates cut off or rounded away, letters that are lost", atoms_told_apart),
)
