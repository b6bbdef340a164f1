"""``exapt design`` refuses in one line, before anything is designed, and leaves nothing behind."""

import shlex
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

import exapt
from esm.designs import FINGER, complex_of, exapt_design, structure, tiny
from esm.structure_files import MODEL, ZINC, golden
from exapt import DataError, RecipeError
from exapt.structures import Structure
from exapt_esm import DesignOptions, design
from exapt_esm.designing.sampling import Canvas

EXAMPLES = "ACDEFGHIKLMNPQRSTVWY"
FLAGS = {
    "--number 0": "--number 0: input should be greater than or equal to 1",
    "--number some": "--number some: input should be a valid integer, unable to parse string as an integer",
    f"--number {10**7}": f"--number {10**7}: input should be less than or equal to 1000000",
    f"--seed {2**63}": f"--seed {2**63}: input should be less than or equal to {2**63 - 1}",
    "--seed ''": "--seed '': input should be a valid integer, unable to parse string as an integer",
    "--seed -1": "--seed -1: input should be greater than or equal to 0",
    "--batch 0": "--batch 0: input should be greater than or equal to 1",
    f"--batch {10**7}": f"--batch {10**7}: input should be less than or equal to 10000",
    "--temperature 0": "--temperature 0: a temperature is above 0",
    "--temperature 0.1,-1": "--temperature 0.1,-1: a temperature is above 0",
    "--temperature ,": "--temperature ,: names no temperature",
    "--temperature 0.1,0.1": "--temperature 0.1,0.1: a temperature is named twice",
    "--temperature nan": "--temperature nan: input should be a finite number",
    "--temperature warm": "--temperature warm: input should be a valid number, unable to parse string as a number",
    "--omit C1": f"--omit C1: '1' is none of the twenty amino acids {EXAMPLES}",
    "--omit B": f"--omit B: 'B' is none of the twenty amino acids {EXAMPLES}",
    f"--omit {EXAMPLES}": f"--omit {EXAMPLES}: all residues are left out: none is left to sample",
    "--bias A": "--bias A: a bias is LETTER=NUMBER, such as A=-0.5",
    "--bias X=1": f"--bias X=1: 'X' is none of the twenty amino acids {EXAMPLES}",
    "--bias A=1,a=2": "--bias A=1,a=2: a residue is named twice",
    "--bias A=much": "--bias A=much: input should be a valid number, unable to parse string as a number",
    "--numbering author": "--numbering author: input should be 'file' or 'index'",
    "--tied-chains A": "--tied-chains A: name two chains at least, such as A,B",
    "--fixed A:3 --design-only A:4": "--fixed and --design-only say the same in two ways: give one of them",
    "--set model.x=1": "there are options of backbone and tokenizer here, not of 'model'",
    "--set reader=1": "'reader' is 1: name an option, reader.KEY=VALUE",
    "--adapter folder": "give --backbone, or --adapter: one of them",
}
# A variable of the shell that is not set is no wish to design everything.
NOTHING = {
    **{f"--{flag} {shown}": f"--{flag} {shown}: names no {what}"
       for flag, what in {"chains": "chain", "fixed": "place", "design-only": "place", "omit-at": "place", "tied": "place",
                          "omit": "residue", "bias": "residue"}.items()
       for shown in ("''", ",")},
    "--tied-chains ''": "--tied-chains '': names no chain",
    "--tied-chains ,": "--tied-chains ,: names no chain",
    "--fixed A:3,,A:5": "--fixed A:3,,A:5: names no place beside one of its commas",
    "--numbering ''": "--numbering '': input should be 'file' or 'index'",
}  # fmt: skip
PLACES = {
    "--chains Q": "--chains: 1zaa1 has no chain 'Q'; its chains are A",
    "--fixed Q:3": "--fixed: 1zaa1 has no chain 'Q'; its chains are A",
    "--fixed 3": "--fixed: 1zaa1 has no chain '3'; its chains are A; a residue is written with its chain, A:3",
    "--fixed 3-8": "--fixed: 1zaa1 has no chain '3-8'; its chains are A; a residue is written with its chain, A:3-8",
    "--fixed A:99": "--fixed: chain A of 1zaa1 has no residue 99; its residues are 3 to 33",
    "--fixed A:1": "--fixed: chain A of 1zaa1 has no residue 1; its residues are 3 to 33; counted from 1 along the chain it has: "
    "--numbering index",
    "--fixed A:10-99": "--fixed: chain A of 1zaa1 has no residue 99; its residues are 3 to 33",
    "--fixed A:8-5": "--fixed: 'A:8-5' ends before it begins",
    "--fixed A:3..8": "--fixed: 'A:3..8' is no place; write a chain (A), a residue (A:52A) or a stretch (A:1-10)",
    "--fixed A:0 --numbering index": "--fixed: chain A of 1zaa1 has no position 0; its positions are 1 to 31",
    "--fixed A:33 --numbering index": "--fixed: chain A of 1zaa1 has no position 33; its positions are 1 to 31; by the residue "
    "numbers of the file it has: --numbering file",
    "--fixed A": "nothing of 1zaa1 is left to design: no residue with a backbone is chosen",
    "--design-only Q": "--design-only: 1zaa1 has no chain 'Q'; its chains are A",
    "--omit-at A:5": "--omit-at: 'A:5' names no residues to leave out; write A:12=CP",
    "--omit-at A:5=": "--omit-at: 'A:5=' names no residues to leave out; write A:12=CP",
    "--omit-at A:5=CB": f"--omit-at: 'B' is none of the twenty amino acids {EXAMPLES}, in 'A:5=CB'",
    "--omit-at A:5=C --fixed A:5": "--omit-at: A:5 of 1zaa1 is not designed",
    f"--omit-at A:5={EXAMPLES[1:]} --omit A": "--omit-at: no residue is left to sample at A:5 of 1zaa1",
    "--tied A:5-8": "--tied: 'A:5-8' ties nothing; write A:1-50=B:1-50",
    "--tied A:5-8=A:15-18=": "--tied: 'A:5-8=A:15-18=' lacks a stretch behind the last '='; write A:1-50=B:1-50",
    "--tied =A:5-8": "--tied: '=A:5-8' lacks a stretch before the first '='; write A:1-50=B:1-50",
    "--tied A:5-8==A:15-18": "--tied: 'A:5-8==A:15-18' lacks a stretch beside one '='; write A:1-50=B:1-50",
    "--tied A:5-8=A:15-19": "--tied: A:5-8 has 4 positions, and A:15-19 of 1zaa1 has 5",
    "--tied A:5-8=A:7-10": "--tied: residue A:7 of 1zaa1 is tied twice",
    "--tied A:5=A:5": "--tied: residue A:5 of 1zaa1 is tied twice",
    "--tied A:5=A:7,A:7=A:9": "--tied: residue A:7 of 1zaa1 is tied twice",
    "--tied A:5-8=A:15-18 --fixed A:16": "--tied: A:6 of 1zaa1 is designed and A:16 of 1zaa1 is not; what is tied is designed, "
    "or kept, together",
    f"--tied A:5=A:7 --omit-at A:5={EXAMPLES[:10]},A:7={EXAMPLES[10:]}": "--omit-at: no residue is left to sample at A:5 of "
    "1zaa1",
    "--tied-chains A,A": "--tied-chains: A, A names a chain twice",
    "--tied-chains A,B": "--tied-chains: 1zaa1 has no chain 'B'; its chains are A",
}


@pytest.fixture(scope="module")
def backbone():
    return tiny()


@pytest.fixture
def undesigned(monkeypatch):
    """Make it a failure to compute anything."""

    def refuse(*given):
        raise AssertionError("something was computed")

    monkeypatch.setattr(Canvas, "__init__", refuse)


def refused(*words):
    out, (line,) = exapt_design(*words, code=2)
    assert not out
    return line.removeprefix("exapt: ")


@pytest.mark.parametrize(("flags", "said"), [*FLAGS.items(), *NOTHING.items(), *PLACES.items()])
def test_options(backbone, undesigned, flags, said, tmp_path):
    assert refused(FINGER, "--backbone", backbone, "-o", tmp_path / "designs.fasta", *shlex.split(flags)) == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "what"), {"chains": "chain", "design_only": "place"}.items())
def test_an_empty_list_of_what_is_designed_is_not_all_of_it(name, what):
    with pytest.raises(ValidationError) as caught:
        DesignOptions(**{name: []})
    assert [fault["msg"] for fault in caught.value.errors()] == [f"Value error, names no {what}"]
    assert DesignOptions(fixed=[], omit=[], tied=[]) == DesignOptions()
    assert DesignOptions(**DesignOptions().model_dump()) == DesignOptions()


def test_one_structure_of_a_folder_that_does_not_fit_is_enough(backbone, undesigned, tmp_path):
    for name in ("1ard.pdb", "1zaa1.pdb"):
        shutil.copy(ZINC / name, tmp_path / name)
    said = refused(tmp_path, "--backbone", backbone, "--chains", "D")
    assert said == "--chains: 1zaa1 has no chain 'D'; its chains are A"


def test_residues_that_are_missing(backbone, undesigned):
    path = golden("pdbs/edge_gap.pdb")
    gap = structure(path)
    first, last = (gap.numbers[gap.letters.index("-") + place] for place in (0, gap.letters.count("-") - 1))
    for place in (f"A:{first}", f"A:{first}-{last}"):
        said = refused(path, "--backbone", backbone, "--fixed", place)
        assert said == f"--fixed: edge_gap has no residue at {place}: it is missing from the structure"
    said = refused(path, "--backbone", backbone, "--design-only", f"A:{last}")
    assert said == f"--design-only: edge_gap has no residue at A:{last}: it is missing from the structure"


def test_chains(backbone, undesigned):
    pair = complex_of("A", "B")
    cases = {
        "--design-only: B:12 is in a chain of pair that is not among --chains": {"chains": "A", "design_only": "B:12"},
        "--omit-at: B of pair is not designed": {"chains": "A", "omit_at": "B=C"},
        "--tied-chains: A:11 of pair is designed and B:11 of pair is not; what is tied is designed, or kept, together": {
            "chains": "A",
            "tied_chains": "A,B",
        },
        "--fixed: pair has no chain '11'; its chains are A, B; a residue is written with its chain, A:11": {
            "fixed": "11"
        },
    }
    for said, options in cases.items():
        with pytest.raises(DataError) as caught:
            design({"pair": pair}, backbone, DesignOptions(**options))
        assert str(caught.value) == said


def test_tied_chains_are_named_by_their_own_flag(backbone, undesigned):
    pair = complex_of("A", "B")
    short = Structure(pair.chains, np.array([0, 31, 61]), pair.letters[:61], pair.numbers[:61], pair.atoms[:61])
    with pytest.raises(DataError) as caught:
        design({"pair": short}, backbone, DesignOptions(tied_chains="A,B", numbering="index"))
    assert str(caught.value) == "--tied-chains: A has 31 positions, and B of pair has 30"


def test_chains_without_a_number_in_common(backbone, undesigned):
    pair = complex_of("A", "B")
    numbers = tuple(str(number) for number in range(1, len(pair) + 1))
    apart = type(pair)(pair.chains, pair.starts, pair.letters, numbers, pair.atoms)
    with pytest.raises(DataError) as caught:
        design({"pair": apart}, backbone, DesignOptions(tied_chains="A,B"))
    assert str(caught.value) == (
        "--tied-chains: no residue number of pair is in all of the chains A, B; tie their stretches, such as "
        "A:1-50=B:101-150"
    )


def test_models_that_do_not_design(tmp_path):
    assert refused(FINGER, "--backbone", f"esm2:{MODEL}") == (
        f"'esm2:{MODEL}' reads sequences and does not design sequences for structures; take one of ProteinMPNN, such as "
        "proteinmpnn-vanilla-020"
    )
    assert refused(FINGER) == "give --backbone, or --adapter: one of them"


def test_adapters_that_do_not_design(backbone, tmp_path):
    (tmp_path / "labels.csv").write_text(
        "id,size\n" + "".join(f"{path.stem},{len(path.stem)}\n" for path in sorted(ZINC.glob("*.pdb")))
    )
    adapted = exapt.train(
        {
            "data": {"path": str(ZINC), "labels": str(tmp_path / "labels.csv")},
            "split": {"fractions": (0.6, 0.2, 0.2)},
            "backbone": backbone,
            "head": {"name": "sequence-regression", "label": "size"},
            "strategy": "probe",
            "training": {"epochs": 1},
        },
        tmp_path / "sizes",
    )
    said = "'sizes' has no head that tells residues, such as inverse-folding, and cannot design"
    assert refused(FINGER, "--adapter", tmp_path / "sizes") == said
    with pytest.raises(RecipeError, match=r"^an adapter that is loaded has its settings and its device already$"):
        design(FINGER, adapted, device="cpu")


def test_places_that_cannot_be_written_to(backbone, undesigned, tmp_path):
    (tmp_path / "designs.fasta").write_text("mine")
    said = refused(FINGER, "--backbone", backbone, "-o", tmp_path / "designs.fasta")
    assert said == f"'{tmp_path / 'designs.fasta'}' exists already. Remove it, or name another file."
    assert (tmp_path / "designs.fasta").read_text() == "mine"
    said = refused(FINGER, "--backbone", backbone, "-o", tmp_path / "designs.txt")
    assert said.startswith("no installed writer writes 'designs.txt': its name must end in .csv, ")
    assert ".fasta" in said


def test_overwriting_is_asked_for(backbone, tmp_path):
    (tmp_path / "designs.fasta").write_text("mine")
    exapt_design(FINGER, "--backbone", backbone, "--number", 1, "-o", tmp_path / "designs.fasta", "--overwrite")
    assert (tmp_path / "designs.fasta").read_text().startswith(">1zaa1 ")


def test_what_holds_no_structures(backbone, undesigned, tmp_path):
    (tmp_path / "table.csv").write_text("id,sequence\na,MK\n")
    said = refused(tmp_path / "table.csv", "--backbone", backbone)
    assert said == "table.csv holds no structures: name a PDB or mmCIF file, or a folder of them"
    with pytest.raises(DataError, match=r"^there is no structure to design$"):
        design([], backbone)
    with pytest.raises(RecipeError, match=r"^options of the reader go with a path, not with structures in memory$"):
        design(structure(), backbone, settings={"reader": {"separate": True}})


def test_structures_that_a_model_cannot_read(backbone, undesigned):
    said = refused(golden("pdbs/edge_caonly.pdb"), "--backbone", backbone)
    assert said.startswith("'edge_caonly': has CA atoms alone, and this model reads N, CA, C and O; use one of ")


def test_two_sequences_of_one_name(backbone, undesigned):
    with pytest.raises(DataError, match=r"^two sequences would be called 'x_1': rename a structure$"):
        design({"x": structure(), "x_1": structure()}, backbone)


def test_fasta_is_for_tables_of_sequences(backbone, tmp_path):
    with pytest.raises(exapt.OutputError) as caught, exapt.open_writer(tmp_path / "out.fasta") as writer:
        writer.write(pa.record_batch({"id": ["a"], "score": [1.0]}))
    assert str(caught.value) == "FASTA holds sequences, and there is no column 'sequence'. The columns are: id, score."
    assert not list(tmp_path.iterdir())
