"""A search sees train and valid alone, ends poor trials early, goes on where it was, and refuses spaces that are none."""

import csv
import json
import sys
import tomllib

import pytest
from click.testing import CliRunner

import exapt
from exapt import OutputError, RecipeError
from exapt.cli import cli
from exapt.events import Stopped
from exapt.toml_text import toml_of
from runs import Heard, recipe, training
from runs import charges as write_charges
from transfer.modalities import recipe as recipe_of
from transfer.modalities import table as write_table

SPACE = {
    "strategy": ["probe", {"name": "partial", "blocks": 1}],
    "training": {"head_learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "epochs": [3, 4]},
}


@pytest.fixture(scope="module")
def charges(tmp_path_factory):
    return write_charges(tmp_path_factory.mktemp("charges") / "charges.csv")


def searched(table, **changes):
    given = recipe(table, **training(epochs=3), **changes)
    return {key: value for key, value in given.items() if key != "strategy"}


def facts(found):
    """Return what a search found, but for how long it took."""
    return [(one.number, one.state, one.value, one.choices, one.epochs, one.reason) for one in found.trials]


@pytest.fixture(scope="module")
def found(charges, tmp_path_factory):
    out, heard = tmp_path_factory.mktemp("search") / "found", Heard()
    return exapt.search(searched(charges), out, space=SPACE, trials=5, listeners=[heard]), out, heard


def test_a_search_keeps_its_trials_and_the_best_recipe(found):
    search, out, _ = found
    assert [one.number for one in search.trials] == list(range(1, 6))
    assert search.metric == "macro_f1"
    assert search.rows == {"train": 24, "valid": 6}
    complete = [one for one in search.trials if one.state == "complete"]
    assert search.best.value == max(one.value for one in complete)
    assert search.test is None
    rows = list(csv.DictReader((out / "trials.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["state"] for row in rows] == [one.state for one in search.trials]
    assert list(rows[0]) == [
        *("trial", "state", "valid.macro_f1"),
        *("strategy", "training.head_learning_rate", "training.epochs"),
        *("epochs", "seconds", "reason"),
    ]
    best = tomllib.loads((out / "best.toml").read_text(encoding="utf-8"))
    assert best == search.recipe
    assert best["training"]["head_learning_rate"] == search.best.choices["training.head_learning_rate"]
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(search.as_dict()))
    assert sorted(path.name for path in out.iterdir()) == [
        *("best.toml", "journal.log", "search.json", "summary.json", "trials.csv")
    ]


def test_poor_trials_end_early_and_cost_fewer_epochs(found):
    search, _, _ = found
    pruned = [one for one in search.trials if one.state == "pruned"]
    assert search.counts == {"complete": 5 - len(pruned), "pruned": len(pruned)}
    assert pruned
    assert all(one.epochs < one.choices["training.epochs"] for one in pruned)
    # The first has nobody to be behind.
    assert search.trials[0].state == "complete"


def test_no_event_of_a_search_holds_a_test_metric(found):
    _, _, heard = found
    said = [name for event in heard.events for name in event.facts]
    assert any(name.startswith("valid.") for name in said)
    assert not [name for name in said if name.startswith("test")]
    assert {facts["rows.test"] for facts in heard.facts("start")} == {0}


def test_other_test_labels_change_nothing_and_the_same_seed_gives_the_same_trials(found, charges, tmp_path):
    rows = list(csv.reader(charges.read_text(encoding="utf-8").splitlines()))
    kind, split = rows[0].index("kind"), rows[0].index("split")
    for row in rows[1:]:
        if row[split] == "test":
            # No row of train has this class: to read it at all would be an error.
            row[kind] = "neither"
    other = tmp_path / "other.csv"
    with other.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    again = exapt.search(searched(other), tmp_path / "again", space=SPACE, trials=5)
    assert facts(again) == facts(found[0])


def test_an_interrupted_search_goes_on_to_the_same_trials_and_runs_none_twice(found, charges, tmp_path):
    search, _, _ = found
    heard, out = Heard(), tmp_path / "found"

    def interrupt(run, event):
        if event.name == "epoch" and len(heard.facts("start")) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.search(searched(charges), out, space=SPACE, trials=5, listeners=[heard, interrupt])
    with (out / "journal.log").open("a", encoding="utf-8") as journal:
        journal.write('{"half an ent')
    with pytest.raises(OutputError) as refused:
        exapt.search(searched(charges), out, space=SPACE, trials=5)
    assert str(refused.value) == f"'{out}' holds a search: add --resume to go on with it, or name another folder"
    heard = Heard()
    again = exapt.search(searched(charges), out, space=SPACE, trials=5, resume=True, listeners=[heard])
    assert facts(again) == facts(search)
    assert len(heard.facts("start")) == 3
    # All that were asked for are there.
    heard = Heard()
    assert facts(exapt.search(searched(charges), out, space=SPACE, trials=5, resume=True, listeners=[heard])) == facts(
        search
    )
    assert not heard.events


@pytest.mark.parametrize(
    ("changes", "space", "differs"),
    [
        ({"seed": 5}, SPACE, "recipe.seed is not given, this one's 5"),
        (
            {},
            {**SPACE, "strategy": ["probe", "full"]},
            'space.strategy is ["probe", {"name": "partial", "blocks": 1}], this',
        ),
    ],
)
def test_a_search_goes_on_only_with_the_same_recipe_and_space(found, charges, changes, space, differs):
    _, out, _ = found
    with pytest.raises(RecipeError) as refused:
        exapt.search(searched(charges, **changes), out, space=space, trials=5, resume=True)
    assert str(refused.value).startswith(f"'{out}' holds another search: its {differs}")
    assert str(refused.value).endswith("; search in another folder")


def test_a_search_goes_on_only_with_the_same_data(tmp_path):
    table, out = write_charges(tmp_path / "charges.csv"), tmp_path / "found"
    given = searched(table, strategies=["probe"])
    exapt.search(given, out, space={"training.epochs": [1]}, trials=1)
    write_charges(table, seed=1)
    with pytest.raises(RecipeError) as refused:
        exapt.search(given, out, space={"training.epochs": [1]}, trials=1, resume=True)
    assert str(refused.value).startswith(f"'{out}' holds another search: its data.sha256 is ")


def test_the_best_recipe_trains_as_it_is_and_the_test_part_is_looked_at_once(charges, tmp_path):
    out, given = tmp_path / "found", searched(charges, strategies=["probe"])
    (tmp_path / "recipe.toml").write_text(
        toml_of(given) + "[search]\ntraining.learning_rate = [1e-3]\nlayer = [1, 9]\n"
    )
    words = ["search", str(tmp_path / "recipe.toml"), "--out", str(out), "--final"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "best: trial" in done.stdout
    assert "test macro_f1 " in done.stdout
    assert done.stdout.endswith(f"recipe: {out / 'best.toml'}\n")
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    # A list is gone through once, however many trials there may be; one that fails is told and stops nobody.
    assert sorted(one["state"] for one in found["trials"]) == ["complete", "failed"]
    reasons = [one["reason"] for one in found["trials"] if one["state"] == "failed"]
    assert reasons == [f"there is no layer 9: '{given['backbone']}' has layers 0 to 2"]
    adapted = exapt.train(out / "best.toml")
    assert adapted.metrics["test"] == pytest.approx(found["test"])
    assert exapt.load(out / "best").metrics["test"] == pytest.approx(found["test"])
    again = CliRunner().invoke(cli, [*words, "--resume"])
    assert (again.exit_code, again.stderr) == (
        2,
        f"exapt: the test part was looked at in '{out}' already, and is looked at once: search on in another folder\n",
    )


def test_all_trials_that_fail_are_an_error_with_the_first_reason(charges, tmp_path):
    with pytest.raises(RecipeError) as refused:
        exapt.search(searched(charges, strategies=["probe"]), tmp_path / "found", space={"layer": [8, 9]})
    assert str(refused.value).startswith("none of the 2 trials is complete; the first failed: there is no layer ")
    heard, given = Heard(), searched(charges, strategies=["probe"], layer=9)
    with pytest.raises(RecipeError) as refused:
        exapt.search(given, tmp_path / "other", space={"training.epochs": [*range(1, 21)]}, listeners=[heard])
    assert str(refused.value) == (
        f"all of the first 5 trials fail: there is no layer 9: '{given['backbone']}' has layers 0 to 2"
    )


def test_a_search_without_a_space_takes_a_common_one(charges, tmp_path):
    found = exapt.search(searched(charges), tmp_path / "found", trials=1, prune="median")
    space = json.loads((tmp_path / "found" / "search.json").read_text(encoding="utf-8"))["space"]
    assert space == {
        "strategy": ["probe", "full", {"name": "partial", "blocks": 1}, {"name": "lora", "rank": 8}],
        "training.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True},
        "training.head_learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
        "layer": [1, 2],
    }
    assert found.caution == (
        "valid macro_f1 is the best of 1 trials, and for that alone too good; 6 valid rows tell recipes apart by chance as "
        "much as by merit."
    )


def test_the_time_is_over_at_the_end_of_an_epoch_once_a_trial_is_complete(charges, tmp_path):
    found = exapt.search(searched(charges), tmp_path / "found", space=SPACE, trials=50, budget=1e-4)
    assert [one.state for one in found.trials] == ["complete"]


@pytest.mark.parametrize("modality", ["dna", "cell"])
def test_a_search_serves_every_modality(modality, tmp_path):
    given = recipe_of(modality, write_table(modality, tmp_path / "table.csv", rows=24))
    found = exapt.search(given, tmp_path / "found", space={"strategy": ["probe", "full"], "layer": [-1, 1]}, trials=2)
    assert len(found.trials) == 2
    assert found.best.value is not None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "search: there is nothing to choose from; name keys of the recipe with lists or ranges"),
        ({"strategy": []}, "search.strategy: the list holds no choice"),
        (
            {"training": {"learning_rat": [1]}},
            "search: unknown key 'training.learning_rat'. Did you mean 'training.learning_rate'?",
        ),
        ({"strategi": ["probe"]}, "search: unknown key 'strategi'. Did you mean 'strategies'? Known: augmentation, "),
        (
            {"head": {"droput": [0.1]}},
            "search: unknown key 'head.droput'. Did you mean 'head.dropout'? Known: head.class_weights, ",
        ),
        ({"strategy": ["lorra"]}, "unknown strategy 'lorra'. Did you mean 'lora'?"),
        (
            {"strategy": ["probe", "lorra"]},
            "search.strategy, \"lorra\": unknown strategy 'lorra'. Did you mean 'lora'?",
        ),
        ({"training.epochs": [1, 0]}, "search.training.epochs, 0: recipe: 'training.epochs' is 0: "),
        (
            {"training.learning_rate": {"low": 1e-2, "high": 1e-4}},
            "search.training.learning_rate: low (0.01) is not below high (0.0001)",
        ),
        ({"training.learning_rate": {"low": 1e-2}}, "search.training.learning_rate: the range has no 'high'"),
        (
            {"training.learning_rate": {"low": 0, "high": 1, "log": True}},
            "search.training.learning_rate: low is 0, which has no logarithm; leave log out",
        ),
        (
            {"training.learning_rate": {"low": 1, "hihg": 2}},
            "search.training.learning_rate: unknown key 'hihg'. Did you mean 'high'? Known: high, log, low",
        ),
        ({"training.epochs": {"low": 1.5, "high": 4}}, "search.training.epochs: low is 1.5, and no whole number"),
        (
            {"training.schedule": {"low": 1, "high": 4}},
            "search.training.schedule is no number: give a list of choices in place of a range",
        ),
        (
            {"strategy": {"low": 1, "high": 4}},
            "search.strategy is no number: give a list of choices in place of a range",
        ),
        (
            {"training.epochs": 5},
            "search.training.epochs is 5: give a list of choices or a range, {low = ..., high = "
            "...}; what is settled stands in the recipe",
        ),
        ({"seed": [1, 2]}, "search: 'seed' stays as it is, for a seed that is chosen is luck that is kept"),
        (
            {"split": {"train_size": [1, 2]}},
            "search: 'split.train_size' stays as it is, for trials on other rows cannot be compared",
        ),
        (
            {"training.metric": ["mcc"]},
            "search: 'training.metric' stays as it is, for trials that are measured by other metrics "
            "cannot be compared",
        ),
        (
            {"strategy": ["lora"], "strategy.rank": [2, 4]},
            "search: 'strategy.rank' and 'strategy' change the same: write options beside the name of a choice, "
            '{name = "...", OPTION = ...}',
        ),
    ],
)
def test_a_space_that_is_none_is_refused_in_one_line(charges, tmp_path, space, message):
    given = searched(charges, strategies=["probe"])
    with pytest.raises(exapt.ExaptError) as refused:
        exapt.search(given, tmp_path / "found", space={"training.clip": [1.0], **space} if space else space)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"training": {"metric": "acuracy"}},
            {},
            "training.metric 'acuracy' is not measured here. Did you mean 'accuracy'?",
        ),
        ({"split": {"fractions": [0.8, 0, 0.2]}}, {}, "a search chooses by the valid part, and this split leaves none"),
        (
            {"split": {"fractions": [0.8, 0.2, 0]}},
            {"final": True},
            "the best recipe cannot be measured at the end: this split has no test part",
        ),
        ({}, {"trials": 0}, "search: 'trials' is 0: "),
        ({}, {"prune": "halve"}, "search: 'prune' is 'halve': "),
        (
            {"search": SPACE},
            {},
            "the space stands in the recipe, under [search], and is given beside it: leave one of them out",
        ),
        ({}, {"space": "nowhere.toml"}, "there is no file 'nowhere.toml' with a space to search"),
    ],
)
def test_what_cannot_be_searched_leaves_nothing_behind(charges, tmp_path, changes, options, message):
    given = {**searched(charges, strategy="probe"), "strategy": "probe", **changes}
    with pytest.raises(RecipeError) as refused:
        exapt.search(given, tmp_path / "found", **{"space": {"layer": [1, 2]}, **options})
    assert str(refused.value).startswith(message)
    assert not (tmp_path / "found").exists()


def test_options_of_components_are_searched_by_their_names(charges, tmp_path):
    given = searched(
        charges,
        strategies=["full", {"name": "l2-sp"}],
        heads={"kind": {"name": "sequence-classification", "label": "kind"}},
    )
    given.pop("head")
    space = {"heads": {"kind": {"dropout": {"low": 0, "high": 0.5}}}, "strategies": {"l2-sp": {"weight": [0.1, 1.0]}}}
    found = exapt.search(given, tmp_path / "found", space=space, trials=1)
    choices = found.trials[0].choices
    assert found.recipe["heads"]["kind"]["dropout"] == choices["heads.kind.dropout"]
    assert 0 < choices["heads.kind.dropout"] < 0.5
    assert found.recipe["strategies"][1]["weight"] == choices["strategies.l2-sp.weight"]


def test_tasks_with_tables_of_their_own_are_searched_together(charges, tmp_path):
    second = write_charges(tmp_path / "second.csv", rows=24, seed=3)
    heads = {
        "kind": {"name": "sequence-classification", "label": "kind"},
        "charge": {"name": "sequence-regression", "label": "charge", "data": {"path": str(second)}},
    }
    given = {**searched(charges, strategies=["probe"]), "heads": heads}
    given.pop("head")
    found = exapt.search(given, tmp_path / "found", space={"training.head_learning_rate": [1e-2, 1e-3]}, trials=2)
    assert found.metric == "kind.macro_f1"
    assert found.rows == {"train": 40, "valid": 10}
    assert found.recipe["heads"]["charge"]["data"]["path"] == str(second)
    assert exapt.train(tmp_path / "found" / "best.toml").metrics["valid"]["kind.macro_f1"] == pytest.approx(
        found.best.value
    )
    write_charges(second, rows=24, seed=4)
    with pytest.raises(RecipeError, match=r"holds another search: its data\.tables\.charge\.sha256 is "):
        exapt.search(
            given, tmp_path / "found", space={"training.head_learning_rate": [1e-2, 1e-3]}, trials=2, resume=True
        )


def test_a_recipe_of_stages_is_no_single_run(charges, tmp_path):
    with pytest.raises(RecipeError) as refused:
        exapt.search({**searched(charges), "stages": [{}]}, tmp_path / "found", space={"strategy": ["probe"]})
    assert str(refused.value) == "a search is of one run: search the stages of this recipe one after the other"


def test_a_search_without_optuna_says_how_to_get_it(charges, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = CliRunner().invoke(cli, ["search", "--data", str(charges), "--out", str(tmp_path / "found")])
    assert (done.exit_code, done.stderr) == (
        2,
        "exapt: a search needs Optuna, which is not installed: pip install 'exapt[search]'\n",
    )


def test_a_listener_may_end_a_run(charges):
    heard = Heard()

    def stop(run, event):
        if event.name == "epoch":
            raise Stopped

    with pytest.raises(Stopped):
        exapt.train(recipe(charges), listeners=[heard, stop])
    assert len(heard.facts("epoch")) == 1


def test_what_is_written_as_toml_reads_back():
    table = {
        "a": 'quote " and \\ and \x7f and ü',
        "empty": {},
        "b": {"c d": 1e-05, "e": {"f": True, "none": None}, "g": [{"name": "lora", "rank": 4}, "x"]},
        "h": [1.5, 2],
    }
    plain = json.loads(json.dumps(table))
    del plain["b"]["e"]["none"]
    assert tomllib.loads(toml_of(table)) == plain
