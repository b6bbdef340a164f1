"""Scans: every substitution of a sequence, as a table and as a heat map."""

import csv
import io
import json
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

import exapt as library
from exapt import DataError, RecipeError
from exapt.scanning import scan_file, scan_sequences
from exapt.scoring import Choice, Scoring

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
WILD = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture
def fasta(tmp_path):
    """Write sequences by id to a FASTA file."""

    def _fasta(**sequences):
        path = tmp_path / "proteins.fasta"
        path.write_text("".join(f">{who}\n{text}\n" for who, text in sequences.items()))
        return path

    return _fasta


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_substitution_stands_in_the_table(exapt, fasta, esm2):
    done = exapt("score", fasta(p=WILD), "--scan", "--backbone", esm2)
    found = rows(done.stdout)
    assert done.stderr == ""
    assert list(found[0]) == ["id", "position", "wild_type", "mutant", "mutation", "score"]
    wanted = [
        (f"{wild}{position}{mutant}", str(position), wild, mutant)
        for (position, wild), mutant in product(enumerate(WILD, 1), AMINO_ACIDS)
        if mutant != wild
    ]
    assert [(row["mutation"], row["position"], row["wild_type"], row["mutant"]) for row in found] == wanted
    assert {row["id"] for row in found} == {"p"}


@pytest.mark.parametrize("scorer", ["masked-marginal", "wild-type-marginal", "pseudo-log-likelihood"])
def test_scores_are_those_of_the_mutations_one_by_one(fasta, esm2, scorer):
    table = library.scan({"p": WILD}, esm2, scorer=scorer, positions="2,7-8")
    picked = [0, 20, 40, 56]
    mutants = [
        WILD[: position - 1] + mutant + WILD[position:]
        for position, mutant in zip(table["position"].to_pylist(), table["mutant"].to_pylist(), strict=True)
    ]
    for row in picked:
        (alone,) = library.score([(WILD, mutants[row])], esm2, scorer=scorer)
        assert table["score"][row].as_py() == pytest.approx(alone, abs=1e-5)


def test_beyond_the_context_each_position_has_a_window_of_its_own(esm2):
    settings = {"backbone": {"max_tokens": 12}}
    table = library.scan([WILD], esm2, positions=[1, 12, 22], settings=settings)
    for row in (0, 25, 56):
        position, mutant = table["position"][row].as_py(), table["mutant"][row].as_py()
        pair = (WILD, WILD[: position - 1] + mutant + WILD[position:])
        (alone,) = library.score([pair], esm2, settings=settings)
        assert table["score"][row].as_py() == pytest.approx(alone, abs=1e-5)
    whole = library.scan([WILD], esm2, positions=[12])
    assert not np.allclose(whole["score"].to_numpy(), table["score"].to_numpy()[19:38], atol=1e-3)


def test_wild_type_marginals_take_one_pass_and_masked_ones_as_many_as_there_are_positions(esm2):
    for scorer, passes in (("wild-type-marginal", 1), ("masked-marginal", len(WILD))):
        scoring, read = Scoring.of(esm2, Choice(scorer), "cpu"), []
        embeddings = scoring.expectations.backbone.esm.embeddings
        embeddings.register_forward_hook(lambda *told, read=read: read.append(len(told[2])))
        scan_sequences(scoring, [WILD])
        assert sum(read) == passes


def test_files_of_every_kind_hold_the_same(exapt, fasta, esm2, tmp_path):
    path = fasta(p=WILD)
    for suffix in ("csv", "parquet", "jsonl"):
        out = tmp_path / f"scan.{suffix}"
        assert exapt("score", path, "--scan", "--backbone", esm2, "-o", out).stderr == f"418 rows in {out}\n"
    expected = [float(row["score"]) for row in rows((tmp_path / "scan.csv").read_text())]
    assert [json.loads(line)["score"] for line in (tmp_path / "scan.jsonl").read_text().splitlines()] == expected
    table = pq.read_table(tmp_path / "scan.parquet")
    assert table["score"].to_pylist() == pytest.approx(expected, abs=1e-6)
    assert table["position"].type == "int64"


def test_positions_rows_and_columns_can_be_chosen(exapt, esm2, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"name,protein\na,{WILD}\nb,MKV\n")
    named = ["--column", "id=name", "--column", "sequence=protein"]
    done = exapt("score", path, "--scan", "--backbone", esm2, *named, "--rows", "a", "--positions", "10-11,3")
    assert [row["mutation"] for row in rows(done.stdout)[::19]] == ["T3A", "R10A", "Q11A"]
    done = exapt("score", path, "--scan", "--backbone", esm2, *named, "--positions", "3")
    assert [(row["id"], row["mutation"]) for row in rows(done.stdout)[::19]] == [("a", "T3A"), ("b", "V3A")]


def test_letters_that_are_no_amino_acids_are_left_out_and_counted(exapt, fasta, esm2):
    done = exapt("score", fasta(p="MKXAYU", q="mk"), "--scan", "--backbone", esm2)
    found = rows(done.stdout)
    assert [(row["id"], row["mutation"]) for row in found[::19]] == [
        ("p", "M1A"),
        ("p", "K2A"),
        ("p", "A4C"),
        ("p", "Y5A"),
        ("q", "M1A"),
        ("q", "K2A"),
    ]
    assert done.stderr == (f"2 positions are left out, of letters that are none of {AMINO_ACIDS}; first X3 of 'p'\n")


def test_a_scorer_that_reads_much_says_so_first(exapt, fasta, esm2):
    words = ["score", fasta(p="MKTAY"), "--scan", "--backbone", esm2, "--scorer", "pseudo-log-likelihood"]
    assert exapt(*words).stderr == (
        "scorer 'pseudo-log-likelihood' reads 4 inputs for one of 95 substitutions; much faster may be masked-marginal, "
        "wild-type-marginal\n"
    )


def test_a_scan_of_an_adapter_is_that_of_what_it_learned(exapt, esm2, tmp_path, data, fasta):
    recipe = {
        "data": {"path": str(data / "germline.fasta")},
        "split": {"fractions": [0.8, 0.2, 0.0]},
        "backbone": esm2,
        "head": {"name": "masked-lm"},
        "strategy": {"name": "lora", "rank": 2},
        "training": {"epochs": 1},
    }
    adapted = library.train(recipe, tmp_path / "adapter")
    done = exapt("score", fasta(p="MKTAY"), "--scan", "--adapter", tmp_path / "adapter", "--scorer", "masked-marginal")
    found = [float(row["score"]) for row in rows(done.stdout)]
    there = library.scan(["MKTAY"], adapted, scorer="masked-marginal")["score"].to_pylist()
    assert found == pytest.approx(there, abs=1e-5)
    assert found != pytest.approx(library.scan(["MKTAY"], esm2)["score"].to_pylist(), abs=1e-5)


def test_a_picture_shows_one_sequence_and_a_folder_several(exapt, fasta, esm2, tmp_path):
    path = fasta(**{"p": WILD, "q/1": "MKV"})
    out = tmp_path / "scan.csv"
    words = ["score", path, "--scan", "--backbone", esm2, "-o", out]
    exapt(*words, "--picture", tmp_path / "pictures")
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["p.png", "q_1.png"]
    exapt(*words, "--overwrite", "--rows", "p", "--picture", tmp_path / "p.svg")
    shown = (tmp_path / "p.svg").read_text()
    assert f"p: every substitution, by {esm2}" in shown
    assert "masked-marginal score" in shown
    assert ">M1<" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--positions", "0"], "positions count from 1: there is no position 0"),
        (["--positions", "9-3"], "positions 9-3 end before they begin"),
        (["--positions", "20-30"], "'p' has 22 positions: there is no position 30"),
        (["--positions", ","], "--positions ',' names nothing; leave it out for all"),
        (["--rows", ""], "--rows '' names nothing; leave it out for all"),
        (["--rows", "r"], "proteins.fasta has no row 'r'."),
        (["--column", "mutation=m"], "'mutation' is nothing that a column of a scan can be: id, sequence"),
        (
            ["--column", "sequence=protein"],
            "proteins.fasta has no column 'protein'. Its columns are: id, description, sequence.",
        ),
        (["--skip-mismatches"], "--skip-mismatches goes with a table of variants, not with --scan"),
        (["--numbering", "index"], "--numbering goes with a table of variants, not with --scan"),
        (["--reference", "r.fasta"], "--reference goes with a table of variants, not with --scan"),
        (
            ["--picture", "scan.txt"],
            "'scan.txt' is no picture that can be drawn: its name must end in .pdf, .png, .svg.",
        ),
    ],
)
def test_mistakes_are_one_line(refused, fasta, esm2, tmp_path, words, said):
    out = tmp_path / "scan.csv"
    assert refused("score", fasta(p=WILD), "--scan", "--backbone", esm2, "-o", out, *words) == said
    assert not out.exists()


def test_options_of_a_scan_need_one(refused, fasta, esm2):
    assert refused("score", fasta(p=WILD), "--backbone", esm2, "--positions", "3") == (
        "--positions, --rows and --picture go with --scan"
    )


def test_nothing_to_scan_is_refused(refused, fasta, esm2):
    assert refused("score", fasta(p="XX"), "--scan", "--backbone", esm2) == (
        f"there is nothing to scan: no letter is one of {AMINO_ACIDS}"
    )
    with pytest.raises(DataError, match=r"^there are no sequences to scan$"):
        library.scan([], esm2)


def test_what_cannot_be_read_is_refused_before_anything_is_told(exapt, refused, fasta, esm2, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,sequence\np,MKTXY\nq,MKT?Y\n")
    words = ["score", path, "--scan", "--backbone", esm2]
    assert refused(*words) == "'q': character '?' at position 4 is no residue"
    done = exapt(*words, "--skip-unscorable", "--rows", "q")
    assert {row["score"] for row in rows(done.stdout)} == {""}


def test_what_cannot_be_read_outside_all_windows_is_no_matter(esm2):
    settings = {"backbone": {"max_tokens": 12}}
    table = library.scan([WILD, WILD[:21] + "?"], esm2, positions=[1], settings=settings).to_pylist()
    assert [row["score"] for row in table[:19]] == [row["score"] for row in table[19:]]


@pytest.mark.parametrize("sequences", [["MKTAY", "MKV"], {"1": "MKTAY", "2": "MKV"}])
def test_sequences_themselves_can_be_scanned_into_a_file(esm2, tmp_path, sequences):
    out = tmp_path / "scan.parquet"
    assert library.scan(sequences, esm2, out=out, positions="2") is None
    assert pq.read_table(out).equals(library.scan(sequences, esm2, positions="2"))
    with pytest.raises(RecipeError) as refusal:
        library.scan(sequences, esm2, out=tmp_path / "other.csv", rows=["1"])
    assert str(refusal.value) == "columns, rows and reader go with the path of a table, not with sequences themselves"
    assert [path.name for path in tmp_path.iterdir()] == ["scan.parquet"]


def test_dna_is_refused_by_a_model_of_proteins(refused, fasta, esm2):
    assert refused("score", fasta(p="ACGT" * 20), "--scan", "--backbone", esm2).startswith(
        "all 1 sequences are made of A, C, G, T alone: they look like DNA or RNA"
    )


def test_nothing_is_half_there(fasta, esm2, tmp_path, monkeypatch):
    def broken(*words, **options):
        raise OSError("the disk is full")

    monkeypatch.setattr("exapt.heat_maps.save_heat_map", broken)
    scoring = Scoring.of(esm2, Choice(), "cpu")
    with pytest.raises(OSError, match="full"):
        scan_file(scoring, fasta(p="MKV"), tmp_path / "scan.csv", picture=tmp_path / "scan.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proteins.fasta"]


def test_units_alone_share_the_probability(esm2):
    over_all = library.scan(["MKTAY"], esm2)["score"].to_pylist()
    over_units = library.scan(["MKTAY"], esm2, settings={"scorer": {"units_only": True}})["score"].to_pylist()
    # Both tokens share the same total, which the difference takes out.
    assert over_units == pytest.approx(over_all, abs=1e-5)


def test_the_reference_agrees(model, esm2):
    given = model.parent
    inputs = json.loads((given / "inputs.json").read_text())
    wild, order = inputs["variant_sequence"], inputs["aa_order"]
    expected = load_file(given / "expected.safetensors")
    for scorer, name in (("masked-marginal", "masked_marginal"), ("wild-type-marginal", "wt_marginal")):
        table = library.scan([wild], esm2, scorer=scorer)
        places = zip(table["position"].to_pylist(), table["mutant"].to_pylist(), strict=True)
        theirs = [float(expected[f"variants.{name}"][position - 1, order.index(letter)]) for position, letter in places]
        assert len(theirs) == 19 * len(wild)
        np.testing.assert_allclose(table["score"].to_numpy(), theirs, atol=1e-4, rtol=0)
