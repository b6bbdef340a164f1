"""Adaptation to a domain without labels: what it does to the features, what it is told by, and what it never looks at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import exapt
from exapt import RecipeError, StrategySpec
from exapt.building import build_augmentations
from exapt.builtin._domains import _Reversed, coral, mmd, ramp
from exapt.builtin._gradual_mixing import partners
from exapt.builtin.domains import CoralOptions, MmdOptions
from exapt.cli import cli
from exapt.plugins import current
from exapt.shift import told_apart
from runs import Heard, contents
from transfer.shifted import brief, domain, recipe


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    return domain(folder / "near.csv", "near"), domain(folder / "far.csv", "far", seed=5)


@pytest.fixture(scope="module")
def alone(tables, tmp_path_factory):
    """Full fine-tuning, which has the target's table to be measured on and no strategy that adapts to it."""
    heard = Heard()
    out = tmp_path_factory.mktemp("alone") / "out"
    return exapt.train(recipe(*tables), out, listeners=[heard]), out, heard


def classifier(adapted):
    return adapted.manifest["transfer"]["domains"]["classifier"]


def test_the_report_says_how_good_it_is_on_both_domains_and_how_far_they_are_apart(alone):
    adapted, out, heard = alone
    told = adapted.manifest["transfer"]["domains"]
    assert told["classifier"].keys() == {"before", "after", "chance", "rows"}
    assert told["classifier"]["chance"] == 0.5
    assert told["classifier"]["rows"] == 48
    assert told["classifier"]["before"] > 0.85
    assert told["metric"] == "macro_f1"
    assert told["source"] == {part: adapted.metrics[part]["macro_f1"] for part in ("valid", "test")}
    assert told["target"] == adapted.metrics["target"]["macro_f1"]
    (end,) = heard.facts("end")
    assert end["transfer"]["domains"] == told
    assert end["target.macro_f1"] == told["target"]
    assert "target: 72 of 72 rows have labels, which measure only: nothing is learned from them" in heard.of(
        "note", "text"
    )
    assert adapted.manifest["data"]["target"]["rows"] == 72
    shown = CliRunner().invoke(cli, ["inspect", str(out)]).output
    assert "| metric | valid | test | target |" in shown
    before, after = (told["classifier"][when] for when in ("before", "after"))
    assert f"| classifier | {before:.4g} | {after:.4g} | 0.5 | 48 |" in shown
    # Where it stood is a matter of one machine.
    assert adapted.manifest["recipe"]["target"]["path"] == "far.csv"


@pytest.mark.parametrize("name", ["adversarial", "coral", "mmd"])
def test_domains_are_harder_to_tell_apart_by_the_features(tables, alone, name):
    adapted = exapt.train(recipe(*tables, "full", name))
    before, after = classifier(adapted)["before"], classifier(adapted)["after"]
    assert before == classifier(alone[0])["before"]
    assert after < classifier(alone[0])["after"] - 0.1
    assert adapted.metrics["test"]["accuracy"] > 0.9
    assert adapted.metrics["target"]["accuracy"] > 0.9
    # Before the second half, what comes in by and by had hardly come in.
    assert adapted.manifest["best_epoch"] > 3


def test_mixed_rows_carry_labels_over(tables, alone):
    adapted = exapt.train(recipe(*tables, "full", {"name": "gradual-mixing", "until": 0.5}))
    assert adapted.metrics["target"]["loss"] < alone[0].metrics["target"]["loss"]
    told = adapted.manifest["transfer"]["gradual-mixing"]
    assert told["share"] == 1.0
    assert told["paired"] > 0.8


def test_the_issues_own_example_trains(tables, tmp_path):
    adapted = exapt.train(recipe(*tables, "lora", "adversarial", "l2-sp", **brief()), tmp_path / "out")
    assert classifier(adapted).keys() == {"before", "after", "chance", "rows"}
    again = exapt.load(tmp_path / "out")
    assert again.predict(["MKTAYIAK"]).equals(adapted.predict(["MKTAYIAK"]))
    # The discriminator is of the training alone.
    assert not [name for name in contents(tmp_path / "out") if "adversarial" in name]
    assert all("discriminator" not in key for key in adapted.manifest["tensors"]["heads.safetensors"])


def test_no_label_of_the_target_domain_is_ever_learned_from(tmp_path):
    near = domain(tmp_path / "near.csv", "near", rows=24)
    own = {"name": "self-training", "threshold": 0.5, "begin": 0, "balance": False}
    every = ["full", "coral", own, "gradual-mixing"]
    learned = {}
    for labels in ("all", "wrong", "none", "half"):
        far = domain(tmp_path / f"{labels}.csv", "far", rows=24, seed=5, labels=labels)
        adapted = exapt.train(recipe(near, far, *every, **brief()))
        learned[labels] = adapted.model.learned()
        rows = adapted.manifest["data"]["target"]["labelled"]
        assert rows == ({"head": 12} if labels == "half" else {} if labels == "none" else {"head": 24})
        assert ("target" in adapted.metrics) == (labels != "none")
        assert sum(adapted.manifest["transfer"]["self-training"]["head"]["labels"].values()) > 0
    for labels in ("wrong", "none", "half"):
        assert all(torch.equal(value, learned[labels][key]) for key, value in learned["all"].items()), labels


def test_a_target_of_some_labels_is_measured_on_those_rows(tmp_path):
    near = domain(tmp_path / "near.csv", "near", rows=24)
    far = domain(tmp_path / "half.csv", "far", rows=24, seed=5, labels="half")
    heads = {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "charge": {"name": "sequence-regression", "label": "charge"},
        "absent": {"name": "sequence-regression", "label": "size"},
    }
    text = (tmp_path / "near.csv").read_text().splitlines()
    sized = [text[0] + ",size", *(f"{line},{row}" for row, line in enumerate(text[1:]))]
    (tmp_path / "near.csv").write_text("\n".join(sized) + "\n")
    given = recipe(near, far, "probe", **brief())
    adapted = exapt.train({**{key: value for key, value in given.items() if key != "head"}, "heads": heads})
    metrics = adapted.metrics["target"]
    assert adapted.manifest["data"]["target"]["labelled"] == {"kind": 12, "charge": 12}
    assert {"kind.accuracy", "charge.rmse"} <= metrics.keys()
    assert not [name for name in metrics if name.startswith("absent")]
    assert (metrics["kind.accuracy"] * 12).is_integer()


def test_several_domains_of_the_source_are_classes_of_their_own(tmp_path, tables):
    near = domain(tmp_path / "several.csv", "near", "third", "fourth")
    given = recipe(near, tables[1], "full", "adversarial", **brief())
    given["data"] = {"path": near, "domain": "origin"}
    heard = Heard()
    adapted = exapt.train(given, listeners=[heard])
    # Twice a layer of 128 and one of as many outputs as there are domains: three, and the target's.
    width = adapted.model.backbone.width
    discriminator = 128 * (width + 1) + 128 * 129 + 4 * 129
    assert adapted.model.domains == ("fourth", "near", "third")
    assert adapted.model.targeted
    assert discriminator == sum(p.numel() for p in _discriminator(adapted.model.domains, width, True).parameters())
    assert classifier(adapted)["chance"] == 0.5
    # Without a target there is nothing that a fourth could be.
    assert _discriminator(adapted.model.domains, width, False)[-1].out_features == 3
    alone = exapt.train({key: value for key, value in given.items() if key != "target"})
    assert not alone.model.targeted


def _discriminator(domains, width, targeted):
    class Learner:
        class backbone:
            pass

    Learner.backbone.width, Learner.domains, Learner.targeted = width, domains, targeted
    spec = current().get(StrategySpec, "adversarial").spec
    return spec.build(spec.options()).attach(Learner)


def test_without_a_target_the_domains_of_the_source_come_together(tmp_path):
    near = domain(tmp_path / "several.csv", "near", "far", "third")
    found = {}
    for strategies in (("full",), ("full", "mmd")):
        given = recipe(near, "", *strategies) | {"data": {"path": near, "domain": "origin"}}
        found[strategies] = classifier(exapt.train(given))
    assert found[("full", "mmd")]["chance"] == pytest.approx(1 / 3)
    assert found[("full", "mmd")]["after"] < found[("full",)]["after"] - 0.1


def test_two_views_of_an_input_are_answered_more_alike(tmp_path):
    near = domain(tmp_path / "near.csv", "near")
    far = domain(tmp_path / "far.csv", "far", seed=5)
    changes = {"augmentations": [{"name": "residue-substitution", "rate": 0.3}]}
    apart = {}
    for name, strategies in {"none": ["full"], "agree": ["full", {"name": "consistency", "weight": 20}]}.items():
        adapted = exapt.train(recipe(near, far, *strategies, **changes, **brief(6)))
        apart[name] = disagreement(adapted, far)
    assert 0 <= adapted.manifest["transfer"]["consistency"]["agreement"]["head"] <= 1
    assert apart["agree"] < 0.5 * apart["none"]


def test_fixmatch_learns_from_sure_answers_alone(tmp_path):
    near = domain(tmp_path / "near.csv", "near", rows=24)
    far = domain(tmp_path / "far.csv", "far", rows=24, seed=5)
    loss = {}
    for threshold in (None, 0.9999, 0.5):
        fixmatch = {"name": "consistency", "method": "fixmatch", "threshold": threshold}
        strategies = ["full", *([fixmatch] if threshold else [])]
        adapted = exapt.train(recipe(near, far, *strategies, augmentations=["residue-substitution"], **brief(1)))
        loss[threshold] = adapted.metrics["target"]["loss"]
    assert loss[0.9999] == pytest.approx(loss[None], abs=1e-5)
    assert abs(loss[0.5] - loss[None]) > 1e-3


def disagreement(adapted, far):
    """Return the mean squared difference of the answers for two changed copies of each row."""
    (augmentation,) = build_augmentations(adapted.resolved)
    sequences = [line.split(",")[1] for line in Path(far).read_text(encoding="utf-8").splitlines()[1:]]
    views = [
        [augmentation.change(value, np.random.default_rng((view, row))).value for row, value in enumerate(sequences)]
        for view in (0, 1)
    ]
    one, other = (np.array(adapted.predict(view)["probability_acid"]) for view in views)
    return float(((one - other) ** 2).mean())


def test_dropout_makes_views_too(tables):
    head = {"name": "sequence-classification", "label": "kind", "dropout": 0.3}
    adapted = exapt.train(recipe(*tables, "probe", "consistency", head=head, **brief()))
    assert "consistency" not in adapted.manifest["transfer"]


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
    near = domain(tmp_path / "near.csv", "near", rows=36)
    far = domain(tmp_path / "far.csv", "far", rows=36, seed=5)
    strategies = ["full", "adversarial", {"name": "self-training", "threshold": 0.5, "begin": 0, "every": 2}]
    given = recipe(near, far, *strategies, "gradual-mixing", **brief(3, batch_size=8, checkpoint_steps=1))
    exapt.train(given, tmp_path / "whole")

    def stop_at(step):
        def listen(run, event):
            if event.name == "step" and event.facts["step"] == step:
                raise KeyboardInterrupt

        return listen

    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            exapt.train(given, tmp_path / "again", resume=step > 3, listeners=[stop_at(step)])
    exapt.train(given, tmp_path / "again", resume=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_the_command_says_how_far_the_domains_are_apart(tmp_path, tables):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(*tables, "probe", **brief())))
    done = CliRunner().invoke(cli, ["train", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = exapt.load(tmp_path / "out").manifest["transfer"]["domains"]["classifier"]
    assert told["before"] == told["after"]
    line = f"domains told apart by their features: {told['before']:.2f} before training, {told['after']:.2f} after (chance 0.50)"
    assert line in done.stdout.splitlines()


def test_a_table_has_several_domains_of_which_one_is_the_target(tmp_path):
    both = domain(tmp_path / "both.csv", "near", "far")
    given = recipe(both, both, "full", "coral", **brief())
    given["data"] = {"path": both, "domain": "origin", "only": ["near"]}
    given["target"] = {"path": both, "domain": "origin", "only": "far"}
    adapted = exapt.train(given)
    assert adapted.manifest["data"]["target"]["rows"] == 36
    assert sum(adapted.manifest["data"]["rows"].values()) == 36


def test_coral_is_the_published_distance():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20, 4)), 2 * rng.normal(size=(30, 4)) + 1
    gap = np.cov(one.T) - np.cov(other.T)
    published = (gap**2).sum() / (4 * 4**2)
    tensors = torch.from_numpy(one), torch.from_numpy(other)
    assert float(coral(CoralOptions(means=False))(*tensors)) == pytest.approx(published)
    means = ((one.mean(0) - other.mean(0)) ** 2).mean()
    assert float(coral(CoralOptions())(*tensors)) == pytest.approx(published + means)


def test_mmd_is_about_nothing_for_one_distribution_and_knows_no_scale():
    torch.manual_seed(0)
    one, other, far = torch.randn(200, 5), torch.randn(200, 5), torch.randn(200, 5) + 1
    distance = mmd(MmdOptions())
    assert abs(float(distance(one, other))) < 0.01
    assert float(distance(one, far)) > 0.1
    assert float(distance(0.01 * one, 0.01 * far)) == pytest.approx(float(distance(one, far)), abs=1e-4)
    # Rows that lie on each other have a gradient too.
    same = torch.ones(3, 2, requires_grad=True)
    distance(same, torch.ones(3, 2)).backward()
    assert same.grad.isfinite().all()


def test_the_gradient_comes_back_reversed():
    vectors = torch.ones(2, 3, requires_grad=True)
    out = _Reversed.apply(vectors, 0.5)
    out.sum().backward()
    assert torch.equal(out, vectors)
    assert torch.equal(vectors.grad, torch.full((2, 3), -0.5))
    assert ramp(0, 10) == 0
    assert ramp(1, 10) == pytest.approx(1, abs=1e-4)


def test_a_row_is_mixed_with_one_that_is_answered_like_it():
    torch.manual_seed(0)
    answers = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [8.0, 0, 0]])
    found = {tuple(partners(torch.tensor([0, 1, 2, -100]), answers).tolist()) for _ in range(40)}
    assert found == {(0, 1, -1, -1), (2, 1, -1, -1)}


def test_domains_are_told_apart_only_if_they_differ():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    assert abs(told_apart([one, other]) - 0.5) < 0.1
    assert told_apart([one, other + 5]) > 0.98
    assert abs(told_apart([one, other, rng.normal(size=(200, 3))]) - 1 / 3) < 0.1
    # A feature that is the same everywhere has no spread to be divided by.
    assert told_apart([np.ones((8, 2)), np.ones((8, 2))]) == 0.5


def test_too_few_rows_tell_nothing(tmp_path):
    near = domain(tmp_path / "near.csv", "near", rows=24)
    far = domain(tmp_path / "far.csv", "far", rows=12)
    few = (tmp_path / "far.csv").read_text().splitlines()[:4]
    (tmp_path / "far.csv").write_text("\n".join(few) + "\n")
    heard = Heard()
    adapted = exapt.train(recipe(near, far, "probe", **brief(1)), listeners=[heard])
    told = adapted.manifest["transfer"]["domains"]
    assert told.keys() == {"metric", "source", "target", "notes"}
    said = (
        "of fewer than 4 distinct rows, a domain cannot be told from others: the target (3); without two others, nothing is "
        "told of how far domains are apart"
    )
    assert told["notes"] == [said]
    assert said in heard.of("note", "text")


def test_a_domain_of_few_rows_is_left_out_and_named(tmp_path):
    lines = Path(domain(tmp_path / "m.csv", "near", "far", "third")).read_text(encoding="utf-8").splitlines()
    third = [line for line in lines if ",third,train" in line][:3]
    few = [line for line in lines if ",third," not in line] + third
    (tmp_path / "m.csv").write_text("\n".join(few) + "\n", encoding="utf-8")
    data = {"path": str(tmp_path / "m.csv"), "domain": "origin"}
    told = exapt.train(recipe("", "", "probe", data=data, **brief(1))).manifest["transfer"]["domains"]
    assert told["notes"] == ["of fewer than 4 distinct rows, a domain cannot be told from others: 'third' (3)"]
    assert told["classifier"]["chance"] == 0.5
    assert told["classifier"]["rows"] == 16


def test_inputs_of_both_domains_are_counted_and_tell_nothing(tmp_path, tables):
    near, far = (Path(path).read_text(encoding="utf-8").splitlines() for path in tables)
    (tmp_path / "far.csv").write_text("\n".join([*far, *near[1:11]]) + "\n", encoding="utf-8")
    told = exapt.train(recipe(tables[0], str(tmp_path / "far.csv"), "probe", **brief(1))).manifest["transfer"][
        "domains"
    ]
    assert told["notes"] == [
        "10 of 82 inputs of the target stand in the training part too: they are learned from with their labels, so that the "
        "target is nearer than new inputs will be; what tells domains apart leaves them out"
    ]
    assert told["classifier"]["rows"] == 48 - 10


def test_probe_has_no_features_to_bring_together(tables):
    with pytest.raises(RecipeError) as caught:
        exapt.train(recipe(*tables, "probe", "mmd"))
    assert str(caught.value).startswith("strategy 'mmd' is about what learns in the backbone")
