"""A head that poses its own questions beside one with labels, and what is asked of an input outside training."""

import json

import numpy as np
import pytest
import torch

import exapt
import exapt_esm.plugin
from exapt import AugmentationSpec, Options, hookimpl
from exapt.data.batching import collate
from exapt.model import MicroBatch
from exapt.parts import Augmentation, Changed
from exapt.testing import inline

QUERIES = ["MKTAYIAKQRQISF", "GLWSKIKEVGKEAAKAAA", "MKTAYIAKQRQISF"]


class Quiet(Options):
    """No options."""


class Mirror(Augmentation):
    """Reads an input from its end as well when it answers."""

    trains = False

    def views(self, value):
        return (Changed(value[::-1], np.arange(len(value))[::-1]),)


class Mirrors:
    """The augmentation as a plugin."""

    exapt_api = 1

    @hookimpl
    def exapt_augmentations(self):
        yield AugmentationSpec(name="mirror", summary="Mirrors.", options=Quiet, build=lambda options: Mirror())


@pytest.fixture
def recipe(data, esm2):
    """Learn labels and hidden tokens at once."""

    def _recipe(**changes):
        return {
            "data": {"path": str(data / "peptides.csv")},
            "split": {"column": "split"},
            "backbone": esm2,
            "heads": {
                "kind": {"name": "sequence-classification", "label": "label"},
                "lm": {"name": "masked-lm", "probability": 0.5},
            },
            "strategy": "lora",
            "training": {"epochs": 1, "learning_rate": 0.01},
        } | changes

    return _recipe


def test_labels_are_answered_on_the_input_as_it_is(recipe):
    adapted = exapt.train(recipe())
    batch = collate([adapted.tokenizer.encode(query) for query in QUERIES[:2]])
    with torch.no_grad():
        output = adapted.model.eval().answer(MicroBatch({"sequence": batch}, {}, 2), ["kind"])["kind"]
    wanted = adapted.model.head("kind").decode(list(output.numpy()))
    found = adapted.predict(QUERIES[:2])
    for column, values in wanted.items():
        if column.startswith("probability"):
            assert found[f"kind.{column}"].to_pylist() == pytest.approx(values, abs=1e-6)


def test_answers_to_labels_are_averaged_over_views_beside_a_language_model(recipe):
    with inline(Mirrors(), exapt_esm.plugin):
        adapted = exapt.train(recipe(augmentation="mirror"))
        found = adapted.predict([QUERIES[0], QUERIES[0][::-1]]).to_pydict()
    names = [name for name in found if name.startswith("kind.probability")]
    assert len(names) > 1
    for name in names:
        assert found[name][0] == pytest.approx(found[name][1], abs=1e-6)
    # What is hidden of the one is not what is hidden of the other.
    assert found["lm.perplexity"][0] != found["lm.perplexity"][1]


def test_metrics_of_labels_are_those_of_the_answers(recipe, data):
    adapted = exapt.train(recipe())
    rows = [line.split(",") for line in (data / "peptides.csv").read_text().splitlines()]
    at = {name: rows[0].index(name) for name in ("sequence", "label", "split")}
    test = [row for row in rows[1:] if row[at["split"]] == "test"]
    said = adapted.predict([row[at["sequence"]] for row in test])["kind.prediction"].to_pylist()
    right = np.mean([word == row[at["label"]] for word, row in zip(said, test, strict=True)])
    assert adapted.metrics["test"]["kind.accuracy"] == pytest.approx(right)


def test_equal_inputs_are_asked_the_same_whatever_stands_beside_them(recipe):
    adapted = exapt.train(recipe())
    among, alone = adapted.predict(QUERIES)["lm.cross_entropy"].to_pylist(), []
    for query in QUERIES:
        alone += adapted.predict([query])["lm.cross_entropy"].to_pylist()
    assert among == pytest.approx(alone, abs=1e-6)
    assert among[0] == pytest.approx(among[2], abs=1e-6)
    assert among[0] != pytest.approx(among[1], abs=1e-3)


def test_evaluating_the_test_part_again_gives_the_metrics_of_the_run(exapt, data, esm2, tmp_path):
    words = ("--data", data / "peptides.csv", "--split", "split", "--backbone", esm2, "--head", "masked-lm")
    exapt("train", *words, "--strategy", "probe", "--set", "training.epochs=1", "--out", tmp_path / "lm")
    kept = json.loads((tmp_path / "lm" / "exapt.json").read_text())["metrics"]["test"]
    said = exapt("evaluate", tmp_path / "lm", data / "peptides.csv", "--part", "test", "--json").stdout
    found = json.loads(said)["all"]
    assert {name: found[name] for name in kept} == pytest.approx(kept, rel=1e-6)
