"""The built-in heads, as they are found through their hook."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from exapt.errors import DataError, RecipeError
from exapt.parts import Features, HeadContext, Pooled
from exapt.plugins import Plugins
from exapt.specs import HeadSpec
from exapt.testing import check_head

DATA = Path(__file__).parents[1] / "data"
PLUGINS = Plugins(())
HEADS = {offer.spec.name: offer.spec for offer in PLUGINS.offers(HeadSpec)}
WIDTH = 4


def made(name, labels, widths=None, **options):
    """Build a head from labels, as a run does."""
    spec = HEADS[name]
    torch.manual_seed(0)
    return spec.build(spec.infer(spec.options(**options), labels), HeadContext(widths or {"sequence": WIDTH}))


def inferred(name, labels, **options):
    return HEADS[name].infer(HEADS[name].options(**options), labels)


def features(*lengths, seed=0, shift=0.0):
    """Features with one token per unit and garbage for padding."""
    units = max(lengths)
    mask = torch.arange(units) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(len(lengths), units, WIDTH, generator=torch.Generator().manual_seed(seed)) + shift
    spans = torch.where(mask, torch.arange(units), -1)[..., None].expand(-1, -1, 2)
    return Features(torch.where(mask[..., None], hidden, 99.0), mask, spans, torch.tensor(lengths), hidden[:, 0])


def answers(*rows):
    return [np.array(row, dtype=np.float32) for row in rows]


KIT = [
    ("sequence-classification", ["human", "mouse", "rhesus"] * 2, None, {}),
    ("sequence-classification", [0, 1] * 3, None, {"pooling": "attention", "class_weights": "balanced"}),
    ("sequence-classification", [True, False] * 3, None, {"pooling": "max", "hidden": 8, "dropout": 0.1}),
    ("sequence-classification", ["a", "b"] * 3, None, {"inputs": ("wild", "mutant"), "standardise": False}),
    ("sequence-multilabel", ["a;b", "b", "c", "a;c", "a", "b;c"], None, {"pooling": "cls"}),
    ("sequence-regression", [1.5, 2, "3.25", -4.0, 0.0, 60.0], None, {}),
    ("sequence-regression", [(1, 20.0), (2, 10.0), (3, 50.0), (4, 0.5), (5, -3.0), (6, 7.0)], None, {"hidden": 16}),
    ("position-classification", ["HHE", "EEHHE", "CCH", "HEC", "CCCC", "EHC"], None, {}),
    ("position-classification", ["0,1,1", "1 0 0 1", "[1, 0]", "1;1;0", [0, 0], "0011"], [3, 4, 2, 3, 2, 4], {}),
    ("position-regression", [[0.5, 1.5], [2.0, -1.0, 3.0], [9.0], [4.0, 4.5], [7.0], [0.0]], None, {"hidden": 16}),
]


@pytest.mark.parametrize(("name", "labels", "lengths", "options"), KIT)
def test_the_author_kit_finds_no_fault(name, labels, lengths, options):
    check_head(HEADS[name], options, labels=labels, lengths=lengths)


def test_all_are_there_and_each_names_its_baseline():
    assert {name: spec.baseline for name, spec in HEADS.items()} == {
        "causal-lm": "none",
        "contact": "none",
        "contrastive": "classification",
        "contrastive-alignment": "none",
        "interaction": "classification",
        "masked-lm": "none",
        "nearest-neighbours": "classification",
        "nearest-neighbours-regression": "regression",
        "position-classification": "classification",
        "position-regression": "regression",
        "prototypes": "classification",
        "ridge": "classification",
        "ridge-regression": "regression",
        "sequence-classification": "classification",
        "sequence-multilabel": "multilabel",
        "sequence-regression": "regression",
    }


def test_what_only_the_labels_know_is_inferred_without_tensors():
    code = (
        "import sys; from exapt.plugins import Plugins; from exapt.specs import HeadSpec\n"
        "spec = Plugins(()).get(HeadSpec, 'sequence-classification').spec\n"
        "print(spec.infer(spec.options(), ['b', 'a']).classes, {'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('a', 'b') set()"


def test_every_option_is_described():
    for spec in HEADS.values():
        assert [name for name, field in spec.options.model_fields.items() if not field.description] == []


# What is inferred


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["mouse", "human", "mouse"], ("human", "mouse")),
        ([10, 9, 2], ("2", "9", "10")),
        ([1.0, 0, "1"], ("0", "1")),
        ([True, False], ("false", "true")),
        (["-1", "0.5", "10", "2"], ("-1", "0.5", "2", "10")),
        (np.array([3, 1]), ("1", "3")),
        ([" b ", "a"], ("a", "b")),
    ],
)
def test_classes_are_sorted_names(labels, classes):
    assert inferred("sequence-classification", labels).classes == classes


def test_balanced_weights_are_written_as_numbers():
    options = inferred("sequence-classification", ["a", "a", "a", "b"], class_weights="balanced")
    assert options.class_weights == pytest.approx((4 / (2 * 3), 4 / (2 * 1)))
    assert HEADS["sequence-classification"].infer(options, ["a", "b"]) == options


def test_a_class_without_labels_keeps_weight_1():
    options = inferred("sequence-classification", ["b", "a"], classes=("c", "b", "a"), class_weights="balanced")
    assert options.classes == ("c", "b", "a")
    assert options.class_weights == pytest.approx((1, 2 / 3, 2 / 3))


def test_classes_are_named_once():
    with pytest.raises(ValueError, match="each class may be named once only"):
        HEADS["sequence-classification"].options(classes=(1, "1.0"))


def test_regression_writes_mean_and_deviation_of_each_target():
    options = inferred("sequence-regression", [(1, "10"), (3, "30"), (None, "20")])
    assert options.targets == ("target_1", "target_2")
    assert options.mean == pytest.approx((2, 20))
    assert options.scale == pytest.approx((1, math.sqrt(200 / 3)))


def test_resolved_options_survive_json_bit_by_bit():
    options = inferred("sequence-regression", [0.1, 0.2, 0.7])
    assert type(options).model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("sequence-classification", ["human"] * 3, "has one class only, 'human'; classification needs two"),
        ("sequence-classification", ["human", None], "is missing"),
        ("position-classification", ["111", "1"], "has one class only, '1'; classification needs two"),
        ("position-classification", [["", None]], "has no value; classification needs two"),
        ("sequence-multilabel", ["a;b", ""], "is missing; write [] where no label applies"),
        ("sequence-multilabel", ["[]", []], "has no label in any row"),
        ("sequence-regression", [1, "abc"], "is not a number: 'abc'"),
        ("sequence-regression", [1, "inf"], "is not a number: 'inf'"),
        ("sequence-regression", [1, "1_000"], "is not a number: '1_000'"),
        ("sequence-regression", [1.0, float("nan")], "is missing"),
        ("sequence-regression", [2, 2.0, "2"], "has one value only, 2; regression needs two"),
        ("sequence-regression", [(1, 2), (1, 2, 3)], "has 2 values in some rows and 3 in others"),
        ("position-regression", ["[0.1, 0.2"], "begins like a list, but is none: '[0.1, 0.2'"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(name, labels, message):
    with pytest.raises(DataError) as refused:
        inferred(name, labels)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("name", "labels", "options", "message"),
    [
        (
            "sequence-classification",
            ["a", "b"],
            {"class_weights": (1.0, 2.0, 3.0)},
            "class_weights has 3 numbers for 2 classes",
        ),
        (
            "sequence-multilabel",
            [(0, 1), (1, 0)],
            {},
            "labels from several columns need their names in the head's 'classes', one for each column",
        ),
        (
            "sequence-regression",
            [(1, 2), (3, 4)],
            {"targets": ("heat",)},
            "targets names 1 targets, but the labels have 2",
        ),
        (
            "sequence-regression",
            [1, 2],
            {"mean": (0.0, 1.0)},
            "mean and scale need one number for each target; without them both are inferred",
        ),
        (
            "sequence-classification",
            ["a", "b"],
            {"inputs": ("mutant",)},
            "the head reads input 'mutant', but the inputs are sequence",
        ),
    ],
)
def test_options_that_do_not_fit(name, labels, options, message):
    with pytest.raises(RecipeError) as refused:
        made(name, labels, **options)
    assert str(refused.value) == message


def test_a_head_whose_classes_nobody_named_is_refused():
    spec = HEADS["sequence-classification"]
    with pytest.raises(RecipeError) as refused:
        spec.build(spec.options(), HeadContext({"sequence": WIDTH}))
    assert str(refused.value) == "the head's classes are not known; name them in 'classes' or infer them from labels"


# Labels


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0", np.int64(1), np.float32(1)])
def test_one_class_however_it_is_written(label):
    head = made("sequence-classification", [0, 1])
    assert head.encode(label, 7) == 1
    assert head.encode(label, 7).dtype == np.int64


@pytest.mark.parametrize(
    ("name", "known", "label", "length", "message"),
    [
        (
            "sequence-classification",
            ["human", "mouse"],
            "huma",
            1,
            "is 'huma', which is none of the classes human, mouse. Did you mean 'human'?",
        ),
        ("sequence-multilabel", ["a;b"], "a;c", 1, "is 'c', which is none of the classes a, b."),
        ("sequence-regression", [(1, 2), (2, 3)], (1, 2, 3), 1, "has 3 values for 2 targets"),
        ("position-classification", ["01"], "0" * 54, 55, "has 54 labels for 55 units"),
        ("position-classification", ["01"], "0x", 2, "is 'x', which is none of the classes 0, 1."),
        ("position-regression", ["1 2"], "1 2 3", 2, "has 3 labels for 2 units"),
    ],
)
def test_labels_that_a_head_does_not_know(name, known, label, length, message):
    head = made(name, known)
    with pytest.raises(DataError) as refused:
        head.encode(label, length)
    assert str(refused.value) == message


def test_labels_in_columns_of_their_own():
    head = made("sequence-multilabel", [(0, 1)], classes=("binds", "cuts"))
    np.testing.assert_array_equal(head.encode((1, "0"), 1), [1, 0])
    np.testing.assert_array_equal(head.encode((True, None), 1), [1, head.pad])
    np.testing.assert_array_equal(head.encode([], 1), [0, 0])
    with pytest.raises(DataError, match=r"^is not 0 or 1: '2'$"):
        head.encode((2, 0), 1)
    with pytest.raises(DataError, match=r"^has 3 columns for 2 classes$"):
        head.encode((0, 0, 1), 1)


@pytest.mark.parametrize("label", ["HEH", "H,E,H", "H; E; H", "H E H", '["H", "E", "H"]', ["H", "E", "H"]])
def test_a_label_per_unit_however_it_is_written(label):
    np.testing.assert_array_equal(made("position-classification", ["HE"]).encode(label, 3), [1, 0, 1])


def test_units_that_are_left_out():
    head = made("position-classification", ["HE-"], ignore=("", "-"))
    assert head.classes == ("E", "H")
    np.testing.assert_array_equal(head.encode("H-E", 3), [1, -100, 0])
    np.testing.assert_array_equal(head.encode(["H", None, ""], 3), [1, -100, -100])
    values = made("position-regression", ["1,3"])
    np.testing.assert_array_equal(values.encode("3,,1", 3), [1, np.nan, -1])


# Reading features


def test_pooled_and_whole_features_give_one_answer():
    head = made("sequence-classification", ["a", "b"])
    whole = features(3, 5)
    assert head.reads == "mean"
    torch.testing.assert_close(head({"sequence": whole}), head({"sequence": Pooled("mean", whole.pool("mean"))}))


def test_several_inputs_are_joined_in_the_order_asked_for():
    widths = {"mutant": WIDTH, "wild": WIDTH}
    head = made("sequence-classification", ["a", "b"], widths, inputs=("wild", "mutant"), standardise=False)
    wild, mutant = features(3, seed=1), features(2, seed=2)
    joined = torch.cat([wild.pool("mean"), mutant.pool("mean")], -1)
    expected = functional.linear(joined, head.trunk.layers[-1].weight, head.trunk.layers[-1].bias)
    torch.testing.assert_close(head({"mutant": mutant, "wild": wild}), expected)


def test_attention_is_a_weighted_mean_of_real_tokens():
    head = made("sequence-regression", [0, 1], pooling="attention")
    assert head.reads == "tokens"
    given = features(3, 5)
    vectors = head.trunk.reader({"sequence": given})
    weights = head.trunk.reader.scores[0](given.hidden[0, :3]).softmax(0)
    torch.testing.assert_close(vectors[0], (weights * given.hidden[0, :3]).sum(0))


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_an_input_without_tokens_pools_to_zeros(pooling):
    head = made("sequence-classification", ["a", "b"], pooling=pooling)
    given = features(4, 2)
    given.mask[1] = False
    assert head.trunk.reader({"sequence": given})[1].tolist() == [0] * WIDTH


def test_features_are_standardised_over_what_adjust_saw():
    head = made("sequence-classification", ["a", "b"])
    given = {"sequence": features(*[3] * 50, shift=100.0)}
    head.adjust(given)
    scaled = head.trunk.scale(given["sequence"].pool("mean"))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(WIDTH), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(WIDTH), atol=1e-3, rtol=0)


def test_a_feature_that_hardly_varies_is_not_blown_up_and_one_example_changes_nothing():
    head = made("sequence-classification", ["a", "b"])
    vectors = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    vectors[:, 0] = 5.0
    head.adjust({"sequence": Pooled("mean", vectors)})
    assert head.trunk.scale.std[0] == pytest.approx(float(vectors.std(0, correction=0).mean() / 100))
    again = made("sequence-classification", ["a", "b"])
    again.adjust({"sequence": Pooled("mean", vectors[:1])})
    assert (again.trunk.scale.mean.tolist(), again.trunk.scale.std.tolist()) == ([0] * WIDTH, [1] * WIDTH)


def test_units_are_standardised_without_those_that_no_token_covers():
    head = made("position-classification", ["01"])
    given = features(6, 2)
    head.adjust({"sequence": given})
    torch.testing.assert_close(head.trunk.scale.mean, given.hidden[given.mask].mean(0))


@pytest.mark.parametrize("name", ["sequence-classification", "position-regression"])
def test_one_seed_one_head(name):
    labels = ["0 1", "1 0"] if name.startswith("position") else ["a", "b"]
    one, other = made(name, labels, hidden=3), made(name, labels, hidden=3)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


# Losses


def test_cross_entropy_by_hand():
    head = made("sequence-classification", ["a", "a", "a", "b"], class_weights="balanced")
    target = torch.tensor([0, 1, -100])
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    expected = 2 / 3 * math.log(1 + math.exp(-2)) + 2 * math.log(2)
    assert float(head.loss(logits, target)) == pytest.approx(expected)
    assert float(head.weigh(target)) == pytest.approx(2 / 3 + 2)


def test_binary_cross_entropy_by_hand():
    head = made("sequence-multilabel", ["a;b"])
    target = torch.tensor([[1.0, 0.0], [-100, 1.0]])
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    assert float(head.loss(logits, target)) == pytest.approx(3 * math.log(2))
    assert float(head.weigh(target)) == 3


def test_squared_error_by_hand_with_a_missing_value_and_a_finite_gradient():
    head = made("sequence-regression", [(0, 1), (1, 2)])
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[0.0, math.nan], [1.0, 4.5]])
    loss = head.loss(output, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 + 4 + 0.25)
    assert float(head.weigh(target)) == 3
    assert output.grad.tolist() == [[2, 0], [4, -1]]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("sequence-classification", ["a", "b"]),
        ("sequence-multilabel", ["a", "b"]),
        ("sequence-regression", [0, 1]),
        ("position-classification", ["ab", "ba"]),
    ],
)
def test_nothing_known_costs_nothing(name, labels):
    head = made(name, labels)
    output = head({"sequence": features(2, 2)})
    target = torch.from_numpy(np.stack([head.encode(label, 2) for label in labels]))
    loss = head.loss(output, torch.full_like(target, head.pad))
    loss.backward()
    assert float(loss.detach()) == float(head.weigh(torch.full_like(target, head.pad))) == 0
    assert all(parameter.grad.abs().sum() == 0 for parameter in head.parameters())


@pytest.mark.parametrize(("name", "labels", "lengths", "options"), KIT)
def test_bf16_features_and_autocast_give_a_float32_loss(name, labels, lengths, options):
    inputs = options.get("inputs", ("sequence",))
    head = made(name, labels, dict.fromkeys(inputs, WIDTH), **options)
    units = lengths or [len(label) if head.ragged else 3 for label in labels]
    given = features(*units)
    given.hidden, given.summary = given.hidden.bfloat16(), given.summary.bfloat16()
    head.adjust(dict.fromkeys(inputs, given))
    target = torch.full((len(labels), max(units)) if head.ragged else (len(labels), 1), head.pad)
    encoded = [torch.from_numpy(head.encode(label, n)) for label, n in zip(labels, units, strict=True)]
    if head.ragged:
        for row, values in enumerate(encoded):
            target[row, : len(values)] = values
    else:
        target = torch.stack(encoded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(head(dict.fromkeys(inputs, given)), target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("sequence-classification", ["a", "b"]),
        ("sequence-multilabel", ["a", "b"]),
        ("sequence-regression", [(0, 1), (1, 0)]),
    ],
)
def test_a_bf16_answer_is_summed_in_float32(name, labels):
    head = made(name, labels)
    target = torch.from_numpy(np.stack([head.encode(label, 1) for label in labels]))
    assert head.loss(torch.zeros(2, 2, dtype=torch.bfloat16), target).dtype == torch.float32


# Answers


def test_classes_are_answered_with_their_probabilities():
    head = made("sequence-classification", ["human", "mouse"])
    assert head.decode(answers([0, math.log(3)], [1000, -1000])) == {
        "prediction": ["mouse", "human"],
        "probability_human": pytest.approx([0.25, 1]),
        "probability_mouse": pytest.approx([0.75, 0]),
    }


def test_labels_from_the_threshold_on_are_answered():
    head = made("sequence-multilabel", ["a;b"], threshold=0.75)
    columns = head.decode(answers([math.log(4), -1000], [0, 0]))
    assert columns["prediction"] == [["a"], []]
    assert columns["probability_a"] == pytest.approx([0.8, 0.5])
    assert made("sequence-multilabel", ["a;b"]).decode(answers([0, -0.01]))["prediction"] == [["a"]]


def test_numbers_are_answered_in_their_own_units():
    head = made("sequence-regression", [10, 30])
    assert head.decode(answers([0], [1.5])) == {"prediction": pytest.approx([20, 35])}
    both = made("sequence-regression", [(10, 1), (30, 2)], targets=("heat", "acid"))
    columns = both.decode(answers([0, 1]))
    assert columns == {"prediction.heat": pytest.approx([20]), "prediction.acid": pytest.approx([2])}


def test_units_are_answered_as_lists_also_where_there_are_none():
    head = made("position-classification", ["HE"])
    columns = head.decode([np.array([[0, 1], [1, 0]], dtype=np.float32), np.empty((0, 2), dtype=np.float32)])
    assert columns["prediction"] == [["H", "E"], []]
    assert [len(row) for row in columns["probability_E"]] == [2, 0]
    values = made("position-regression", ["1 3"])
    assert values.decode([np.array([[0], [1]], dtype=np.float32)]) == {"prediction": [pytest.approx([2, 3])]}


def test_metrics_speak_of_the_labels_own_units_and_leave_out_what_is_unknown():
    head = made("sequence-regression", [10, 30])
    targets = [head.encode(label, 1) for label in (10, 20, 30)]
    found = head.metrics(answers([-1], [0.5], [1]), [*targets[:2], targets[2] * np.nan])
    assert found["mae"] == pytest.approx(2.5)
    units = made("position-classification", ["01"])
    output = [np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32), np.array([[1, 0]], dtype=np.float32)]
    assert units.metrics(output, [np.array([0, 1, -100]), np.array([1])])["accuracy"] == pytest.approx(2 / 3)


def test_real_labels_per_residue_are_learned():
    with (DATA / "disorder.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    head = made("position-classification", [row["labels"] for row in rows])
    target = [head.encode(row["labels"], len(row["sequence"])) for row in rows]
    said = head.decode([np.eye(2, dtype=np.float32)[row] for row in target])["prediction"]
    assert ["".join(word) for word in said] == [row["labels"] for row in rows]
