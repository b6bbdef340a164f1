"""Every metric by hand where a hand suffices, and against scikit-learn and scipy on random answers."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from exapt.metrics import better, calibration_error, classification, multilabel, regression, regressions

RANDOM = np.random.default_rng(7)


def shares(rows, classes):
    drawn = RANDOM.random((rows, classes))
    return drawn / drawn.sum(1, keepdims=True)


def test_two_classes_by_hand():
    certain = np.array([0.9, 0.8, 0.3, 0.6, 0.1])
    found = classification(np.stack([1 - certain, certain], 1), np.array([1, 1, 1, 0, 0]))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 1) + 2 * 1 / (2 * 1 + 1 + 1)) / 2)
    assert found["mcc"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["auprc"] == pytest.approx((1 + 1 + 3 / 4) / 3)


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_agrees_with_scikit_learn(classes):
    certain, truth = shares(200, classes), RANDOM.integers(0, classes, 200)
    predicted = certain.argmax(1)
    found = classification(certain, truth)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, predicted))
    answer = certain[:, 1] if classes == 2 else certain
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, answer, multi_class="ovr", average="macro"))
    one_hot = np.eye(classes)[truth]
    expected = sk.average_precision_score(truth if classes == 2 else one_hot, answer, average="macro")
    assert found["auprc"] == pytest.approx(expected)


def test_calibration_error_by_hand():
    # Of 15 bins, 0.55 lies in the 9th; 0.95 and 0.97 lie together in the 15th.
    confidences, correct = np.array([0.55, 0.95, 0.97]), np.array([True, True, False])
    by_hand = 1 / 3 * abs(1 - 0.55) + 2 / 3 * abs(1 / 2 - (0.95 + 0.97) / 2)
    assert calibration_error(confidences, correct) == pytest.approx(by_hand)


def test_a_bin_holds_its_upper_edge_and_certainty_is_calibrated_if_right():
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    # 3/15 belongs to the third bin, 0.21 to the fourth: apart, each errs by its own gap.
    assert calibration_error(np.array([3 / 15, 0.21]), np.array([True, False])) == pytest.approx((0.8 + 0.21) / 2)


def test_one_class_in_the_targets_leaves_out_what_it_leaves_undefined():
    found = classification(np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0]))
    assert sorted(found) == ["accuracy", "balanced_accuracy", "ece", "macro_f1"]
    assert found["balanced_accuracy"] == 0.5


def test_a_class_that_the_targets_lack_is_left_out_of_the_ranking_means():
    certain, truth = shares(50, 3), RANDOM.integers(0, 2, 50)
    expected = np.mean([sk.roc_auc_score(truth == label, certain[:, label]) for label in (0, 1)])
    assert classification(certain, truth)["auroc"] == pytest.approx(expected)


def test_no_targets_no_metrics():
    assert classification(np.empty((0, 3)), np.empty(0, dtype=int)) == {}
    assert multilabel(np.empty((0, 3)), np.empty((0, 3))) == {}
    assert regression(np.array([1.0]), np.array([np.nan])) == {}


def test_multilabel_agrees_with_scikit_learn():
    certain, truth = RANDOM.random((80, 5)), RANDOM.integers(0, 2, (80, 5))
    chosen = certain >= 0.5
    assert multilabel(certain, truth) == pytest.approx(
        {
            "macro_f1": sk.f1_score(truth, chosen, average="macro"),
            "micro_f1": sk.f1_score(truth, chosen, average="micro"),
            "auroc": sk.roc_auc_score(truth, certain, average="macro"),
            "auprc": sk.average_precision_score(truth, certain, average="macro"),
        }
    )


def test_multilabel_leaves_out_unknown_cells_and_labels_of_one_value():
    certain = np.array([[0.9, 0.2], [0.1, 0.8], [0.6, 0.7]])
    truth = np.array([[1, 1], [0, 1], [-100, 1]])
    found = multilabel(certain, truth)
    assert found["auroc"] == 1
    assert found["macro_f1"] == pytest.approx((1 + 2 * 2 / (2 * 2 + 1)) / 2)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1))


def test_the_threshold_of_multilabel_decides():
    certain, truth = np.array([[0.3], [0.1]]), np.array([[1], [0]])
    assert [multilabel(certain, truth, cut)["micro_f1"] for cut in (0.5, 0.3)] == [0, 1]


def test_regression_by_hand():
    found = regression(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    assert found["mae"] == pytest.approx(1)
    assert found["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert found["r2"] == pytest.approx(1 - 5 / 2)
    assert found["spearman"] == pytest.approx(0.5)


def test_regression_agrees_with_scipy_also_on_ties():
    truth = RANDOM.integers(0, 8, 100).astype(float)
    predicted = np.round(truth + RANDOM.normal(size=100))
    found = regression(predicted, truth)
    assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, truth).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, truth).statistic)
    assert found["r2"] == pytest.approx(sk.r2_score(truth, predicted))


@pytest.mark.parametrize("predicted", [np.full(3, 0.1), np.array([0.1, 0.1 + 1e-16, 0.1])])
def test_a_constant_prediction_has_no_correlation(predicted):
    assert sorted(regression(predicted, np.array([1.0, 2.0, 3.0]))) == ["mae", "r2", "rmse"]


def test_constant_targets_leave_only_distances():
    assert sorted(regression(np.array([1.0, 2.0]), np.array([5.0, 5.0]))) == ["mae", "rmse"]


def test_a_missing_target_is_left_out():
    whole = regression(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    assert regression(np.array([1.0, 9.0, 2.0, 4.0]), np.array([1.0, np.nan, 3.0, 2.0])) == whole


def test_several_targets_give_each_and_the_mean_of_those_that_are_defined():
    truth = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    found = regressions(np.array([[1.0, 4.0], [2.0, 6.0], [3.0, 5.0]]), truth, ["heat", "acid"])
    assert found["heat.spearman"] == found["spearman"] == pytest.approx(1)
    assert "acid.spearman" not in found
    assert found["mae"] == pytest.approx((found["heat.mae"] + found["acid.mae"]) / 2) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "a", "b", "answer"),
    [
        ("macro_f1", 0.6, 0.5, True),
        ("macro_f1", 0.5, 0.5, False),
        ("rmse", 0.6, 0.5, False),
        ("valid.loss", 0.4, 0.5, True),
        ("ddg.mae", 0.4, 0.5, True),
        ("spearman", -0.9, None, True),
        ("spearman", None, -0.9, False),
        ("loss", float("nan"), 0.5, False),
        ("loss", 0.5, float("nan"), True),
        ("spearman", None, None, False),
    ],
)
def test_which_value_is_better(metric, a, b, answer):
    assert better(metric, a, b) is answer
