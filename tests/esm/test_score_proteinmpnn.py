"""Variants on structures by ProteinMPNN: scores are differences of the reference's log-probabilities, orders are told."""

import csv
import json
import statistics

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import exapt
from esm.structure_files import ROOT, ZINC, command, golden, one
from exapt import DataError, RecipeError, ScorerSpec, hookimpl
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.scoring import Choice, Scoring
from exapt.testing import inline
from exapt_esm import plugin
from exapt_esm.proteinmpnn import ALPHABET
from exapt_esm.proteinmpnn._scorers import Conditional, DecodingOrders
from exapt_esm.proteinmpnn.scorers import ConditionalOptions, DecodingOrdersOptions

TINY = ROOT / "tests" / "golden" / "proteinmpnn" / "tiny" / "given"
TINY_MODEL = f"proteinmpnn:{TINY / 'v_tiny.pt'}"
FINGER = ZINC / "1zaa1.pdb"
ENTRIES = [("tiny", name) for name in ("6MRR", "edge_gap", "edge_odd", "edge_chains", "edge_negnum")]
ENTRIES += [("real", name) for name in ("6MRR", "edge_chains")]
CONDITIONAL = [entry for entry in ENTRIES if entry[1] != "edge_negnum"]


class Entry:
    """A golden structure, the model that the reference read it with, and what it said."""

    def __init__(self, kind, name):
        folder = ROOT / "tests" / "golden" / "proteinmpnn" / kind / "given"
        (entry,) = [one for one in json.loads((folder / "inputs.json").read_text())["entries"] if one["id"] == name]
        self.name, self.file = name, golden(entry["pdb"])
        self.model = TINY_MODEL if kind == "tiny" else f"proteinmpnn:{golden('weights/v_48_020.pt')}"
        self.structure = one(self.file)
        self._tensors = load_file(folder / "expected.safetensors")

    def __getitem__(self, name):
        return self._tensors[f"{self.name}.{name}"][0]

    def substitutions(self):
        """Yield a substitution of each residue that is resolved and known: its name, its place, the letters before and after."""
        for unit, letter in enumerate(self.structure.letters):
            if letter in ALPHABET[:20] and self["mask"][unit]:
                other = ALPHABET[(ALPHABET.index(letter) + 1 + unit % 18) % 20]
                chain, number = self.structure.names[unit].split(":")
                yield f"{letter}{number}{other}/{chain}", unit, ALPHABET.index(letter), ALPHABET.index(other)

    def differences(self, name):
        return [self[name][unit, after] - self[name][unit, before] for _, unit, before, after in self.substitutions()]

    def scores(self, folder, **options):
        table = folder / "mutations.csv"
        table.write_text("\n".join(["mutation", *(name for name, *_ in self.substitutions()), ""]))
        return exapt.score(table, self.model, structure=self.file, **options)


def agree(found, expected):
    """Within 2e-5 in parts of the largest value: the reference itself, run again, moves that much."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.fixture
def recorded():
    """Let the scorer ``recorded`` ask in an order that was written down: ``with recorded(ranks): ...``."""

    class Recorded:
        exapt_api = 1

        def __init__(self, ranks):
            self.ranks = ranks

        @hookimpl
        def exapt_scorers(self):
            yield ScorerSpec(
                name="recorded",
                summary="Conditional, in a written order.",
                build=lambda _options: Conditional(ConditionalOptions(), lambda _encoding, _number: self.ranks),
                objective="ordered",
            )

    return lambda ranks: inline(Recorded(ranks), plugin)


def ranks_of(keys):
    return np.argsort(np.argsort(keys, kind="stable"))


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_unconditional_scores(kind, name, tmp_path):
    entry = Entry(kind, name)
    found = entry.scores(tmp_path, scorer="unconditional")
    agree(found, entry.differences("unconditional_log_probs"))
    if (kind, name) in CONDITIONAL:
        agree(found, entry.differences("conditional_log_probs_backbone_only"))


@pytest.mark.parametrize(("kind", "name"), CONDITIONAL)
def test_conditional_scores_in_the_order_of_the_reference(kind, name, tmp_path, recorded):
    entry = Entry(kind, name)
    with recorded(ranks_of(np.abs(entry["randn"]))):
        agree(entry.scores(tmp_path, scorer="recorded"), entry.differences("conditional_log_probs"))


@pytest.mark.parametrize(("order", "golden_order"), [("forward", "identity"), ("backward", "reverse")])
@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_own_sequences_in_fixed_orders(kind, name, order, golden_order, tmp_path):
    entry, out = Entry(kind, name), tmp_path / "own.csv"
    command("score", entry.file, "--backbone", entry.model, "--set", f"scorer.order={order}", "-o", out)
    (row,) = csv.DictReader(out.read_text().splitlines())
    there = entry["mask"] == 1
    logs = entry[f"log_probs_order_{golden_order}"][there]
    ids = np.array([ALPHABET.find(letter) for letter in entry.structure.text])[there]
    assert (row["id"], int(row["residues"])) == (entry.file.stem, there.sum())
    agree(-float(row["log_likelihood"]), entry[f"score_order_{golden_order}"])
    agree(float(row["perplexity"]), np.exp(entry[f"score_order_{golden_order}"]))
    assert float(row["recovery"]) == pytest.approx((logs.argmax(1) == ids).mean(), abs=1e-6)


def test_a_sequence_that_is_put_on_a_structure_is_scored_as_a_whole(tmp_path):
    entry, table = Entry("real", "6MRR"), tmp_path / "designs.fasta"
    other = Entry("real", "6MRR_seq")
    letters = "".join(ALPHABET[token] for token in other["S"])
    table.write_text(f">known\n{letters.replace('X', 'A')}\n>own\n{entry.structure.text}\n")
    choice = {"scorer": "decoding-orders", "settings": {"scorer": {"order": "forward"}}}
    known, own = exapt.score(table, entry.model, structure=entry.file, **choice)
    with_known = entry.structure.with_letters(letters.replace("X", "A"))
    (pair,) = exapt.score([(entry.structure, with_known)], entry.model, **choice)
    assert own == 0
    assert known == pytest.approx(pair)
    # The reference's sequence has three X, where its mean is over the same 68 residues: another, but not far from it.
    theirs = 68 * (entry["score_order_identity"] - other["score_order_identity"])
    assert known == pytest.approx(theirs, rel=0.2)


@pytest.mark.parametrize(("name", "given"), [("5L33", ()), ("6MRR", ()), ("3HTN", ("C",))])
def test_scores_over_random_orders_are_those_that_were_published(name, given):
    found = json.loads(golden("published_outputs/our_random_order_score_distribution.json").read_text())[name]
    settings = {"scorer": {"given": given}}
    real = f"proteinmpnn:{golden('weights/v_48_020.pt')}"
    (own,) = exapt.score(golden(f"pdbs/{name}.pdb"), real, settings=settings)
    mean, spread = statistics.mean(found["scores"]), statistics.stdev(found["scores"])
    assert abs(-own - mean) < 3 * spread * (1 / 10 + 1 / len(found["scores"])) ** 0.5
    assert abs(-own - np.mean(found["published"])) < 3 * spread


def logits(model, encodings):
    """Return log-probabilities [tokens, letters] of each of some encodings, read one by one."""
    with torch.no_grad():
        return [model.W_out(model(collate([one])).hidden[0]).log_softmax(-1).numpy() for one in encodings]


@pytest.fixture(scope="module")
def finger():
    return one(FINGER)


@pytest.fixture(scope="module")
def scoring():
    return lambda **choice: Scoring.of(TINY_MODEL, Choice(**choice))


def test_several_mutations_add_up_but_for_decoding_orders(finger, scoring):
    first, second = list(finger.letters), list(finger.letters)
    first[3], second[8] = "W", "P"
    both = [*first[:8], "P", *first[9:]]
    pairs = [(finger, finger.with_letters("".join(letters))) for letters in (first, second, both)]
    for scorer in ("unconditional", "conditional"):
        one, other, together = exapt.score(pairs, TINY_MODEL, scorer=scorer)
        assert together == pytest.approx(one + other, abs=1e-5)
    one, other, together = exapt.score(pairs, TINY_MODEL, scorer="decoding-orders")
    assert abs(together - one - other) > 1e-4


def test_decoding_orders_are_a_plain_sum_of_log_probabilities(finger, scoring):
    scored = scoring(scorer="decoding-orders", settings={"scorer": {"orders": 3, "seed": 5}})
    mutant = finger.with_letters("A" + finger.letters[1:])
    questions = list(scored.scorer.ask(scored.pairs.tokenizer, finger, mutant))
    assert len(questions) == 6
    model = scored.expectations.backbone
    told = logits(model, [question.encoding for question in questions])
    totals = [
        log[np.arange(len(log)), one.encoding.arrays["input_ids"]].sum()
        for log, one in zip(told, questions, strict=True)
    ]
    (found,) = exapt.score(
        [(finger, mutant)], TINY_MODEL, scorer="decoding-orders", settings={"scorer": {"orders": 3, "seed": 5}}
    )
    assert found == pytest.approx(np.mean(totals[3:]) - np.mean(totals[:3]), abs=1e-4)
    assert abs(found) > 1e-3


def test_orders_depend_on_seed_structure_and_number_alone(finger, scoring):
    tokenizer = scoring().pairs.tokenizer

    def orders(structure, **options):
        questions = DecodingOrders(DecodingOrdersOptions(**options)).likelihood(tokenizer, structure)
        return [question.encoding.arrays["rank"].tolist() for question in questions]

    three = orders(finger, orders=3)
    assert orders(finger, orders=5)[:3] == three
    assert orders(finger.with_letters("G" * len(finger)), orders=3) == three
    assert orders(finger, orders=3, seed=1) != three
    assert orders(finger.with_atoms(finger.atoms + 1), orders=3) != three
    assert len({tuple(order) for order in three}) == 3
    assert all(sorted(order) == list(range(len(finger))) for order in three)


@pytest.mark.parametrize("scorer", ["conditional", "decoding-orders"])
def test_seeds_have_an_end(finger, scorer):
    seed = 2**63
    with pytest.raises(RecipeError) as refusal:
        exapt.score([(finger, finger)], TINY_MODEL, scorer=scorer, settings={"scorer": {"seed": seed}})
    assert str(refusal.value) == (
        f"scorer '{scorer}': 'seed' is {seed}: input should be less than or equal to {seed - 1}"
    )


def test_conditional_orders_put_the_residue_that_changes_last(finger, scoring):
    scored = scoring(settings={"scorer": {"orders": 2}})
    mutant = finger.with_letters(finger.letters[:5] + "WW" + finger.letters[7:])
    questions = list(scored.scorer.ask(scored.pairs.tokenizer, finger, mutant))
    assert [int(one.encoding.arrays["rank"].argmax()) for one in questions] == [5, 6, 5, 6]
    assert {tuple(one.encoding.arrays["input_ids"]) for one in questions} == {
        tuple(scored.pairs.tokenizer.encode(finger).arrays["input_ids"])
    }


def test_given_chains_come_first_and_do_not_count(scoring):
    complex_ = one(golden("pdbs/edge_chains.pdb"))
    tokenizer = scoring().pairs.tokenizer
    scorer = DecodingOrders(DecodingOrdersOptions(orders=1, given=("A",)))
    (question,) = scorer.likelihood(tokenizer, complex_)
    given = complex_.chain_of == complex_.chains.index("A")
    rank = question.encoding.arrays["rank"]
    assert rank[given].max() < rank[~given].min()
    assert set(question.places) == set(np.flatnonzero(~given))
    with pytest.raises(DataError, match=r"^has no chain 'Q' to be given; its chains are 1, A, b$"):
        list(DecodingOrders(DecodingOrdersOptions(given=("Q",))).likelihood(tokenizer, complex_))
    with pytest.raises(
        DataError, match=r"^no residue is left to be told: the chains that are given are all that there is$"
    ):
        list(DecodingOrders(DecodingOrdersOptions(given=("1", "A", "b"))).likelihood(tokenizer, complex_))


def test_structures_that_questions_share_are_encoded_once(scoring, monkeypatch):
    scored = scoring(scorer="decoding-orders", settings={"scorer": {"orders": 4}})
    model, fingers = scored.expectations.backbone, [one(path) for path in sorted(ZINC.glob("1zaa*.pdb"))]
    encoded, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda batch: encoded.append(len(batch.lengths)) or encode(batch))
    rows = [(row, question) for row, finger in enumerate(fingers) for question in scored.asked_alone("", finger)]
    found = scored.expectations.sums(rows, len(fingers))
    assert encoded == [1] * len(fingers)
    plain = [
        np.mean(
            [
                log[question.places, question.tokens].sum()
                for asked, question in rows
                if asked == row
                for log in logits(model, [question.encoding])
            ]
        )
        for row in range(len(fingers))
    ]
    np.testing.assert_allclose(found, plain, atol=1e-4, rtol=0)


def test_what_was_encoded_is_forgotten_when_the_weights_change(finger, scoring):
    scored = scoring(scorer="unconditional")
    model = scored.expectations.backbone
    mutant = finger.with_letters("W" + finger.letters[1:])
    (question,) = scored.scorer.ask(scored.pairs.tokenizer, finger, mutant)
    batch, rows, places = (
        collate([question.encoding]),
        torch.zeros(1, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
    )
    with torch.no_grad():
        before = model.at_places(batch, rows, places)
        model.mpnn.W_e.weight.mul_(1.5)
        after = model.at_places(batch, rows, places)
        assert torch.allclose(after, model(batch).hidden[0, :1], atol=1e-6)
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_residue_of_which_nothing_is_told_is_one_line(finger):
    atoms = finger.atoms.copy()
    atoms[4, 3] = np.nan
    lacking = finger.with_atoms(atoms)
    letters = lacking.letters[:4] + "W" + lacking.letters[5:]
    with pytest.raises(DataError) as refusal:
        exapt.score([(lacking, lacking.with_letters(letters))], TINY_MODEL)
    assert str(refusal.value) == (
        f"pairs row 1: residue {lacking.names[4]} lacks atoms that '{TINY_MODEL}' reads, and nothing is told of it; leave "
        "such rows without a score with --skip-incomparable"
    )


@pytest.mark.parametrize("letter", ["X", "B"])
def test_a_letter_that_the_model_does_not_know_is_one_line(letter, finger):
    with pytest.raises(DataError) as refusal:
        exapt.score([(finger, finger.with_letters(letter + finger.letters[1:]))], TINY_MODEL)
    assert str(refusal.value) == (
        "pairs row 1: the model does not know the letters that change, or what they change into; leave such rows without a "
        "score with --skip-incomparable"
    )


def test_a_scan_is_every_substitution_one_by_one(finger, tmp_path):
    out, picture = tmp_path / "scan.csv", tmp_path / "scan.png"
    positions = f"{finger.numbers[2]}-{finger.numbers[4]},{finger.numbers[9]}"
    choice = ("--positions", positions, "--picture", picture, "-o", out)
    command("score", FINGER, "--scan", "--backbone", TINY_MODEL, *choice)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert list(rows[0]) == ["id", "position", "wild_type", "mutant", "mutation", "score"]
    assert [row["position"] for row in rows[::19]] == [finger.names[unit] for unit in (2, 3, 4, 9)]
    assert len({row["mutation"] for row in rows}) == len(rows) == 4 * 19
    table = tmp_path / "m.csv"
    table.write_text("\n".join(["mutation", *(row["mutation"] for row in rows), ""]))
    found = exapt.score(table, TINY_MODEL, structure=FINGER)
    np.testing.assert_allclose([float(row["score"]) for row in rows], found, atol=1e-5, rtol=0)


def test_a_scan_of_chains_names_them_and_leaves_out_what_is_not_resolved():
    complex_ = one(golden("pdbs/edge_chains.pdb"))
    atoms = complex_.atoms.copy()
    atoms[0] = np.nan
    lacking = complex_.with_atoms(atoms)
    first = exapt.scan({"c": lacking}, TINY_MODEL, scorer="unconditional").to_pydict()
    assert sorted(set(first["position"])) == sorted(complex_.names[1:])
    assert first["mutation"][0].endswith("/1")
    chain, number = complex_.names[-1].split(":")
    few = exapt.scan({"c": complex_}, TINY_MODEL, scorer="unconditional", positions=f"{chain}:{number}")
    assert set(few["position"].to_pylist()) == {complex_.names[-1]}


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ("five", "positions of a structure are told as in 10-40,57 or A:10-40,B:57, and 'five' is none"),
        ("Q:5", "'1zaa1': the structure has no chain 'Q'; its chains are A"),
        ("9-5", "positions 9-5 end before they begin"),
        ("999", "'1zaa1' has no residue 999 in chain A"),
    ],
)
def test_positions_of_a_scan_that_are_not_there_are_one_line(positions, said):
    with pytest.raises(DataError) as refusal:
        exapt.scan(FINGER, TINY_MODEL, positions=positions)
    assert str(refusal.value) == said


def test_positions_of_a_scan_of_several_chains_name_theirs():
    complex_ = one(golden("pdbs/edge_chains.pdb"))
    with pytest.raises(DataError, match=r"^'c' has the chains 1, A, b: name one with its positions, as in 1:5$"):
        exapt.scan({"c": complex_}, TINY_MODEL, positions="5")


def test_an_adapter_that_learned_a_family_scores_it(finger, tmp_path):
    recipe = {
        "data": {"path": str(ZINC), "inputs": {"structure": "structure"}},
        "split": {"fractions": [0.8, 0.1, 0.1]},
        "backbone": TINY_MODEL,
        "head": "inverse-folding",
        "strategy": "full",
        "training": {"epochs": 8, "batch_size": 4, "learning_rate": 3e-3},
    }
    adapted = exapt.train(recipe, tmp_path / "fingers")
    before, after = (np.mean(exapt.score(ZINC, model)) for model in (TINY_MODEL, adapted))
    assert after > before + 0.05
    table, number = tmp_path / "m.csv", finger.numbers[finger.letters.index("C")]
    table.write_text(f"mutation\nC{number}W\n")
    out = tmp_path / "scores.csv"
    command("score", table, "--structure", FINGER, "--adapter", tmp_path / "fingers", "-o", out)
    (row,) = csv.DictReader(out.read_text().splitlines())
    (theirs,) = exapt.score(table, adapted, structure=FINGER)
    assert float(row["score"]) == pytest.approx(theirs, abs=1e-5)
    assert abs(theirs - exapt.score(table, TINY_MODEL, structure=FINGER)[0]) > 1e-2


def test_scorers_of_structures_are_offered_and_the_right_one_is_taken(finger):
    specs = {offer.spec.name: offer.spec.objective for offer in current().offers(ScorerSpec)}
    assert {specs[name] for name in ("unconditional", "conditional", "decoding-orders")} == {"ordered"}
    choice = Choice(alone=True)
    assert Scoring.of(TINY_MODEL, choice).scored_by.offer.spec.name == "decoding-orders"
    assert Scoring.of(TINY_MODEL).scored_by.offer.spec.name == "conditional"
