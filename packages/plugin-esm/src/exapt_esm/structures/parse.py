"""From atoms to a structure: which residues count, in which order, and where their numbers leave holes.

The rules are those of ProteinMPNN (Dauparas et al. 2022, doi:10.1126/science.add2187): numbers from the lowest to the
highest are filled; of HETATM records, MSE alone counts, as methionine; the first place of an atom and the first model win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import gemmi
import numpy as np

from exapt import DataError
from exapt.structures import ABSENT, BACKBONE, Structure
from exapt_esm.structures.syntax import read_atoms

_NAMES = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"
_LETTERS = dict(zip(_NAMES.split(), "ACDEFGHIKLMNPQRSTVWY", strict=True))
_SELENOMETHIONINE, _OTHER, _UNNAMED = "MSE", "X", "_"
_PEPTIDE = BACKBONE[:3]
_NOWHERE = [np.nan] * 3
_MOST_ABSENT = 5000
"""The most numbers of a chain that may have no residue: each becomes a position, and models look at pairs of them."""

_NO_PROTEIN = "chains without protein, left out"
_MODIFIED = "modified residues of HETATM records, read as absent"
_FOREIGN = "residues of ATOM records that are no amino acids, left out"
_UNKNOWN = "residues of ATOM records that are none of the twenty, read as X"
_UNORDERED = "chains whose residues stand in another order than their numbers say, read in that of the numbers"


class _Unit(NamedTuple):
    """A position: the atoms of the backbone stand in the order of ``BACKBONE``, NaN where one is not there."""

    letter: str
    number: str
    atoms: list[list[float]]


@dataclass(frozen=True)
class Parsed:
    """What a file says: the structure, how it was found, the resolution in Å, and what there is to tell, with how often.

    Of some that is told, the ``first`` has a name.
    """

    structure: Structure
    method: str | None
    resolution: float | None
    told: Counter[str]
    first: Mapping[str, str]


@dataclass(frozen=True)
class _Chain:
    """The residues of a chain by number and insertion code, several of them where they are alternatives."""

    name: str
    where: str
    residues: dict[tuple[int, str], list[gemmi.Residue]] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)

    def add(self, residue: gemmi.Residue) -> None:
        """Take in a residue, or count it if it is none of the protein's."""
        loss = _loss(residue)
        if loss:
            self.told[loss] += 1
        elif loss is None:
            self._keep(residue)

    def _keep(self, residue: gemmi.Residue) -> None:
        if residue.seqid.num is None:
            raise DataError(f"{self.where} has residues without a number, first {residue.name}.")
        self.residues.setdefault((residue.seqid.num, residue.seqid.icode.strip()), []).append(residue)

    def units(self) -> Iterator[_Unit]:
        """Yield the positions from the lowest number to the highest, where a number without a residue is one too."""
        self._check_span()
        expected = min(self.residues)[0]
        for number, codes in groupby(sorted(self.residues), key=lambda key: key[0]):
            for absent in range(expected, number):
                yield _Unit(ABSENT, str(absent), [_NOWHERE] * len(BACKBONE))
            for _, code in codes:
                yield self._unit(number, code)
            expected = number + 1

    @property
    def is_ordered(self) -> bool:
        """Whether the residues stand in the file as their numbers say."""
        return list(self.residues) == sorted(self.residues)

    @property
    def unknown(self) -> list[str]:
        """Names of the residues that are read as X, in the order of the file."""
        firsts = (residues[0] for residues in self.residues.values())
        return [residue.name for residue in firsts if _letter(residue) == _OTHER]

    def _check_span(self) -> None:
        numbers = {number for number, _ in self.residues}
        first, last = min(numbers), max(numbers)
        absent = last - first + 1 - len(numbers)
        if absent > _MOST_ABSENT:
            raise DataError(
                f"{self.where} has {_counted(len(self.residues), 'residue')} with numbers from {first} to {last}: {absent:,} "
                f"numbers have none, and at most {_MOST_ABSENT:,} are filled. Renumber it, or name other chains to read."
            )

    def _unit(self, number: int, code: str) -> _Unit:
        residues, called = self.residues[number, code], f"{number}{code}"
        found: dict[str, list[float]] = {}
        seen: set[tuple[str, str]] = set()
        for atom in (atom for residue in residues for atom in residue):
            name, alternative = atom.name, atom.altloc
            if name not in BACKBONE:
                continue
            if (name, alternative) in seen:
                raise DataError(
                    f"{self.where} has the atom {name} of residue {called} twice. Give each chain a name of its own, and "
                    "each residue a number."
                )
            seen.add((name, alternative))
            found.setdefault(name, atom.pos.tolist())
        atoms = [found.get(name, _NOWHERE) for name in BACKBONE]
        return _Unit(_letter(residues[0]), called, atoms)


def parse(text: bytes, name: str, chains: Sequence[str] = ()) -> Parsed:
    """Return the protein in a PDB or mmCIF file called ``name``, or some ``chains`` of it, in the order of their names.

    Raises ``DataError`` for a damaged file, one without protein, a chain that is not there, a residue that stands twice.
    """
    read, told = read_atoms(text, name)
    found, lost = _chains(read[0], name)
    told[_NO_PROTEIN] += len(lost)
    wanted = [found[chain] for chain in _wanted(found, lost, chains, name)]
    for chain in wanted:
        told += chain.told
        told[_UNORDERED] += not chain.is_ordered
    unknown = [residue for chain in wanted for residue in chain.unknown]
    told[_UNKNOWN] += len(unknown)
    structure = _structure(wanted)
    if np.isnan(structure.atoms).all():
        residues = _counted(sum(len(chain.residues) for chain in wanted), "residue")
        raise DataError(f"{name} has no backbone atoms (N, CA, C, O) of its {residues}.")
    first = {_UNKNOWN: unknown[0]} if unknown else {}
    return Parsed(structure, dict(read.info).get("_exptl.method"), read.resolution or None, told, first)


def _chains(model: gemmi.Model, name: str) -> tuple[dict[str, _Chain], list[str]]:
    """Return the chains that hold protein, and the names of the others."""
    found: dict[str, _Chain] = {}
    for part in model:
        called = part.name or _UNNAMED
        chain = found.setdefault(called, _Chain(called, f"{name} chain {called}"))
        for residue in part:
            chain.add(residue)
    return (
        {called: chain for called, chain in found.items() if chain.residues},
        [called for called, chain in found.items() if not chain.residues],
    )


def _loss(residue: gemmi.Residue) -> str | None:
    """Return None for a residue of the protein; of all else what it counts as, and nothing for ligands and water."""
    if residue.het_flag != "H" or residue.name == _SELENOMETHIONINE:
        return None if residue.name in _LETTERS or any(_peptide(residue)) else _FOREIGN
    return _MODIFIED if len(set(_peptide(residue))) == len(_PEPTIDE) else ""


def _peptide(residue: gemmi.Residue) -> Iterator[str]:
    # A calcium ion is called CA as well.
    return (atom.name for atom in residue if atom.name in _PEPTIDE and not atom.element.is_metal)


def _letter(residue: gemmi.Residue) -> str:
    if residue.het_flag == "H":
        return _LETTERS["MET"]
    return _LETTERS.get(residue.name, _OTHER)


def _wanted(found: Mapping[str, _Chain], lost: Sequence[str], chains: Sequence[str], name: str) -> list[str]:
    if not found:
        raise DataError(
            f"{name} holds no protein: what is in {_listed(lost)} is something else, such as DNA or ligands."
        )
    for chain in chains:
        if chain not in found:
            said = (
                f"the chain '{chain}' of {name} holds no protein" if chain in lost else f"{name} has no chain '{chain}'"
            )
            raise DataError(f"{said}; its chains with protein are {', '.join(sorted(found))}.")
    return sorted(set(chains) or found)


def _listed(chains: Sequence[str]) -> str:
    return f"its {'chain' if len(chains) == 1 else 'chains'} {', '.join(sorted(chains))}"


def _structure(chains: Sequence[_Chain]) -> Structure:
    units = [list(chain.units()) for chain in chains]
    together = [unit for chain in units for unit in chain]
    return Structure(
        chains=tuple(chain.name for chain in chains),
        starts=np.cumsum([0, *map(len, units)]),
        letters="".join(unit.letter for unit in together),
        numbers=tuple(unit.number for unit in together),
        atoms=np.array([unit.atoms for unit in together], dtype=np.float32),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
