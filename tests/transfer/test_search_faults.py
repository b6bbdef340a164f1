"""What a search and a range test once got wrong: each fault by the recipe that showed it."""

import csv
import json
import shutil
import tomllib
from types import SimpleNamespace

import pytest

import exapt
from exapt import RecipeError
from transfer.modalities import recipe as recipe_of
from transfer.modalities import table as write_table


@pytest.fixture(scope="module")
def proteins(tmp_path_factory):
    return write_table("protein", tmp_path_factory.mktemp("proteins") / "table.csv")


def asked(table, strategy="probe", training=None, **changes):
    given = recipe_of("protein", table, strategy, **changes)
    return {**given, "training": {**given["training"], **(training or {})}}


def refused(given, out, space):
    with pytest.raises(RecipeError) as error:
        exapt.search(given, out, space=space)
    assert not out.exists()
    return str(error.value)


def test_a_trial_that_diverges_in_the_last_step_of_an_epoch_fails_and_the_search_goes_on(proteins, tmp_path):
    given = asked(proteins, "full", {"batch_size": 64})
    found = exapt.search(given, tmp_path / "found", space={"training.learning_rate": [1e-3, 1e30]}, trials=2)
    failed, complete = sorted(found.trials, key=lambda one: one.state != "failed")
    assert (failed.state, complete.state) == ("failed", "complete")
    assert failed.choices == {"training.learning_rate": 1e30}
    assert failed.reason == (
        "the answers became nan or infinite in epoch 1; lower training.learning_rate or check the labels"
    )
    assert found.best == complete


CLASSES = {"name": "sequence-classification", "label": "kind"}
FOCAL = {**CLASSES, "loss": "focal"}


@pytest.mark.parametrize(
    ("head", "space", "place"),
    [
        (CLASSES, {"head.loss": ["cross-entropy", "focal"]}, 'search.head.loss, "focal"'),
        (CLASSES, {"head.class_weights": ["none", "balanced"]}, 'search.head.class_weights, "balanced"'),
        (FOCAL, {"head": {"gamma": {"low": 1, "high": 2}}}, "search.head.gamma, 2"),
        (CLASSES, {"heads.head.weight": [1.0, 0.1]}, "search.heads.head.weight, 0.1"),
        (CLASSES, {"head": ["sequence-classification", "prototypes"]}, 'search.head, "prototypes"'),
        (
            CLASSES,
            {"heads.head": [CLASSES, FOCAL]},
            'search.heads.head, {"name": "sequence-classification", "label": "kind", "loss": "focal"}',
        ),
    ],
)
def test_what_changes_the_loss_is_not_searched_where_the_loss_chooses(proteins, tmp_path, head, space, place):
    given = asked(proteins, training={"metric": "loss"}, head=head)
    assert refused(given, tmp_path / "found", space) == (
        f"{place}: this changes what the loss measures, and 'loss' is to choose between trials: name another metric as "
        "training.metric"
    )


def units(path):
    """Write proteins with a class for each residue."""
    rows = []
    for row, part in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2):
        letters = "MKTAYIAKQRQISF"[row:]
        kinds = ["x" if letter in "KR" else "o" for letter in letters]
        rows.append(json.dumps({"id": f"r{row}", "sequence": letters, "kind": kinds, "split": part}))
    path.write_text("\n".join(rows))
    return str(path)


@pytest.mark.parametrize(
    ("head", "space", "place", "metric"),
    [
        ("masked-lm", {"head.probability": [0.15, 0.6]}, "search.head.probability, 0.6", "perplexity"),
        ("masked-lm", {"head": {"masked": [0.8, 0.0], "random": [0.1]}}, "search.head.masked, 0.0", "perplexity"),
        (
            {"name": "position-classification", "label": "kind"},
            {"head.ignore": [[""], ["", "o"]]},
            'search.head.ignore, ["", "o"]',
            "macro_f1",
        ),
    ],
)
def test_what_is_measured_is_not_searched_by_any_metric(proteins, tmp_path, head, space, place, metric):
    given = asked(proteins, head=head)
    if metric == "macro_f1":
        given["data"]["path"] = units(tmp_path / "units.jsonl")
    assert refused(given, tmp_path / "found", space) == (
        f"{place}: this changes what is asked of the head, and with it what '{metric}' is measured on, so that trials could not "
        "be compared"
    )


@pytest.mark.parametrize(
    ("strategy", "space", "message"),
    [
        (
            "probe",
            {"head": [CLASSES, {**CLASSES, "label": "domain"}]},
            'search.head, {"name": "sequence-classification", "label": "domain"}: \'label\' of head \'head\' stays as it is, '
            "for trials on other labels cannot be compared",
        ),
        (
            ["full", "early-stopping"],
            {"strategies.early-stopping.metric": ["loss", "mcc"]},
            "search.strategies.early-stopping.metric, \"mcc\": 'training.metric' stays as it is, for trials that are measured "
            "by other metrics cannot be compared",
        ),
        (
            "lora",
            {"strategy.rank": [1, 2], "strategies.lora.rank": [3, 4]},
            "search: 'strategy.rank' and 'strategies.lora.rank' are one and the same: leave one of them out",
        ),
        (
            "probe",
            {"head.dropout": [0.0, 0.3], "heads.head.dropout": [0.1, 0.2]},
            "search: 'head.dropout' and 'heads.head.dropout' are one and the same: leave one of them out",
        ),
        (
            "probe",
            {"head.dropout": [0.0, 0.3], "heads.head": ["sequence-classification"]},
            "search: 'head.dropout' and 'heads.head' change the same: write options beside the name of a choice, "
            '{name = "...", OPTION = ...}',
        ),
    ],
)
def test_choices_that_cannot_be_compared_or_told_apart_are_refused(proteins, tmp_path, strategy, space, message):
    assert refused(asked(proteins, strategy), tmp_path / "found", space) == message


def test_the_table_of_a_head_stays_as_it_is(proteins, tmp_path):
    other = write_table("protein", tmp_path / "other.csv", seed=1)
    choice = {**CLASSES, "data": {"path": str(other)}}
    assert refused(asked(proteins), tmp_path / "found", {"head": [CLASSES, choice]}).endswith(
        "'data' of head 'head' stays as it is, for trials on other rows cannot be compared"
    )


def test_head_stands_for_the_only_one(proteins, tmp_path):
    given = asked(proteins)
    given["heads"] = {"one": given["head"], "other": given.pop("head")}
    assert refused(given, tmp_path / "found", {"head": ["ridge"]}).startswith("search: unknown key 'head'.")


def test_what_strategies_keep_is_written_by_the_best_recipe_alone(proteins, tmp_path):
    memory, out = tmp_path / "memory.safetensors", tmp_path / "found"
    given = asked(proteins, ["full", {"name": "ewc", "keep": str(memory)}])
    space, heard = {"training.learning_rate": [1e-3, 1e-4]}, []

    def watch(run, event):
        heard.append((event.name, memory.exists()))

    found = exapt.search(given, out, space=space, trials=2, listeners=[watch])
    assert [one.state for one in found.trials] == ["complete", "complete"]
    assert not any(there for _, there in heard)
    assert not memory.exists()
    assert sorted(path.name for path in out.iterdir()) == [
        *("best.toml", "journal.log", "search.json", "summary.json", "trials.csv")
    ]
    assert tomllib.loads((out / "best.toml").read_text(encoding="utf-8"))["strategies"][1]["keep"] == str(memory)
    exapt.search(given, out, space=space, trials=2, resume=True, final=True)
    assert memory.exists()


def test_what_cannot_be_written_at_the_end_fails_in_the_trials(proteins, tmp_path):
    given = asked(proteins, ["full", {"name": "replay", "keep": str(tmp_path / "none" / "memory.safetensors")}])
    with pytest.raises(RecipeError, match=r"there is no folder '.*none' to write 'memory\.safetensors' in"):
        exapt.search(given, tmp_path / "found", space={"training.learning_rate": [1e-3]})


def test_choices_of_one_value_are_one_choice(proteins, tmp_path):
    space = {"head.dropout": [0, 0.0], "strategy": ["probe", {"name": "probe"}], "training.epochs": [1, 1.0]}
    found = exapt.search(asked(proteins), tmp_path / "found", space=space)
    assert [one.choices for one in found.trials] == [{"head.dropout": 0, "strategy": "probe", "training.epochs": 1}]


def test_the_best_recipe_names_the_metric_that_chose_it(proteins, tmp_path):
    found = exapt.search(asked(proteins), tmp_path / "found", space={"training.epochs": [1]})
    assert found.recipe["training"]["metric"] == found.metric == "macro_f1"
    assert 'metric = "macro_f1"' in (tmp_path / "found" / "best.toml").read_text(encoding="utf-8")


RANGES = {
    "training.head_learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "head.hidden": {"low": 0, "high": 8},
    "head.dropout": {"low": 0.0, "high": 0.5},
}


def test_a_search_that_ended_between_two_draws_of_a_trial_goes_on_to_the_same(proteins, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    found = exapt.search(asked(proteins), whole, space=RANGES, trials=3)
    shutil.copytree(whole, cut)
    lines = (whole / "journal.log").read_text(encoding="utf-8").splitlines(keepends=True)
    drawn = [place for place, line in enumerate(lines) if json.loads(line).get("param_name")]
    assert len(drawn) == 9
    for number in (7, 8):
        # Of the third trial one choice, or two, had been made.
        (cut / "journal.log").write_text("".join(lines[: drawn[number - 1] + 1]), encoding="utf-8")
        again = exapt.search(asked(proteins), cut, space=RANGES, trials=3, resume=True)
        assert [(one.choices, one.value) for one in again.trials] == [(one.choices, one.value) for one in found.trials]


def test_the_table_of_trials_holds_the_one_that_the_time_ended(proteins, tmp_path, monkeypatch):
    clock, begun = [0.0], []
    monkeypatch.setattr("exapt.searching.driver.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def pass_time(run, event):
        begun.extend([event] if event.name == "start" else [])
        if len(begun) == 2 and event.name == "epoch":
            clock[0] = 61.0

    space = {"training.head_learning_rate": RANGES["training.head_learning_rate"]}
    given, out = asked(proteins, training={"epochs": 3}), tmp_path / "found"
    found = exapt.search(given, out, space=space, trials=9, budget=1, prune="none", listeners=[pass_time])
    assert [one.state for one in found.trials] == ["complete", "unfinished"]
    rows = list(csv.DictReader((out / "trials.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["state"] for row in rows] == ["complete", "unfinished"]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["trials"]) == len(rows)


def test_an_interrupted_final_run_begins_anew_with_a_recipe_that_became_the_best(proteins, tmp_path):
    given, out = asked(proteins, training={"epochs": 2, "metric": "loss"}), tmp_path / "found"
    space, heard = {"training.head_learning_rate": [1e-2, 1e-9]}, []

    def interrupt(run, event):
        heard.append(event)
        if event.name == "epoch" and run.folder is not None:
            raise KeyboardInterrupt

    for _ in range(2):
        # The same recipe goes on where it was.
        with pytest.raises(KeyboardInterrupt):
            exapt.search(given, out, space=space, trials=1, final=True, resume=out.exists(), listeners=[interrupt])
    assert [event.facts["epoch"] for event in heard if event.name == "epoch"] == [1, 2, 1, 2]
    found = exapt.search(given, out, space=space, trials=2, final=True, resume=True)
    assert found.best.number == 2
    assert found.test == exapt.train(out / "best.toml").metrics["test"]
    assert not (out / "final.json").exists()


def test_what_learns_later_is_tested_as_what_learns_at_once_and_what_ends_training_is_left_out(proteins):
    def losses(*strategies):
        given = asked(proteins, list(strategies), {"epochs": 8})
        return [curve.losses for curve in exapt.find_rate(given, steps=20).curves]

    stages = [{"blocks": 0, "epochs": 4}, {"blocks": 1, "epochs": 2, "rate": 0.1}, {"blocks": "all", "epochs": 2}]
    assert losses({"name": "gradual-unfreezing", "stages": stages}, "wise-ft", {"name": "swa", "epoch": 1}) == losses(
        "full"
    )


@pytest.mark.parametrize("head", ["ridge", "prototypes"])
def test_classes_are_not_drawn_for_heads_that_take_no_steps(proteins, head):
    given = asked(proteins, training={"sampling": "balanced"}, head={"name": head, "label": "kind"})
    with pytest.raises(RecipeError) as error:
        exapt.train(given)
    assert str(error.value) == (
        'training.sampling = "balanced" draws the rows of steps, and nothing learns by steps here: the heads are fitted to all '
        "training rows at once; leave it out"
    )
