"""Features of a frozen backbone: computed once, kept on disk, and thrown away when anything about them is not as it was."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import exapt
from exapt.installed import cache_folder
from exapt_esm.backbone import Esm2
from runs import MODEL, charges, contents, recipe, training


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("EXAPT_CACHE", str(tmp_path / "cache"))
    return charges(tmp_path / "charges.csv")


@pytest.fixture
def passes(monkeypatch):
    """Count the rows that pass through the backbone."""
    rows = []
    stem = Esm2.stem
    monkeypatch.setattr(Esm2, "stem", lambda self, batch: rows.append(len(batch.lengths)) or stem(self, batch))
    return rows


def kept():
    return sorted(cache_folder().glob("features/*"))


PROBES = 2 * 3  # the plugin has three: they tell the backbone apart before training, and are kept with the adapter


def test_features_are_computed_once_and_kept(table, tmp_path, passes):
    exapt.train(recipe(table, **training(epochs=5)), tmp_path / "cold")
    assert sum(passes) == 36 + PROBES
    passes.clear()
    exapt.train(recipe(table, **training(epochs=5)), tmp_path / "warm")
    assert sum(passes) == PROBES
    assert contents(tmp_path / "warm") == contents(tmp_path / "cold")


def test_an_input_that_comes_twice_is_computed_once(table, tmp_path, passes):
    table.write_text("sequence,kind\n" + "ACDEF,acid\nKRKRK,base\n" * 12)
    exapt.train(recipe(table, split={"fractions": [0.5, 0.25, 0.25]}))
    assert sum(passes) == 2 + PROBES


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("spoil", ["flip", "cut", "delete", "note", "empty"])
def test_spoiled_features_are_computed_again(table, tmp_path, passes, spoil, pooling):
    given = recipe(table, head={"name": "sequence-classification", "label": "kind", "pooling": pooling})
    exapt.train(given, tmp_path / "first")
    (folder,) = kept()
    vectors = folder / "vectors.npy"
    content = vectors.read_bytes()
    if spoil == "flip":
        vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 64]))
    if spoil == "cut":
        vectors.write_bytes(content[:-100])
    if spoil == "delete":
        vectors.unlink()
    if spoil == "note":
        (folder / "key.json").write_text("{}")
    if spoil == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    passes.clear()
    exapt.train(given, tmp_path / "second")
    assert sum(passes) == 36 + PROBES
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    assert kept() == [folder]


def test_whatever_features_depend_on_is_in_their_key(table, tmp_path):
    def head(pooling):
        return {"head": {"name": "sequence-classification", "label": "kind", "pooling": pooling}}

    other = shutil.copytree(MODEL, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file(
        {name: tensor + 1e-4 if name.endswith("query.bias") else tensor for name, tensor in tensors.items()},
        other / "model.safetensors",
    )
    longer = charges(tmp_path / "longer.csv", rows=42)
    set_otherwise = shutil.copytree(MODEL, tmp_path / "set otherwise")
    config = json.loads((set_otherwise / "config.json").read_text())
    (set_otherwise / "config.json").write_text(json.dumps({**config, "token_dropout": False}))
    changes = {
        "weights": {"backbone": f"esm2:{other}"},
        "backbone's options": {"backbone": {"name": f"esm2:{MODEL}", "max_tokens": 900}},
        "the model's configuration, with the same weights": {"backbone": f"esm2:{set_otherwise}"},
        "inputs": {"data": {"path": str(longer), "input": "sequence"}},
        "layer": {"layer": 1},
        "pooling": head("max"),
        "tokens": head("attention"),
        "precision": training(precision="bf16"),
    }
    exapt.train(recipe(table))
    for number, (what, change) in enumerate(changes.items(), 2):
        exapt.train(recipe(table, **change))
        assert len(kept()) == number, what
        exapt.train(recipe(table, **change))
        assert len(kept()) == number, what
    # What does not touch the features does not ask for others.
    exapt.train(recipe(table, **training(epochs=3, learning_rate=1.0)) | {"seed": 4, "layer": 2})
    assert len(kept()) == number


def test_a_backbone_that_was_changed_before_keeps_no_features(table, tmp_path, passes):
    exapt.train(recipe(table, "partial", **training(cache=False)), tmp_path / "partial")
    passes.clear()
    exapt.train(recipe(table) | {"start": str(tmp_path / "partial")})
    assert kept() == []
    assert sum(passes) > 36 + PROBES


def test_a_note_beside_the_features_says_what_they_are(table):
    exapt.train(recipe(table))
    (folder,) = kept()
    note = json.loads((folder / "key.json").read_text())
    assert note["key"]["reading"] == "mean"
    assert note["key"]["code"]["exapt"] == exapt.__version__
    assert note["key"]["code"]["exapt-esm"] == version("exapt-esm")
    assert note["sha256"].keys() == {"vectors.npy"}
    assert str(Path(MODEL).parent) not in json.dumps(note)


def test_features_kept_answer_as_features_computed(table, tmp_path):
    # The second run starts from a head alone and learns nothing: what it measures comes from kept features.
    adapted = exapt.train(recipe(table), tmp_path / "first")
    rows = adapted.predict([line.split(",")[1] for line in table.read_text().splitlines()[1:]])
    parts = [line.split(",")[-1] for line in table.read_text().splitlines()[1:]]
    kinds = [line.split(",")[3] for line in table.read_text().splitlines()[1:]]
    tested = [row for row, part in enumerate(parts) if part == "test"]
    shares = [rows[f"probability_{kinds[row]}"][row].as_py() for row in tested]
    loss = -torch.tensor(shares).log().mean().item()
    assert adapted.metrics["test"]["loss"] == pytest.approx(loss, rel=1e-5)
