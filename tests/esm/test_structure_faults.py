"""What is no structure, or a damaged one, is refused in one line that names the file; nothing of it is half read."""

import gzip
import re

import gemmi
import pytest

from esm.structure_files import ZINC, as_mmcif, atom, one, opened, peptide, refusal, residue, written
from exapt import DataError, RecipeError
from exapt.data.files import open_table
from exapt.data.tables import read_examples
from exapt.recipe import DataOptions

AGAIN = "Fetch or write it again."
PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>"


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (b"", "{} is empty."),
        (b" \n\n", "{} is empty."),
        (gzip.compress(b""), "{} is empty."),
        (PAGE, "{} is an HTML page, not a structure. Fetch the file itself."),
        (b"<!-- a\nb -->\n" + PAGE, "{} is an HTML page, not a structure. Fetch the file itself."),
        (gzip.compress(PAGE), "{} is an HTML page, not a structure. Fetch the file itself."),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "{} is binary, not text: byte 7 is 0x1a."),
        (b"ATOM  \0\0\0", "{} is binary, not text: byte 7 is 0x00."),
        (gzip.compress(bytes(5000))[:20], "{} is cut off: its gzip data end too early. Fetch it again."),
        (b"\x1f\x8bjunk that is no gzip", "{} is damaged: its gzip data do not fit their checksum. Fetch it again."),
    ],
)
@pytest.mark.parametrize("name", ["x.pdb", "x.cif", "x.ent.gz", "x.mmcif.gz"])
def test_no_text_of_a_structure(tmp_path, name, held, said):
    (tmp_path / name).write_bytes(held)
    assert refusal(tmp_path / name) == said.format(name)
    assert refusal(tmp_path) == said.format(name)


def test_text_of_something_else(tmp_path):
    for text in ("hello\nworld\n", "##########################\n", ">a\nMKT\n", "HEADER    PROTEIN\nEND\n"):
        (tmp_path / "x.pdb").write_text(text)
        assert refusal(tmp_path / "x.pdb") == ("x.pdb holds no atoms: it has no line that begins with ATOM or HETATM.")
    (tmp_path / "x.cif").write_text("hello\n")
    said = "x.cif is not mmCIF, or is cut off or damaged: line 1, expected block header (data_). "
    assert refusal(tmp_path / "x.cif") == said + AGAIN


def test_a_cut_off_gzip_file(tmp_path):
    whole = gzip.compress((ZINC / "1znf.pdb").read_bytes())
    (tmp_path / "x.pdb.gz").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path / "x.pdb.gz") == ("x.pdb.gz is cut off: its gzip data end too early. Fetch it again.")


@pytest.mark.parametrize("style", [gemmi.cif.Style.Simple, gemmi.cif.Style.Pdbx])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_cut_off_mmcif(tmp_path, style, share):
    text = as_mmcif(ZINC / "1znf.pdb", tmp_path / "x.cif", style).read_text()
    first, last = text.index("\nATOM"), text.rindex("\nATOM")
    place = text.rindex(" ", first, int(first + share * (last - first)))
    (tmp_path / "x.cif").write_text(text[:place])
    assert re.fullmatch(
        r"x\.cif is (cut off: its last category has no end|not mmCIF, or is cut off or damaged: line \d+, Wrong number of "
        r"values in loop _atom_site\.\*)\. " + re.escape(AGAIN),
        refusal(tmp_path / "x.cif"),
    )


def test_mmcif_cut_off_between_two_atoms(tmp_path):
    text = as_mmcif(ZINC / "1znf.pdb", tmp_path / "x.cif", gemmi.cif.Style.Pdbx).read_text()
    (tmp_path / "x.cif").write_text(text[: text.rindex("\nATOM") + 1])
    assert refusal(tmp_path / "x.cif") == f"x.cif is cut off: its last category has no end. {AGAIN}"


def test_a_cut_off_pdb_file(tmp_path):
    lines = peptide()
    path = written(tmp_path / "x.pdb", lines[:-1], lines[-1][:44])
    assert refusal(path) == f"x.pdb line 12 ends before the coordinates of its atom do. {AGAIN}"


def without_structure(block):
    return f"data_x\nloop_\n{block}\n"


@pytest.mark.parametrize(
    "text",
    [
        "data_x\n_entry.id x\n",
        without_structure("_chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\nATP PG"),
        without_structure("_atom_site_label\n_atom_site_fract_x\nC1 0.5"),
        without_structure("_refln.index_h\n1"),
    ],
)
def test_mmcif_without_a_structure(tmp_path, text):
    (tmp_path / "x.cif").write_text(text)
    assert refusal(tmp_path / "x.cif") == "x.cif holds no atoms: it is mmCIF without the category _atom_site."


@pytest.mark.parametrize("name", ["x.pdb", "x.cif"])
def test_ligands_and_dna_alone(tmp_path, name):
    ligand = [atom(each, "ATP", "L", 1, (0, 0, 0), record="HETATM") for each in ("PG", "C1'", "N9")]
    dna = [atom("P", "DA", "B", 1, (0, 0, 0))]
    path = written(tmp_path / "a.pdb", ligand, dna)
    path = path.rename(tmp_path / name) if name == "x.pdb" else as_mmcif(path, tmp_path / name)
    assert refusal(path) == (
        f"{name} holds no protein: what is in its chains B, L is something else, such as DNA or ligands."
    )


def test_no_atom_of_a_backbone(tmp_path):
    path = written(
        tmp_path / "x.pdb", [atom("CB", name, "A", 1 + place, (0, 0, 0)) for place, name in enumerate(("ALA", "SER"))]
    )
    assert refusal(path) == "x.pdb has no backbone atoms (N, CA, C, O) of its 2 residues."
    cif = as_mmcif(written(tmp_path / "y.pdb", residue("GLY", "A", 1)), tmp_path / "y.cif")
    cif.write_text(re.sub(r"(ATOM (?:\S+ ){9})\S+ \S+ \S+", r"\1? ? ?", cif.read_text()))
    assert refusal(cif) == "y.cif has no backbone atoms (N, CA, C, O) of its 1 residue."


@pytest.mark.parametrize(
    ("place", "said", "what"),
    [
        (30, "     abc", "'abc' for the coordinate x of an atom"),
        (38, "********", "'********' for the coordinate y of an atom"),
        (46, "        ", "'' for the coordinate z of an atom"),
        (46, "     nan", "'nan' for the coordinate z of an atom"),
        (46, "     inf", "'inf' for the coordinate z of an atom"),
        (46, "   1_000", "'1_000' for the coordinate z of an atom"),
        (22, "   x", "'x' for the number of a residue"),
        (22, "    ", "'' for the number of a residue"),
        (22, "1.5 ", "'1.5' for the number of a residue"),
    ],
)
def test_what_is_no_number(tmp_path, place, said, what):
    lines = peptide()
    lines[5] = lines[5][:place] + said + lines[5][place + len(said) :]
    assert refusal(written(tmp_path / "x.pdb", "REMARK", lines)) == f"x.pdb line 7 has {what}. {AGAIN}"


def test_what_is_no_number_in_mmcif(tmp_path):
    path = as_mmcif(ZINC / "1znf.pdb", tmp_path / "x.cif")
    row = next(line for line in path.read_text().splitlines() if line.startswith("ATOM 6 "))
    fields = row.split()
    path.write_text(path.read_text().replace(row, " ".join([*fields[:11], "far", *fields[12:]])))
    assert refusal(path) == f"x.cif has 'far' for the coordinate y of its atom 6. {AGAIN}"


def test_bytes_that_are_no_ascii_are_read_as_question_marks(tmp_path):
    text = written(tmp_path / "x.pdb", "REMARK", peptide()).read_bytes()
    (tmp_path / "x.pdb").write_bytes(text.replace(b"REMARK", b"REMARK \xe9").replace(b"SER A", b"S\xc3R A"))
    assert one(tmp_path / "x.pdb").letters == "GWX"
    lines = text.decode().splitlines()
    (tmp_path / "y.pdb").write_bytes(
        "\n".join([*lines[:1], lines[1][:16] + "é" + lines[1][17:], *lines[2:]]).encode("latin-1")
    )
    assert one(tmp_path / "y.pdb").letters == "GWS"


def test_a_residue_that_stands_twice(tmp_path):
    twice = "Give each chain a name of its own, and each residue a number."
    path = written(tmp_path / "x.pdb", peptide(" "), "TER", peptide(" ", names=("TRP", "ALA", "SER")))
    assert refusal(path) == f"x.pdb chain _ has the atom N of residue 1 twice. {twice}"
    path = written(tmp_path / "y.pdb", peptide(), residue("SER", "A", 3, atoms=("O",)))
    assert refusal(path) == f"y.pdb chain A has the atom O of residue 3 twice. {twice}"


def test_numbers_in_steps_of_ten_thousand_are_not_filled(tmp_path):
    path = as_mmcif(written(tmp_path / "x.pdb", peptide()), tmp_path / "x.cif")
    document = gemmi.cif.read_file(str(path))
    numbers = document[0].find_values("_atom_site.auth_seq_id")
    for row in range(len(numbers)):
        numbers[row] = f"{numbers[row]}0000"
    document.write_file(str(path))
    assert refusal(path) == (
        "x.cif chain A has 3 residues with numbers from 10000 to 30000: 19,998 numbers have none, and at most 5,000 are "
        "filled. Renumber it, or name other chains to read."
    )


def test_chains_that_are_not_there(tmp_path):
    dna = [atom("P", "DA", "D", 1, (0, 0, 0))]
    path = written(tmp_path / "x.pdb", peptide("B"), peptide("A"), dna)
    assert refusal(path, chains=("A", "C")) == "x.pdb has no chain 'C'; its chains with protein are A, B."
    assert refusal(path, chains=("D",)) == "the chain 'D' of x.pdb holds no protein; its chains with protein are A, B."
    assert refusal(path, chains=("a",)) == "x.pdb has no chain 'a'; its chains with protein are A, B."


def test_two_files_with_one_id(tmp_path):
    written(tmp_path / "1abc.pdb", peptide())
    as_mmcif(tmp_path / "1abc.pdb", tmp_path / "1abc.cif.gz")
    said = (
        f"'{tmp_path}' has two files with the id '1abc': 1abc.cif.gz and 1abc.pdb. Rename one of them, or take it out."
    )
    assert refusal(tmp_path) == said


def test_a_folder_without_structures(tmp_path):
    (tmp_path / "1abc.txt").write_text("x")
    (tmp_path / ".1abc.pdb").write_text("x")
    endings = "names of their files end in .pdb, .ent, .cif or .mmcif, also with .gz"
    assert refusal(tmp_path) == f"the folder '{tmp_path}' holds no structures: {endings}."
    with pytest.raises(DataError, match=f"^'{tmp_path}' is a folder, not a file, and holds none of .*\\*\\.cif.*\\.$"):
        open_table(tmp_path)


def test_files_that_are_not_there(tmp_path):
    assert refusal(tmp_path / "x.pdb") == f"'{tmp_path / 'x.pdb'}' cannot be read: No such file or directory."
    with pytest.raises(DataError, match=r"^there is no file '.*x\.pdb'\.$"):
        open_table(tmp_path / "x.pdb")


def test_options_that_are_none(tmp_path):
    path = written(tmp_path / "x.pdb", peptide())
    for options, said in (
        ({"chain": "A"}, "unknown key 'chain'. Did you mean 'chains'?"),
        ({"contacts": -1}, "'contacts' is -1: input should be greater than or equal to 0"),
    ):
        with pytest.raises(RecipeError) as caught:
            open_table(path, options=options)
        assert str(caught.value).startswith(f"reader 'structure': {said}")


def test_labels_of_other_structures(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\n9xyz,1\n")
    options = DataOptions(path=str(ZINC), labels=str(tmp_path / "labels.csv"), inputs={"structure": "structure"})
    with pytest.raises(DataError) as caught:
        read_examples(options, {"head": "label"})
    assert str(caught.value) == "labels.csv has labels for none of the ids of zinc_fingers, such as '1ard' and '9xyz'."


def test_a_fault_in_a_later_file_names_that_file(tmp_path):
    written(tmp_path / "a.pdb", peptide())
    (tmp_path / "b.pdb").write_text("")
    with pytest.raises(DataError, match=r"^b\.pdb is empty\.$"):
        list(opened(tmp_path))


def test_mmcif_whose_atoms_lack_what_an_atom_has(tmp_path):
    path = as_mmcif(written(tmp_path / "x.pdb", peptide()), tmp_path / "x.cif")
    document = gemmi.cif.read_file(str(path))
    numbers = document[0].find_values("_atom_site.auth_seq_id")
    numbers[0] = "?"
    (tmp_path / "y.cif").write_text(document.as_string())
    assert refusal(tmp_path / "y.cif") == "y.cif chain A has residues without a number, first GLY."
    for item in ("Cartn_y", "label_alt_id"):
        document[0].find_loop("_atom_site.id").get_loop().remove_column(f"_atom_site.{item}")
        (tmp_path / "z.cif").write_text(document.as_string())
        said = f"z.cif says nothing of _atom_site.{item}, without which its atoms cannot be read. {AGAIN}"
        assert refusal(tmp_path / "z.cif") == said
        document = gemmi.cif.read_file(str(path))
    document[0].find_loop("_atom_site.id").get_loop().remove_column("_atom_site.Cartn_z")
    document[0].set_pair("_atom_site.Cartn_z", "1.0")
    (tmp_path / "z.cif").write_text(document.as_string())
    said = "z.cif holds no atoms that can be read: items of _atom_site stand apart from the others. "
    assert refusal(tmp_path / "z.cif") == said + AGAIN


def test_what_gemmi_refuses_of_a_pdb_file(tmp_path):
    path = written(tmp_path / "x.pdb", peptide(), "MODEL        1", peptide())
    assert refusal(path) == f"x.pdb is not PDB, or is damaged: line 13, MODEL without ENDMDL. {AGAIN}"


@pytest.mark.parametrize("record", ["ATOM", "HETATM", "ATOM     13  N"])
def test_a_record_of_an_atom_without_an_atom(tmp_path, record):
    path = written(tmp_path / "x.pdb", peptide(), record)
    assert refusal(path) == f"x.pdb line 13 ends before the coordinates of its atom do. {AGAIN}"


def test_copies_of_one_chain_in_joined_files(tmp_path):
    path = written(tmp_path / "x.pdb", peptide(), "END", peptide(), "END")
    assert refusal(path) == (
        "x.pdb chain A has the atom N of residue 1 twice. Give each chain a name of its own, and each residue a number."
    )
