"""Protein structures from PDB and mmCIF files, one or a folder of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from exapt import Options, ReaderSpec

if TYPE_CHECKING:
    from exapt_esm.structures.reader import StructureReader

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
MEMBERS = tuple(f"*{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz"))


class StructureOptions(Options):
    """What is read of structures, and what each row of their table is."""

    chains: tuple[str, ...] = Field(
        (), description="Chains to read, by the names that the file's authors gave them; empty for all with protein."
    )
    separate: bool = Field(
        False,
        description="Whether each chain is a row of its own, with an id such as 6MRR_A; if not, each file is one.",
    )
    contacts: float = Field(
        0,
        ge=0,
        description="Distance in Å, such as 8: adds a column contacts, a list of the pairs [i, j] of positions, counted from "
        "1, i before j, whose C-beta atoms lie nearer than this; 0 for no such column.",
    )


def build_structures(options: StructureOptions, path: Path) -> StructureReader:
    """Return the structures of a file or a folder, read as they are asked for."""
    from exapt_esm.structures.reader import StructureReader

    return StructureReader(options, path)


def files_of_structures(path: Path) -> Iterable[Path]:
    """Return the file itself or, of a folder, the files in it that hold structures."""
    from exapt_esm.structures.files import structure_files

    return structure_files(path).values()


READERS = (
    ReaderSpec(
        name="structure",
        summary="PDB and mmCIF, one file or a folder of them: columns id, structure, sequence, chains, method, resolution.",
        options=StructureOptions,
        suffixes=SUFFIXES,
        members=MEMBERS,
        files=files_of_structures,
        build=build_structures,
    ),
)
