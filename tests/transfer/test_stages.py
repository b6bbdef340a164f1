"""Two stages in one recipe: pretraining goes on, a question is learned, and the two adapters stand upon each other."""

import json
import shutil

import pytest
import torch

import exapt
from exapt import AdapterError, ComponentError, DataError, OutputError, RecipeError
from exapt.checkpoint import Checkpoints
from exapt.cli import cli
from exapt.errors import ExaptError
from transfer.modalities import BACKBONES, INPUTS, LANGUAGE, MODALITIES, table


def staged(modality, path, first="lora", second="lora", **changes):
    return {
        "backbone": BACKBONES[modality],
        "data": {"path": str(path), "input": INPUTS[modality]},
        "split": {"column": "split"},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        "stages": [
            {"name": "domain", "head": LANGUAGE[modality], "strategy": first},
            {
                "name": "question",
                "head": {"name": "sequence-classification", "label": "kind"},
                "strategy": second,
                "training": {"epochs": 2},
            },
        ],
    } | changes


def answers(adapted, queries):
    return adapted.predict(queries).to_pylist()


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_second_adapter_holds_the_first_and_stands_upon_it(modality, tmp_path):
    path = table(modality, tmp_path / "rows.csv", rows=24)
    adapted = exapt.train(staged(modality, path), tmp_path / "out")
    first, manifest = tmp_path / "out.stages" / "1-domain", json.loads((tmp_path / "out" / "exapt.json").read_text())
    assert manifest["base"]["name"] == "1-domain"
    assert manifest["recipe"]["heads"]["head"]["name"] == "sequence-classification"
    assert manifest["recipe"]["training"]["epochs"] == 2
    # Both stay small: the update of each, and none of the weights.
    assert {file.name for file in (tmp_path / "out" / "base").iterdir()} == {file.name for file in first.iterdir()}
    assert "backbone.safetensors" not in manifest["tensors"]
    shutil.rmtree(tmp_path / "out.stages")
    loaded = exapt.load(tmp_path / "out", backbone=BACKBONES[modality])
    queries = _queries(path)
    assert answers(loaded, queries) == answers(adapted, queries)
    # Saved from what was loaded, it is the same once more.
    loaded.save(tmp_path / "again")
    assert answers(exapt.load(tmp_path / "again", backbone=BACKBONES[modality]), queries) == answers(adapted, queries)


def _queries(path):
    if path.suffix == ".jsonl":
        return [json.loads(line)["cell"] for line in path.read_text().splitlines()[:6]]
    return [line.split(",")[1] for line in path.read_text().splitlines()[1:7]]


def test_features_of_the_second_stage_are_those_of_the_first(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    adapted = exapt.train(staged("protein", path, second="probe"), tmp_path / "out")
    first = exapt.load(tmp_path / "out.stages" / "1-domain")
    rows = [
        adapted.ask(adapted.examples(_queries(path), None)).rows,
        first.ask(first.examples(_queries(path), None)).rows,
    ]
    with torch.no_grad():
        upon, below = (
            model.backbone.at_layer(row.inputs["sequence"].take(range(6), torch.device("cpu")), -1).hidden
            for model, row in zip((adapted.model, first.model), rows, strict=True)
        )
    torch.testing.assert_close(upon, below, rtol=1e-4, atol=1e-5)
    plain = torch.as_tensor(exapt.embed(_queries(path), BACKBONES["protein"]))
    assert (torch.as_tensor(upon.mean(1)) - plain).abs().max() > 1e-3


def test_stages_from_python_without_a_folder_can_be_saved_later(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    adapted = exapt.train(staged("protein", path, first="full", second="partial"))
    adapted.save(tmp_path / "kept")
    queries = _queries(path)
    assert answers(exapt.load(tmp_path / "kept"), queries) == answers(adapted, queries)


def test_an_interrupted_run_goes_on_from_the_stage_that_it_was_in(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path)

    def stop(run, event):
        if event.name == "epoch" and "sequence-classification" in json.dumps(run.recipe):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exapt.train(plan, tmp_path / "out", listeners=[stop])
    before = (tmp_path / "out.stages" / "1-domain" / "exapt.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="holds the stages of an earlier run: go on with --resume, or remove it"):
        exapt.train(plan, tmp_path / "out")
    adapted = exapt.train(plan, tmp_path / "out", resume=True)
    assert (tmp_path / "out.stages" / "1-domain" / "exapt.json").stat().st_mtime_ns == before
    straight = exapt.train(plan, tmp_path / "straight")
    assert answers(adapted, _queries(path)) == answers(straight, _queries(path))


@pytest.mark.parametrize("change", ["head", "data", "layer"])
def test_a_stage_of_another_recipe_or_other_rows_is_not_taken_for_done(change, tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path)
    exapt.train(plan, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    said = {"head": "heads", "data": "data.path", "layer": "layer"}[change]
    if change == "data":
        table("protein", path, rows=24, seed=9)
    elif change == "layer":
        plan["stages"][0]["layer"] = 2
    else:
        plan["stages"][0]["head"] = {"name": "masked-lm", "probability": 0.4}
    with pytest.raises(RecipeError, match=f"was learned with another {said}: remove"):
        exapt.train(plan, tmp_path / "out", resume=True)


def test_an_adapter_goes_on_upon_what_it_was_learned_upon(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path)
    exapt.train(plan, tmp_path / "out")
    exapt.train(staged("protein", path, seed=1), tmp_path / "other")
    further = (
        {key: plan[key] for key in ("backbone", "data", "split")} | plan["stages"][1] | {"start": str(tmp_path / "out")}
    )
    del further["name"]
    adapted = exapt.train(further, tmp_path / "further")
    assert adapted.manifest["base"]["digest"] == exapt.load(tmp_path / "out").manifest["base"]["digest"]
    with pytest.raises(
        RecipeError, match=r"'out' to start from was learned upon '.*base', not upon '.*': leave base out"
    ):
        exapt.train(further | {"base": str(tmp_path / "other.stages" / "1-domain")})


def test_what_the_whole_starts_from_is_of_the_first_stage(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path)
    first = {key: plan[key] for key in ("backbone", "data", "split", "training")}
    exapt.train(first | {"head": "masked-lm", "strategy": "lora"}, tmp_path / "before")
    exapt.train(plan | {"start": str(tmp_path / "before")}, tmp_path / "out")
    kept = json.loads((tmp_path / "out.stages" / "1-domain" / "exapt.json").read_text())["recipe"]
    assert kept["start"] == "before"
    assert not json.loads((tmp_path / "out" / "exapt.json").read_text())["recipe"]["start"]


def test_another_base_than_the_one_learned_upon_is_refused(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    exapt.train(staged("protein", path), tmp_path / "out")
    exapt.train(staged("protein", path, seed=1), tmp_path / "other")
    shutil.rmtree(tmp_path / "out" / "base")
    with pytest.raises(AdapterError, match="stands upon '1-domain', which is not in"):
        exapt.load(tmp_path / "out")
    shutil.copytree(tmp_path / "other" / "base", tmp_path / "out" / "base")
    with pytest.raises(AdapterError, match=r"'out' was learned upon '1-domain' with digest \w{12}, but "):
        exapt.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": []}, "'stages' is a list of tables, [[stages]] in TOML, each with what differs in that stage"),
        ({"stages": [1]}, "stage 1 is no table of keys"),
        (
            {"stages": [{"name": "a", "head": "masked-lm", "strategy": "probe"}] * 2},
            "stage 1 is called 'a': each has a name of its own, of letters, digits, '-' and '_'",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "lora"}, {"head": "masked-lm", "strategy": "scratch"}]},
            "stage '2': strategy 'scratch' would forget what the stages before it learned",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "prompt"}, {"head": "masked-lm", "strategy": "lora"}]},
            "stage '1': what strategy 'prompt' learns stays beside the weights, so that no stage can stand upon it",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "lora"}, {"head": "masked-lm", "start": "x"}]},
            "stage '2' stands upon the one before it: leave start and base out",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "lora", "trainign": {}}]},
            "stage '1': recipe: unknown key 'trainign'. Did you mean 'training'?",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "lora"}, {"head": "masked-lm", "strategy": "lorra"}]},
            "stage '2': unknown strategy 'lorra'. Did you mean 'lora'?",
        ),
        (
            {
                "stages": [
                    {"head": "masked-lm", "strategy": "lora"},
                    {"head": "masked-lm", "strategy": "lora", "data": {"path": "x.csv"}},
                ]
            },
            "stage '2': ",
        ),
        (
            {"stages": [{"head": "masked-lm", "strategy": "lora", "base": "nowhere"}]},
            "'nowhere' is no adapter of exapt to stand upon",
        ),
    ],
)
def test_a_faulty_plan_is_refused_before_anything_is_learned(changes, said, tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=12)
    with pytest.raises((RecipeError, ComponentError, DataError)) as caught:
        exapt.train(staged("protein", path, **changes), tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.stages").exists()


def test_the_command_runs_a_plan(tmp_path):
    from click.testing import CliRunner

    path = table("dna", tmp_path / "rows.csv", rows=24)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(staged("dna", path)))
    done = CliRunner().invoke(cli, ["train", str(plan), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "stage 2 of 2, 'question'" in done.stderr


QUESTION = {"name": "question", "head": {"name": "sequence-classification", "label": "kind"}}
LATE = {
    "a target that is not there": (
        {"strategies": ["full", "coral"], "target": {"path": "nowhere.csv"}},
        "target: there is no file 'nowhere.csv'",
    ),
    "a reference that is not there": (
        {"strategy": "full", "reference": {"path": "nowhere.csv"}},
        "reference: there is no file 'nowhere.csv'",
    ),
    "a layer beyond the last": (
        {"strategy": "probe", "layer": 9},
        "there is no layer 9: '{backbone}' has layers 0 to 2",
    ),
    "more blocks than there are": (
        {"strategies": [{"name": "partial", "blocks": 9}]},
        "strategy 'partial' wants the top 9 blocks; this backbone has 2",
    ),
    "more blocks to unfreeze than there are": (
        {"strategies": ["full", {"name": "gradual-unfreezing", "stages": [{"blocks": 7}]}]},
        "strategy 'gradual-unfreezing': stage 1 lets 7 blocks learn, and what the heads read depends on 2",
    ),
    "stages beyond the last epoch": (
        {"strategies": ["full", "gradual-unfreezing"], "training": {"epochs": 2}},
        "strategy 'gradual-unfreezing': what learns last begins with epoch 3, and training.epochs is 2: train for longer, or "
        "let it begin earlier",
    ),
    "an average that never begins": (
        {"strategies": ["full", {"name": "swa", "epoch": 9}], "training": {"epochs": 2}},
        "strategy 'swa' averages from epoch 9 on, and training has 2: lower its epoch",
    ),
    "a metric that there is not": (
        {"strategy": "full", "training": {"metric": "acuracy"}},
        "training.metric 'acuracy' is not measured here. Did you mean 'accuracy'? Known: ",
    ),
    "a class of valid that is none of train's": (
        {"strategy": "full", "data": {"path": "strange.csv"}},
        "label 'kind': no row of train has the class 'odd' (2 rows of valid, first id 's17')",
    ),
}


@pytest.mark.parametrize("fault", LATE)
def test_what_is_wrong_with_a_later_stage_is_told_before_the_first(fault, tmp_path, monkeypatch):
    changes, said = LATE[fault]
    path = table("protein", tmp_path / "rows.csv", rows=24)
    monkeypatch.chdir(tmp_path)
    lines = path.read_text().splitlines()
    (tmp_path / "strange.csv").write_text(
        "\n".join(line.replace("k1", "odd") if "valid" in line else line for line in lines)
    )
    plan = staged("protein", path)
    plan["stages"] = [plan["stages"][0], QUESTION | changes]
    heard = []
    with pytest.raises(ExaptError) as caught:
        exapt.train(plan, tmp_path / "out", listeners=[lambda run, event: heard.append(event.name)])
    assert str(caught.value).startswith(f"stage 'question': {said.format(backbone=BACKBONES['protein'])}")
    assert heard == []
    assert not (tmp_path / "out.stages").exists()


def test_what_goes_wrong_in_a_stage_is_told_with_its_name(tmp_path):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path, second="probe")
    plan["stages"][1]["training"] = {"head_learning_rate": 1e37, "weight_decay": 0, "epochs": 3}
    with pytest.raises(DataError, match="stage 'question': the loss became"):
        exapt.train(plan, tmp_path / "out")


def test_a_stage_that_ended_just_before_the_run_did_is_behind(tmp_path, monkeypatch):
    path = table("protein", tmp_path / "rows.csv", rows=24)
    plan = staged("protein", path)

    def ended(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # The first thing that a run does once its adapter is written.
        patched.setattr(Checkpoints, "clear", ended)
        with pytest.raises(KeyboardInterrupt):
            exapt.train(plan, tmp_path / "out")
    first = tmp_path / "out.stages" / "1-domain"
    before = (first / "exapt.json").stat().st_mtime_ns
    exapt.train(plan, tmp_path / "out", resume=True)
    assert (first / "exapt.json").stat().st_mtime_ns == before
    shutil.rmtree(tmp_path / "out")
    mark = first.with_name("1-domain.json")
    mark.unlink()
    with pytest.raises(RecipeError) as caught:
        exapt.train(plan, tmp_path / "out", resume=True)
    assert str(caught.value) == (
        f"'{mark}', which says what '1-domain' was learned from, is missing: remove '{first}' to learn that stage anew"
    )
