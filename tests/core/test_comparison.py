"""Did transfer help: differences paired by seed, their interval, and the sentence that says it."""

import math

import pytest

import exapt
from exapt import RecipeError
from exapt.comparison import Comparison, Contender, Difference, from_scratch, paired_difference
from runs import charges as write_charges
from runs import recipe, training


def contender(name, *values):
    return Contender(name, values, (1.0,) * len(values), 1)


def test_differences_are_paired_by_seed_with_students_interval():
    found = paired_difference(contender("lora", 0.9, 0.6, 0.9), contender("scratch", 0.8, 0.4, 0.6))
    # Gaps 0.1, 0.2 and 0.3: mean 0.2, deviation 0.1; t with 2 degrees of freedom is 4.302653 at 97.5 %.
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert found.against == "scratch"
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - reach, 0.2 + reach), abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "mean", "low", "high", "sentence"),
    [
        ("macro_f1", 0.2, 0.1, 0.3, "Transfer helps against scratch: macro_f1 +0.200, 95 % interval +0.100 to +0.300."),
        (
            "macro_f1",
            -0.2,
            -0.3,
            -0.1,
            "Transfer HURTS against scratch: macro_f1 -0.200, 95 % interval -0.300 to -0.100.",
        ),
        (
            "macro_f1",
            0.2,
            -0.1,
            0.5,
            "No gain can be told against scratch: macro_f1 +0.200, 95 % interval -0.100 to +0.500.",
        ),
        ("rmse", -0.2, -0.3, -0.1, "Transfer helps against scratch: rmse -0.200, 95 % interval -0.300 to -0.100."),
        ("rmse", 0.2, 0.1, 0.3, "Transfer HURTS against scratch: rmse +0.200, 95 % interval +0.100 to +0.300."),
    ],
)
def test_the_verdict_says_plainly_what_the_interval_says(metric, mean, low, high, sentence):
    found = Comparison(metric, (0, 1), (), (Difference("scratch", mean, low, high),))
    assert found.verdict == sentence


def test_a_comparison_runs_all_three_over_all_seeds(tmp_path):
    given = recipe(write_charges(tmp_path / "charges.csv"), **training(epochs=3, metric="macro_f1"))
    found = exapt.compare(given, seeds=(3, 7))
    assert found.metric == "macro_f1"
    assert [one.name for one in found.contenders] == [f"probe ({given['backbone']})", "scratch", "k-mers, linear"]
    assert all(len(one.values) == len(one.seconds) == 2 for one in found.contenders)
    assert all(0 <= value <= 1 for one in found.contenders for value in one.values)
    assert found.contenders[0].trainable == 2 * 32 + 2
    assert found.contenders[1].trainable > 20_000
    # The recipe's own values are those of its own runs.
    alone = [exapt.train(given | {"seed": seed}).metrics["test"]["macro_f1"] for seed in (3, 7)]
    assert list(found.contenders[0].values) == alone
    assert [difference.against for difference in found.differences] == ["scratch", "k-mers, linear"]
    assert found.as_dict()["verdict"] == found.verdict
    assert found.verdict.count(". ") + 1 >= 2


def test_training_from_scratch_has_options_of_its_own(tmp_path):
    given = exapt.recipe.read_recipe(recipe(write_charges(tmp_path / "charges.csv"), **training(epochs=3, clip=0.5)))
    # Many cheap epochs, and a rate for what learns of the backbone, are the strategy's; the rest stays.
    assert from_scratch(given, {}).training.model_dump(exclude_unset=True) == {"batch_size": 8, "clip": 0.5}
    assert from_scratch(given, {"epochs": 7}).training.model_dump(exclude_unset=True) == {
        "batch_size": 8,
        "clip": 0.5,
        "epochs": 7,
    }
    with pytest.raises(RecipeError, match=r"^training from scratch: unknown key 'epoch'\. Did you mean 'epochs'\?"):
        from_scratch(given, {"epoch": 7})


@pytest.mark.parametrize("seeds", [(0,), (1, 1)])
def test_one_run_is_no_comparison(tmp_path, seeds):
    with pytest.raises(RecipeError) as caught:
        exapt.compare(recipe(write_charges(tmp_path / "charges.csv")), seeds=seeds)
    assert str(caught.value) == (
        "a comparison needs at least two seeds, all different: one run cannot tell gain from luck"
    )


def test_a_comparison_needs_a_test_part(tmp_path):
    given = recipe(write_charges(tmp_path / "charges.csv"), split={"fractions": [0.8, 0.2, 0.0]})
    with pytest.raises(RecipeError) as caught:
        exapt.compare(given, seeds=(0, 1))
    assert str(caught.value) == "a comparison needs a test part: give split.column or split.fractions one"


def test_a_metric_that_one_contender_leaves_undefined_is_refused(tmp_path):
    # All test rows have one charge, so that no correlation with anything is defined.
    table = tmp_path / "flat.csv"
    parts = ["train"] * 10 + ["valid"] * 4 + ["test"] * 4
    charges = [row % 3 for row in range(14)] + [5] * 4
    rows = [f"{'DK' * (row + 3)},{charges[row]},{part}" for row, part in enumerate(parts)]
    table.write_text("sequence,charge,split\n" + "\n".join(rows) + "\n")
    given = recipe(table, head={"name": "sequence-regression", "label": "charge"}, **training(metric="spearman"))
    with pytest.raises(RecipeError) as caught:
        exapt.compare(given, seeds=(0, 1))
    assert str(caught.value) == (
        "the metric 'spearman' is undefined for the recipe with seed 0 on this test part; name another in training.metric"
    )
