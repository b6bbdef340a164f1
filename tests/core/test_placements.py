"""Variants of structures: what a table says changes where, what is refused, and what a model of any kind tells of it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import exapt
from exapt import BackboneSpec, DataError, Options, ReaderSpec, RecipeError, ScorerSpec, TokenizerSpec, hookimpl
from exapt.parts import NO_UNIT, Backbone, Encoding, LanguageModel, Question, Scorer, Tokenizer, unit_spans
from exapt.structures import ABSENT, Structure, structure_column
from exapt.testing import inline

LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
# Chain A has the residues 3, 4, 5, 5A and 8, without those between; chain B is numbered from -1.
TWO = {"A": {"MKA-L": "3 4 5 6 7"}, "B": {"GSTV": "-1 0 1 2"}}
ONE = {"A": {"MKACL": "3 4 5 5A 8"}}


def structure(chains):
    letters = {chain: next(iter(one)) for chain, one in chains.items()}
    atoms = np.zeros((sum(map(len, letters.values())), 4, 3))
    made = Structure.of({"chains": letters, "atoms": atoms.tolist()})
    atoms[[letter in (ABSENT, "U") for letter in made.letters]] = np.nan
    numbers = tuple(word for one in chains.values() for word in next(iter(one.values())).split())
    return replace(made.with_atoms(atoms + np.arange(len(made))[:, None, None]), numbers=numbers)


class Residues(Tokenizer):
    vocabulary = {letter: place for place, letter in enumerate(LETTERS)}  # noqa: RUF012
    special = frozenset({20})

    def encode(self, value):
        made = Structure.of(value)
        spans = unit_spans(len(made))
        spans[~np.isfinite(made.atoms).all((1, 2))] = NO_UNIT
        ids = np.array([self.vocabulary.get(letter, 20) for letter in made.letters])
        # What stands nearer than the letters is all that tells one of these structures.
        arrays = {
            "input_ids": ids,
            "rank": np.zeros_like(ids),
            "place": np.nan_to_num(made.atoms[:, 0, 0]).round().astype(int),
        }
        return Encoding(arrays, {"input_ids": 20, "rank": 0, "place": 0}, spans, len(made))


class Ordered(Backbone):
    """A residue's state is of its place, and of the letters of lower rank."""

    width = 6

    def __init__(self, max_tokens=None):
        super().__init__()
        self.max_tokens = max_tokens
        generator = torch.Generator().manual_seed(0)
        self.places, self.letters = nn.Embedding(32, self.width), nn.Embedding(21, self.width)
        self.head = nn.Linear(self.width, 21)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    @property
    def language(self):
        return LanguageModel(self.head, "ordered")

    def forward(self, batch):
        seen = (batch["rank"][:, None] < batch["rank"][:, :, None]) & batch.present[:, None]
        states = self.places(batch["place"]) + seen.float() @ self.letters(batch["input_ids"])
        return batch.features(torch.tanh(states))


class Changed(Scorer):
    """The residues that change, all others seen."""

    def ask(self, tokenizer, wild, mutant):
        one, other = tokenizer.encode(wild), tokenizer.encode(mutant)
        before, after = one.arrays["input_ids"], other.arrays["input_ids"]
        for place in np.flatnonzero(before != after):
            rank = np.zeros_like(before)
            rank[place] = 1
            yield Question(
                replace(one, arrays={**one.arrays, "rank": rank}),
                np.array([place, place]),
                np.array([before[place], after[place]]),
                np.array([-1.0, 1.0]),
            )


class Whole(Changed):
    """The whole sequence, from first to last."""

    def ask(self, tokenizer, wild, mutant):
        for value, weight in ((wild, -1), (mutant, 1)):
            for question in self.likelihood(tokenizer, value):
                yield replace(question, weights=weight * question.weights)

    def likelihood(self, tokenizer, value):
        one = tokenizer.encode(value)
        ids, places = one.arrays["input_ids"], np.flatnonzero(one.spans[:, 0] != NO_UNIT)
        ordered = replace(one, arrays={**one.arrays, "rank": np.arange(len(ids))})
        yield Question(ordered, places, ids[places], np.ones(len(places)))


class Toys:
    exapt_api = 1

    def __init__(self, **model):
        self.model = Ordered(**model)

    @hookimpl
    def exapt_readers(self):
        yield ReaderSpec(name="toys", summary="Toys.", suffixes=(".toy",), build=lambda _options, path: _batches(path))

    @hookimpl
    def exapt_tokenizers(self):
        yield TokenizerSpec(name="residues", summary="Residues.", build=lambda _options: Residues())

    @hookimpl
    def exapt_backbones(self):
        yield BackboneSpec(
            name="toy",
            summary="Ordered.",
            options=Options,
            build=lambda _options, _weights: self.model,
            tokenizer="residues",
            modality="protein",
            accepts="structure",
            probes=({"chains": {"A": "MK"}, "atoms": np.zeros((2, 4, 3)).tolist()},),
            scorers=("changed", "whole"),
        )

    @hookimpl
    def exapt_scorers(self):
        for name, kind in (("changed", Changed), ("whole", Whole)):
            yield ScorerSpec(name=name, summary="Toy.", build=lambda _options, kind=kind: kind(), objective="ordered")


def _batches(path):
    found = {name: structure(chains) for name, chains in json.loads(path.read_text()).items()}
    column = structure_column(list(found.values()))
    yield pa.record_batch({"id": pa.array(list(found)), "structure": column})


@pytest.fixture
def place(tmp_path):
    """Write structures, and a table of variants of them; ``place(rows, structures)`` returns the paths of both."""

    def _place(rows, structures=None):
        known, table = tmp_path / "known.toy", tmp_path / "rows.csv"
        known.write_text(json.dumps({"one": ONE} if structures is None else structures))
        table.write_text("\n".join([*rows, ""]))
        return table, known

    return _place


@pytest.fixture
def score(place):
    def _score(rows, structures=None, model=None, **options):
        table, known = place(rows, structures)
        with inline(Toys(**(model or {}))):
            return exapt.score(table, "toy", structure=known, **options)

    return _score


@pytest.fixture
def refusal(score):
    def _refusal(rows, structures=None, kind=DataError, **options):
        with pytest.raises(kind) as caught:
            score(rows, structures, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return _refusal


def plain(chains, unit, letter):
    """Return the score of one substitution, by hand."""
    made, model = structure(chains), Ordered()
    arrays = Residues().encode(made).arrays
    with torch.no_grad():
        others = [number for number in range(len(made)) if number != unit]
        seen = model.letters(torch.tensor(arrays["input_ids"][others])).sum(0)
        logs = model.head(torch.tanh(model.places(torch.tensor(arrays["place"][unit])) + seen)).log_softmax(-1)
    return float(logs[LETTERS.index(letter)] - logs[arrays["input_ids"][unit]])


def test_a_substitution_is_scored_as_by_hand(score):
    found = score(["mutation", "K4W", "C5AG", "WT", "K4K"])
    assert found == pytest.approx([plain(ONE, 1, "W"), plain(ONE, 3, "G"), 0, 0], abs=1e-5)
    assert abs(found[0]) > 1e-2


@pytest.mark.parametrize(
    "rows",
    [
        ["mutation", "K4W:A5G"],
        ["mutation", "A5G : k4w"],
        ["position,ref,alt", "4,KA,WG"],
        ["mutant", "MWGCL"],
        ["mutant", "mwgcl"],
        ["pos,was,mutation,is", "4,KA,ignored,WG"],
    ],
    ids=["mutations", "in another order", "alleles", "the whole sequence", "in lower case", "named columns"],
)
def test_the_same_change_is_the_same_score(rows, score):
    named = {"position": "pos", "ref": "was", "alt": "is"} if "pos" in rows[0].split(",") else {}
    (found,) = score(rows, columns=named)
    assert found == pytest.approx(plain(ONE, 1, "W") + plain(ONE, 2, "G"), abs=1e-5)


def test_a_fasta_file_holds_sequences_that_are_put_on_the_structure(place):
    _, known = place([])
    fasta = known.with_name("designs.fasta")
    fasta.write_text(">own\nMKACL\n>other\nMWACL\n")
    with inline(Toys()):
        own, other = exapt.score(fasta, "toy", structure=known)
    assert (own, other) == (0, pytest.approx(plain(ONE, 1, "W"), abs=1e-5))


def test_positions_count_along_the_chain_where_they_are_an_index(score):
    assert score(["mutation", "K2W"], numbering="index") == pytest.approx([plain(ONE, 1, "W")], abs=1e-5)


@pytest.mark.parametrize(
    "rows",
    [
        ["mutation", "S0W/B"],
        ["chain,mutation", "B,S0W"],
        ["chain,position,ref,alt", "B,0,S,W"],
        ["chain,mutant", "B,GWTV"],
        ["mutant", "MKA-L/GWTV"],
        ["mutant", "MKAFL/GWTV"],
        ["mutant", "MKAL/GWTV"],
        ["structure,chain,mutation", "two,B,S0W"],
    ],
)
def test_chains_and_structures_are_named(rows, score):
    structures = {"one": ONE, "two": TWO} if rows[0].startswith("structure") else {"two": TWO}
    assert score(rows, structures) == pytest.approx([plain(TWO, 6, "W")], abs=1e-5)


def test_several_chains_may_change_together(score):
    (found,) = score(["mutation", "K4W/A:T1W/B"], {"two": TWO})
    assert found == pytest.approx(plain(TWO, 1, "W") + plain(TWO, 7, "W"), abs=1e-5)


ROW = {
    "K4": "rows.csv row 1 (K4): 'K4' is no substitution such as A23G, or A23G/B in chain B; several are joined with colons, "
    "A23G:K41R",
    "A4G": "rows.csv row 1 (A4G): chain A has 'K' at residue 4 where the table says 'A'",
    "K2G": "rows.csv row 1 (K2G): chain A has no residue 2; its residues are 3 to 8; counted from 1 along the chain it would "
    "match: --numbering index",
    "A3G": "rows.csv row 1 (A3G): chain A has 'M' at residue 3 where the table says 'A'; counted from 1 along the chain it "
    "would match: --numbering index",
    "A0G": "rows.csv row 1 (A0G): chain A has no residue 0; its residues are 3 to 8",
    "A99G": "rows.csv row 1 (A99G): chain A has no residue 99; its residues are 3 to 8",
    "K4G/Q": "rows.csv row 1 (K4G/Q): the structure has no chain 'Q'; its chains are A",
    "K4G:K4W": "rows.csv row 1 (K4G:K4W): residue A:4 changes twice",
    "K4X": "rows.csv row 1 (K4X): the model does not know the letters that change, or what they change into; leave such rows "
    "without a score with --skip-incomparable",
}


@pytest.mark.parametrize("mutation", ROW)
def test_mutations_that_cannot_be_are_one_line(mutation, refusal):
    assert refusal(["mutation", mutation]) == ROW[mutation]


BY_INDEX = {
    "A0G": "rows.csv row 1 (A0G): there is no position 0: positions count from 1",
    "A6G": "rows.csv row 1 (A6G): position 6 lies beyond the end: chain A has 5 positions",
    "K4G": "rows.csv row 1 (K4G): chain A has 'C' at position 4 where the table says 'K'; by the residue numbers of the file "
    "it would match: --numbering file",
    "C5AG": "rows.csv row 1 (C5AG): position 5A is a residue number of the file: it is read with --numbering file",
}


@pytest.mark.parametrize("mutation", BY_INDEX)
def test_mutations_by_index_that_cannot_be_are_one_line(mutation, refusal):
    assert refusal(["mutation", mutation], numbering="index") == BY_INDEX[mutation]


OF_TWO = {
    "mutation\nK4W": "rows.csv row 1 (K4W): the structure has the chains A, B: name one in a column 'chain', or as in A23G/A",
    "mutation\nV6A/A": "rows.csv row 1 (V6A/A): residue 6 of chain A is missing from the structure, which has none between 5 "
    "and 7",
    "chain,mutation\nA,K4W/B": "rows.csv row 1 (K4W/B): 'K4W/B' is in chain 'B', and the column 'chain' says 'A'",
    "mutant\nMKAL": "rows.csv row 1: the structure has the chains A, B: write their sequences in this order, with '/' between "
    "them, or name one in a column 'chain'",
    "mutant\nMKAL/GSTV/A": "rows.csv row 1: the sequence is of 3 chains, and the structure has 2: A, B",
    "chain,mutant\nA,MKAL/GSTV": "rows.csv row 1: the sequence is of 2 chains, and the column 'chain' names one, 'A'",
    "chain,mutant\nA,MKALLL": "rows.csv row 1: chain A has 5 positions (1 of them without a residue), and the sequence 6 "
    "letters: insertions and deletions have no place on a structure",
    "chain,mutant\nB,GS-V": "rows.csv row 1: chain B has 4 positions, and the sequence 3 letters: insertions and deletions "
    "have no place on a structure",
    "chain,mutant\nB,GS1V": "rows.csv row 1: the sequence has '1' at position 3, which is no letter",
    "chain,position,ref,alt\nB,0,ST,S": "rows.csv row 1: 'ST' does not become 'S' on a structure: it keeps its length",
    "chain,position,ref,alt\nB,0,S,?": "rows.csv row 1: alt '?' is not made of letters",
    "chain,position,ref,alt\nB,x,S,A": "rows.csv row 1: position 'x' is no residue number such as 52 or 52A",
    "structure,mutation\ntow,K4W/A": "rows.csv row 1 (K4W/A): known.toy has no structure 'tow'. Did you mean 'two'? It has: "
    "two.",
    # Counted from 1 the last residue of chain A, behind which chain B goes on with G.
    "chain,position,ref,alt\nA,5,LG,AA": "rows.csv row 1: chain A has 'A-' at residue 5 where the table says 'LG'",
    "name,number\nA,4": "rows.csv does not tell what changes: it needs a column 'mutation', the columns 'position', 'ref' and "
    "'alt', or a whole sequence in a column 'mutant' or 'sequence'. Its columns are: name, number.",
}


@pytest.mark.parametrize("rows", OF_TWO)
def test_rows_that_cannot_be_placed_are_one_line(rows, refusal):
    assert refusal(rows.split("\n"), {"two": TWO}) == OF_TWO[rows]


def test_a_structure_is_named_where_there_are_several(refusal):
    assert refusal(["mutation", "K4W/A"], {"one": ONE, "two": TWO}) == (
        "rows.csv row 1 (K4W/A): known.toy has 2 structures, one, two, and no column 'structure' says which"
    )


def test_a_residue_without_its_atoms_and_a_structure_that_is_too_long_are_one_line(refusal):
    assert refusal(["mutation", "U4W"], {"one": {"A": {"MUA": "3 4 5"}}}) == (
        "rows.csv row 1 (U4W): residue A:4 lacks atoms that 'toy' reads, and nothing is told of it; leave such rows without "
        "a score with --skip-incomparable"
    )
    assert refusal(["mutation", "K4W"], model={"max_tokens": 4}) == (
        "rows.csv row 1 (K4W): the structure makes 5 tokens; 'toy' takes at most 4"
    )


def test_rows_may_go_without_a_score_and_are_counted(place):
    rows = ["mutation", "K4W", "A4G", "A99G", "K4W/Q", "M3*", "WT", "K4X"]
    table, known = place(rows)
    told = []
    with inline(Toys()):
        flags = {"skip_mismatches": True, "skip_incomparable": True}
        found = exapt.score(table, "toy", structure=known, tell=told.append, **flags)
        assert [value is None for value in found] == [False, True, True, True, True, False, True]
        with pytest.raises(DataError, match=r"row 7 \(K4X\): the model does not know the letters"):
            exapt.score(table, "toy", structure=known, skip_mismatches=True)
    assert told == [
        "1 row without a score, for chains that are not there; first rows.csv row 4 (K4W/Q)",
        "1 row without a score, for letters that are others in the structure; first rows.csv row 2 (A4G)",
        "1 row without a score, for letters that change and that the model does not know; first rows.csv row 7 (K4X)",
        "1 row without a score, for residues that the structure does not have; first rows.csv row 3 (A99G)",
        "1 row without a score, for the allele '*', which spells no sequence; first rows.csv row 5 (M3*)",
        "1 row is the wild type itself and scores 0; first rows.csv row 6 (WT)",
    ]


def by_hand(chains):
    """Return mean log-likelihood and recovery of a structure's own letters, residue by residue."""
    made, model = structure(chains), Ordered()
    arrays, logs, hits = Residues().encode(made).arrays, [], []
    ids = torch.tensor(arrays["input_ids"])
    with torch.no_grad():
        for unit, letter in enumerate(made.letters):
            state = model.places(torch.tensor(arrays["place"][unit])) + model.letters(ids[:unit]).sum(0)
            told = model.head(torch.tanh(state)).log_softmax(-1)
            if letter != ABSENT:
                logs.append(float(told[ids[unit]]))
                hits.append(int(told.argmax() == ids[unit]))
    return np.mean(logs), np.mean(hits), len(logs)


def test_structures_alone_are_scored_with_their_own_sequences(place):
    _, known = place([], {"one": ONE, "two": TWO})
    with inline(Toys()):
        found = exapt.score(known, "toy")
        exapt.score(known, "toy", out=known.with_name("own.csv"))
    expected = [by_hand(chains) for chains in (ONE, TWO)]
    assert found == pytest.approx([log for log, *_ in expected], abs=1e-5)
    rows = list(csv.DictReader(known.with_name("own.csv").read_text().splitlines()))
    assert [list(row) for row in rows] == [["id", "residues", "log_likelihood", "perplexity", "recovery"]] * 2
    for row, (log, recovered, residues) in zip(rows, expected, strict=True):
        assert int(row["residues"]) == residues
        assert float(row["log_likelihood"]) == pytest.approx(log, abs=1e-5)
        assert float(row["perplexity"]) == pytest.approx(np.exp(-log), abs=1e-4)
        assert float(row["recovery"]) == pytest.approx(recovered)


def test_what_does_not_go_together_is_one_line(place):
    table, known = place(["mutation", "K4W"])

    def said(*arguments, **options):
        with pytest.raises((DataError, RecipeError)) as caught:
            exapt.score(*arguments, **options)
        return str(caught.value)

    with inline(Toys()):
        assert said(table, "toy") == (
            "rows.csv holds no structures, which 'toy' reads: name the file or folder of those that its variants are of with "
            "--structure"
        )
        assert said(known, "toy", structure=known) == (
            "known.toy holds structures, not variants: leave out --structure to score their own sequences"
        )
        assert said(table, "toy", structure=table) == "rows.csv holds no structures. Its columns are: mutation."
        assert said(table, "toy", structure=known, context=5) == (
            "'toy' reads structures, whole and as they are: --context goes with sequences"
        )
        assert said(table, "toy", structure=known, reference=table) == (
            "'toy' reads structures: name them with --structure, not with --reference"
        )
        assert said(known, "toy", skip_mismatches=True) == (
            "known.toy holds structures, not variants: --skip-mismatches goes with a table of variants"
        )
        assert said(known, "toy", scorer="changed") == (
            "scorer 'changed' tells the effect of variants, and of a structure's own sequence nothing; use whole"
        )
        assert said(table, "toy", structure=known, columns={"chrom": "x"}) == (
            "'chrom' is nothing that a column of variants can be: id, structure, chain, sequence, mutant, mutation, position, "
            "ref, alt"
        )
        assert said([(structure(ONE), "MKACL")], "toy") == (
            "pairs row 1: is 'MKACL', not a protein structure such as a PDB file holds"
        )
        assert said([(structure(ONE), structure(TWO))], "toy") == (
            "pairs row 1: wild type and mutant are not one structure with two sequences"
        )


def test_structures_that_are_told_wrongly_are_one_line(place):
    table, known = place(["mutation", "K4W"], {})
    with inline(Toys()), pytest.raises(DataError, match=r"^known\.toy has no rows\.$"):
        exapt.score(table, "toy", structure=known)

    class Twice(Toys):
        @hookimpl
        def exapt_readers(self):
            yield ReaderSpec(name="toys", summary="Toys.", suffixes=(".toy",), build=lambda _options, path: twice(path))

    def twice(path):
        for batch in _batches(path):
            yield pa.Table.from_batches([batch, batch]).combine_chunks().to_batches()[0]

    place(["mutation", "K4W"])
    with inline(Twice()), pytest.raises(DataError, match=r"^known\.toy has two structures 'one'\.$"):
        exapt.score(table, "toy", structure=known)


def test_pairs_of_structures_need_no_table():
    one = structure(ONE)
    with inline(Toys()):
        found = exapt.score([(one, one.with_letters("MWACL")), (one, one)], "toy")
    assert found == pytest.approx([plain(ONE, 1, "W"), 0], abs=1e-5)


def test_sequence_models_say_so_and_flags_that_need_each_other_too(refused, place, esm2):
    table, known = place(["sequence,mutation", "MKACL,K2W"])
    assert refused("score", table, "--structure", known, "--backbone", esm2).startswith(
        f"'{esm2}' reads sequences, not structures: leave out --structure, or take a model of structures: "
    )
    assert refused("score", table, "--numbering", "index", "--backbone", esm2) == "--numbering goes with --structure"
    assert refused("score", table, "--structure", known, "--scan", "--backbone", esm2) == (
        "--structure goes with a table of variants, not with --scan"
    )


def test_residues_that_are_named_for_a_scan_and_lack_atoms_are_counted():
    made, told = structure(ONE), []
    atoms = made.atoms.copy()
    atoms[1] = np.nan
    lacking = {"one": made.with_atoms(atoms)}
    with inline(Toys()):
        table = exapt.scan(lacking, "toy", positions="3-5", tell=told.append)
        assert told == ["1 position is left out, for lack of atoms; first K4 of 'one'"]
        assert table["position"].to_pylist()[::19] == ["A:3", "A:5"]
        exapt.scan(lacking, "toy", tell=told.append)
        assert len(told) == 1
        with pytest.raises(DataError) as refusal:
            exapt.scan(lacking, "toy", positions="4")
    assert str(refusal.value) == (
        "there is nothing to scan: no residue that is named has both the atoms that 'toy' reads and a letter of "
        "ACDEFGHIKLMNPQRSTVWY"
    )


def test_sequences_that_are_hardly_the_structures_own_are_counted(place):
    table, known = place(["mutant", "MKACL", "MKACW", "MWWWW", "WWWWW", "GGGGG"])
    told = []
    with inline(Toys()):
        exapt.score(table, "toy", structure=known, tell=told.append)
    assert told == [
        "1 row is the wild type itself and scores 0; first rows.csv row 1",
        "2 rows have sequences that are hardly the structure's own; first rows.csv row 4: 5 of 5 residues differ",
    ]
