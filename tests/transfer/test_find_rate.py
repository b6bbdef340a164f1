"""A range test suggests rates that train well, keeps nothing, and says by which rule it chose."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

import exapt
from exapt import OutputError, RecipeError
from exapt.cli import cli
from exapt.rate_finder import smoothed, suggested
from runs import Heard, listened, recipe, training
from runs import charges as write_charges
from transfer.modalities import recipe as recipe_of
from transfer.modalities import table as write_table


@pytest.fixture(scope="module")
def charges(tmp_path_factory):
    return write_charges(tmp_path_factory.mktemp("charges") / "charges.csv", rows=60)


@pytest.fixture(scope="module")
def found(charges, tmp_path_factory):
    """The rates of a whole backbone and its head, with the table, and what was heard."""
    heard, out = Heard(), tmp_path_factory.mktemp("rates") / "rates.csv"
    given = recipe(charges, "full", **training(epochs=3))
    return exapt.find_rate(given, steps=30, out=out, listeners=[heard]), out, heard


def test_heads_and_backbone_get_a_rate_each_with_its_rule(found):
    rates, _, _ = found
    assert [curve.part for curve in rates.curves] == ["heads", "backbone"]
    assert list(rates.suggestions) == ["training.head_learning_rate", "training.learning_rate"]
    assert {curve.rule for curve in rates.curves} == {"steepest"}
    assert {curve.says for curve in rates.curves} == {"where the loss falls fastest"}
    assert json.loads(json.dumps(rates.as_dict()))["suggestions"] == rates.suggestions


def test_the_table_holds_every_step(found):
    rates, out, _ = found
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == sum(len(curve.losses) for curve in rates.curves)
    assert [row["step"] for row in rows if row["part"] == "heads"] == [str(step) for step in range(1, 31)]
    first, last = rates.curves[0].rates[0], rates.curves[0].rates[-1]
    assert (first, last) == pytest.approx((1e-7, 1))
    steps = np.diff(np.log([float(row["rate"]) for row in rows if row["part"] == "heads"]))
    assert steps == pytest.approx(steps[0])


def test_only_the_training_part_is_seen_and_nothing_is_kept(found):
    _, out, heard = found
    assert {(facts["rows.valid"], facts["rows.test"]) for facts in heard.facts("start")} == {(0, 0)}
    assert not heard.facts("end")
    assert [path.name for path in out.parent.iterdir()] == ["rates.csv"]


def test_a_backbone_rests_while_heads_are_tested(found):
    """Heads at rest lose what the untouched model does: the first test begins where training does."""
    rates, _, heard = found
    first = heard.facts("step")[0]["loss"]
    assert rates.curves[0].losses[0] == first
    # Heads that have learned leave less to lose.
    assert np.mean(rates.curves[1].losses[:5]) < 0.7 * np.mean(rates.curves[0].losses[:5])


def test_suggested_rates_train_better_than_rates_far_from_them(found, charges):
    rates, _, _ = found
    head, backbone = rates.suggestions.values()

    def loss(factor, strategy, **rate):
        """The loss on the valid part after the last epoch."""
        options = {key: value * factor for key, value in rate.items()}
        _, heard = listened(recipe(charges, strategy, **training(epochs=3, warmup=0, **options)))
        return heard.of("epoch", "valid.loss")[-1]

    for strategy, rate in (("probe", {"head_learning_rate": head}), ("full", {"learning_rate": backbone})):
        best, lower, higher = (loss(factor, strategy, **rate) for factor in (1, 1 / 100, 100))
        assert best < 0.9 * lower
        assert best < higher


def test_a_frozen_backbone_has_a_rate_of_heads_alone_and_a_picture(charges, tmp_path):
    picture = tmp_path / "rates.svg"
    words = ["find-rate", "--data", str(charges), "--split", "split", "--label", "kind", "--steps", "60"]
    given = recipe(charges)
    words += ["--backbone", given["backbone"], "--head", "sequence-classification", "--strategy", "probe"]
    done = CliRunner().invoke(cli, [*words, "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    header, heads, line = done.stdout.splitlines()
    assert header.split() == ["part", "rate", "rule"]
    assert heads.startswith("heads  ")
    assert line.startswith("--set training.head_learning_rate=0.0")
    assert "learning rate" in picture.read_text(encoding="utf-8")
    again = CliRunner().invoke(cli, [*words, "--picture", str(picture)])
    assert (again.exit_code, again.stderr) == (
        2,
        f"exapt: '{picture}' exists already. Remove it, or name another file.\n",
    )
    as_json = CliRunner().invoke(cli, [*words, "--json", "--rule", "divergence", "--high", "1e9"])
    (curve,) = json.loads(as_json.stdout)["curves"]
    assert curve["rule"] == "divergence"
    assert curve["suggestion"] == pytest.approx(curve["rates"][-1] / 10)
    assert len(curve["losses"]) < 60


def test_a_loss_that_does_not_fall_suggests_nothing(charges):
    rates = exapt.find_rate(recipe(charges), steps=20, low=1e-12, high=1e-10)
    assert rates.suggestions == {}
    assert rates.curves[0].says == "none: the loss neither falls nor diverges from 1e-12 on"


def test_where_nothing_learns_by_steps_there_is_no_rate_to_find(charges):
    with pytest.raises(RecipeError) as refused:
        exapt.find_rate(recipe(charges, head={"name": "ridge", "label": "kind"}), steps=20)
    assert str(refused.value) == (
        "nothing learns by steps here, so that no rate suits it: the backbone rests, and the heads are fitted once"
    )


def test_the_steepest_fall_is_below_all_before_it():
    rates = np.geomspace(1e-6, 1, 61)
    losses = np.where(rates < 1e-3, 1.0, 0.4)
    # A jump up and down again is a deeper fall than that, and none.
    losses[50:53] = 5.0
    even = smoothed(losses, 1.0)
    assert suggested(rates, losses, even, 1.0) == pytest.approx(1e-3, rel=0.3)
    assert suggested(rates, np.ones(61), np.ones(61), 1.0) is None
    assert smoothed(np.ones(9), 2.0) == pytest.approx(np.ones(9))


@pytest.mark.parametrize("modality", ["dna", "cell"])
def test_rates_are_found_in_every_modality(modality, tmp_path):
    given = recipe_of(modality, write_table(modality, tmp_path / "table.csv", rows=36))
    rates = exapt.find_rate(given, steps=40)
    assert 1e-3 < rates.suggestions["training.head_learning_rate"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "find-rate: low (1) is not below high (0.1)"),
        ({"low": 0}, "find-rate: 'low' is 0: "),
        ({"steps": 3}, "find-rate: 'steps' is 3: "),
        ({"rule": "steep"}, "find-rate: 'rule' is 'steep': "),
        ({"hihg": 1}, "find-rate: unknown key 'hihg'. Did you mean 'high'? Known: high, low, rule, steps"),
    ],
)
def test_a_range_that_is_none_is_refused_in_one_line(charges, options, message):
    with pytest.raises(RecipeError) as refused:
        exapt.find_rate(recipe(charges), **options)
    assert str(refused.value).startswith(message)


def test_a_file_that_cannot_be_written_is_refused_before_any_step(charges, tmp_path):
    heard = Heard()
    with pytest.raises(OutputError) as refused:
        exapt.find_rate(recipe(charges), out=tmp_path / "rates.txt", listeners=[heard])
    assert str(refused.value).startswith("no installed writer writes 'rates.txt'")
    assert not heard.events
