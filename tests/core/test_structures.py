"""A structure is one value: what it is made of, what it refuses, and how it stands in a table."""

import numpy as np
import pyarrow as pa
import pytest

from exapt import DataError
from exapt.data.columns import column_values
from exapt.structures import Structure, StructureType, structure_column, structures_of


def structure(**chains):
    """Return a structure with atoms that all differ."""
    units = sum(map(len, chains.values()))
    return Structure.of({"chains": chains, "atoms": np.arange(units * 12).reshape(units, 4, 3).tolist()})


def same(one, other):
    return repr(one) == repr(other) and np.array_equal(one.atoms, other.atoms, equal_nan=True)


def test_units_have_the_names_of_chain_and_residue():
    found = structure(A="MK", B="GWS")
    assert found.names == ("A:1", "A:2", "B:1", "B:2", "B:3")
    assert found.chain_of.tolist() == [0, 0, 1, 1, 1]
    assert found.sequences == {"A": "MK", "B": "GWS"}
    assert len(found) == 5


def test_a_position_without_a_residue_reads_as_x():
    found = structure(A="MK-W")
    assert found.text == "MKXW"
    assert found.sequences == {"A": "MKXW"}


def test_chains_are_taken_in_the_order_asked_for():
    found = structure(A="MK", B="GWS", C="P").only(["C", "A"])
    assert (found.chains, found.letters, found.names) == (("C", "A"), "PMK", ("C:1", "A:1", "A:2"))
    assert found.atoms[:, 0, 0].tolist() == [60, 0, 12]


def test_other_letters_on_the_same_backbone():
    wild = structure(A="MK")
    mutant = wild.with_letters("MR")
    assert (mutant.letters, mutant.names) == ("MR", wild.names)
    assert mutant.atoms is wild.atoms


def test_a_structure_is_known_by_all_that_it_holds():
    one = structure(A="MK")
    assert repr(one) == repr(structure(A="MK"))
    moved = one.with_atoms(one.atoms + 1)
    others = (structure(B="MK"), structure(A="MR"), structure(A="M", B="K"), moved)
    assert len({repr(one), *map(repr, others)}) == 5


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("MKTAY", "is 'MKTAY', not a protein structure such as a PDB file holds"),
        (
            {"chains": {}, "atoms": []},
            "is {'chains': {}, 'atoms': []}, not a protein structure such as a PDB file holds",
        ),
        ({"chains": {"A": "M"}, "atoms": [[["x"] * 3] * 4]}, "has atoms whose coordinates are no numbers"),
        ({"chains": {"A": "MK"}, "atoms": [[[0.0] * 3] * 4]}, "has coordinates of the shape (1, 4, 3) for 2 residues"),
    ],
)
def test_what_is_no_structure_is_refused(value, said):
    with pytest.raises(DataError) as refusal:
        Structure.of(value)
    assert str(refusal.value) == said


def test_a_chain_that_is_not_there_and_letters_that_do_not_fit():
    with pytest.raises(DataError) as refusal:
        structure(A="MK", B="G").only(["A", "H"])
    assert str(refusal.value) == "has no chain 'H'; its chains are A, B"
    with pytest.raises(DataError) as refusal:
        structure(A="MK").with_letters("MKT")
    assert str(refusal.value) == "has 2 positions, and the sequence 3 letters"


def test_a_column_of_structures_gives_them_back(tmp_path):
    several = [structure(A="MK"), structure(A="MK-W", H="G"), structure(Z="P")]
    several[1].atoms[2] = np.nan
    table = pa.table({"id": ["a", "b", "c"], "structure": structure_column(several)})
    assert isinstance(table.schema.field("structure").type, StructureType)
    for found, given in zip(column_values(table, "structure", "t"), several, strict=True):
        assert same(found, given)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    assert same(structures_of(table.slice(1, 2).column("structure"))[0], several[1])
    chunks = pa.concat_tables([table.slice(2), table]).column("structure")
    assert [one.letters for one in structures_of(chunks)] == ["P", "MK", "MK-W" + "G", "P"]


def test_a_row_without_a_structure_is_refused():
    whole = structure_column([structure(A="MK")])
    column = pa.chunked_array([pa.ExtensionArray.from_storage(StructureType(), pa.nulls(1, whole.type.storage_type))])
    with pytest.raises(DataError) as refusal:
        structures_of(column)
    assert str(refusal.value) == "a column of structures has a row without a structure"
