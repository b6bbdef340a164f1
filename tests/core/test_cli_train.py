"""``exapt train``: by flags, by TOML, by JSON; and the commands that look at what it made."""

import json
from pathlib import Path

import pytest


def manifest_of(folder):
    return json.loads((folder / "exapt.json").read_text(encoding="utf-8"))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def recipe(data, esm2):
    return {
        "data": {"path": str(data / "peptides.csv")},
        "split": {"column": "split"},
        "backbone": esm2,
        "head": {"name": "sequence-classification", "label": "label"},
        "strategy": "probe",
        "training": {"epochs": 2},
    }


def toml(recipe):
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.items() if not isinstance(value, dict)]
    for key, table in recipe.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
    return "\n".join(lines)


def echoed(result):
    """Return the resolved recipe that training prints on stderr."""
    text = result.stderr[result.stderr.index("{\n") :]
    return json.JSONDecoder().raw_decode(text)[0]


def test_flags_toml_and_json_make_the_same_adapter(exapt, flags, recipe, tmp_path):
    (tmp_path / "r.toml").write_text(toml(recipe))
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    exapt("train", *flags(), "--out", tmp_path / "flags")
    exapt("train", tmp_path / "r.toml", "--out", tmp_path / "toml")
    exapt("train", tmp_path / "r.json", "--out", tmp_path / "json")
    assert files(tmp_path / "flags") == files(tmp_path / "toml") == files(tmp_path / "json")
    assert sorted(files(tmp_path / "flags")) == ["README.md", "exapt.json", "heads.safetensors"]


def test_metrics_on_stdout_and_all_else_on_stderr(exapt, flags, tmp_path):
    out = tmp_path / "adapter"
    done = exapt("train", *flags(), "--out", out, env={"EXAPT_CACHE": str(tmp_path / "cache")})
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["metric", "valid", "test"]
    assert [line.split()[0] for line in lines[1:-1]] == [
        "loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "mcc", "auroc", "auprc",
    ]  # fmt: skip
    assert lines[-1] == f"adapter: {out}"
    assert done.stderr.splitlines()[0] == "peptides.csv: 120 rows"
    assert "trainable 66  device " in done.stderr
    assert "epoch 2/2  train.loss " in done.stderr
    log = [json.loads(line) for line in Path(f"{out}.run", "metrics.jsonl").read_text().splitlines()]
    events = dict.fromkeys(line["event"] for line in log)
    assert list(events) == ["note", "features", "start", "step", "epoch", "end"]


def test_json_for_scripts(exapt, flags, tmp_path):
    said = json.loads(exapt("train", *flags(), "--json", "--out", tmp_path / "adapter").stdout)
    assert said["adapter"] == str(tmp_path / "adapter")
    assert said["metrics"] == manifest_of(tmp_path / "adapter")["metrics"]
    assert said["best_epoch"] in (1, 2)


def test_the_resolved_recipe_is_printed_and_can_be_run_again(exapt, flags, data, esm2, tmp_path):
    done = exapt("train", *flags(), "--out", tmp_path / "first")
    recipe = echoed(done)
    assert recipe["heads"]["head"]["classes"] == ["0", "1"]
    assert recipe["training"]["patience"] == 10
    assert recipe["data"]["path"] == "peptides.csv"
    again = manifest_of(tmp_path / "first")["recipe"]
    (tmp_path / "again.json").write_text(json.dumps(again))
    places = ["--data", data / "peptides.csv", "--backbone", esm2]
    exapt("train", tmp_path / "again.json", *places, "--out", tmp_path / "second")
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_flags_win_over_the_file(exapt, recipe, tmp_path):
    recipe["strategies"] = [{"name": "lora", "rank": 4}]
    recipe["heads"] = {"kind": recipe.pop("head")}
    del recipe["strategy"]
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    changes = ["--strategy", "probe", "--seed", "7", "--label", "split", "--set", "training.epochs=1"]
    exapt("train", tmp_path / "r.json", *changes, "--set", "split.column=''", "--out", tmp_path / "adapter")
    said = manifest_of(tmp_path / "adapter")["recipe"]
    assert said["strategies"] == [{"name": "probe"}]
    assert said["seed"] == 7
    assert list(said["heads"]) == ["kind"]
    assert said["heads"]["kind"]["label"] == "split"
    assert said["heads"]["kind"]["classes"] == ["test", "train", "valid"]
    assert said["training"]["epochs"] == 1


def test_a_flag_that_repeats_the_files_component_keeps_its_options(exapt, recipe, tmp_path):
    recipe["strategy"] = {"name": "lora", "rank": 2}
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    exapt(
        "train", tmp_path / "r.json", "--strategy", "lora", "--set", "strategy.alpha=4", "--out", tmp_path / "adapter"
    )
    (lora,) = manifest_of(tmp_path / "adapter")["recipe"]["strategies"]
    assert (lora["rank"], lora["alpha"]) == (2, 4.0)


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("training.batch_size=4", ("training", "batch_size"), 4),
        ("training.schedule=cosine", ("training", "schedule"), "cosine"),
        ("split.train_size=20", ("split", "train_size"), 20),
        ("head.pooling=max", ("heads", "head", "pooling"), "max"),
        ('head.classes=["1", "0"]', ("heads", "head", "classes"), ["1", "0"]),
        ("layer=1", ("layer",), 1),
        ("backbone.max_tokens=512", ("backbone", "max_tokens"), 512),
    ],
)
def test_set_reaches_every_key(exapt, flags, tmp_path, setting, place, value):
    exapt("train", *flags(), "--set", setting, "--out", tmp_path / "adapter")
    found = manifest_of(tmp_path / "adapter")["recipe"]
    for key in place:
        found = found[key]
    assert found == value


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(exapt, refused, flags, tmp_path, monkeypatch):
    from exapt.trainer import Trainer

    out, whole = tmp_path / "adapter", Trainer._epoch

    def interrupted(self, train, valid, checkpoints):
        if self.progress.position.epoch == 1:
            raise KeyboardInterrupt
        whole(self, train, valid, checkpoints)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch", interrupted)
        stopped = exapt("train", *flags(), "--out", out, code=130)
    assert stopped.stderr.splitlines()[-1] == "interrupted; the same command with --resume goes on"
    assert not out.exists()
    assert refused("train", *flags(), "--out", out) == (
        f"'{out}.run' holds an interrupted run: add --resume to continue it, or remove the folder"
    )
    exapt("train", *flags(), "--out", out, "--resume")
    exapt("train", *flags(), "--out", tmp_path / "at-once")
    assert files(out) == files(tmp_path / "at-once")


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(exapt, flags, tmp_path, monkeypatch):
    from exapt.trainer import Trainer

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_epoch", interrupted)
    stopped = exapt("train", *flags(), "--out", tmp_path / "adapter", code=130)
    assert stopped.stderr.splitlines()[-1] == "interrupted before the first checkpoint"
    assert list(tmp_path.iterdir()) == []


def test_inspect(exapt, flags, tmp_path):
    out = tmp_path / "adapter"
    exapt("train", *flags(), "--out", out)
    card = exapt("inspect", out, env={"EXAPT_PLUGINS": ""}).stdout
    assert card.startswith("# probe on esm2:model\n")
    assert "- `head`: sequence-classification of `label`. Classes: 0, 1." in card
    assert "80 train, 20 valid, 20 test." in card
    assert json.loads(exapt("inspect", out, "--json").stdout) == manifest_of(out)
    assert exapt("inspect", out, "--verify").stdout.endswith(f"verified: {out}\n")
    both = exapt("inspect", out, "--verify", "--json")
    assert json.loads(both.stdout) == manifest_of(out)
    assert both.stderr == f"verified: {out}\n"


def test_doctor(exapt):
    said = json.loads(exapt("doctor", "--json").stdout)
    assert list(said) == ["device", "precision", "versions", "cache", "plugins"]
    assert {"exapt", "torch", "peft"} <= said["versions"].keys()
    assert said["plugins"]["esm (exapt-esm 0.4.0)"] == "works"
    assert "  esm (exapt-esm 0.4.0): works\n" in exapt("doctor").stdout


@pytest.mark.slow
def test_compare(exapt, flags, tmp_path):
    words = ["compare", *flags(), "--seeds", "0,1"]
    said = json.loads(exapt(*words, "--json").stdout)
    recipe, scratch, baseline = said["contenders"]
    assert [recipe["name"].partition(" ")[0], scratch["name"], baseline["name"]] == [
        "probe",
        "scratch",
        "k-mers, linear",
    ]
    assert recipe["trainable"] == 66 < scratch["trainable"]
    assert said["metric"] == "macro_f1"
    for gap, other in zip(said["differences"], (scratch, baseline), strict=True):
        assert gap["mean"] == pytest.approx(recipe["mean"] - other["mean"])
        assert gap["low"] <= gap["mean"] <= gap["high"]
    printed = exapt(*words).stdout
    assert printed.splitlines()[0].startswith("test macro_f1")
    assert printed.rstrip().endswith(said["verdict"])
    assert list(tmp_path.iterdir()) == []


def test_list_and_show_every_kind(exapt):
    from exapt.cli.listing import KINDS

    found = json.loads(exapt("list", "--json", env={"EXAPT_PLUGINS": "esm"}).stdout)
    assert list(found) == [kind for kind in KINDS if kind != "checkpoints"]
    for kind, rows in found.items():
        single = "strategy" if kind == "strategies" else kind.removesuffix("s")
        for row in rows:
            said = json.loads(exapt("show", single, row["name"], "--json").stdout)
            assert (said["name"], said["summary"]) == (row["name"], row["summary"])
            assert all(description for _, _, _, description in said["options"])
    (row, *_) = json.loads(exapt("list", "checkpoints", "--json", env={"EXAPT_PLUGINS": "esm"}).stdout)["checkpoints"]
    assert row == {
        "name": "esm2-8m",
        "from": "exapt-esm",
        "modality": "protein",
        "parameters": "7,512,353",
        "width": 320,
        "licence": "MIT",
        "commercial": "yes",
        "source": "facebook/esm2_t6_8M_UR50D",
    }
    shown = exapt("show", "checkpoint", "esm2-8m").stdout
    assert "licence: MIT\n" in shown
    assert "paper: https://doi.org/10.1126/science.ade2574\n" in shown


def test_options_are_shown_in_a_users_words(exapt):
    shown = exapt("show", "head", "sequence-classification").stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ")}
    assert "one of mean, cls, max, attention" in rows["pooling"]
    assert "one of none, balanced or list of float" in rows["class_weights"]
    assert '["sequence"]' in rows["inputs"]
    assert "list of str" in rows["classes"]
