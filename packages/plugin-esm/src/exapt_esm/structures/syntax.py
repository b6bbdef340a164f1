"""From the text of a PDB or an mmCIF file to the atoms in it, by gemmi, with the faults that gemmi lets pass."""

from __future__ import annotations

import math
import re
from collections import Counter

import gemmi

from exapt import DataError

_AGAIN = "Fetch or write it again."
_CIF = re.compile(rb"\s*(?:#[^\n]*\n\s*)*data_", re.I)
# Residue number, insertion code and coordinates, in the columns where nearly all programs write them.
_NUMBER = rb"(?:   \d|  [-\d]\d| [-\d]\d\d|[-\d]\d\d\d)"
_USUAL = re.compile(rb".{22}" + _NUMBER + rb"[ A-Za-z] {3}(?:" + _NUMBER + rb"\.\d{3}){3}")
_RECORDS = (b"ATOM", b"HETATM")
_QUESTIONED = bytes(range(128)) + b"?" * 128
_MOVEMENTS = re.compile(rb"^ANISOU[^\n]*", re.M)
_ENDS = re.compile(rb"^END(?![A-Za-z])[^\n]*(\s*^MODEL\b)?", re.M | re.I)
_HYBRID = re.compile(r"[A-Za-z][0-9A-Za-z]{3}")
_PLACE = re.compile(r"(?:string:|Problem in line )(\d+)(?::\d+\(\d+\))?: (.*?)\??")
_SITE = "_atom_site."
_NEEDED = ("id", "type_symbol", "label_alt_id", "label_asym_id", "Cartn_x", "Cartn_y", "Cartn_z")
# The Worldwide PDB ends each category by a line '#', the first of which follows the name of the data.
_FENCED = re.compile(rb"data_\S*[^\S\n]*\n#[^\S\n]*\n", re.I)


def read_atoms(text: bytes, name: str) -> tuple[gemmi.Structure, Counter[str]]:
    """Return what a file called ``name`` holds, and what there is to tell of it, with how often.

    Whether it is mmCIF or PDB, its text tells. Raises ``DataError``, with the line, for damage, and for what is neither.
    """
    mmcif = _CIF.match(text) or name.lower().removesuffix(".gz").endswith("cif")
    found, told = _mmcif(text, name) if mmcif else _pdb(text, name)
    if len(found) > 1:
        told["files with several models, of which the first is read"] += 1
    return found, told


def _pdb(text: bytes, name: str) -> tuple[gemmi.Structure, Counter[str]]:
    lines = [(number, line) for number, line in enumerate(text.split(b"\n"), 1) if line.startswith(_RECORDS)]
    if not lines:
        raise DataError(f"{name} holds no atoms: it has no line that begins with ATOM or HETATM.")
    for number, line in lines:
        if not _USUAL.match(line):
            _check_line(line.rstrip(b"\r").decode("latin-1"), f"{name} line {number}")
    try:
        found = gemmi.read_pdb_string(_ascii(_for_gemmi(text)))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{name} is not PDB, or is damaged: {_said(error)}. {_AGAIN}") from None
    cut = text.startswith(b"HEADER") and b"END" not in text[-1000:].split()
    return found, Counter({"files with a HEADER and no END, which may be cut off": int(cut)})


def _for_gemmi(text: bytes) -> bytes:
    """Return the lines of a PDB file under their numbers, without those that keep gemmi from reading atoms."""
    # Where atoms were taken out of a file by hand, these are left behind, and gemmi refuses them.
    text = _MOVEMENTS.sub(b"", text) if b"ANISOU" in text else text
    # Files that were joined have an END in the middle, and gemmi reads no further; some programs end each model so.
    text = _ENDS.sub(lambda end: b"ENDMDL" + end[1] if end[1] else b"", text)
    # Of a last line without an end, gemmi would take away the last character.
    return text if text.endswith(b"\n") else text + b"\n"


def _ascii(text: bytes) -> str:
    """Put a question mark for each byte that is no ASCII: both formats are, and columns must not shift."""
    return text.translate(_QUESTIONED).decode("ascii")


def _check_line(line: str, where: str) -> None:
    if len(line) < 54:
        raise DataError(f"{where} ends before the coordinates of its atom do. {_AGAIN}")
    number = line[22:26]
    if not _is_whole(number) and not _HYBRID.fullmatch(number):
        raise DataError(f"{where} has '{number.strip()}' for the number of a residue. {_AGAIN}")
    for axis, begin in zip("xyz", (30, 38, 46), strict=True):
        said = line[begin : begin + 8]
        if not _is_number(said):
            raise DataError(f"{where} has '{said.strip()}' for the coordinate {axis} of an atom. {_AGAIN}")


def _is_whole(said: str) -> bool:
    return said.strip().removeprefix("-").isdecimal()


def _is_number(said: str) -> bool:
    try:
        return math.isfinite(float(said)) and "_" not in said
    except ValueError:
        return False


def _mmcif(text: bytes, name: str) -> tuple[gemmi.Structure, Counter[str]]:
    if _FENCED.search(text, 0, 4096) and not re.search(rb"^#\s*\Z", text[-64:], re.M):
        raise DataError(f"{name} is cut off: its last category has no end. {_AGAIN}")
    try:
        blocks = gemmi.cif.read_string(_ascii(text))
        block = _with_atoms(blocks, name)
        _complete(block)
        found = gemmi.make_structure_from_block(block)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{name} is not mmCIF, or is cut off or damaged: {_said(error)}. {_AGAIN}") from None
    if not len(found):
        raise DataError(
            f"{name} holds no atoms that can be read: items of _atom_site stand apart from the others. {_AGAIN}"
        )
    _check_coordinates(block, name)
    return found, Counter(
        {"files with several data blocks, of which the first with atoms is read": int(len(blocks) > 1)}
    )


def _with_atoms(blocks: gemmi.cif.Document, name: str) -> gemmi.cif.Block:
    block = next((one for one in blocks if _SITE in one.get_mmcif_category_names()), None)
    if block is None:
        raise DataError(f"{name} holds no atoms: it is mmCIF without the category _atom_site.")
    for item in _NEEDED:
        if not block.find_values(f"{_SITE}{item}"):
            raise DataError(f"{name} says nothing of {_SITE}{item}, without which its atoms cannot be read. {_AGAIN}")
    return block


def _complete(block: gemmi.cif.Block) -> None:
    """Take ``label_seq_id`` for the numbers of residues where a file leaves out those of its authors, which are optional."""
    numbers = block.find_values("_atom_site.label_seq_id")
    if not block.find_values("_atom_site.auth_seq_id") and numbers:
        held, loop = list(numbers), numbers.get_loop()
        loop.add_columns(["_atom_site.auth_seq_id"], "?")
        for row, number in enumerate(held):
            loop[row, loop.width() - 1] = number


def _check_coordinates(block: gemmi.cif.Block, name: str) -> None:
    for axis in "xyz":
        for number, said in enumerate(block.find_values(f"_atom_site.Cartn_{axis}"), 1):
            if math.isnan(gemmi.cif.as_number(said)) and said not in ("?", "."):
                raise DataError(f"{name} has '{said}' for the coordinate {axis} of its atom {number}. {_AGAIN}")


def _said(error: Exception) -> str:
    text = " ".join(str(error).splitlines()[0].split()).removesuffix(":").removesuffix(".")
    place = _PLACE.fullmatch(text)
    return f"line {place[1]}, {place[2]}" if place else text
