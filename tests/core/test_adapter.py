"""The adapter on disk: whole or not there, and refused in one sentence wherever it does not belong."""

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

import exapt
from exapt import AdapterError, OutputError
from exapt.installed import cache_folder
from runs import MODEL, QUERIES, charges, contents, recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("tables") / "charges.csv")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, table):
    """Return a trained model and its folder; the folder is not to be touched."""
    folder = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(folder / "cache"))
        return exapt.train(recipe(table, "partial"), folder / "partial"), folder / "partial"


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy of the adapter to spoil."""
    return shutil.copytree(saved[1], tmp_path / "mine")


def refusal(folder, **options):
    with pytest.raises(AdapterError) as caught:
        exapt.load(folder, backbone=options.pop("backbone", f"esm2:{MODEL}"), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder, file, function):
    """Replace the tensors of a file by what a function makes of them."""
    save_file(function(load_file(folder / file)), folder / file)


def rewrite(folder, function):
    """Apply a function to the manifest."""
    manifest = json.loads((folder / "exapt.json").read_text())
    function(manifest)
    (folder / "exapt.json").write_text(json.dumps(manifest))


QUERY = "esm.encoder.layer.1.attention.self.query.weight"


def test_what_was_saved_loads(saved, folder):
    adapted = exapt.load(folder, backbone=f"esm2:{MODEL}")
    assert adapted.predict(QUERIES).equals(saved[0].predict(QUERIES))
    assert adapted.metrics == saved[0].metrics
    adapted.save(folder.parent / "again")
    assert contents(folder.parent / "again") == contents(folder)


def test_a_tensor_that_is_missing_is_named(folder):
    change(folder, "backbone.safetensors", lambda tensors: {n: t for n, t in tensors.items() if n != QUERY})
    assert refusal(folder) == f"'mine/backbone.safetensors' lacks the tensor '{QUERY}' that exapt.json lists"


def test_a_tensor_too_many_is_named(folder):
    change(folder, "heads.safetensors", lambda tensors: tensors | {"extra": torch.zeros(1)})
    assert refusal(folder) == "'mine/heads.safetensors' holds the tensor 'extra', which exapt.json does not list"


def test_a_tensor_of_another_shape_is_named(folder):
    change(folder, "backbone.safetensors", lambda tensors: tensors | {QUERY: torch.zeros(4, 4)})
    assert refusal(folder) == f"'mine/backbone.safetensors': '{QUERY}' has shape [4, 4], but exapt.json says [32, 32]"


def test_a_tensor_of_another_type_is_named(folder):
    change(folder, "backbone.safetensors", lambda tensors: tensors | {QUERY: tensors[QUERY].half()})
    assert refusal(folder) == (
        f"'mine/backbone.safetensors': '{QUERY}' has dtype torch.float16, but exapt.json says torch.float32"
    )


def test_a_tensor_that_is_not_finite_is_named(folder):
    change(folder, "backbone.safetensors", lambda tensors: tensors | {QUERY: tensors[QUERY] / 0})
    assert refusal(folder) == f"'mine/backbone.safetensors': '{QUERY}' holds values that are not finite"


def test_a_flipped_bit_is_found(folder):
    path = folder / "heads.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    said = refusal(folder)
    assert said.startswith("'mine/heads.safetensors': 'head.trunk.")
    assert " has sha256 " in said
    assert ", but exapt.json says " in said


def test_a_file_cut_short_or_missing_is_named(folder):
    path = folder / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert refusal(folder).startswith(f"'{path}' cannot be read: Error while deserializing header: ")
    path.unlink()
    assert refusal(folder).startswith(f"'{path}' cannot be read: No such file or directory")


def other_model(tmp_path, function=lambda tensors: tensors, vocabulary=lambda text: text):
    """Return a copy of the model, changed."""
    other = shutil.copytree(MODEL, tmp_path / "other")
    change(other, "model.safetensors", function)
    path = other / "vocab.txt"
    path.write_text(vocabulary(path.read_text()))
    return other


def test_other_weights_are_refused_with_both_fingerprints(folder, tmp_path):
    name = "esm.encoder.layer.0.output.dense.bias"
    other = other_model(tmp_path, lambda tensors: tensors | {name: tensors[name] + 1e-6})
    said = json.loads((folder / "exapt.json").read_text())["backbone"]["fingerprint"][:12]
    assert refusal(folder, backbone=f"esm2:{other}").startswith(
        f"'mine' was learned on a backbone with fingerprint {said}, but the backbone of 'esm2:model' here has "
    )


def test_another_tokenizer_is_refused_with_both_fingerprints(folder, tmp_path):
    other = other_model(
        tmp_path,
        vocabulary=lambda text: text.replace("\nA\n", "\n?\n").replace("\nL\n", "\nA\n").replace("\n?\n", "\nL\n"),
    )
    said = json.loads((folder / "exapt.json").read_text())["tokenizer"]["fingerprint"][:12]
    assert refusal(folder, backbone=f"esm2:{other}").startswith(
        f"'mine' was learned on a tokenizer with fingerprint {said}, but the tokenizer of 'esm2:model' here has "
    )


def test_answers_that_drift_are_refused(folder):
    def drift(manifest):
        manifest["probe"]["outputs"]["head"][1][0] += 0.5

    rewrite(folder, drift)
    assert refusal(folder) == (
        "'mine' answers otherwise here than where it was saved: head 'head' on probe 2 differs by 0.5 (tolerance "
        "0.0001); compare its versions with 'exapt doctor'"
    )


def test_a_later_format_is_refused(folder):
    rewrite(folder, lambda manifest: manifest["exapt"].update(format=2))
    assert refusal(folder) == "'mine' has format 2; this exapt reads format 1: upgrade exapt"


def test_a_folder_that_is_none_is_refused(folder, tmp_path):
    assert refusal(tmp_path / "none") == f"there is no adapter folder '{tmp_path / 'none'}'"
    (folder / "exapt.json").write_text("{")
    assert refusal(folder).startswith(f"'{folder / 'exapt.json'}' is damaged: ")
    (folder / "exapt.json").unlink()
    assert refusal(folder) == f"'{folder}' is no exapt adapter: it has no exapt.json"


def test_a_plugin_that_is_not_installed_is_named(folder):
    rewrite(folder, lambda manifest: manifest["plugins"].update({"exapt-none": "3.1"}))
    assert refusal(folder) == (
        "'mine' needs the plugin exapt-none 3.1, which is not installed (or disabled): pip install exapt-none"
    )


def test_local_weights_are_found_again_by_what_they_hold(saved, table, tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    weights = shutil.copytree(MODEL, tmp_path / "weights")
    exapt.train(recipe(table, "lora", backbone=f"esm2:{weights}"), tmp_path / "out")
    answer = exapt.load(tmp_path / "out").predict(QUERIES)
    asks = (
        "'out' was learned on the local weights 'esm2:weights', which this machine has not seen: "
        "say where they are with --backbone esm2:FOLDER"
    )
    # Renamed, the folder is not where it was; told once, it is known again.
    weights.rename(tmp_path / "moved")
    assert refusal(tmp_path / "out", backbone="") == asks
    moved = f"esm2:{tmp_path / 'moved'}"
    assert exapt.load(tmp_path / "out", backbone=moved).predict(QUERIES).equals(answer)
    assert exapt.load(tmp_path / "out").predict(QUERIES).equals(answer)
    shutil.rmtree(cache_folder())
    assert refusal(tmp_path / "out", backbone="") == asks
    assert exapt.load(tmp_path / "out", backbone=moved).predict(QUERIES).equals(answer)


def test_a_cache_that_cannot_be_written_stops_no_run_that_needs_none(table, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "file" / "cache"))
    exapt.train(recipe(table, "lora"), tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        exapt.train(recipe(table, "probe"))
    assert str(caught.value) == (
        f"features cannot be kept in '{tmp_path}/file/cache/features': Not a directory; "
        "name another folder in EXAPT_CACHE"
    )


@pytest.mark.parametrize(("umask", "modes"), [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600))])
def test_permissions_follow_the_umask(saved, tmp_path, umask, modes):
    before = os.umask(umask)
    try:
        saved[0].save(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == modes[0]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {modes[1]}


def test_a_failure_in_the_middle_leaves_nothing(saved, tmp_path):
    from dataclasses import replace

    # JSON cannot hold it, which shows when the tensors have been written already.
    spoiled = replace(saved[0], manifest=saved[0].manifest | {"metrics": {"valid": {"loss": float("nan")}}})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        spoiled.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half(saved, tmp_path, monkeypatch):
    seen = []
    rename = os.rename

    def watched(source, target, **options):
        seen.append(
            (sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")), os.fspath(target))
        )
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", watched)
    saved[0].save(tmp_path / "out")
    # Up to the one rename nothing stands there under a name of its own.
    assert seen == [([], str(tmp_path / "out"))]
    assert contents(tmp_path / "out") == contents(saved[1])


def test_a_place_that_cannot_be_written_is_refused_before_training(saved, table, tmp_path):
    adapted, folder = saved
    with pytest.raises(OutputError) as caught:
        adapted.save(folder)
    assert str(caught.value) == f"'{folder}' exists already; choose another folder, or remove it"
    heard = []
    with pytest.raises(OutputError) as caught:
        exapt.train(recipe(table), tmp_path / "no" / "out", listeners=[lambda run, event: heard.append(event)])
    assert str(caught.value) == f"there is no folder '{tmp_path}/no' to write 'out' in"
    assert heard == []


def test_the_card_says_what_the_adapter_is(saved):
    adapted, folder = saved
    card = (folder / "README.md").read_text()
    lines = card.splitlines()
    assert lines[:2] == ["---", "library_name: exapt"]
    assert "# partial on esm2:model" in lines
    assert "- `head`: sequence-classification of `kind`. Classes: acid, base." in lines
    loss = adapted.metrics["test"]["loss"]
    assert any(line.startswith("| loss | ") and line.endswith(f"| {loss:.4f} |") for line in lines)
    data = adapted.manifest["data"]
    assert f"Data: `charges.csv` (sha256 `{data['sha256'][:16]}`), 24 train, 6 valid, 6 test." in lines
    assert "Weights: unknown." in lines


def test_the_manifest_says_everything_that_is_needed_to_repeat_the_run(saved, table, tmp_path):
    _, folder = saved
    manifest = json.loads((folder / "exapt.json").read_text())
    assert manifest["recipe"]["heads"]["head"]["classes"] == ["acid", "base"]
    assert manifest["recipe"]["layer"] == 2
    assert manifest["plugins"].keys() == {"exapt", "exapt-esm"}
    again = manifest["recipe"]
    again["data"]["path"] = str(table)
    again["backbone"] |= {"name": f"esm2:{MODEL}", "source": str(MODEL)}
    exapt.train(again, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_heads_and_inputs_keep_the_order_of_the_recipe(table, tmp_path):
    heads = {
        "second": {"name": "sequence-classification", "label": "kind"},
        "first": {"name": "sequence-regression", "label": "charge"},
    }
    given = {key: value for key, value in recipe(table).items() if key != "head"} | {"heads": heads}
    adapted = exapt.train(given, tmp_path / "out")
    assert exapt.load(tmp_path / "out").predict(QUERIES).column_names == adapted.predict(QUERIES).column_names
