"""Scorers of variants: what they hide, what they ask, and that a plain loop gives the same scores."""

import numpy as np
import pytest

import exapt
from bases import Strands, bases
from exapt import (
    AugmentationSpec,
    ComponentError,
    DataError,
    PluginError,
    RecipeError,
    ScorerSpec,
    expectations,
    hookimpl,
)
from exapt.parts import Augmentation, Changed, Question, Scorer
from exapt.plugins import current

WILD = "ACGTTGCAACGGTATCCGATTACAGGCATTAC"
SUBSTITUTED = WILD[:9] + "T" + WILD[10:]
TWICE = WILD[:9] + "T" + WILD[10:20] + "G" + WILD[21:]
INSERTED = WILD[:12] + "CA" + WILD[12:]
DELETED = WILD[:9] + WILD[11:]
PAIRS = [(WILD, SUBSTITUTED), (WILD, TWICE), (SUBSTITUTED, TWICE), (WILD, INSERTED), (WILD, DELETED)]
KMERS = [(1, 1), (3, 1), (6, 6)]


def questions(toy, scorer, wild, mutant, **options):
    spec = current().get(ScorerSpec, scorer).spec
    return list(spec.build(spec.options(**options)).ask(toy.kmers, wild, mutant))


def hidden(toy, question):
    return np.flatnonzero(question.encoding.arrays["input_ids"] == toy.kmers.mask).tolist()


def told(toy, ids, places):
    """Log probability, in sum, of the tokens at some places, hidden together."""
    masked = ids.copy()
    masked[places] = toy.kmers.mask
    return sum(toy.expected(masked, place)[ids[place]] for place in places)


@pytest.mark.parametrize(("k", "stride"), KMERS)
@pytest.mark.parametrize(("wild", "mutant"), PAIRS[:3])
def test_masked_marginals_of_substitutions_are_those_of_a_plain_loop(k, stride, wild, mutant):
    with bases(k=k, stride=stride) as toy:
        (score,) = exapt.score([(wild, mutant)], "toy")
        one, other = toy.ids(wild), toy.ids(mutant)
        places = np.flatnonzero(one != other)
        masked = one.copy()
        masked[places] = toy.kmers.mask
        expected = sum(toy.expected(masked, at)[other[at]] - toy.expected(masked, at)[one[at]] for at in places)
    assert score == pytest.approx(expected, abs=1e-5)
    assert abs(score) > 1e-2


def test_all_k_tokens_that_cover_a_changed_base_are_hidden():
    with bases(k=3) as toy:
        (question,) = questions(toy, "masked-marginal", WILD, SUBSTITUTED)
        # Base 9 (from 0) is under the 3-mers 7, 8 and 9, behind <cls>.
        assert hidden(toy, question) == [8, 9, 10]
        assert question.places.tolist() == [8, 9, 10] * 2
        assert question.weights.tolist() == [-1] * 3 + [1] * 3


@pytest.mark.parametrize(
    ("wild", "mutant", "in_wild", "in_mutant"),
    [
        # Two bases before base 12: the 3-mers from 10 to 13 cover them; of the wild type, those from 10 and 11 the seam.
        (WILD, INSERTED, [11, 12], [11, 12, 13, 14]),
        (WILD, DELETED, [8, 9, 10, 11], [8, 9]),
        # The 3-mers of a longer run of one base are all alike: each that covers the new base is hidden all the same.
        ("GCAAACGG", "GCAAAACGG", [4, 5], [4, 5, 6]),
    ],
)
def test_overlapping_tokens_that_would_give_an_insertion_away_are_hidden(wild, mutant, in_wild, in_mutant):
    with bases(k=3) as toy:
        one, other = questions(toy, "masked-marginal", wild, mutant)
        assert hidden(toy, one) == in_wild
        assert hidden(toy, other) == in_mutant


def test_masked_marginals_of_insertions_and_deletions_hide_what_one_has_of_its_own():
    with bases() as toy:
        inserted, deleted = exapt.score([(WILD, INSERTED), (WILD, DELETED)], "toy")
        assert inserted == pytest.approx(told(toy, toy.ids(INSERTED), [13, 14]), abs=1e-5)
        assert deleted == pytest.approx(-told(toy, toy.ids(WILD), [10, 11]), abs=1e-5)


def test_masked_marginals_refuse_to_hide_most_of_an_input():
    with bases(k=6, stride=6) as toy:
        with pytest.raises(DataError) as refusal:
            exapt.score([(WILD, "A" + WILD)], "toy")
        assert str(refusal.value) == (
            "pairs row 1: 5 of 7 tokens differ in place, too many to hide at once (max_hidden = 0.5); use the scorer "
            "pseudo-log-likelihood"
        )
        (score,) = exapt.score([(WILD, "A" + WILD)], "toy", settings={"scorer": {"max_hidden": 1}})
        assert score == pytest.approx(
            told(toy, toy.ids("A" + WILD), range(1, 7)) - told(toy, toy.ids(WILD), range(1, 6)), abs=1e-4
        )


def test_a_deletion_that_keeps_the_number_of_6_mers_but_moves_them_is_no_substitution():
    # 32 bases are five 6-mers and two single bases, 27 are four and three.
    moved, last = WILD[:6] + WILD[11:], WILD[:25] + WILD[30:]
    with bases(k=6, stride=6) as toy:
        assert len(toy.ids(moved)) == len(toy.ids(last)) == len(toy.ids(WILD))
        with pytest.raises(DataError) as refusal:
            exapt.score([(WILD, moved)], "toy")
        assert str(refusal.value) == (
            "pairs row 1: 4 of 7 tokens differ in place, too many to hide at once (max_hidden = 0.5); use the scorer "
            "pseudo-log-likelihood"
        )
        with pytest.raises(DataError) as refusal:
            exapt.score([(WILD, last)], "toy", scorer="wild-type-marginal")
        assert str(refusal.value) == (
            "pairs row 1: the tokens of the mutant stand for other places than those of the wild type, and wild-type "
            "marginals need the same; use the scorer pseudo-log-likelihood"
        )
        (score,) = exapt.score([(WILD, last)], "toy")
        # The last 6-mer became one base; the two behind it are the same.
        expected = told(toy, toy.ids(last), [5]) - told(toy, toy.ids(WILD), [5])
    assert score == pytest.approx(expected, abs=1e-4)


def test_the_wild_type_itself_scores_0_and_is_not_read():
    with bases() as toy:
        assert exapt.score([(WILD, WILD), (WILD, WILD.lower())], "toy") == [0.0, 0.0]
        assert toy.built.read == []


@pytest.mark.parametrize(("k", "stride"), KMERS)
@pytest.mark.parametrize(("wild", "mutant"), PAIRS)
def test_pseudo_log_likelihoods_are_those_of_a_plain_loop(k, stride, wild, mutant):
    with bases(k=k, stride=stride) as toy:
        (score,) = exapt.score([(wild, mutant)], "toy", scorer="pseudo-log-likelihood")

        def total(value):
            ids, found = toy.ids(value), 0.0
            last = len(ids) - 2
            for place in range(1, last + 1):
                reach = k - 1 if stride == 1 else 0
                masked = ids.copy()
                masked[max(1, place - reach) : min(last, place + reach) + 1] = toy.kmers.mask
                found += toy.expected(masked, place)[ids[place]]
            return found

        assert score == pytest.approx(total(mutant) - total(wild), abs=2e-4)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("wild", "mutant"), PAIRS)
def test_log_likelihoods_are_those_of_a_plain_loop(special, wild, mutant):
    with bases(objective="causal", scorers=("log-likelihood",)) as toy:
        (score,) = exapt.score([(wild, mutant)], "toy", settings={"scorer": {"special": special}})

        def total(value):
            ids = toy.ids(value)
            return sum(toy.expected(ids, at)[ids[at + 1]] for at in range(len(ids) - (1 if special else 2)))

        assert score == pytest.approx(total(mutant) - total(wild), abs=1e-4)


def test_wild_type_marginals_hide_nothing_and_refuse_insertions():
    with bases(k=3) as toy:
        (score,) = exapt.score([(WILD, TWICE)], "toy", scorer="wild-type-marginal")
        one, other = toy.ids(WILD), toy.ids(TWICE)
        places = np.flatnonzero(one != other)
        assert score == pytest.approx(
            sum(toy.expected(one, at)[other[at]] - toy.expected(one, at)[one[at]] for at in places), abs=1e-5
        )
        with pytest.raises(DataError) as refusal:
            exapt.score([(WILD, SUBSTITUTED), (WILD, INSERTED)], "toy", scorer="wild-type-marginal")
    assert str(refusal.value) == (
        "pairs row 2: the wild type has 32 tokens, the mutant 34, and wild-type marginals need as many; use the scorer "
        "pseudo-log-likelihood"
    )


def test_probability_is_shared_among_units_alone_when_asked():
    with bases() as toy:
        (score,) = exapt.score([(WILD, INSERTED)], "toy", settings={"scorer": {"units_only": True}})
        ids = toy.ids(INSERTED)
        masked = ids.copy()
        masked[[13, 14]] = toy.kmers.mask
        expected = 0.0
        for place in (13, 14):
            logs = toy.expected(masked, place)
            expected += logs[ids[place]] - np.logaddexp.reduce(logs[4:])
    assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scorer", ["masked-marginal", "pseudo-log-likelihood"])
def test_a_mutation_back_has_the_opposite_score(scorer):
    back = [(mutant, wild) for wild, mutant in PAIRS]
    with bases(k=3):
        there, again = exapt.score(PAIRS, "toy", scorer=scorer), exapt.score(back, "toy", scorer=scorer)
    np.testing.assert_allclose(np.array(there), -np.array(again), atol=1e-5)


@pytest.mark.parametrize("scorer", ["masked-marginal", "pseudo-log-likelihood", "wild-type-marginal"])
def test_scores_depend_on_nothing_beside_them(scorer, monkeypatch):
    pairs = [(wild[: 21 + cut], mutant[: 21 + cut]) for cut in range(11) for wild, mutant in PAIRS[:3]]
    with bases(k=3):
        together = exapt.score(pairs, "toy", scorer=scorer)
        backwards = exapt.score(pairs[::-1], "toy", scorer=scorer)[::-1]
        alone = [exapt.score([pair], "toy", scorer=scorer)[0] for pair in pairs]
        monkeypatch.setattr(expectations, "_PASSES", 0)
        monkeypatch.setattr(expectations, "_KEPT_BYTES", 0)
        one_by_one = exapt.score(pairs, "toy", scorer=scorer)
    for other in (backwards, alone, one_by_one):
        np.testing.assert_allclose(together, other, atol=2e-5)


def test_equal_inputs_are_read_once():
    mutants = [WILD[:place] + base + WILD[place + 1 :] for place in range(len(WILD)) for base in "ACGT"]
    pairs = [(WILD, mutant) for mutant in mutants if mutant != WILD]
    with bases() as toy:
        scores = exapt.score(pairs, "toy")
        # One input for each position hidden, whatever stands there in the mutant.
        assert len(toy.built.read) == len(set(toy.built.read)) == len(WILD)
        toy.built.read.clear()
        assert len(exapt.score(pairs, "toy", scorer="wild-type-marginal")) == len(scores) == 3 * len(WILD)
        assert len(toy.built.read) == 1


def test_kept_answers_serve_later_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr("exapt.scores._ROWS", 2)
    rows = [f"{WILD},{WILD[place]}{place + 1}{'A' if WILD[place] != 'A' else 'C'}" for place in (3, 5, 3, 5, 3, 5)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["sequence,mutation", *rows, ""]))
    with bases() as toy:
        scores = exapt.score(table, "toy")
        assert len(toy.built.read) == 2
    assert scores[:2] == scores[2:4] == scores[4:]


def test_views_are_averaged():
    def other(value):
        return Strands().views(value)[0].value

    flipped = [(other(wild), other(mutant)) for wild, mutant in PAIRS]
    with bases(k=3):
        here, there = exapt.score(PAIRS, "toy"), exapt.score(flipped, "toy")
        both = exapt.score(PAIRS, "toy", average=["strands"])
        np.testing.assert_allclose(both, (np.array(here) + np.array(there)) / 2, atol=1e-5)
        # Both strands are asked, so that it does not matter which of them is given.
        np.testing.assert_allclose(both, exapt.score(flipped, "toy", average=["strands"]), atol=1e-5)
    assert not np.allclose(here, there, atol=1e-2)


class Turns(Augmentation):
    """Changes training inputs, and has no views."""


class Trains:
    exapt_api = 1

    @hookimpl
    def exapt_augmentations(self):
        yield AugmentationSpec(name="turns", summary="Turns.", build=lambda _options: Turns())


def test_an_augmentation_without_views_is_refused_before_anything_is_read():
    with bases(Trains()) as toy, pytest.raises(RecipeError) as refusal:
        exapt.score(PAIRS, "toy", average=["turns"])
    assert str(refusal.value) == (
        "augmentation 'turns' gives no views of an input to average over. Those that do: strands."
    )
    assert toy.built.read == []


class Odd(Augmentation):
    def views(self, value):
        return () if value == WILD else (Changed(value),)


@pytest.mark.parametrize(
    ("augmentation", "error", "message"),
    [
        (
            {"modalities": ("protein", "rna")},
            RecipeError,
            "augmentation 'strands' is for protein, rna, not for dna, which 'toy' reads",
        ),
        (
            {"build": lambda _options: Odd()},
            PluginError,
            "pairs row 1: Odd gives 0 views of the wild type and 1 of the mutant; to average over them it must give as "
            "many, one at least",
        ),
    ],
)
def test_augmentations_that_do_not_fit_are_refused(augmentation, error, message):
    with bases(**augmentation), pytest.raises(error) as refusal:
        exapt.score(PAIRS, "toy", average=["strands"])
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("toy", "options", "error", "message"),
    [
        (
            {"objective": None},
            {},
            RecipeError,
            "'toy' has no language model, or was saved without it, and cannot score variants",
        ),
        (
            {"objective": "causal"},
            {},
            RecipeError,
            "scorer 'masked-marginal' asks a masked language model, and 'toy' is a causal one; use log-likelihood",
        ),
        (
            {"scorers": ()},
            {},
            RecipeError,
            "'toy' does not say which scorer suits it: name one with --scorer. Those that fit: masked-marginal, "
            "pseudo-log-likelihood, wild-type-marginal.",
        ),
        (
            {"scorers": (), "objective": None},
            {},
            RecipeError,
            "'toy' has no language model, or was saved without it, and cannot score variants",
        ),
        (
            {"scorers": (), "objective": "values"},
            {},
            RecipeError,
            "'toy' tells hidden values, not how probable tokens are: it cannot score variants",
        ),
        (
            {},
            {"scorer": "masked-margin"},
            ComponentError,
            "unknown scorer 'masked-margin'. Did you mean 'masked-marginal'? Installed: log-likelihood, masked-marginal, "
            "pseudo-log-likelihood, wild-type-marginal.",
        ),
        (
            {},
            {"average": ["strand"]},
            ComponentError,
            "unknown augmentation 'strand'. Did you mean 'strands'? Installed: strands.",
        ),
    ],
)
def test_what_cannot_score_says_so(toy, options, error, message):
    with bases(**toy), pytest.raises(error) as refusal:
        exapt.score(PAIRS, "toy", **options)
    assert str(refusal.value) == message


def test_no_pairs_have_no_scores():
    with bases():
        assert exapt.score([], "toy") == []


@pytest.mark.parametrize("row", ["AC", WILD, (WILD,), (WILD, WILD, WILD), 7, {"wild": WILD, "mutant": WILD}])
def test_what_is_no_pair_is_refused_with_its_row(row):
    with bases(), pytest.raises(DataError) as refusal:
        exapt.score([(WILD, SUBSTITUTED), row], "toy")
    assert str(refusal.value) == f"pairs row 2: is {row!r}, not a pair of a wild type and a mutant"


def test_a_masked_model_needs_a_mask():
    with bases() as toy:
        toy.kmers.mask = None
        with pytest.raises(PluginError) as refusal:
            exapt.score(PAIRS, "toy")
    assert str(refusal.value) == ("tokenizer 'kmers' names no mask token, which a masked language model is asked with")


class Asks(Scorer):
    """Asks for the first base of the mutant, or fails."""

    def __init__(self, fails):
        self.fails = fails

    def ask(self, tokenizer, wild, mutant):
        encoding = tokenizer.encode(mutant)
        if self.fails:
            raise KeyError("first base")
        place = np.array([1])
        yield Question(encoding, place, encoding.arrays[tokenizer.ids][place], np.array([2.0]))


class Third:
    exapt_api = 1

    def __init__(self, fails):
        self.fails = fails

    @hookimpl
    def exapt_scorers(self):
        yield ScorerSpec(name="asks", summary="Asks.", build=lambda _options: Asks(self.fails))


def test_a_plugin_brings_a_scorer():
    with bases(Third(False)) as toy:
        assert exapt.score([(WILD, SUBSTITUTED)], "toy", scorer="asks") == [
            pytest.approx(2 * toy.expected(toy.ids(SUBSTITUTED), 1)[toy.ids(SUBSTITUTED)[1]], abs=1e-5)
        ]
    with bases(Third(True)), pytest.raises(PluginError) as refusal:
        exapt.score([(WILD, SUBSTITUTED)], "toy", scorer="asks")
    assert str(refusal.value) == "scorer 'asks' of inline fails on pairs row 1: KeyError: 'first base'"


LONG = WILD * 8


def mutated(value, place):
    return value[:place] + {"A": "C", "C": "G", "G": "T", "T": "A"}[value[place]] + value[place + 1 :]


@pytest.mark.parametrize(("place", "start"), [(0, 0), (3, 0), (100, 86), (255, 226), (240, 226)])
def test_sequences_beyond_the_context_are_read_in_a_window_around_the_variant(place, start):
    start = min(start, len(LONG) - 30)
    with bases(max_tokens=32):
        (score,) = exapt.score([(LONG, mutated(LONG, place))], "toy")
        piece = LONG[start : start + 30]
        assert exapt.score([(piece, mutated(piece, place - start))], "toy") == [score]


def test_a_window_holds_as_many_letters_as_the_tokens_leave_room_for():
    with bases(k=6, stride=6, max_tokens=12) as toy:
        exapt.score([(LONG, mutated(LONG, 120))], "toy")
        (ids,) = toy.built.read
    assert len(ids) in (11, 12)


def test_a_context_is_kept_on_each_side():
    with bases(max_tokens=32):
        (score,) = exapt.score([(LONG, mutated(LONG, 100))], "toy", context=10)
        piece = LONG[90:111]
        assert exapt.score([(piece, mutated(piece, 10))], "toy") == [score]
        with pytest.raises(DataError) as refusal:
            exapt.score([(LONG, mutated(LONG, 100))], "toy", context=20)
    assert str(refusal.value) == (
        "pairs row 1: 20 letters on each side of the variant make 43 tokens; 'toy' takes at most 32: the largest --context "
        "that fits is 14"
    )
    with bases(max_tokens=32):
        assert len(exapt.score([(LONG, mutated(LONG, 100))], "toy", context=14)) == 1
        with pytest.raises(DataError) as refusal:
            exapt.score([(LONG, mutated(mutated(LONG, 10), 90))], "toy", context=5)
    assert str(refusal.value) == (
        "pairs row 1: what lies between the letters that change makes 83 tokens; 'toy' takes at most 32"
    )


@pytest.mark.parametrize(
    ("mutant", "tokens"), [(mutated(mutated(LONG, 10), 90), 83), (LONG[:100] + "ACG" * 20 + LONG[100:], 62)]
)
def test_changes_that_the_model_has_no_room_for_are_refused(mutant, tokens):
    with bases(max_tokens=32), pytest.raises(DataError) as refusal:
        exapt.score([(LONG, mutant)], "toy")
    assert str(refusal.value) == (
        f"pairs row 1: what lies between the letters that change makes {tokens} tokens; 'toy' takes at most 32"
    )


def test_letters_that_the_model_cannot_read_are_told_with_the_row():
    with bases(), pytest.raises(DataError) as refusal:
        exapt.score([(WILD, SUBSTITUTED), ("ACGN", "ACTN")], "toy")
    assert str(refusal.value) == "pairs row 2: character 'N' at position 4 is no base"
