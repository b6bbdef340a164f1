"""Weights of several epochs, averaged, and points between the pretrained model and the tuned one: put in place and reported."""

import json

import pytest
import torch

import exapt
from exapt import RecipeError
from exapt.adapted import Adapted
from exapt.building import build_backbone
from exapt.model import backbone_state
from runs import QUERIES, charges, contents, recipe, training


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("rows") / "rows.csv", rows=24)


def given(table, *strategies, epochs=3, **changes):
    """Return a recipe whose first epochs are the same however many follow."""
    training = {"epochs": epochs, "batch_size": 8, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0}
    written = recipe(table, strategies=list(strategies), **{"training": training} | changes)
    return {key: value for key, value in written.items() if key != "strategy"}


def state(adapted: Adapted):
    return {
        name: tensor.detach() for name, tensor in (*backbone_state(adapted.model.backbone).items(), *_heads(adapted))
    }


def _heads(adapted):
    return adapted.model.heads.state_dict(prefix="heads.").items()


NO_VALID = {"split": {"column": "split", "test": ["valid", "test"]}}
SWA = {"name": "swa", "epoch": 2, "factor": 1.0}


def test_the_average_is_the_mean_of_the_epochs_and_stands_in_the_adapter(table, tmp_path):
    first, second = ({**given(table, "full", epochs=epochs), **NO_VALID} for epochs in (2, 3))
    before, after = state(exapt.train(first)), state(exapt.train(second))
    averaged = exapt.train({**second, "strategies": ["full", SWA]}, tmp_path / "out")
    for name, tensor in state(averaged).items():
        mean = before[name] + (after[name] - before[name]) / 2
        assert torch.equal(tensor, mean), name
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert averaged.manifest["transfer"]["swa"] == {"averaged": 2, "kept": "average", "best": {}, "average": {}}
    assert exapt.load(tmp_path / "out").predict(QUERIES).to_pylist() == averaged.predict(QUERIES).to_pylist()


def test_an_interrupted_average_goes_on_to_the_same_bytes(table, tmp_path):
    cyclic = {"name": "swa", "epoch": 1, "rate": "cyclic", "factor": 0.2}
    written = given(table, {"name": "partial", "blocks": 1}, cyclic, epochs=3)
    written["training"]["checkpoint_steps"] = 1
    whole = exapt.train(written, tmp_path / "whole")

    def stop(run, event):
        if event.name == "step" and event.facts["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.train(written, tmp_path / "again", listeners=[stop])
    exapt.train(written, tmp_path / "again", resume=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    told = whole.manifest["transfer"]["swa"]
    assert (told["averaged"], told["kept"]) == (3, "average")
    # What is reported of the average is what the adapter itself is measured by.
    assert told["average"]["accuracy"] == pytest.approx(whole.metrics["valid"]["accuracy"])
    assert told["best"].keys() == told["average"].keys()


def test_an_average_that_would_never_begin_is_refused(table):
    with pytest.raises(RecipeError) as error:
        exapt.train(given(table, "probe", {"name": "swa", "epoch": 9}, epochs=1))
    assert str(error.value) == "strategy 'swa' averages from epoch 9 on, and training has 1: lower its epoch"


def features(adapted):
    """Return the last states of one input, as heads read them."""
    from exapt.data.batching import collate

    with torch.no_grad():
        return adapted.model.backbone.at_layer(collate([adapted.tokenizer.encode(QUERIES[0])]), -1).hidden


def published(adapted):
    return Adapted(
        type(adapted.model)(build_backbone(adapted.resolved.backbone), {}, {}, -1), adapted.tokenizer, None, {}
    )


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_the_ends_of_the_line_are_the_pretrained_and_the_tuned_model(table, strategy):
    tuned = exapt.train(given(table, strategy, epochs=1))
    before = exapt.train(given(table, strategy, {"name": "wise-ft", "alpha": 0.0, "alphas": [0.5, 1]}, epochs=1))
    assert torch.equal(features(before), features(published(tuned)))
    assert not torch.allclose(features(before), features(tuned), atol=1e-4)
    # The heads are as they were trained, wherever the backbone is.
    for name, tensor in _heads(tuned):
        assert torch.equal(dict(_heads(before))[name], tensor)
    curve = before.manifest["transfer"]["wise-ft"]["curve"]
    assert [point["alpha"] for point in curve] == [0.0, 0.5, 1.0]
    assert [curve[place]["valid"] for place in (0, 2)] == [before.metrics["valid"], tuned.metrics["valid"]]


def test_the_best_point_of_the_curve_is_kept_and_told(table, tmp_path, exapt_says):
    target = charges(tmp_path / "target.csv", rows=12, seed=5)
    written = given(table, "full", {"name": "wise-ft", "alphas": [1, 0.25, 0]}, epochs=2, target={"path": str(target)})
    written["training"]["metric"] = "loss"
    adapted = exapt.train(written, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "exapt.json").read_text())["transfer"]["wise-ft"]
    assert [point["alpha"] for point in told["curve"]] == [0.0, 0.25, 1.0]
    losses = {point["alpha"]: point["valid"]["loss"] for point in told["curve"]}
    assert len(set(losses.values())) == 3
    assert told["alpha"] == min(losses, key=losses.get)
    assert adapted.metrics["valid"]["loss"] == pytest.approx(losses[told["alpha"]])
    at = next(point for point in told["curve"] if point["alpha"] == told["alpha"])
    assert adapted.metrics["target"]["loss"] == pytest.approx(at["target"]["loss"])
    said = exapt_says("inspect", tmp_path / "out")
    assert f"`wise-ft`: alpha {told['alpha']:.4g}.\n\ncurve:\n\n| alpha | valid.loss |" in said
    assert f"| 0.25 | {losses[0.25]:.4g} |" in said


@pytest.fixture
def exapt_says():
    from click.testing import CliRunner

    from exapt.cli import cli

    def run(*words):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="exapt")
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_an_average_comes_before_the_line_to_it_in_any_order(tmp_path):
    table = charges(tmp_path / "rows.csv")
    swa, line = {"name": "swa", "epoch": 1, "keep": "average"}, {"name": "wise-ft", "alpha": 0.5}
    states = []
    for order in ([swa, line], [line, swa]):
        given = recipe(table, **training(epochs=2))
        del given["strategy"]
        states.append(exapt.train(given | {"strategies": ["full", *order]}).model.backbone.state_dict())
    alone = recipe(table, **training(epochs=2))
    del alone["strategy"]
    averaged = exapt.train(alone | {"strategies": ["full", swa]}).model.backbone.state_dict()
    one, other = states
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert any(not torch.equal(value, averaged[name]) for name, value in one.items())
