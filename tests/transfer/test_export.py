"""An adapter merged into the weights: an adapter that needs no PEFT, or a folder of transformers, that answers the same."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import exapt
from exapt import AdapterError, OutputError, RecipeError
from exapt.cli import cli
from exapt.data.batching import collate
from runs import MODEL, QUERIES, charges, fresh
from runs import recipe as charged
from transfer.modalities import recipe, table

FAST = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-2, "patience": 0}
MERGED = {
    "lora": {"name": "lora", "rank": 2, "targets": ["query", "output.dense"]},
    "dora": {"name": "dora", "rank": 2},
    "ia3": "ia3",
    "lora-and-bitfit": [{"name": "lora", "rank": 2}, "bitfit"],
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Return a folder with an adapter of each strategy on the tiny ESM-2, a LoRA on DNABERT, and the table."""
    folder = tmp_path_factory.mktemp("learned")
    dna, proteins = table("dna", folder / "dna.csv"), charges(folder / "charges.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAPT_CACHE", str(folder / "cache"))
        for name, strategy in {**MERGED, "partial": "partial", "probe": "probe", "prefix": "prefix"}.items():
            strategies = strategy if isinstance(strategy, list) else [strategy]
            given = charged(proteins) | {"strategies": strategies, "training": FAST}
            del given["strategy"]
            exapt.train(given, folder / name)
        together = [{"name": "lora", "rank": 2}, "bottleneck"]
        exapt.train(
            recipe("protein", table("protein", folder / "p.csv"), together, training=FAST), folder / "bottleneck"
        )
        exapt.train(recipe("dna", dna, "lora", training=FAST), folder / "dna")
        yield folder


def close(one, other):
    """Whether answers are the same within the tolerance that is kept with each adapter."""
    assert one.column_names == other.column_names
    for name in one.column_names:
        if name.startswith("probability"):
            assert np.allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-4, atol=1e-4)
        else:
            assert one[name].equals(other[name])
    return True


@pytest.mark.parametrize("name", MERGED)
def test_a_merged_adapter_answers_the_same_without_peft(name, learned, tmp_path):
    done = exapt.export(learned / name, tmp_path / "merged", merged=True)
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert files == {"README.md", "backbone.safetensors", "exapt.json", "heads.safetensors"}
    manifest = json.loads((tmp_path / "merged" / "exapt.json").read_text())
    original = json.loads((learned / name / "exapt.json").read_text())
    assert manifest["recipe"]["strategies"] == [{"name": "probe"}]
    assert manifest["merged"] == {"adapter": name, "strategies": original["recipe"]["strategies"]}
    assert manifest["probe"] == original["probe"]
    assert f"# {', '.join(done.merged)}, merged, on" in (tmp_path / "merged" / "README.md").read_text()
    whole, before = load_file(tmp_path / "merged" / "backbone.safetensors"), load_file(MODEL / "model.safetensors")
    assert (len(whole), sum(value.numel() for value in whole.values())) == (done.tensors, done.parameters)
    assert all(value.shape == before[key].shape and not torch.equal(value, before[key]) for key, value in whole.items())
    answers = exapt.load(learned / name).predict(QUERIES)
    assert close(exapt.load(tmp_path / "merged").predict(QUERIES), answers)


def test_what_is_merged_needs_no_peft_to_be_loaded(learned, tmp_path):
    exapt.export(learned / "lora", tmp_path / "merged", merged=True)
    loaded = fresh(
        "import exapt\nexapt.load(given[0])\nprint(json.dumps(any(n.partition('.')[0] == 'peft' for n in sys.modules)))",
        str(tmp_path / "merged"),
        EXAPT_CACHE=str(learned / "cache"),
    )
    assert loaded is False


def test_a_run_goes_on_from_what_was_merged(learned, tmp_path):
    exapt.export(learned / "lora", tmp_path / "merged", merged=True)
    given = charged(learned / "charges.csv", "ia3") | {"start": str(tmp_path / "merged"), "training": FAST}
    again = exapt.train(given, tmp_path / "again")
    assert exapt.load(tmp_path / "again").predict(QUERIES).equals(again.predict(QUERIES))


def test_an_adapter_upon_another_one_is_merged_with_it(learned, tmp_path):
    given = charged(learned / "charges.csv", {"name": "lora", "rank": 1}) | {
        "base": str(learned / "lora"),
        "training": FAST,
    }
    answers = exapt.train(given, tmp_path / "upper").predict(QUERIES)
    exapt.export(tmp_path / "upper", tmp_path / "merged", merged=True)
    assert not (tmp_path / "merged" / "base").exists()
    assert json.loads((tmp_path / "merged" / "exapt.json").read_text())["merged"]["base"]["name"] == "lora"
    assert close(exapt.load(tmp_path / "merged").predict(QUERIES), answers)


@pytest.mark.parametrize("name", ["lora", "partial"])
def test_transformers_opens_what_was_exported_for_it(name, learned, tmp_path):
    from transformers import AutoModel

    done = exported(learned / name, tmp_path / "stock", "--merged", "--format", "transformers")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    assert {path.name for path in (tmp_path / "stock").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    stock = AutoModel.from_pretrained(tmp_path / "stock").eval()
    adapted = exapt.load(learned / name)
    batch = collate([adapted.tokenizer.encode(value) for value in QUERIES])
    with torch.no_grad():
        ours = adapted.model.backbone(batch).hidden
        theirs = stock(input_ids=batch["input_ids"], attention_mask=batch.present.long()).last_hidden_state
    assert torch.allclose(ours[batch.present], theirs[batch.present], atol=1e-4)
    state, before = load_file(tmp_path / "stock" / "model.safetensors"), load_file(MODEL / "model.safetensors")
    assert any(not torch.equal(value, before[f"esm.{key}"]) for key, value in state.items() if f"esm.{key}" in before)


def exported(*words):
    return CliRunner().invoke(cli, ["export", *map(str, words)])


def test_the_command_says_what_it_wrote(learned, tmp_path):
    done = exported(learned / "ia3", tmp_path / "merged", "--merged", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts == {
        "folder": str(tmp_path / "merged"),
        "format": "exapt",
        "merged": ["ia3"],
        "tensors": facts["tensors"],
        "parameters": facts["parameters"],
    }
    assert (
        done.stderr
        == f"ia3 merged: {facts['tensors']} tensors of {facts['parameters']:,} numbers in {tmp_path / 'merged'}\n"
    )


def test_what_cannot_be_exported_says_so_and_leaves_nothing(learned, tmp_path):
    place = tmp_path / "out"
    for words, said in (
        (
            (learned / "prefix", place, "--merged", "--format", "transformers"),
            "'prefix' cannot be merged: what strategy 'prefix' learned stays beside the weights, for which none of them can "
            "stand; load and predict with it as it is",
        ),
        (
            (learned / "bottleneck", place, "--merged"),
            "'bottleneck' cannot be merged: what strategy 'bottleneck' learned stays beside the weights, for which none of them "
            "can stand; load and predict with it as it is",
        ),
        (
            (learned / "partial", place, "--merged"),
            "'partial' has nothing to merge: what it changed of the weights, it holds whole",
        ),
        (
            (learned / "probe", place, "--merged", "--format", "transformers"),
            "'probe' changed nothing of its backbone: there is nothing to export",
        ),
        (
            (learned / "dna", place, "--merged", "--format", "transformers"),
            "'dna' was learned on {dna}, whose code is not that of transformers: leave --format out, for an adapter of exapt",
        ),
        (
            (learned / "lora", place),
            "'lora' stands as it is in its folder, an update in PEFT's own files: merged (--merged) writes it into the weights",
        ),
        (
            (learned / "lora", place, "--merged", "--format", "onnx"),
            "there is no format 'onnx' to export to; formats are exapt, transformers",
        ),
        ((learned / "lora", learned, "--merged"), f"'{learned}' exists already; choose another folder, or remove it"),
    ):
        done = exported(*words)
        named = json.loads((learned / "dna" / "exapt.json").read_text())["backbone"]["name"]
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"exapt: {said.replace('{dna}', named)}\n")
        assert not place.exists()


def test_weights_that_would_answer_otherwise_are_not_written(learned, tmp_path, monkeypatch):
    from peft.tuners.lora import Linear

    # An update that is merged at half its size.
    merge = Linear.merge
    monkeypatch.setattr(Linear, "merge", lambda self, **given: (self.scale_layer(0.5), merge(self, **given)))
    with pytest.raises(
        AdapterError,
        match=r"^'lora' is not exported, because the merged weights do not do the same: 'lora' answers otherwise",
    ):
        exapt.export(learned / "lora", tmp_path / "merged", merged=True)
    assert not (tmp_path / "merged").exists()


def test_errors_are_of_their_kinds(learned, tmp_path):
    with pytest.raises(RecipeError):
        exapt.export(learned / "prefix", tmp_path / "out", merged=True, format="transformers")
    with pytest.raises(OutputError):
        exapt.export(learned / "lora", learned, merged=True)
