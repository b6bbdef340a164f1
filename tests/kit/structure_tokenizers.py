"""Tokenizers of structures, one that keeps its promises and some that do not."""

from dataclasses import replace

import numpy as np

from exapt.parts import NO_UNIT, Encoding, unit_spans
from exapt.structures import Structure
from exapt.testing.tiny import Letters


def chain(letters, **more):
    """Return a structure of straight chains, residues 3.8 Å apart; of ``-`` nothing was seen."""
    chains = {"A": letters, **more}
    atoms = [
        [[None if letter == "-" else 3.8 * number + atom, 5.0 * row, 0.5] for atom in range(4)]
        for row, one in enumerate(chains.values())
        for number, letter in enumerate(one)
    ]
    return {"chains": chains, "atoms": atoms}


STRUCTURES = (chain("MKTAYIAKQR"), chain("ACD-F", B="GHW"), chain("MKL"))


class Residues(Letters):
    """One token for each position, with its CA atom; none where no residue was seen."""

    def encode(self, value):
        structure = Structure.of(value)
        there = np.isfinite(structure.atoms).all((1, 2))
        ids = np.array([self.vocabulary.get(letter, self.vocabulary["X"]) for letter in structure.letters])
        spans = unit_spans(len(structure))
        spans[~there] = NO_UNIT
        alphas = np.where(there[:, None], structure.atoms[:, 1], 0).astype(np.float32)
        return Encoding({"input_ids": ids, "alphas": alphas}, {"input_ids": 0, "alphas": 0}, spans, len(structure))


class GapsClosed(Residues):
    """Counts the residues that were seen, so that all behind a gap slip."""

    def encode(self, value):
        whole = super().encode(value)
        there = whole.spans[:, 0] != NO_UNIT
        arrays = {name: array[there] for name, array in whole.arrays.items()}
        return replace(whole, arrays=arrays, spans=unit_spans(int(there.sum())), length=int(there.sum()))


class GapsRead(Residues):
    """Puts a token on positions where no residue was seen."""

    def encode(self, value):
        return replace(super().encode(value), spans=unit_spans(len(Structure.of(value))))


class ChainsBackwards(Residues):
    def encode(self, value):
        whole = super().encode(value)
        return replace(whole, spans=whole.spans[::-1].copy())


class RoundedAway(Residues):
    """Keeps whole tens of Å."""

    def encode(self, value):
        whole = super().encode(value)
        return replace(whole, arrays={**whole.arrays, "alphas": whole.arrays["alphas"] // 10})


class LettersLost(Residues):
    def encode(self, value):
        whole = super().encode(value)
        return replace(whole, arrays={**whole.arrays, "input_ids": np.full(whole.tokens, 5)})


STRUCTURE_FAULTS = [
    (GapsClosed, "positions-counted: input 0 has 9 units without the residue at position 1"),
    (GapsRead, "positions-counted: input 0 has a token on position 1, where no residue was seen"),
    (ChainsBackwards, "positions-counted: input 0 has a token on several positions, or positions out of order"),
    (RoundedAway, "atoms-told-apart: input 0 reads the same with the residue at position 1 moved by 0.5 Å"),
    (LettersLost, "atoms-told-apart: input 0 reads the same with 'G' at position 1"),
]
