"""The head ``contact``: labels of pairs, answers that are the same in both orders, and how good they are."""

import csv
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import exapt
from exapt import AugmentationSpec, HeadSpec, Options, hookimpl, metrics
from exapt.data.tables import Examples
from exapt.errors import DataError, RecipeError
from exapt.measuring import averaged, predict
from exapt.parts import NO_UNIT, Augmentation, Changed, Features, HeadContext
from exapt.plugins import Plugins
from exapt.testing import check_head, inline
from runs import MODEL, Heard

CONTACT = {offer.spec.name: offer.spec for offer in Plugins(()).offers(HeadSpec)}["contact"]
WIDTH = 6
PAD = -100


def made(**options):
    torch.manual_seed(0)
    return CONTACT.build(CONTACT.options(**options), HeadContext({"sequence": WIDTH}))


def features(*lengths):
    units = max(lengths)
    mask = torch.arange(units) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(len(lengths), units, WIDTH, generator=torch.Generator().manual_seed(3))
    spans = torch.where(mask, torch.arange(units), -1)[..., None].expand(-1, -1, 2)
    return {"sequence": Features(hidden, mask, spans, torch.tensor(lengths))}


def matrix(units, *pairs, value=1, other=0):
    rows = [[other] * units for _ in range(units)]
    for i, j in pairs:
        rows[i - 1][j - 1] = rows[j - 1][i - 1] = value
    return rows


# The contract

LENGTHS = [30, 27, 41, 25, 33, 28]
PAIRS = [
    [[1, 26], [8, 20]],
    "3-17;1-27",
    ["5-40", "9-33"],
    "[[1, 25]]",
    matrix(33, (2, 31), (4, 20)),
    [(2, 9), (1, 28)],
]


@pytest.mark.parametrize("options", [{"hidden": 64}, {"hidden": 64, "standardise": False, "positive_weight": 5.0}])
def test_the_author_kit_finds_no_fault(options):
    check_head(CONTACT, options, labels=PAIRS, lengths=LENGTHS)


def test_the_kit_asks_for_the_lengths_of_the_inputs():
    with pytest.raises(DataError) as error:
        check_head(CONTACT, labels=PAIRS)
    assert str(error.value) == (
        "head 'contact' answers for pairs: give check_head the units of each input, as lengths=[...]"
    )


def test_a_head_of_pairs_learns_from_labels_and_has_no_linear_rival():
    for wrong in ({"labelled": False}, {"baseline": "classification"}):
        with pytest.raises(ValueError, match="head 'bonds' answers for pairs of units: it learns from labels"):
            HeadSpec(name="bonds", summary="Bonds.", build=lambda *_: None, answers="pair", **wrong)


# Labels


@pytest.mark.parametrize(
    "label",
    [
        [[1, 10], [3, 12]],
        [(10, 1), (12, 3), (1, 10)],
        np.array([[1, 10], [3, 12]]),
        "1-10;3-12",
        " 1-10, 12-3 ",
        "1-10 3-12",
        "[[1, 10], [3.0, 12]]",
        '["1-10", "3-12"]',
        matrix(12, (1, 10), (3, 12)),
        json.dumps(matrix(12, (1, 10), (3, 12))),
        np.array(matrix(12, (1, 10), (3, 12))),
        matrix(12, (1, 10), (3, 12), value=True, other=False),
    ],
)
def test_every_way_to_name_pairs_gives_one_target(label):
    target = made().encode(label, 12)
    apart = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    near = apart < 6
    assert set(np.unique(target[near & (apart > 0)])) == {PAD}
    assert set(np.diag(target)) == {-1}
    assert (np.argwhere(target == 1) + 1).tolist() == [[1, 10], [3, 12], [10, 1], [12, 3]]
    assert (target == 0).sum() == (~near).sum() - 4


def test_distances_are_contacts_below_a_limit_that_is_said():
    distances = matrix(12, (1, 10), value=7.9, other=20.0)
    distances[2][11] = distances[11][2] = 8.0
    target = made(below=8).encode(distances, 12)
    assert (np.argwhere(target == 1) + 1).tolist() == [[1, 10], [10, 1]]


@pytest.mark.parametrize("hole", [None, -1, math.nan])
def test_entries_and_rows_of_a_matrix_may_be_unknown(hole):
    rows = matrix(12, (1, 10), (3, 12))
    rows[0][9] = hole
    rows[11] = [hole] * 12
    target = made().encode(rows, 12)
    assert (target[0, 9], target[9, 0]) == (PAD, PAD)
    assert set(target[11]) == set(target[:, 11]) == {PAD}
    assert target[0, 8] == 0
    rows[11] = None
    assert (made().encode(rows, 12) == target).all()


def test_no_contact_at_all_is_a_label_too():
    assert (made(min_separation=1).encode([], 3) == matrix(3, (1, 1), (2, 2), (3, 3), value=-1)).all()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ([[3, 13]], "names the pair 3-13, and the input has 12 units"),
        ("0-5", "names the pair 0-5: positions count from 1"),
        (
            [[0, 1], [1, 0]],
            "names the pair 0-1: positions count from 1; lists of two numbers are pairs, and a matrix has three rows or more",
        ),
        ([[4, 4]], "names the pair 4-4: a pair is of two different units"),
        (
            "3:17",
            "has '3:17' where a pair is expected; give pairs such as 3-17;5-20 or [[3, 17], [5, 20]], or a matrix of three "
            "rows or more",
        ),
        ([[1, 2.5]], "has 2.5 where a position is expected, a whole number counted from 1"),
        ([[1, None]], "has None where a position is expected, a whole number counted from 1"),
        (
            [3, 17],
            "is [3, 17], which names no pairs of units; give pairs such as 3-17;5-20 or [[3, 17], [5, 20]], or a matrix of "
            "three rows or more",
        ),
        ("[[3, 17]", "begins like a list, but is none: '[[3, 17]'"),
        ("", "is missing; write [] where no pair is in contact"),
        (matrix(11), "is a matrix of 11 x 11 for 12 units"),
        ([*matrix(12)[:11], [0] * 11], "is a matrix of 12 rows whose row 12 has 11 values: it is not square"),
        (
            matrix(12, (1, 10), value=3.5),
            "has 3.5 in row 1, column 10 of its matrix, which holds 0 and 1; of distances, say with head.below which are "
            "contacts",
        ),
        ([["x"] * 12] * 12, "has 'x' in a matrix of numbers"),
    ],
)
def test_labels_that_name_no_pairs_are_refused(label, said):
    with pytest.raises(DataError) as error:
        made().encode(label, 12)
    assert str(error.value) == said


def test_a_matrix_is_the_same_in_both_orders():
    rows = matrix(12)
    rows[0][9] = 1
    with pytest.raises(DataError, match=r"^has a contact 1-10 in its matrix, but none 10-1$"):
        made().encode(rows, 12)


def test_something_must_be_far_enough_apart():
    CONTACT.infer(CONTACT.options(), ["1-4", "2-8"])
    with pytest.raises(DataError) as error:
        CONTACT.infer(CONTACT.options(), ["1-4", "[]", matrix(9, (1, 5))])
    assert str(error.value) == "has no pair in contact that is at least 6 units apart (head.min_separation)"


# Answers


def test_both_orders_are_equal_to_the_last_bit():
    output = made(rank=5)(features(40, 23))
    assert output.shape == (2, 40, 40)
    assert torch.equal(output, output.mT)


def test_the_loss_is_a_sum_over_known_pairs():
    head, output = made(positive_weight=3.0), torch.randn(1, 9, 9, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(head.encode([[1, 9], [2, 8]], 9))[None]
    shares = torch.sigmoid(output)
    by_hand = -sum(
        3 * shares[0, i, j].log() if target[0, i, j] == 1 else (1 - shares[0, i, j]).log()
        for i in range(9)
        for j in range(9)
        if abs(i - j) >= 6
    )
    assert float(head.loss(output, target)) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(head.weigh(target)) == 3 * 4 + (12 - 4)


def test_pairs_are_named_likeliest_first():
    output = np.full((9, 9), -5.0)
    output[0, 8] = output[8, 0] = 1.0
    output[1, 8] = output[8, 1] = 2.0
    output[0, 2] = 9.0
    output[2, 8] = np.nan
    said = made(threshold=0.6).decode([output, np.zeros((0, 0))])
    assert said["prediction"] == [["2-9", "1-9"], []]
    assert said["probability"] == [[pytest.approx(1 / (1 + math.exp(-2))), pytest.approx(1 / (1 + math.exp(-1)))], []]


def test_a_thousand_residues_learn_in_little_memory():
    code = """
import resource, torch
from exapt.builtin._contact import Contact
from exapt.builtin.contact import ContactOptions
from exapt.parts import Features, HeadContext
units, width = 1000, 1280
head = Contact(ContactOptions(), HeadContext({"sequence": width}))
spans = torch.arange(units)[None, :, None].expand(1, units, 2)
hidden = torch.randn(1, units, width, requires_grad=True)
features = Features(hidden, torch.ones(1, units, dtype=torch.bool), spans, torch.tensor([units]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
target = torch.from_numpy(head.encode([[1, 1000]], units))[None]
loss = head.loss(head({"sequence": features}), target) / head.weigh(target)
loss.backward()
assert hidden.grad.abs().sum() > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000


# Metrics


def test_precision_of_the_likeliest_pairs_by_hand():
    # 30 units: of long range are the pairs 1-25 ... 6-30, 21 in all, and the 30, 15 or 6 likeliest are judged.
    target, score = np.zeros((30, 30)), np.zeros((30, 30))
    ranked = [(i, j) for i in range(30) for j in range(i + 24, 30)]
    assert len(ranked) == 21
    for place, (i, j) in enumerate(ranked):
        score[i, j] = 10 - place
    for i, j in (ranked[0], ranked[2], ranked[5], ranked[8], ranked[14], ranked[20]):
        target[i, j] = 1
    found = metrics.contacts([score], [target])
    assert found["long_precision_L5"] == pytest.approx(3 / 6)
    assert found["long_precision_L2"] == pytest.approx(5 / 15)
    # Fewer pairs than L: all of them.
    assert found["long_precision_L"] == pytest.approx(6 / 21)
    # Pairs 12 to 23 apart: none is in contact, so that no order of them is better than another.
    assert sorted(found) == ["long_precision_L", "long_precision_L2", "long_precision_L5"]
    target[0, 20] = target[3, 16] = score[0, 20] = 1
    found = metrics.contacts([score], [target])
    # 150 pairs, of which the first is right, and the others stand in the order of their units, (3, 16) as the 38th.
    assert [found[f"medium_precision_{share}"] for share in ("L", "L2", "L5")] == [1 / 30, 1 / 15, 1 / 6]


def test_units_without_a_known_pair_do_not_count():
    target, score = np.zeros((30, 30)), np.zeros((30, 30))
    target[0, 29] = score[0, 29] = 1
    target[20:24] = target[:, 20:24] = np.nan
    # 26 units are known, so that 5 pairs, not 6, are judged.
    assert metrics.contacts([score], [target])["long_precision_L5"] == pytest.approx(1 / 5)


def by_hand(target, score, least, share):
    """Return a precision by loops: ``share`` of the number of units decides how many pairs are judged."""
    units = len(target)
    pairs = [(score[i, j], target[i, j]) for i in range(units) for j in range(i + least, units)]
    chosen = sorted(pairs, key=lambda pair: -pair[0])[: units // share]
    return sum(truth for _, truth in chosen) / len(chosen)


@pytest.mark.parametrize(("units", "separation"), [(30, 24), (40, 24), (45, 20), (40, 13), (60, 6)])
def test_all_units_count_however_far_apart_pairs_must_be(units, separation):
    dice = np.random.default_rng(units)
    score = dice.normal(size=(units, units))
    truth = np.triu(dice.random((units, units)) < 0.3, 1).astype(int)
    truth = truth + truth.T
    head = made(min_separation=separation)
    found = head.metrics([score], [head.encode(truth, units)])
    for name, share in (("L", 1), ("L2", 2), ("L5", 5)):
        assert found[f"long_precision_{name}"] == pytest.approx(by_hand(truth, score, 24, share))
    # Of medium range are pairs from 12 apart on: fewer would be another range under the same name.
    assert ("medium_precision_L" in found) == (separation <= 12)


def test_units_of_which_nothing_is_known_do_not_count_either():
    rows, score = matrix(40, (1, 40), (2, 39)), np.zeros((40, 40))
    rows[10:20] = [None] * 10
    score[0, 39] = 1
    head = made(min_separation=24)
    # 30 units are known: of the 6 likeliest pairs the first is right.
    assert head.metrics([score], [head.encode(rows, 40)])["long_precision_L5"] == pytest.approx(1 / 6)


def test_pairs_of_long_range_are_all_judged():
    """Were nearer ones left out, what is called long precision would be that of a part of them."""
    head = {"name": "contact", "label": "contacts", "min_separation": 25}
    with pytest.raises(RecipeError) as error:
        exapt.train({"data": {"path": "contacts.csv"}, "backbone": f"esm2:{MODEL}", "head": head, "strategy": "probe"})
    assert str(error.value) == (
        "heads.head 'contact': 'min_separation' is 25: input should be less than or equal to 24"
    )


def test_the_mean_is_over_inputs_that_have_contacts_of_the_range():
    one, other, none = np.zeros((25, 25)), np.zeros((30, 30)), np.zeros((40, 40))
    one[0, 24] = other[5, 29] = 1
    answer = np.zeros((30, 30))
    answer[0, 29] = 1
    found = metrics.contacts([one, answer, none], [one, other, none])
    assert found["long_precision_L5"] == (1 + 0) / 2
    # A single pair of 25 units is of long range; of 30 units 21 are.
    assert found["long_precision_L"] == (1 + 1 / 21) / 2
    assert "medium_precision_L" not in found
    assert metrics.contacts([none], [none]) == {}


def test_answers_of_views_are_averaged_pair_by_pair():
    own, view = np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)
    found = averaged(own, [(view, np.array([2, 0, NO_UNIT]))], 2)
    # Unit 0 of the view is the third, unit 1 the first, unit 2 is new.
    assert found.tolist() == [[2.0, 0, 1.5], [0, 0, 0], [0.5, 0, 0]]


# From table to table


def bridged(path, rows=60, seed=0):
    """Write sequences with four C, every two of which are in contact if they are far enough apart; in parts."""
    dice = random.Random(seed)
    parts = ["train"] * (rows - 20) + ["valid"] * 10 + ["test"] * 10
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "contacts", "split"])
        for row, part in enumerate(parts):
            letters = dice.choices("ADEFGHIKLMNPQRSTVWY", k=dice.randrange(40, 60))
            places = sorted([dice.randrange(10), *dice.sample(range(12, 28), 2), dice.randrange(34, len(letters))])
            for place in places:
                letters[place] = "C"
            pairs = [f"{i + 1}-{j + 1}" for i in places for j in places if i < j]
            writer.writerow([f"s{row}", "".join(letters), ";".join(pairs), part])
    return Path(path)


def recipe(table, **changes):
    return {
        "data": {"path": str(table)},
        "split": {"column": "split"},
        "backbone": f"esm2:{MODEL}",
        "head": {"name": "contact", "label": "contacts"},
        "strategy": "probe",
        "training": {"epochs": 15, "batch_size": 8, "head_learning_rate": 0.02},
    } | changes


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridges")
    table = bridged(folder / "table.csv")
    return exapt.train(recipe(table), folder / "out"), table, folder / "out"


@pytest.fixture
def command(request):
    """Run ``exapt ARGUMENTS``, under another name than that of the package."""
    return request.getfixturevalue("exapt")


def test_what_is_learned_holds_for_other_sequences(learned):
    adapted, _, _ = learned
    # Of the pairs of long range, in a sequence of 50 some 2 in 350 are in contact.
    assert adapted.metrics["test"]["long_precision_L5"] > 0.15
    assert set(adapted.metrics["test"]) == {
        "loss",
        *(f"{reach}_precision_{share}" for reach in ("medium", "long") for share in ("L", "L2", "L5")),
    }


def test_answers_come_from_a_loaded_adapter(learned, command, tmp_path):
    adapted, table, out = learned
    weights = ("--backbone", f"esm2:{MODEL}")
    command("predict", out, table, *weights, "-o", tmp_path / "answers.csv")
    command("predict", out, table, *weights, "-o", tmp_path / "answers.parquet")
    said = pq.read_table(tmp_path / "answers.parquet")
    assert said.schema.names == ["id", "prediction", "probability"]
    assert [str(field.type) for field in said.schema] == ["string", "list<element: string>", "list<element: double>"]
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, pairs, shares in zip(rows, said["prediction"].to_pylist(), said["probability"].to_pylist(), strict=True):
        assert json.loads(row["prediction"]) == pairs
        assert shares == sorted(shares, reverse=True)
        assert all(share >= 0.5 for share in shares)
        assert len(shares) == len(pairs)
    done = command("evaluate", out, table, *weights, "--part", "test", "--json")
    for name, value in json.loads(done.stdout)["all"].items():
        if name != "rows":
            assert value == pytest.approx(adapted.metrics["test"][name], rel=1e-5)


def test_where_nothing_is_found_the_columns_stay_what_they_are(learned):
    adapted, _, _ = learned
    said = adapted.predict(["MKTAYIA", "GLWS"])
    assert said.to_pydict() == {"id": ["1", "2"], "prediction": [[], []], "probability": [[], []]}
    assert [str(field.type) for field in said.schema][1:] == ["list<item: string>", "list<item: double>"]


def test_an_answer_is_the_same_alone_and_among_others(learned):
    adapted, table, _ = learned
    with table.open(newline="") as file:
        texts = [row["sequence"] for row in csv.DictReader(file)][:8]
    together = adapted.predict([*texts, "MKTAYIAK"])
    for text, pairs in zip(texts, together["prediction"].to_pylist(), strict=False):
        assert adapted.predict([text])["prediction"].to_pylist() == [pairs]


def test_lists_in_jsonl_and_matrices_teach_the_same(learned, tmp_path):
    _, table, out = learned
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        pairs = [[int(one) for one in pair.split("-")] for pair in row["contacts"].split(";")]
        row["contacts"] = matrix(len(row["sequence"]), *pairs) if number % 2 else pairs
        row["contacts"] = json.dumps(row["contacts"])
    lists = [row | {"contacts": json.loads(row["contacts"])} for row in rows]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, lists)))
    with (tmp_path / "text.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    heads = (out / "heads.safetensors").read_bytes()
    for place, name in enumerate(("lists.jsonl", "text.csv")):
        exapt.train(recipe(tmp_path / name), tmp_path / f"out{place}")
        assert (tmp_path / f"out{place}" / "heads.safetensors").read_bytes() == heads


def test_pairs_with_masked_units_teach_nothing(tmp_path):
    table = bridged(tmp_path / "table.csv", rows=26)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    masks = {row["id"]: "0" * 12 + "1" * (len(row["sequence"]) - 12) for row in rows}
    (tmp_path / "masks.fasta").write_text("".join(f">{name}\n{mask}\n" for name, mask in masks.items()))
    first = recipe(table, data={"path": str(table), "masks": str(tmp_path / "masks.fasta")})
    heard = Heard()
    exapt.train(first, tmp_path / "first", listeners=[heard])
    assert "label 'contacts': all pairs of 312 units that are masked are left out" in heard.of("note", "text")
    for row in rows:
        pairs = [[int(one) for one in pair.split("-")] for pair in row["contacts"].split(";")]
        row["contacts"] = matrix(len(row["sequence"]), *pairs)
        row["contacts"][:12] = [None] * 12
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exapt.train(recipe(tmp_path / "rows.jsonl"), tmp_path / "second")
    assert (tmp_path / "first" / "heads.safetensors").read_bytes() == (
        tmp_path / "second" / "heads.safetensors"
    ).read_bytes()


def test_a_wrong_pair_names_its_row(tmp_path):
    table = bridged(tmp_path / "table.csv", rows=26)
    text = table.read_text().replace("s3,", "s3,", 1).splitlines()
    name, sequence, _, part = text[4].split(",")
    text[4] = f"{name},{sequence},1-{len(sequence) + 1},{part}"
    table.write_text("\n".join(text))
    with pytest.raises(DataError) as error:
        exapt.train(recipe(table))
    units = len(sequence)
    assert str(error.value) == (
        f"'s3', label 'contacts': names the pair 1-{units + 1}, and the input has {units} units"
    )


def test_it_is_compared_with_scratch_alone(tmp_path):
    heard = Heard()
    given = recipe(bridged(tmp_path / "table.csv", rows=30), training={"epochs": 1, "batch_size": 8})
    found = exapt.compare(given, seeds=[0, 1], listeners=[heard])
    assert [one.name for one in found.contenders] == [f"probe (esm2:{MODEL})", "scratch"]
    assert found.metric == "long_precision_L"
    said = "there is no linear model for this question or these inputs: it is left out"
    assert said in heard.of("note", "text")


def test_windows_that_are_inputs_of_their_own_are_refused(tmp_path):
    table = bridged(tmp_path / "table.csv", rows=26)
    with pytest.raises(RecipeError) as error:
        exapt.train(recipe(table, backbone={"name": f"esm2:{MODEL}", "windows": "score"}))
    assert str(error.value) == "head 'head' answers for pairs of units: use backbone windows = \"pool\""


class Turned(Augmentation):
    """Reads from the other end and without the last unit: always in training where it ``trains``, else as a view."""

    def __init__(self, trains):
        self.trains = trains

    def change(self, value, rng):
        return self._turned(value) if self.trains else Changed(value)

    def views(self, value):
        return () if self.trains else (self._turned(value),)

    @staticmethod
    def _turned(value):
        return Changed(value[-2::-1], np.arange(len(value) - 1)[::-1])


class TurnedOptions(Options):
    """None."""


class Plugin:
    exapt_api = 1

    @staticmethod
    @hookimpl
    def exapt_augmentations():
        yield AugmentationSpec(name="turned", summary="Turned.", build=lambda options: Turned(trains=True))
        yield AugmentationSpec(name="both-ways", summary="A view.", build=lambda options: Turned(trains=False))


def test_pairs_go_with_the_units_that_an_augmentation_moves(tmp_path):
    import exapt_esm.plugin

    table = bridged(tmp_path / "table.csv", rows=30)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        units = len(row["sequence"])
        pairs = [[int(one) for one in pair.split("-")] for pair in row["contacts"].split(";")]
        if row["split"] == "train":
            pairs = [[units - j, units - i] for i, j in pairs if units not in (i, j)]
            row["sequence"] = row["sequence"][-2::-1]
        row["contacts"] = ";".join(f"{i}-{j}" for i, j in pairs)
    with (tmp_path / "turned.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    # A scaling would be fitted to the sequences as they are.
    plain = {"head": {"name": "contact", "label": "contacts", "standardise": False}}
    with inline(exapt_esm.plugin, Plugin):
        moved = exapt.train(recipe(table, augmentation="turned", **plain))
        written = exapt.train(recipe(tmp_path / "turned.csv", **plain))
        for name, tensor in moved.model.head("head").state_dict().items():
            assert torch.allclose(tensor, written.model.head("head").state_dict()[name], atol=1e-4), name


def test_pairs_are_answered_for_as_the_mean_over_views(tmp_path):
    import exapt_esm.plugin

    with inline(exapt_esm.plugin, Plugin):
        adapted = exapt.train(recipe(bridged(tmp_path / "table.csv", rows=30), augmentation="both-ways"))
        text = "MKTAYIAKQRQISFVKSHFSRQ"
        asked = [
            adapted.ask(Examples(["1"], {"sequence": [value]}, {}, pa.table({}))).rows for value in (text, text[-2::-1])
        ]
        (mean,) = adapted.outputs(asked[0])
        own, turned = (predict(adapted.model, rows, np.arange(1), 1024, views=False)[0]["head"] for rows in asked)
    expected = own.copy()
    expected[:-1, :-1] = (own[:-1, :-1] + turned[::-1, ::-1]) / 2
    assert np.allclose(mean["head"], expected, atol=1e-6)
    assert not np.allclose(own, expected, atol=1e-3)
