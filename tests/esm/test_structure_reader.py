"""PDB and mmCIF files become structures by ProteinMPNN's rules, and folders of them become tables."""

import gzip
import json
import shutil

import gemmi
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from esm.structure_files import (
    MODEL,
    ROOT,
    ZINC,
    as_mmcif,
    atom,
    command,
    golden,
    one,
    opened,
    peptide,
    read,
    refusal,
    residue,
    written,
)
from exapt.data.files import open_table, reader_of, table_sha256
from exapt.data.tables import read_examples
from exapt.recipe import DataOptions
from exapt.structures import structures_of
from exapt_esm.structures import parse, reader

ENTRIES = (
    *(
        "6MRR",
        "5L33",
        "3HTN",
        "edge_short20",
        "edge_one",
        "edge_two",
        "edge_gap",
        "edge_odd",
        "edge_chains",
        "edge_models",
    ),
    *("edge_caonly", "edge_negnum", "4GYT", "4YOW", "6EHB"),
)


def recorded(kind, pdb):
    """Return the recorded entries of one file, and their tensors."""
    held = json.loads(golden(f"{kind}/given/inputs.json").read_text())["entries"]
    return [entry for entry in held if entry["name"] == pdb], load_file(golden(f"{kind}/given/expected.safetensors"))


@pytest.mark.parametrize("kind", ["tiny", "real"])
@pytest.mark.parametrize("pdb", ENTRIES)
def test_golden_structures_are_read_as_recorded(kind, pdb):
    entries, expected = recorded(kind, pdb)
    structure = one(golden(f"pdbs/{pdb}.pdb"))
    for entry in entries:
        chains = {name: structure.only([name]).letters for name in structure.chains}
        # The reference writes '-' for a residue that is none of the twenty, too.
        assert {name: letters.replace("X", "-") for name, letters in chains.items()} == entry["parsed_seq"]
        found = structure.only(entry["feature_chain_order"])
        resolved = np.isfinite(found.atoms).all((1, 2))
        np.testing.assert_array_equal(resolved, expected[f"{entry['id']}.mask"][0] == 1)
        np.testing.assert_array_equal(found.chain_of + 1, expected[f"{entry['id']}.chain_encoding"][0])
        index = np.arange(len(found)) + 100 * found.chain_of
        np.testing.assert_array_equal(index, expected[f"{entry['id']}.residue_idx"][0])
        if f"{entry['id']}.X" in expected:
            np.testing.assert_array_equal(np.nan_to_num(found.atoms), expected[f"{entry['id']}.X"][0])
    assert list(structure.chains) == sorted(structure.chains)


@pytest.mark.parametrize("pdb", ENTRIES)
def test_the_same_structure_as_mmcif(tmp_path, pdb):
    source = golden(f"pdbs/{pdb}.pdb")
    assert repr(one(as_mmcif(source, tmp_path / "a.cif"))) == repr(one(source))


def test_two_lines_of_a_hand_made_file(tmp_path):
    path = written(tmp_path / "a.pdb", residue("ALA", "A", 7), residue("TRP", "A", 8, atoms=("N", "CA")))

    structure = one(path)

    assert (structure.chains, structure.letters, structure.numbers) == (("A",), "AW", ("7", "8"))
    expected = np.array([[26.6, 0, 0], [28.1, 0, 0], [28.6, 1.4, 0], [27.8, 2.4, 0]], dtype=np.float32)
    np.testing.assert_array_equal(structure.atoms[0], expected)
    assert np.isfinite(structure.atoms[1, :2]).all()
    assert np.isnan(structure.atoms[1, 2:]).all()
    assert structure.atoms.dtype == np.float32


def changed(name, record="ATOM"):
    return residue(name, "A", 2, record=record)


ENDS = (residue("GLY", "A", 1), residue("SER", "A", 3))


@pytest.mark.parametrize(
    ("between", "letters"),
    [
        (changed("TRP"), "GWS"),
        ([], "G-S"),
        (changed("MSE", "HETATM"), "GMS"),
        (changed("MSE"), "GXS"),
        (changed("SEP"), "GXS"),
        (changed("SEP", "HETATM"), "G-S"),
        (changed("UNK"), "GXS"),
        ([atom("O", "HOH", "A", 2, (0, 0, 0))], "G-S"),
        ([atom("P", "DA", "A", 2, (0, 0, 0)), atom("N1", "DA", "A", 2, (1, 0, 0))], "G-S"),
        ([atom("CA", "CA", "A", 2, (0, 0, 0), element="CA")], "G-S"),
        ([atom("CB", "TRP", "A", 2, (0, 0, 0))], "GWS"),
    ],
)
def test_which_residues_count(tmp_path, between, letters):
    structure = one(written(tmp_path / "a.pdb", ENDS[0], between, ENDS[1]))
    assert structure.letters == letters
    assert structure.numbers == ("1", "2", "3")


def test_insertion_codes_and_numbers_below_zero_are_put_in_order(tmp_path):
    residues = [
        *residue("TRP", "A", 2, code="B"),
        *residue("SER", "A", 2),
        *residue("LYS", "A", 2, code="A"),
        *residue("GLY", "A", -1),
    ]
    structure = one(written(tmp_path / "a.pdb", residues))
    assert structure.names == ("A:-1", "A:0", "A:1", "A:2", "A:2A", "A:2B")
    assert structure.letters == "G--SKW"


def test_the_first_alternative_of_each_atom_wins(tmp_path):
    second = residue("SER", "A", 1, altloc="B", atoms=("N", "CA", "C", "O"))
    first = residue("GLY", "A", 1, altloc="A", atoms=("CA", "C"))
    shifted = [line[:30] + f"{99:8.3f}" + line[38:] for line in second]
    structure = one(written(tmp_path / "a.pdb", first, shifted))
    assert structure.letters == "G"
    assert structure.atoms[0, :, 0].tolist() == [99, np.float32(5.3), np.float32(5.8), 99]


def test_the_first_model_wins(tmp_path):
    other = peptide(chain="B", names=("ALA",))
    models = ["MODEL        1", *peptide(), "ENDMDL", "MODEL        2", *other, "ENDMDL"]
    path = written(tmp_path / "a.pdb", models)
    structures = opened(path)
    (batch,) = structures
    assert (batch["sequence"].to_pylist(), batch["chains"].to_pylist()) == (["GWS"], ["A"])
    assert structures.lines() == ["a.pdb: files with several models, of which the first is read: 1"]


def test_chains_without_protein_are_left_out_and_counted(tmp_path):
    dna = [atom("P", "DA", "B", number, (0, 0, 0)) for number in (1, 2)]
    water = [atom("O", "HOH", "W", number, (0, 0, 0), record="HETATM") for number in (1, 2)]
    solvent = [atom("OW", "SOL", "A", number, (0, 0, 0)) for number in (900, 901)]
    changed_residue = residue("SEP", "A", 4, record="HETATM")
    path = written(tmp_path / "a.pdb", peptide(), changed_residue, solvent, dna, water)
    structures = opened(path)
    (batch,) = structures
    assert batch["chains"].to_pylist() == ["A"]
    assert batch["sequence"].to_pylist() == ["GWS"]
    assert structures.lines() == [
        "a.pdb: chains without protein, left out: 2",
        "a.pdb: modified residues of HETATM records, read as absent: 1",
        "a.pdb: residues of ATOM records that are no amino acids, left out: 2",
    ]


def test_chains_have_the_names_of_the_authors_however_long(tmp_path):
    source = written(tmp_path / "a.pdb", peptide("B"), peptide("A", 11))
    structure = gemmi.read_pdb(str(source))
    structure.setup_entities()
    for chain, name in zip(structure[0], ("heavy", "10"), strict=True):
        chain.name = name
    text = structure.make_mmcif_document().as_string()
    (tmp_path / "b.cif").write_text(text)

    found = one(tmp_path / "b.cif")

    assert found.chains == ("10", "heavy")
    assert found.names == ("10:11", "10:12", "10:13", "heavy:1", "heavy:2", "heavy:3")
    assert "heavy:1" not in one(source).names


def test_mmcif_without_the_numbers_of_its_authors(tmp_path):
    document = gemmi.cif.read_file(str(as_mmcif(written(tmp_path / "a.pdb", peptide()), tmp_path / "a.cif")))
    loop = document[0].find_loop("_atom_site.id").get_loop()
    numbers = list(document[0].find_values("_atom_site.auth_seq_id"))
    loop.remove_column("_atom_site.auth_seq_id")
    for row, number in enumerate(numbers):
        loop[row, loop.tags.index("_atom_site.label_seq_id")] = str(int(number) + 4)
    (tmp_path / "b.cif").write_text(document.as_string())
    assert one(tmp_path / "b.cif").names == ("A:5", "A:6", "A:7")


def test_a_chain_without_a_name(tmp_path):
    assert one(written(tmp_path / "a.pdb", peptide(chain=" "))).names == ("_:1", "_:2", "_:3")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"REMARK  caf\xe9\n"])
def test_line_ends_marks_and_old_remarks(tmp_path, ending, start):
    text = ending.join(peptide()) + ending
    (tmp_path / "a.pdb").write_bytes(start + text.encode())
    assert one(tmp_path / "a.pdb").letters == "GWS"


def test_movements_of_atoms_that_were_taken_out_do_no_harm(tmp_path):
    lines = peptide()
    moved = "ANISOU" + lines[5][6:27] + "    688   1234    806    -19    -49    178       C"
    assert one(written(tmp_path / "a.pdb", moved, lines[:2], moved, lines[2:], moved)).letters == "GWS"


def test_coordinates_in_unusual_columns_are_numbers_still(tmp_path):
    lines = peptide(names=("GLY",))
    lines[0] = lines[0][:30] + "   1.5e1" + "      -0" + "     .25" + lines[0][54:]
    lines[1] = lines[1][:22] + "1   " + lines[1][26:]
    assert one(written(tmp_path / "a.pdb", lines)).atoms[0, 0].tolist() == [15, 0, 0.25]


def test_what_a_folder_holds(tmp_path):
    written(tmp_path / "b.pdb", peptide(names=("TRP",)))
    written(tmp_path / "c.ENT.gz", peptide(names=("SER",)))
    as_mmcif(tmp_path / "b.pdb", tmp_path / "a.x.cif.gz")
    as_mmcif(tmp_path / "b.pdb", tmp_path / "D.mmcif")
    (tmp_path / "labels.csv").write_text("id,label\n")
    (tmp_path / ".b.pdb.swp.pdb").write_text("hidden")
    (tmp_path / "more").mkdir()
    (tmp_path / "more.pdb").mkdir()

    structures = opened(tmp_path)
    table = pa.Table.from_batches(list(structures))

    assert table.column_names == ["id", "structure", "sequence", "resolved", "chains", "method", "resolution"]
    assert table["id"].to_pylist() == ["D", "a.x", "b", "c"]
    assert table["sequence"].to_pylist() == ["W", "W", "W", "S"]
    name = tmp_path.name
    told = [f"{name}: other files, not read: 1", f"{name}: folders in it, not read: 2"]
    assert structures.lines() == told
    assert next(iter(structures)).num_rows == 4
    assert structures.lines() == told


def test_what_is_left_out_is_summed_over_a_folder(tmp_path):
    for name, count in (("a", 0), ("b", 1), ("c", 2)):
        waters = [atom("O", "HOH", chain, 1, (0, 0, 0)) for chain in "XY"[:count]]
        written(tmp_path / f"{name}.pdb", peptide(), waters)
    structures = opened(tmp_path)
    list(structures)
    assert structures.lines() == [f"{tmp_path.name}: chains without protein, left out: 3 (first in b.pdb)"]


def test_several_data_blocks(tmp_path):
    path = as_mmcif(written(tmp_path / "a.pdb", peptide()), tmp_path / "a.cif")
    other = path.read_text().replace("TRP", "ALA").replace("data_", "data_2")
    path.write_text(f"data_refln\n_refln.index_h 1\n{path.read_text()}\n{other}")
    structures = opened(path)
    (batch,) = structures
    assert batch["sequence"].to_pylist() == ["GWS"]
    assert structures.lines() == ["a.cif: files with several data blocks, of which the first with atoms is read: 1"]


def test_a_header_without_an_end_is_told(tmp_path):
    structures = opened(written(tmp_path / "a.pdb", "HEADER    PROTEIN", peptide()))
    list(structures)
    assert structures.lines() == ["a.pdb: files with a HEADER and no END, which may be cut off: 1"]
    whole = opened(written(tmp_path / "a.pdb", "HEADER    PROTEIN", peptide(), "END   "))
    list(whole)
    assert whole.lines() == []


def test_method_and_resolution(tmp_path):
    facts = ("EXPDTA    X-RAY DIFFRACTION", "REMARK   2 RESOLUTION.    1.18 ANGSTROMS.")
    source = written(tmp_path / "a.pdb", *facts, peptide())
    cif = as_mmcif(source, tmp_path / "b.cif")
    cif.write_text(f"{cif.read_text()}\n_refine.entry_id a\n_refine.pdbx_refine_id X\n_refine.ls_d_res_high 1.2\n")
    written(tmp_path / "c.pdb", peptide())
    table = read(tmp_path)
    assert table["method"].to_pylist() == ["X-RAY DIFFRACTION", "X-RAY DIFFRACTION", None]
    assert table["resolution"].to_pylist() == [1.18, 1.2, None]


def test_what_is_mmcif_its_text_tells(tmp_path):
    cif = as_mmcif(written(tmp_path / "a.pdb", peptide()), tmp_path / "b.cif")
    (tmp_path / "c.pdb").write_text(f"#\n# by hand\n{cif.read_text()}")
    packed = tmp_path / "d.pdb"
    packed.write_bytes(gzip.compress(cif.read_bytes()))
    assert [one(path).letters for path in (tmp_path / "c.pdb", packed)] == ["GWS", "GWS"]


def two_chains(folder):
    return written(folder / "x.pdb", peptide("A"), peptide("B", 5, ("ALA", "CYS")))


def test_some_chains(tmp_path):
    path = two_chains(tmp_path)
    assert one(path).names == ("A:1", "A:2", "A:3", "B:5", "B:6")
    assert read(path)["sequence"].to_pylist() == ["GWS/AC"]
    assert one(path, chains=("B",)).names == ("B:5", "B:6")
    assert one(path, chains=("B", "A", "B")).chains == ("A", "B")


def test_each_chain_a_row(tmp_path):
    two_chains(tmp_path)
    table = read(tmp_path, separate=True, contacts=8)
    assert table["id"].to_pylist() == ["x_A", "x_B"]
    assert table["sequence"].to_pylist() == ["GWS", "AC"]
    assert table["chains"].to_pylist() == ["A", "B"]
    assert table["contacts"].to_pylist() == [[[1, 2], [1, 3], [2, 3]], [[1, 2]]]


def by_hand(structure, distance):
    """Return contacts by two loops."""
    places = []
    for nitrogen, alpha, carbon, _ in structure.atoms.astype(float):
        b, c = alpha - nitrogen, carbon - alpha
        beta = -0.58273431 * np.cross(b, c) + 0.56802827 * b - 0.54067466 * c + alpha
        places.append(beta if np.isfinite(beta).all() else alpha)
    count = len(places)
    return [
        [i + 1, j + 1]
        for i in range(count)
        for j in range(i + 1, count)
        if np.sqrt(((places[i] - places[j]) ** 2).sum()) < distance
    ]


@pytest.mark.parametrize("distance", [4.5, 8, 12])
def test_contacts(distance):
    table = read(ZINC, contacts=distance)
    assert table.schema.field("contacts").type == pa.list_(pa.list_(pa.int64()))
    for structure, found in zip(structures_of(table["structure"]), table["contacts"].to_pylist(), strict=True):
        assert found == by_hand(structure, distance)
        assert found
    assert "contacts" not in read(ZINC).column_names


def test_contacts_over_chains_and_of_residues_that_lack_atoms(tmp_path):
    near = [line[:22] + f"{4:>4}" + line[26:46] + f"{1:8.3f}" + line[54:] for line in residue("ALA", "B", 1)]
    only_alpha = residue("SER", "A", 3, atoms=("CA",))
    none = residue("SER", "A", 5, atoms=("O",))
    path = written(tmp_path / "a.pdb", residue("GLY", "A", 1), only_alpha, none, near)
    structure = one(path)
    assert structure.names == ("A:1", "A:2", "A:3", "A:4", "A:5", "B:4")
    (found,) = read(path, contacts=9)["contacts"].to_pylist()
    assert found == by_hand(structure, 9) == [[1, 3], [1, 6], [3, 6]]


def test_contacts_of_a_long_chain_are_those_of_its_pieces(tmp_path):
    path = written(tmp_path / "a.pdb", peptide(names=("GLY",) * 1100))
    (found,) = read(path, contacts=8)["contacts"].to_pylist()
    assert found == [[i, j] for i in range(1, 1101) for j in (i + 1, i + 2) if j <= 1100]


def test_files_are_read_when_their_batch_is_asked_for(tmp_path, monkeypatch):
    for number in range(5):
        written(tmp_path / f"{number}.pdb", peptide())
    (tmp_path / "4.pdb").write_text("damaged")
    monkeypatch.setattr(reader, "_FILES", 2)
    batches = iter(opened(tmp_path))
    assert [next(batches)["id"].to_pylist() for _ in range(2)] == [["0", "1"], ["2", "3"]]
    monkeypatch.setattr(reader, "_UNITS", 3)
    assert [batch.num_rows for batch in opened(tmp_path / "0.pdb")] == [1]
    assert next(iter(opened(tmp_path)))["id"].to_pylist() == ["0"]


def test_numbers_that_leap_are_filled_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(parse, "_MOST_ABSENT", 10)
    path = written(tmp_path / "a.pdb", residue("GLY", "A", 1), residue("SER", "A", 12), peptide("B"))
    assert one(path).letters == "G----------SGWS"
    path = written(tmp_path / "a.pdb", residue("GLY", "A", 1), residue("SER", "A", 13), peptide("B"))
    said = "a.pdb chain A has 2 residues with numbers from 1 to 13: 11 numbers have none, and at most 10 are filled. "
    assert refusal(path) == f"{said}Renumber it, or name other chains to read."
    assert one(path, chains=("B",)).letters == "GWS"


def test_core_knows_files_and_folders_of_structures(tmp_path):
    for name in ("a.pdb", "a.PDB.gz", "a.ent", "pdb1abc.ent.gz", "a.cif", "a.cif.gz", "a.mmcif", "a.mmcif.gz"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("x")
        assert reader_of(folder / name).name == reader_of(folder).name == "structure"


def test_the_hash_is_that_of_the_structures_alone(tmp_path):
    written(tmp_path / "b.pdb.gz", peptide())
    before = table_sha256(tmp_path)
    (tmp_path / "labels.csv").write_text("id,label\n")
    assert table_sha256(tmp_path) == before
    written(tmp_path / "a.pdb", peptide())
    assert table_sha256(tmp_path) != before


def test_labels_by_id_stand_in_a_table_beside(tmp_path):
    table = ROOT / "examples" / "data" / "zinc_fingers.csv"
    options = DataOptions(path=str(ZINC), labels=str(table), inputs={"structure": "structure"})
    examples, report = read_examples(options, {"part": "split"})
    assert len(examples) == 15
    assert examples.labels["part"][examples.ids.index("1znf")] == "valid"
    assert examples.inputs["structure"][examples.ids.index("1znm")].letters == "FQCTF--CGKRFSLDFNLKTHVKIHTG"
    assert report.lines() == ["zinc_fingers: 15 rows"]


def test_no_near_relative_of_a_test_structure_is_in_the_training_part():
    parts = dict(zip(*(column.to_pylist() for column in _table("zinc_fingers.csv").columns[:2]), strict=True))
    sequences = dict(zip(*(read(ZINC)[name].to_pylist() for name in ("id", "sequence")), strict=True))
    assert parts.keys() == sequences.keys()
    across = [(a, b) for a in parts for b in parts if a < b and parts[a] != parts[b]]
    assert max(_identity(sequences[a], sequences[b]) for a, b in across) < 0.5


def _table(name):
    return pa.Table.from_batches(list(open_table(ROOT / "examples" / "data" / name)))


def _identity(one, other):
    """Return the share of the shorter sequence that can be aligned to equal letters, which is more than aligned ones."""
    best = np.zeros((len(one) + 1, len(other) + 1))
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            gaps = max(best[i, j + 1], best[i + 1, j]) - 0.5
            best[i + 1, j + 1] = max(best[i, j] + (left == right and left != "X"), gaps)
    return best[-1, -1] / min(len(one), len(other))


@pytest.fixture
def fingers(tmp_path):
    """A folder of nine structures and a table of labels of theirs, one for each input and one for each residue."""
    folder = tmp_path / "fingers"
    folder.mkdir()
    names = ("1ard", "1paa", "1sp1", "1sp2", "1zaa1", "1zaa2", "1znf", "1znm", "3znf")
    for name in names:
        shutil.copy(ZINC / f"{name}.pdb", folder)
    table = read(folder)
    rows = ["id,split,long,cysteine"]
    for place, (name, letters) in enumerate(zip(names, table["sequence"].to_pylist(), strict=True)):
        part = ("train", "train", "valid", "test")[place % 4]
        kinds = "".join("C" if letter == "C" else "o" for letter in letters)
        rows.append(f"{name},{part},{'yes' if len(letters) > 29 else 'no'},{kinds}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    return folder, labels


def test_an_adapter_learns_from_a_folder_and_labels_by_id(fingers, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    folder, labels = fingers
    data = ("--data", folder, "--labels", labels)
    out = tmp_path / "adapter"
    command(
        *("train", *data, "--label", "cysteine", "--head", "position-classification", "--split", "split"),
        *("--backbone", f"esm2:{MODEL}", "--strategy", "probe", "--set", "training.epochs=1", "--out", out),
    )
    said = command("evaluate", out, folder, "--labels", labels, "--json").stdout
    assert json.loads(said)["all"]["rows"] == 9
    command("predict", out, folder / "1znm.pdb", "-o", tmp_path / "answers.jsonl")
    (answer,) = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert answer["id"] == "1znm"
    assert len(answer["prediction"]) == 27


def test_positions_that_lack_atoms_are_told_as_a_mask_for_labels():
    table = read(ZINC, separate=True)
    marks = dict(zip(table["id"].to_pylist(), table["resolved"].to_pylist(), strict=True))
    texts = dict(zip(table["id"].to_pylist(), table["sequence"].to_pylist(), strict=True))
    # Two numbers are left out between residues 6 and 9 of this one.
    (odd,) = [name for name, text in texts.items() if name.startswith("1znm")]
    assert [place for place, mark in enumerate(marks[odd]) if mark == "0"] == [
        place for place, letter in enumerate(texts[odd]) if letter == "X"
    ]
    assert marks[odd].count("0") == 2
    assert all(len(marks[name]) == len(text) for name, text in texts.items())


def test_marks_of_several_chains_stand_one_after_another(tmp_path):
    lost = residue("SER", "A", 3, atoms=("CA",))
    table = read(written(tmp_path / "x.pdb", peptide(names=("GLY", "TRP")), lost, peptide("B", names=("ALA", "CYS"))))
    assert table["sequence"].to_pylist() == ["GWS/AC"]
    assert table["resolved"].to_pylist() == ["11011"]


def test_files_joined_into_one_are_read_beyond_the_first_end(tmp_path):
    structures = opened(
        written(tmp_path / "x.pdb", peptide("B"), "END", "REMARK", peptide("A"), "end   ", peptide("C"), "END")
    )
    (batch,) = structures
    assert batch["chains"].to_pylist() == ["A,B,C"]
    assert batch["sequence"].to_pylist() == ["GWS/GWS/GWS"]
    assert structures.lines() == []


@pytest.mark.parametrize("ends", [["END"], ["ENDMDL", "END"], ["END", "", ""], ["ENDMDL"]])
def test_models_may_be_ended_in_many_ways(tmp_path, ends):
    models = ["MODEL        1", *peptide(), *ends, "MODEL        2", *peptide(names=("ALA", "CYS")), *ends]
    structures = opened(written(tmp_path / "x.pdb", models))
    (batch,) = structures
    assert batch["sequence"].to_pylist() == ["GWS"]
    assert structures.lines() == ["x.pdb: files with several models, of which the first is read: 1"]


def test_a_last_line_needs_no_end(tmp_path):
    lines = [line[:54] for line in peptide()]
    (tmp_path / "x.pdb").write_text("\n".join(lines))
    (tmp_path / "y.pdb").write_text("\n".join(lines) + "\n")
    assert one(tmp_path / "x.pdb").letters == "GWS"
    assert (one(tmp_path / "x.pdb").atoms == one(tmp_path / "y.pdb").atoms).all()


def test_residues_in_another_order_than_their_numbers_are_told(tmp_path):
    backwards = [line for code in "BA" for line in residue("GLY", "A", 1, code=code)]
    structures = opened(written(tmp_path / "x.pdb", backwards, residue("TRP", "A", 1), peptide("B")))
    (batch,) = structures
    assert batch["sequence"].to_pylist() == ["WGG/GWS"]
    assert structures.lines() == [
        "x.pdb: chains whose residues stand in another order than their numbers say, read in that of the numbers: 1"
    ]


def test_residues_read_as_x_are_told_with_the_first_name(tmp_path):
    what = "residues of ATOM records that are none of the twenty, read as X"
    path = written(tmp_path / "b.pdb", peptide(names=("MSE", "UNK", "gly")), peptide("B", names=("GLY", "SER")))
    structures = opened(path)
    (batch,) = structures
    assert batch["sequence"].to_pylist() == ["XXX/GS"]
    assert structures.lines() == [f"b.pdb: {what}: 3 (first MSE)"]
    written(tmp_path / "a.pdb", peptide())
    written(tmp_path / "c.pdb", peptide(names=("GLY", "UNK")))
    folder = opened(tmp_path)
    list(folder)
    assert folder.lines() == [f"{tmp_path.name}: {what}: 4 (first MSE in b.pdb)"]
    chosen = opened(path, chains=("B",))
    list(chosen)
    assert chosen.lines() == []


def test_positions_of_which_contacts_say_nothing_are_told(tmp_path):
    path = written(tmp_path / "x.pdb", peptide(), residue("SER", "A", 6), residue("SER", "A", 7, atoms=("N", "C", "O")))
    structures = opened(path, contacts=8)
    (batch,) = structures
    assert batch["sequence"].to_pylist() == ["GWSXXSS"]
    assert structures.lines() == [
        "x.pdb: positions without coordinates, in no contact; for a model of sequences mask them (data.mask=resolved): 3"
    ]
    plain = opened(path)
    list(plain)
    assert plain.lines() == []
