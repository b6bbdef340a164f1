"""What a run leaves of the pretrained language model: its loss on a reference set, before and after, told and kept."""

import json
import math

import numpy as np
import pytest
import torch

import exapt
from exapt import RecipeError
from exapt.building import build_backbone
from exapt.data.batching import collate
from exapt.plugins import current
from exapt.recipe import read_recipe
from exapt.resolve import resolve
from runs import charges, listened, recipe, training
from transfer.modalities import INPUTS, MODALITIES
from transfer.modalities import recipe as modal
from transfer.modalities import table as rows_of


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("rows") / "rows.csv", rows=24)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "some.fasta"
    path.write_text(">a\nMKTAYIAKQRQISFVKSHF\n>b\nGLWSKIKEVGKEAAKAAAKAAGKAALGAVSEAV\n>c\nMSTNPKPQRKTKRNTNRRPQDVKFPGG\n")
    return path


def test_a_frozen_backbone_keeps_its_language_and_a_tuned_one_does_not(table, reference, tmp_path):
    given = {"reference": {"path": str(reference)}}
    frozen = exapt.train(recipe(table, "probe", **given, **training(epochs=1)))
    tuned, heard = listened(
        recipe(table, "full", **given, **training(epochs=1, learning_rate=3e-3), seed=3), tmp_path / "tuned"
    )
    assert frozen.metrics["reference before"] == frozen.metrics["reference after"]
    before, after = tuned.metrics["reference before"], tuned.metrics["reference after"]
    # What is hidden does not depend on the seed of the run.
    assert before == frozen.metrics["reference before"]
    assert abs(after["loss"] - before["loss"]) > 0.01
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]), rel=1e-5)
    assert [facts["text"] for facts in heard.facts("note")][-1] == (
        f"reference: the language model's loss was {before['loss']:.4f} before and is {after['loss']:.4f} after "
        f"(perplexity {before['perplexity']:.2f} and {after['perplexity']:.2f})"
    )
    assert heard.of("end", "reference after.loss") == [after["loss"]]
    kept = json.loads((tmp_path / "tuned" / "exapt.json").read_text())
    assert kept["metrics"]["reference after"] == after
    assert kept["recipe"]["reference"]["path"] == "some.fasta"
    assert "reference before | reference after |" in (tmp_path / "tuned" / "README.md").read_text()
    assert exapt.load(tmp_path / "tuned").metrics == tuned.metrics


def test_it_is_the_pretrained_head_on_the_tuned_backbone(table, reference):
    """The loss after tuning, told anew: the published decoder over the states of the model that was trained."""
    adapted = exapt.train(recipe(table, "full", reference={"path": str(reference)}, **training(epochs=1)))
    decoder = build_backbone(adapted.resolved.backbone).language.head
    head = current().get(exapt.HeadSpec, "masked-lm").spec
    from exapt.parts import HeadContext
    from exapt.source import Source

    published = build_backbone(adapted.resolved.backbone)
    context = HeadContext({"sequence": published.width}, {"sequence": published.language}, adapted.tokenizer)
    asks = head.build(head.options(), context)
    lasting = Source([], {}, np.arange(0), None, None, [], 0).lasting
    total, count = 0.0, 0
    for line in reference.read_text().splitlines()[1::2]:
        encoding = adapted.tokenizer.encode(line)
        posed, target = asks.pose(encoding, lasting(encoding))
        with torch.no_grad():
            logits = decoder(adapted.model.backbone.at_layer(collate([posed]), -1).hidden)[0]
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target), ignore_index=-100, reduction="sum")
        total, count = total + float(losses), count + int((target != -100).sum())
    assert adapted.metrics["reference after"]["loss"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("modality", [one for one in MODALITIES if one != "protein"])
def test_other_language_models_are_measured_too(modality, tmp_path):
    path = rows_of(modality, tmp_path / "rows.csv", rows=12)
    other = {"path": str(path), "input": INPUTS[modality]}
    adapted = exapt.train(modal(modality, path, {"name": "partial", "blocks": 1}, reference=other))
    before, after = adapted.metrics["reference before"], adapted.metrics["reference after"]
    assert before.keys() == after.keys() >= {"loss"}
    assert before["loss"] != after["loss"]


REFUSED = {
    "from scratch": (
        {"strategy": "scratch"},
        {"path": "x.fasta"},
        "reference measures what is left of the pretrained language model, and 'scratch' has none: leave it out",
    ),
    "with labels": (
        {},
        {"path": "x.fasta", "labels": "y.csv"},
        "reference.labels: the reference set has no labels, nor masks of them; leave it out",
    ),
    "two inputs": (
        {},
        {"path": "x.csv", "inputs": {"a": "a", "b": "b"}},
        "reference holds one input, whose tokens the language model tells: name its column as input",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_when_the_recipe_is_read(case):
    changes, reference, said = REFUSED[case]
    with pytest.raises(RecipeError) as error:
        resolve(read_recipe(recipe("rows.csv", **changes, reference=reference)), current())
    assert str(error.value) == said


def test_a_model_without_a_language_head_is_refused_before_training(table, reference, tmp_path):
    from safetensors.torch import load_file, save_file

    from runs import MODEL

    headless = tmp_path / "model"
    headless.mkdir()
    for file in MODEL.iterdir():
        (headless / file.name).write_bytes(file.read_bytes())
    tensors = load_file(MODEL / "model.safetensors")
    save_file(
        {name: one for name, one in tensors.items() if not name.startswith("lm_head")}, headless / "model.safetensors"
    )
    with pytest.raises(RecipeError) as error:
        exapt.train(recipe(table, backbone=f"esm2:{headless}", reference={"path": str(reference)}))
    assert str(error.value) == (
        f"reference: 'esm2:{headless}' has no language model, or this checkpoint came without one: leave reference out"
    )


def test_an_empty_reference_set_is_told_as_such(table, tmp_path):
    path = tmp_path / "none.csv"
    path.write_text("letters\nMKT\n")
    with pytest.raises(exapt.DataError) as error:
        exapt.train(recipe(table, reference={"path": str(path)}))
    assert str(error.value).startswith("reference: none.csv has no column 'sequence'.")
