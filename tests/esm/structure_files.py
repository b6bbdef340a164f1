"""Structures to read: the example zinc fingers, golden ones, and small ones written atom by atom."""

import gzip
from pathlib import Path

import gemmi
import pyarrow as pa
import pytest
from click.testing import CliRunner

from exapt import DataError
from exapt.cli import cli
from exapt.structures import structures_of
from exapt_esm.structures import READERS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "golden" / "esm2" / "given" / "model"
ZINC = ROOT / "examples" / "data" / "zinc_fingers"
GOLDEN = ROOT.parent / "shared" / "golden" / "proteinmpnn"
(SPEC,) = READERS


def golden(name):
    """Return the path of a golden file of ProteinMPNN; skip the test where it is missing."""
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{name} is no part of this repository, and not in ../shared/golden/proteinmpnn either")
    return path


def opened(path, **options):
    return SPEC.build(SPEC.options(**options), path)


def read(path, **options):
    """Return the whole table that the reader makes of a file or a folder."""
    return pa.Table.from_batches(list(opened(path, **options)))


def one(path, **options):
    """Return the only structure of a table."""
    (structure,) = structures_of(read(path, **options)["structure"])
    return structure


def refusal(path, **options):
    """Return the one line with which a file or a folder is refused."""
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def atom(name, residue, chain, number, place, *, code=" ", altloc=" ", record="ATOM", element=None):
    """Return a line of PDB."""
    x, y, z = place
    called = name if len(name) == 4 else f" {name}"
    return (
        f"{record:<6}{1:>5} {called:<4}{altloc}{residue:>3} {chain}{number:>4}{code}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{1:6.2f}{0:6.2f}          {element or name[0]:>2}"
    )


def residue(name, chain, number, atoms=("N", "CA", "C", "O"), **facts):
    """Return the lines of a residue, 3.8 Å along x from the one numbered before it."""
    shift = {"N": (0, 0, 0), "CA": (1.5, 0, 0), "C": (2, 1.4, 0), "O": (1.2, 2.4, 0), "CB": (2, -1, -1)}
    return [
        atom(each, name, chain, number, (3.8 * number + shift[each][0], *shift[each][1:]), **facts) for each in atoms
    ]


def peptide(chain="A", first=1, names=("GLY", "TRP", "SER")):
    return [line for number, name in enumerate(names, first) for line in residue(name, chain, number)]


def written(path, *parts):
    """Write lines, and lists of lines, to a PDB file; gzip where its name says so."""
    lines = [line for part in parts for line in ([part] if isinstance(part, str) else part)]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def as_mmcif(source, path, style=None):
    """Write a PDB file as mmCIF, by gemmi."""
    structure = gemmi.read_pdb(str(source))
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string(style or gemmi.cif.Style.Simple)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def command(*arguments):
    """Run ``exapt ARGUMENTS`` in this process; anything but success is a failure."""
    result = CliRunner().invoke(cli, [str(word) for word in arguments], prog_name="exapt")
    assert result.exit_code == 0, (result.output, result.exception)
    return result
