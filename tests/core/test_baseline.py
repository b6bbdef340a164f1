"""The linear baseline on real peptides and proteins, and on questions whose answer is known."""

import csv
from pathlib import Path

import numpy as np
import pytest

from exapt.baseline import MOST_POSITIONS, fit_baseline
from exapt.errors import RecipeError
from exapt.parts import HeadContext
from exapt.plugins import Plugins
from exapt.specs import HeadSpec

DATA = Path(__file__).parents[1] / "data"
RANDOM = np.random.default_rng(3)


def head_for(name, labels, **options):
    spec = Plugins(()).get(HeadSpec, name).spec
    return spec.build(spec.infer(spec.options(**options), labels), HeadContext({"sequence": 1}))


def rows_of(file, part):
    with (DATA / file).open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["split"] == part]


def parts_of(file, head, label):
    """Return sequences and targets of each part."""
    rows = [rows_of(file, part) for part in ("train", "valid", "test")]
    return [
        ([row["sequence"] for row in part], [head.encode(row[label], len(row["sequence"])) for row in part])
        for part in rows
    ]


def drawn(count, length=None, letters="ACDEFGHIK"):
    return ["".join(RANDOM.choice(list(letters), length or RANDOM.integers(20, 40))) for _ in range(count)]


def test_it_finds_antimicrobial_peptides_and_answers_as_the_head_does():
    head = head_for("sequence-classification", [0, 1])
    train, valid, test = parts_of("peptides.csv", head, "label")
    outputs = fit_baseline("classification", False, *train, *valid).predict(test[0])
    assert {output.shape for output in outputs} == {(2,)}
    assert head.metrics(outputs, test[1])["auroc"] > 0.7
    columns = head.decode(outputs)
    assert np.add(columns["probability_0"], columns["probability_1"]) == pytest.approx(1)


def test_it_finds_disordered_residues():
    head = head_for("position-classification", ["01"])
    train, valid, test = parts_of("disorder.csv", head, "labels")
    outputs = fit_baseline("classification", True, *train, *valid).predict(test[0])
    assert [len(output) for output in outputs] == [len(text) for text in test[0]]
    assert head.metrics(outputs, test[1])["auroc"] > 0.6


def test_one_seed_one_baseline():
    head = head_for("sequence-classification", [0, 1])
    (texts, targets), _, test = parts_of("peptides.csv", head, "label")
    one, other = (fit_baseline("classification", False, texts, targets, seed=5).predict(test[0]) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_composition_is_regressed_without_a_valid_part():
    texts = drawn(120)
    head = head_for("sequence-regression", [text.count("A") / len(text) for text in texts])
    targets = [head.encode(text.count("A") / len(text), len(text)) for text in texts]
    outputs = fit_baseline("regression", False, texts[:90], targets[:90]).predict(texts[90:])
    assert head.metrics(outputs, targets[90:])["pearson"] > 0.9


def test_places_count_where_all_inputs_have_one_length():
    texts = drawn(200, length=12, letters="ACGT")
    targets = [np.asarray(int(text[4] in "AC")) for text in texts]
    outputs = fit_baseline("classification", False, texts[:150], targets[:150]).predict(texts[150:])
    right = [output.argmax() == target for output, target in zip(outputs, targets[150:], strict=True)]
    assert np.mean(right) > 0.9
    longer = fit_baseline("classification", False, texts[:150], targets[:150]).predict(["ACGT" * 5, "A"])
    assert np.isfinite(longer).all()


def test_neighbours_count_per_position():
    texts = drawn(60)
    targets = [np.array([0, *(letter == "A" for letter in text[:-1])]) for text in texts]
    outputs = fit_baseline("classification", True, texts[:40], targets[:40]).predict(texts[40:])
    assert np.concatenate(outputs).argmax(1).tolist() == np.concatenate(targets[40:]).tolist()


def test_windows_do_not_see_the_next_input():
    texts = drawn(20)
    targets = [np.array([letter == "A" for letter in text]).astype(float) for text in texts]
    baseline = fit_baseline("regression", True, texts, targets)
    together, alone = baseline.predict(texts[:2]), baseline.predict(texts[:1])
    np.testing.assert_array_equal(together[0], alone[0])
    assert baseline.predict([texts[0], "", texts[1]])[1].shape == (0, 1)
    assert baseline.predict([]) == []


def test_each_label_is_learned_for_itself_and_unknown_cells_are_left_out():
    texts = drawn(150)
    truth = np.array([[text.count("A") > 3, text.count("C") > 3, True] for text in texts], dtype=np.float32)
    truth[::7, 0] = -100
    outputs = np.stack(fit_baseline("multilabel", False, texts[:100], list(truth[:100])).predict(texts[100:]))
    head = head_for("sequence-multilabel", [], classes=("a", "c", "always"))
    assert outputs.shape == (50, 3)
    assert head.metrics(list(outputs), list(truth[100:]))["auroc"] > 0.9
    assert (outputs[:, 2] > 10).all()


def test_targets_with_missing_values_are_learned_from_what_there_is():
    texts = drawn(100)
    truth = np.array([[text.count("A"), text.count("C")] for text in texts], dtype=np.float32)
    truth[:50, 1] = np.nan
    outputs = np.stack(fit_baseline("regression", False, texts[:80], list(truth[:80])).predict(texts[80:]))
    assert np.corrcoef(outputs[:, 1], truth[80:, 1])[0, 1] > 0.6


def test_a_class_without_training_rows_is_improbable_not_impossible():
    texts, targets = ["AAAA", "CCCC"] * 5, [np.asarray(0), np.asarray(1)] * 5
    outputs = fit_baseline("classification", False, texts, targets, answers=3).predict(["AAAA"])
    assert outputs[0].shape == (3,)
    assert outputs[0].argmax() == 0
    assert outputs[0][2] == pytest.approx(np.log(1e-6))


def test_the_penalty_is_the_one_that_scores_best():
    texts = drawn(60)
    targets = [np.asarray([text.count("A")], dtype=np.float32) for text in texts]
    split = (texts[:40], targets[:40], texts[40:], targets[40:])

    def spread(outputs, _targets):
        return float(np.std(np.concatenate(outputs)))

    least, most = (
        fit_baseline("regression", False, *split, score=lambda o, t, sign=sign: sign * spread(o, t)) for sign in (-1, 1)
    )
    assert spread(least.predict(texts), None) < 0.1 * spread(most.predict(texts), None)


def test_its_size_counts_coefficients_and_intercepts():
    texts = ["A", "C"] * 6
    targets = [np.asarray([float(text == "A")]) for text in texts]
    # Two words of one letter, one place for each of them and for any other letter, and an intercept.
    assert fit_baseline("regression", False, texts, targets).size == 2 + 3 + 1


@pytest.mark.slow
def test_of_very_many_positions_some_are_drawn():
    text = "".join(RANDOM.choice(list("AC"), MOST_POSITIONS + 10_000))
    target = np.array([letter == "A" for letter in text]).astype(np.int64)
    outputs = fit_baseline("classification", True, [text], [target]).predict([text[:100]])
    assert outputs[0].argmax(1).tolist() == target[:100].tolist()


@pytest.mark.parametrize(
    ("position", "inputs", "targets", "message"),
    [
        (False, ["AC", [1, 2]], [0, 1], "the baseline reads text or cells, not list"),
        (True, ["AC", "ACG"], [[0, 1], [0, 1]], "the baseline per position needs inputs of one letter per unit"),
    ],
)
def test_inputs_that_it_cannot_read(position, inputs, targets, message):
    with pytest.raises(RecipeError) as refused:
        fit_baseline("classification", position, inputs, [np.asarray(target) for target in targets])
    assert str(refused.value) == message
