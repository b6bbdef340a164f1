"""Families of related sequences: what is planted is found, on both strands, and nothing else is."""

import random
import shutil

import numpy as np
import pytest

from exapt import DataError, RecipeError
from exapt.data.alphabets import reverse_complement
from exapt.data.homology import Homology, Rule
from exapt.data.relatives import Relatives
from exapt.data.seeds import Seeds
from exapt.data.splits import split
from exapt.plugins import current
from exapt.recipe import SplitOptions, read_recipe
from exapt.resolve import resolve

BASES, RESIDUES = "ACGT", "ACDEFGHIKLMNPQRSTVWY"
ENGINES = [
    "pyopal",
    pytest.param(
        "mmseqs", marks=pytest.mark.skipif(not shutil.which("mmseqs"), reason="the program mmseqs is not installed")
    ),
]


def changed(dice, sequence, share, letters):
    """Return a sequence with exactly that share of its letters replaced by others."""
    places = dice.sample(range(len(sequence)), round(share * len(sequence)))
    text = list(sequence)
    for place in places:
        text[place] = dice.choice(letters.replace(text[place], ""))
    return "".join(text)


def planted(letters, length, families, members, share, seed=0):
    """Return sequences and the family of each; members differ from their founder in that share of letters."""
    dice = random.Random(seed)
    founders = ["".join(dice.choices(letters, k=length)) for _ in range(families)]
    rows = [(changed(dice, founder, share, letters), f) for f, founder in enumerate(founders) for _ in range(members)]
    dice.shuffle(rows)
    return [sequence for sequence, _ in rows], np.array([family for _, family in rows])


def grouping(labels):
    """Return a grouping as the set of its groups, whatever their names."""
    return {tuple(np.flatnonzero(labels == label)) for label in set(labels.tolist())}


def families(sequences, kind, identity=0.4, **options):
    return Homology(sequences, Rule(kind, identity, engine=options.pop("engine", "pyopal"), **options)).families


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "letters", "length", "share"),
    [
        ("protein", RESIDUES, 150, 0.3),
        ("dna", BASES, 250, 0.15),
        ("dna", BASES, 60, 0.05),
        ("protein", RESIDUES, 24, 0.1),
    ],
)
def test_planted_families_are_found_and_nothing_else_is(engine, kind, letters, length, share):
    sequences, truth = planted(letters, length, 25, 4, share)
    assert grouping(families(sequences, kind, engine=engine)) == grouping(truth)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_other_strand_is_the_same_dna(engine):
    sequences, truth = planted(BASES, 120, 20, 4, 0.1)
    turned = [reverse_complement(text) if row % 2 else text for row, text in enumerate(sequences)]
    assert grouping(families(turned, "dna", engine=engine)) == grouping(truth)
    assert len(grouping(families(["ACGTTGCA", "TGCAACGT", "ACGTTGCC"], "dna", engine=engine))) == 2


def test_letters_are_compared_whatever_their_case_and_u_is_t():
    assert len(grouping(families(["ACGUUGCAGGA", "acgttgcagga"], "dna"))) == 1


def test_the_threshold_is_of_identity():
    sequences, truth = planted(RESIDUES, 200, 10, 2, 0.25)
    pairs = [np.flatnonzero(truth == family) for family in range(10)]
    alike = [sum(a == b for a, b in zip(*(sequences[row] for row in pair), strict=True)) / 200 for pair in pairs]
    assert max(alike) < 0.7
    assert grouping(families(sequences, "protein", 0.4)) == grouping(truth)
    assert len(grouping(families(sequences, "protein", 0.8))) == 20


def test_an_alignment_that_covers_too_little_does_not_count():
    dice = random.Random(3)
    shared, *rest = ("".join(dice.choices(RESIDUES, k=60)) for _ in range(3))
    ends = [shared + rest[0] * 3, rest[1] * 3 + shared]
    assert len(grouping(families(ends, "protein", coverage=0.5))) == 2
    assert len(grouping(families(ends, "protein", coverage=0.2))) == 1


def test_short_peptides_are_related_by_their_letters():
    dice = random.Random(5)
    others = ["".join(dice.choices(RESIDUES, k=12)) for _ in range(300)]
    near = changed(dice, others[0], 1 / 12, RESIDUES)
    found = families([*others, near], "protein")
    assert found[0] == found[300]
    assert len(set(found.tolist())) == 300


def test_repeats_of_a_few_letters_do_not_merge_everything():
    dice = random.Random(7)
    sequences = ["".join(dice.choices(BASES, k=110)) + "CA" * 20 for _ in range(60)]
    assert len(grouping(families(sequences, "dna"))) == 60


def unlike_pairs(seed=0):
    """Return two pairs of relatives of 60 to 110 bases, the members of each 25 % apart, and strangers."""
    dice = random.Random(seed)
    strangers = ["".join(dice.choices(BASES, k=dice.randint(60, 110))) for _ in range(34)]
    return [*strangers[:2], *(changed(dice, text, 0.25, BASES) for text in strangers[:2]), *strangers[2:]]


@pytest.mark.parametrize("engine", ENGINES)
def test_short_relatives_that_have_few_long_words_in_common_are_found(engine):
    for seed in range(6):
        found = families(unlike_pairs(seed), "dna", 0.7, engine=engine)
        assert grouping(found) == {(0, 2), (1, 3), *((row,) for row in range(4, 36))}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "letters", "word"), [("dna", BASES, "AC"), ("protein", RESIDUES, "QA")])
def test_what_consists_of_repeats_is_related_to_what_holds_it(engine, kind, letters, word):
    dice = random.Random(7)
    repeats = [word * count for count in range(20, 25)]
    strangers = ["".join(dice.choices(letters, k=80)) for _ in range(20)]
    homology = Homology([*repeats, *strangers], Rule(kind, 0.7, engine=engine))
    assert grouping(homology.families) == {tuple(range(5)), *((row,) for row in range(5, 25))}
    rows, identity = homology.nearest(np.array([0, 4, 5]), np.array([1, 2, 3]))
    assert (rows.tolist(), identity.tolist()) == ([1, 1, -1], [1.0, 1.0, 0.0])


@pytest.mark.parametrize("engine", ENGINES)
def test_what_stands_within_another_is_its_relative_on_either_strand_unless_chance_would_do_it(engine):
    dice = random.Random(13)
    strangers = ["".join(dice.choices(BASES, k=90)) for _ in range(20)]
    within, short = reverse_complement(strangers[3][40:70]), strangers[5][10:14]
    found = families([within, short, *strangers], "dna", 0.9, engine=engine)
    assert grouping(found) == {(0, 5), *((row,) for row in range(22) if row not in (0, 5))}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "letters", "unknown"), [("dna", BASES, "N" * 8), ("protein", RESIDUES, "X" * 5)])
def test_what_is_all_unknown_is_related_to_nothing(engine, kind, letters, unknown):
    dice = random.Random(17)
    sequences = [unknown, unknown * 9, *("".join(dice.choices(letters, k=60)) for _ in range(12))]
    assert len(grouping(families(sequences, kind, 0.7, engine=engine))) == 14


def test_ambiguous_letters_are_compared_as_unknown_and_counted():
    sequences, _ = planted(BASES, 60, 3, 1, 0)
    rule = Rule("dna", 0.7, engine="pyopal")
    assert Relatives({"s": sequences}, ["1", "2", "3"], rule).ambiguous() == []
    some = Relatives({"s": ["R" + sequences[0], "n" + sequences[1], sequences[2]]}, ["1", "2", "3"], rule)
    assert some.ambiguous() == ["2 ambiguous letters were compared as unknown (N)"]
    one = Relatives({"s": ["KX" + "MKTAYIAKQRQ"]}, ["1"], Rule("protein", 0.7, engine="pyopal"))
    assert one.ambiguous() == ["1 ambiguous letter was compared as unknown (X)"]


@pytest.mark.parametrize(
    ("kind", "sequence", "said"),
    [
        ("dna", "ACG-TTGCA", "'-' at position 4, which is no letter of DNA"),
        ("dna", "ACG*", "'*' at position 4, which is no letter of DNA"),
        ("protein", "MKTé", "'é' at position 4, which is no letter of proteins"),
        ("protein", "MKT AYI", "' ' at position 4, which is no letter of proteins"),
    ],
)
def test_what_is_no_letter_is_refused(kind, sequence, said):
    with pytest.raises(DataError) as caught:
        Relatives({"s": ["ACGT", sequence]}, ["a", "b"], Rule(kind, 0.7, engine="pyopal"))
    assert str(caught.value) == f"the input 's' of id 'b' has {said}: take it out."


def test_shared_seeds_find_the_families_that_all_pairs_find(monkeypatch):
    sequences, truth = planted(BASES, 150, 40, 4, 0.15)
    monkeypatch.setattr("exapt.data.opal._ALL_PAIRS", 0)
    assert grouping(families(sequences, "dna")) == grouping(truth)
    proteins, kin = planted(RESIDUES, 150, 40, 4, 0.3)
    assert grouping(families(proteins, "protein")) == grouping(kin)


def test_seeds_leave_out_what_has_nothing_in_common():
    sequences, truth = planted(RESIDUES, 150, 40, 3, 0.2)
    found = [Seeds(sequences, "protein", 100).near(text) for text in sequences]
    assert all(row in near for row, near in enumerate(found))
    assert np.mean([len(near) for near in found]) < 10
    assert all(set(np.flatnonzero(truth == truth[row])) <= set(near.tolist()) for row, near in enumerate(found))


def test_the_answer_does_not_depend_on_the_threads(monkeypatch):
    sequences, _ = planted(RESIDUES, 60, 30, 5, 0.5)
    answers = []
    for threads in ("1", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        answers.append(families(sequences, "protein").tolist())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_nearest_is_the_nearest_and_what_has_no_relative_has_none(engine):
    dice = random.Random(11)
    founder, stranger = ("".join(dice.choices(RESIDUES, k=200)) for _ in range(2))
    train = [changed(dice, founder, share, RESIDUES) for share in (0.4, 0.1, 0.25)]
    homology = Homology([founder, stranger, train[2], *train], Rule("protein", engine=engine))
    row, identity = homology.nearest(np.array([0, 1, 2]), np.array([3, 4, 5]))
    assert row.tolist() == [4, -1, 5]
    assert identity.tolist() == pytest.approx([0.9, 0.0, 1.0], abs=0.01)


def test_rows_belong_together_by_any_of_their_inputs():
    sequences, _ = planted(RESIDUES, 100, 6, 1, 0)
    a, b, c, d, e, f = sequences
    inputs = {"heavy": [a, c, e, f], "light": [b, a, d, f]}
    relatives = Relatives(inputs, ["1", "2", "3", "4"], Rule("protein", 0.5, engine="pyopal"))
    assert grouping(relatives.families()) == {(0, 1), (2,), (3,)}
    nearest, identity = relatives.nearest(np.array([0]), np.array([1, 2, 3]))
    assert (nearest.tolist(), identity.tolist()) == ([1], [1.0])


def test_no_family_is_torn_and_the_seed_decides(made):
    sequences, truth = planted(RESIDUES, 80, 40, 4, 0.2)
    found = families(sequences, "protein")
    parts = [split(SplitOptions(homology=0.4, seed=seed), made(sequences), None, 0, found) for seed in (0, 0, 1)]
    assert parts[0].test.tolist() == parts[1].test.tolist() != parts[2].test.tolist()
    assert [len(rows) for rows in (parts[0].train, parts[0].valid, parts[0].test)] == [128, 16, 16]
    assert not set(truth[parts[0].train]) & set(truth[parts[0].test])


def test_families_and_groups_are_kept_together(made):
    sequences, truth = planted(RESIDUES, 80, 20, 2, 0.1)
    examples = made(sequences, lab=[str(row % 8) for row in range(40)])
    with pytest.raises(DataError) as caught:
        split(SplitOptions(homology=0.4, group="lab"), examples, None, 0, np.zeros(40, np.int64))
    assert str(caught.value) == (
        "the sequences are of 1 family at identity 0.4, too few for 3 parts: raise homology or coverage, or ask for fewer "
        "parts by fractions."
    )
    both = split(SplitOptions(homology=0.4, group="lab"), made(sequences, lab=truth.tolist()), None, 0, truth)
    assert len(both.test) == 4


@pytest.mark.parametrize(
    ("sequences", "kind", "message"),
    [
        (["MKTAYIAKQR"], "dna", "these are no DNA sequences: most of their letters are not A, C, G, T or N."),
        (["ACGTTGCA"], "protein", "these are no protein sequences: all of their letters are A, C, G, T, U or N."),
    ],
)
def test_sequences_of_another_kind_are_refused(sequences, kind, message):
    with pytest.raises(DataError) as caught:
        families(sequences, kind)
    assert str(caught.value) == message


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError) as caught:
        families(["ACGTTGCA"], "dna", engine="mmseqs")
    assert str(caught.value) == "split.engine is 'mmseqs', but there is no program 'mmseqs' on PATH: install MMseqs2."
    monkeypatch.setattr("exapt.data.opal.installed", lambda: False)
    with pytest.raises(DataError) as caught:
        families(["ACGTTGCA"], "dna")
    assert str(caught.value) == (
        "sequences are compared by pyopal or by MMseqs2, and neither is installed: pip install 'exapt[homology]'."
    )


def recipe(esm2, **options):
    head = {"name": "sequence-classification", "label": "y"}
    return {"data": {"path": "t.csv"}, "backbone": esm2, "head": head, "strategy": "probe", "split": options}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"homology": 0.4, "column": "part"},
            "homology deals the rows to parts itself: leave out column, or write group for it",
        ),
        ({"column": "c", "test": ["1", ""]}, "'split.test' is ['1', '']: an empty text is no value of a column"),
        (
            {"fractions": [0.5, 0.5]},
            "'split.fractions' is [0.5, 0.5]: three shares are needed: of train, of valid and of test",
        ),
        ({"evalue": 0}, "'split.evalue' is 0: input should be greater than 0"),
        ({"test": ["chr1"]}, "valid and test are values of a column: name it as column"),
        ({"column": "c", "valid": ["1", "2"], "test": [2]}, "both valid and test name '2'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(esm2, options, message):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(esm2, **options))
    assert str(caught.value).endswith(message)


def test_the_resolved_recipe_says_what_compares_and_that_leakage_is_reported(esm2):
    resolved = resolve(read_recipe(recipe(esm2, homology=0.4)), current()).as_recipe()["split"]
    assert resolved["leakage"] is True
    assert resolved["engine"] == ("mmseqs" if shutil.which("mmseqs") else "pyopal")
    plain = resolve(read_recipe(recipe(esm2)), current()).as_recipe()["split"]
    assert (plain["leakage"], plain["engine"]) == (False, "auto")
    off = resolve(read_recipe(recipe(esm2, homology=0.4, leakage=False)), current()).as_recipe()["split"]
    assert off["leakage"] is False


def test_values_of_a_column_are_parts(made):
    chromosomes = ["chr1", "chr9", "chr8", "chr2", "chr10"]
    parts = split(
        SplitOptions(column="chrom", valid=["chr8"], test=["chr9", "chr10"]),
        made(list("ABCDE"), chrom=chromosomes),
        None,
        0,
    )
    assert [rows.tolist() for rows in (parts.train, parts.valid, parts.test)] == [[0, 3], [2], [1, 4]]
    numbers = split(SplitOptions(column="chrom", test=[2]), made(list("ABC"), chrom=[1, 2, 3]), None, 0)
    assert numbers.test.tolist() == [1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["chr1", "chr2"], "the split column 'chrom' has no 'chr9'. Its values are: chr1, chr2."),
        (["chr9", ""], "the split column 'chrom' holds nothing at id '2'."),
        (["chr9", "chr9"], "the train part is empty: there is nothing to learn from."),
    ],
)
def test_values_that_do_not_do_are_refused(made, values, message):
    with pytest.raises(DataError) as caught:
        split(SplitOptions(column="chrom", test=["chr9"]), made(["A", "B"], chrom=values), None, 0)
    assert str(caught.value) == message


@pytest.fixture
def made():
    import pyarrow as pa

    from exapt.data.tables import Examples

    def examples(sequences, **columns):
        ids = [str(row) for row in range(1, len(sequences) + 1)]
        return Examples(ids, {"sequence": sequences}, {}, pa.table({"sequence": sequences, **columns}))

    return examples
