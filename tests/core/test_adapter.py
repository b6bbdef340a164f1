"""The adapter on disk: whole or not there, and refused in one sentence wherever it does not belong."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import exapt
from exapt import AdapterError, DataError, OutputError
from exapt.fingerprint import tensor_sha256
from exapt.installed import cache_folder
from exapt.manifest import card, dumped, finite
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


def test_classes_in_another_order_are_refused_with_both_orders(folder):
    rewrite(folder, lambda manifest: manifest["recipe"]["heads"]["head"]["classes"].reverse())
    assert refusal(folder) == (
        "head 'head' of 'mine' was learned with classes ['acid', 'base'], but exapt.json says ['base', 'acid']"
    )


def test_a_later_format_is_refused(folder):
    rewrite(folder, lambda manifest: manifest["exapt"].update(format=2))
    assert refusal(folder) == "'mine' has format 2; this exapt reads format 1: upgrade exapt"


def rename_files(manifest, name):
    manifest["tensors"][name] = manifest["tensors"].pop("backbone.safetensors")


DAMAGES = {
    "traversal": (
        lambda manifest: rename_files(manifest, "../x.safetensors"),
        "no adapter has a file of tensors '../x.safetensors'",
    ),
    "absolute": (
        lambda manifest: rename_files(manifest, "/etc/x.safetensors"),
        "no adapter has a file of tensors '/etc/x.safetensors'",
    ),
    "no-heads": (
        lambda manifest: manifest["tensors"].pop("heads.safetensors"),
        "it lists no tensors of heads.safetensors",
    ),
    "no-probe": (
        lambda manifest: manifest["probe"].update(inputs=[], outputs={"head": []}),
        "'probe.inputs': list should have at least 1 item after validation, not 0",
    ),
    "too-few-outputs": (
        lambda manifest: manifest["probe"]["outputs"]["head"].pop(),
        "its probe has 3 inputs, but 2 outputs of 'head'",
    ),
    "probe-of-no-head": (
        lambda manifest: manifest["probe"].update(outputs={}),
        "its heads are head, but those of its probe are none",
    ),
    "wide-tolerance": (
        lambda manifest: manifest["probe"]["tolerance"].update(fp32=1e9),
        "'probe.tolerance.fp32': input should be less than or equal to 0.01",
    ),
    "key": (lambda manifest: manifest["backbone"].pop("licence"), "it lacks 'backbone.licence'"),
    "type": (lambda manifest: manifest.update(plugins=["exapt"]), "'plugins': input should be a valid dictionary"),
    "fingerprint": (
        lambda manifest: manifest["tokenizer"].update(fingerprint=7),
        "'tokenizer.fingerprint': input should be a valid string",
    ),
    "not-a-digest": (
        lambda manifest: manifest["backbone"].update(fingerprint="abc"),
        "'backbone.fingerprint': string should match pattern '^[0-9a-f]{64}$'",
    ),
    "tensor": (
        lambda manifest: manifest["tensors"]["backbone.safetensors"][QUERY].pop("sha256"),
        f"it lacks 'tensors.backbone.safetensors.{QUERY}.sha256'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_is_not_trusted(folder, damage):
    spoil, said = DAMAGES[damage]
    rewrite(folder, spoil)
    assert refusal(folder) == f"'{folder / 'exapt.json'}' is damaged: {said}"


def test_a_tensor_that_neither_file_nor_manifest_has_is_missed(folder):
    change(folder, "backbone.safetensors", lambda tensors: {n: t for n, t in tensors.items() if n != QUERY})
    rewrite(folder, lambda manifest: manifest["tensors"]["backbone.safetensors"].pop(QUERY))
    assert refusal(folder) == f"'mine/backbone.safetensors' does not fit the model: missing {QUERY}"


def test_a_tensor_of_another_type_than_the_models_is_refused(folder):
    halved = load_file(folder / "backbone.safetensors")[QUERY].half()
    facts = {"shape": [32, 32], "dtype": "torch.float16", "sha256": tensor_sha256(halved)}
    change(folder, "backbone.safetensors", lambda tensors: tensors | {QUERY: halved})
    rewrite(folder, lambda manifest: manifest["tensors"]["backbone.safetensors"].update({QUERY: facts}))
    assert refusal(folder) == (
        f"'mine/backbone.safetensors' does not fit the model: '{QUERY}' is of torch.float16, not torch.float32"
    )


def test_a_lora_that_neither_files_nor_manifest_have_is_missed(table, tmp_path):
    exapt.train(recipe(table, "lora"), tmp_path / "out")
    rewrite(tmp_path / "out", lambda manifest: manifest["tensors"].pop("adapter_model.safetensors"))
    assert refusal(tmp_path / "out") == "'out' has no adapter_model.safetensors, which its strategies need"


def test_a_plugin_may_change_its_probes(saved, folder, monkeypatch):
    monkeypatch.setattr("exapt_esm.plugin.PROBES", ("WWWWW",))
    adapted = exapt.load(folder, backbone=f"esm2:{MODEL}")
    assert adapted.resolved.backbone.offer.spec.probes == ("WWWWW",)
    assert adapted.predict(QUERIES).equals(saved[0].predict(QUERIES))


def test_a_probe_that_no_tokenizer_reads_is_refused(folder):
    rewrite(folder, lambda manifest: manifest["probe"]["inputs"].__setitem__(0, 5))
    assert refusal(folder) == (
        "'mine' holds a probe that the tokenizer here does not read: 'probe 1': is 5, not a sequence"
    )


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
        "'out' was learned on the local weights 'esm2:weights', which are not where they were, or which this machine "
        "has not seen: say where they are with --backbone esm2:PATH"
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


def test_a_backbone_of_any_name_stands_quoted_in_the_card(saved):
    manifest = json.loads((saved[1] / "exapt.json").read_text())
    manifest["backbone"]["source"] = 'a: "b" #c'
    assert 'base_model: "a: \\"b\\" #c"' in card(manifest).splitlines()


def test_a_metric_that_is_no_number_costs_no_run():
    metrics = finite({"valid": {"loss": float("nan"), "mcc": 0.5}, "test": {"loss": float("inf")}})
    assert metrics == {"valid": {"mcc": 0.5}, "test": {}}
    assert "NaN" not in dumped({"metrics": metrics})


def test_a_file_where_the_log_belongs_is_refused(table, tmp_path):
    (tmp_path / "out.run").write_text("mine")
    with pytest.raises(OutputError) as caught:
        exapt.train(recipe(table), tmp_path / "out")
    assert str(caught.value) == (
        f"'{tmp_path}/out.run', where the log of the run belongs, is a file; remove or rename it"
    )
    assert (tmp_path / "out.run").read_text() == "mine"


def locked(tmp_path, process, host=None):
    (tmp_path / "out.run").mkdir(exist_ok=True)
    (tmp_path / "out.run" / "lock").write_text(f"{process} {host or socket.gethostname()}")


def test_two_runs_do_not_write_to_one_place(table, tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for host, said in (
            (None, f"another run (process {other.pid}) is writing to '{tmp_path}/out.run'"),
            (
                "elsewhere",
                f"another run (process {other.pid} on elsewhere) is writing to '{tmp_path}/out.run'; "
                f"if it is no more, remove '{tmp_path}/out.run/lock'",
            ),
        ):
            locked(tmp_path, other.pid, host)
            with pytest.raises(OutputError) as caught:
                exapt.train(recipe(table), tmp_path / "out")
            assert str(caught.value) == said
        other.communicate(b"\n")
    # Now that it is dead, its lock holds nobody.
    locked(tmp_path, other.pid)
    seen = []
    listeners = [lambda run, event: seen.append((run.folder / "lock").read_text())]
    exapt.train(recipe(table), tmp_path / "out", listeners=listeners)
    assert set(seen) == {f"{os.getpid()} {socket.gethostname()}"}
    assert [path.name for path in (tmp_path / "out.run").iterdir()] == ["metrics.jsonl"]


def test_a_checkpoint_that_cannot_be_written_is_told(table, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("exapt.checkpoint.save_file", full)
    with pytest.raises(OutputError) as caught:
        exapt.train(recipe(table), tmp_path / "out")
    assert str(caught.value) == f"no checkpoint can be written to '{tmp_path}/out.run': No space left on device"


UNEQUAL = {
    "nothing": ({}, None, "the input 'sequence' is missing; this adapter reads sequence"),
    "inputs": (
        {"sequence": QUERIES, "more": QUERIES[:1]},
        None,
        "the input 'more' has 1 values where another has 4",
    ),
    "ids": (QUERIES, ["a"], "there are 1 ids for 4 inputs"),
    "number": (["MKT", 5], None, "'2': is 5, not a sequence"),
}


@pytest.mark.parametrize("case", UNEQUAL)
def test_inputs_that_do_not_go_together(saved, case):
    inputs, ids, said = UNEQUAL[case]
    with pytest.raises(DataError) as caught:
        saved[0].predict(inputs, ids)
    assert str(caught.value) == said


def test_heads_and_inputs_keep_the_order_of_the_recipe(table, tmp_path):
    heads = {
        "second": {"name": "sequence-classification", "label": "kind"},
        "first": {"name": "sequence-regression", "label": "charge"},
    }
    given = {key: value for key, value in recipe(table).items() if key != "head"} | {"heads": heads}
    adapted = exapt.train(given, tmp_path / "out")
    assert exapt.load(tmp_path / "out").predict(QUERIES).column_names == adapted.predict(QUERIES).column_names
