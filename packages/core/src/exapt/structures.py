"""A protein structure as an input: its chains, their residues, and where the backbone of each of them lies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from exapt.errors import DataError

Array = npt.NDArray[Any]

BACKBONE = ("N", "CA", "C", "O")
"""The atoms of each residue whose coordinates a structure holds, in this order."""
ABSENT = "-"
"""The letter of a position without a residue: its number lies between those of residues that were seen."""
_OTHER = "X"


@dataclass(frozen=True, eq=False)
class Structure:
    """One protein structure.

    A *unit* is a position of a chain: a residue, or a place between two residues whose numbers leave it out (``ABSENT``).
    ``letters`` holds one letter for each, X for residues that are none of the twenty; ``numbers`` [units] the residue
    numbers of the file, with insertion codes (``52A``); ``atoms`` [units, 4, 3] the coordinates of N, CA, C and O in Å,
    NaN where an atom is not there. Chains stand one behind another, the chain number c at the units ``starts[c]`` to
    ``starts[c + 1]`` (exclusive).
    """

    chains: tuple[str, ...]
    starts: Array
    letters: str
    numbers: tuple[str, ...]
    atoms: Array

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return a structure as it is, or make one of ``{"chains": {"A": "MK"}, "atoms": [[[x, y, z], ...], ...]}``.

        Residues are then numbered from 1 in each chain; a coordinate may be None. Raises ``DataError`` for anything else.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or value.keys() != {"chains", "atoms"} or not value["chains"]:
            raise DataError(f"is {_short(value)}, not a protein structure such as a PDB file holds")
        letters = list(value["chains"].values())
        try:
            atoms = np.array(value["atoms"], dtype=np.float32)
        except (TypeError, ValueError):
            raise DataError("has atoms whose coordinates are no numbers") from None
        if atoms.shape != (sum(map(len, letters)), len(BACKBONE), 3):
            raise DataError(f"has coordinates of the shape {atoms.shape} for {sum(map(len, letters))} residues")
        numbers = tuple(str(number + 1) for chain in letters for number in range(len(chain)))
        return cls(tuple(value["chains"]), _starts(letters), "".join(letters), numbers, atoms)

    def __len__(self) -> int:
        return len(self.letters)

    @cached_property
    def chain_of(self) -> Array:
        """The number of each unit's chain [units]."""
        return np.repeat(np.arange(len(self.chains)), np.diff(self.starts))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each unit: chain and residue number, such as ``A:52``."""
        chains = (self.chains[number] for number in self.chain_of)
        return tuple(f"{chain}:{number}" for chain, number in zip(chains, self.numbers, strict=True))

    @property
    def text(self) -> str:
        """One letter for each unit [units], X where there is no residue."""
        return self.letters.replace(ABSENT, _OTHER)

    @property
    def sequences(self) -> dict[str, str]:
        """The text of each chain."""
        return {chain: self.text[self._slice(number)] for number, chain in enumerate(self.chains)}

    def only(self, chains: Sequence[str]) -> Self:
        """Return the structure of some of its chains, in the order asked for. Raises ``DataError`` for one it lacks."""
        for chain in chains:
            if chain not in self.chains:
                raise DataError(f"has no chain '{chain}'; its chains are {', '.join(self.chains)}")
        slices = [self._slice(self.chains.index(chain)) for chain in chains]
        letters = [self.letters[one] for one in slices]
        numbers = tuple(number for one in slices for number in self.numbers[one])
        atoms = np.concatenate([self.atoms[one] for one in slices])
        return replace(
            self, chains=tuple(chains), starts=_starts(letters), letters="".join(letters), numbers=numbers, atoms=atoms
        )

    def with_letters(self, letters: str) -> Self:
        """Return the same backbone with another sequence; raises ``DataError`` unless there is one letter for each unit."""
        if len(letters) != len(self):
            raise DataError(f"has {len(self)} positions, and the sequence {len(letters)} letters")
        return replace(self, letters=letters)

    def with_atoms(self, atoms: Array) -> Self:
        """Return the same residues with other coordinates ``atoms`` [units, 4, 3]."""
        return replace(self, atoms=np.asarray(atoms, dtype=np.float32))

    def _slice(self, number: int) -> slice:
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def __repr__(self) -> str:
        said = f"{self.chains} {self.starts.tolist()} {self.letters} {self.numbers}"
        digest = hashlib.sha256(said.encode() + np.ascontiguousarray(self.atoms, "<f4").tobytes())
        return f"<structure of {len(self)} residues, {digest.hexdigest()[:32]}>"


def _starts(letters: Sequence[str]) -> Array:
    return np.cumsum([0, *map(len, letters)])


def _short(value: Any) -> str:
    return said if len(said := repr(value)) <= 40 else f"{said[:37]}..."


class StructureType(pa.ExtensionType):  # type: ignore[misc]  # pyarrow has no types of its own
    """The Arrow type of a column of structures."""

    def __init__(self) -> None:
        fields = [
            ("chains", pa.list_(pa.string())),
            ("starts", pa.list_(pa.int64())),
            ("letters", pa.string()),
            ("numbers", pa.list_(pa.string())),
            ("atoms", pa.list_(pa.float32())),
        ]
        super().__init__(pa.struct(fields), "exapt.structure")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> StructureType:
        return cls()


def structure_column(structures: Sequence[Structure]) -> pa.ExtensionArray:
    """Return a column of structures."""
    kind = StructureType()
    rows = [
        {
            "chains": list(one.chains),
            "starts": one.starts.tolist(),
            "letters": one.letters,
            "numbers": list(one.numbers),
            "atoms": np.ascontiguousarray(one.atoms, dtype=np.float32).ravel(),
        }
        for one in structures
    ]
    return pa.ExtensionArray.from_storage(kind, pa.array(rows, kind.storage_type))


def structures_of(column: pa.ChunkedArray) -> list[Structure]:
    """Return the structures of a column. Raises ``DataError`` for a row without one."""
    return [_structure(row) for chunk in column.chunks for row in chunk.storage]


def _structure(row: pa.StructScalar) -> Structure:
    if not row.is_valid:
        raise DataError("a column of structures has a row without a structure")
    atoms = row["atoms"].values.to_numpy(zero_copy_only=False).reshape(-1, len(BACKBONE), 3)
    starts = np.array(row["starts"].as_py(), dtype=np.int64)
    return Structure(tuple(row["chains"].as_py()), starts, row["letters"].as_py(), tuple(row["numbers"].as_py()), atoms)
