"""scGPT in use: pretraining continued on cells without labels, kept and loaded; genes deleted and over-expressed."""

import json

import numpy as np
import pytest
import torch

import exapt
from exapt import RecipeError
from exapt.data.batching import collate
from exapt.testing import inline
from exapt_singlecell import plugin
from singlecell.scgpt_models import MODEL, built, cell, genes_of, reader, tokens

NAMES = genes_of(40)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Write cells of two kinds, of which each expresses one half of the genes more."""
    path, rng = tmp_path_factory.mktemp("cells") / "cells.jsonl", np.random.default_rng(0)
    with path.open("w") as file:
        for row in range(48):
            more = np.arange(40) % 2 == row % 2
            counts = rng.poisson(np.where(more, 20, 1)).tolist()
            part = "train" if row < 32 else "valid" if row < 40 else "test"
            record = {"id": f"c{row}", "cell": {"genes": NAMES, "counts": counts}, "kind": "ab"[row % 2], "split": part}
            file.write(json.dumps(record) + "\n")
    return path


def recipe(table, head, strategy="probe", **training):
    return {
        "data": {"path": str(table), "input": "cell"},
        "split": {"column": "split"},
        "backbone": f"scgpt:{MODEL}",
        "head": head,
        "strategy": strategy,
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "patience": 0, **training},
    }


def metrics(folder):
    return json.loads((folder / "exapt.json").read_text())["metrics"]["test"]


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Write cells in which each gene is expressed more than the one before it."""
    path, rng = tmp_path_factory.mktemp("levels") / "cells.jsonl", np.random.default_rng(0)
    with path.open("w") as file:
        for row in range(48):
            part = "train" if row < 32 else "valid" if row < 40 else "test"
            counts = rng.poisson(2 * np.arange(1, 41)).tolist()
            file.write(json.dumps({"id": f"c{row}", "cell": {"genes": NAMES, "counts": counts}, "split": part}) + "\n")
    return path


@pytest.mark.slow
# A mean that fits lowers the error of any model; only one that tells the genes apart correlates.
@pytest.mark.parametrize(("strategy", "pearson"), [("full", 0.5), ({"name": "lora", "rank": 4}, -1)])
def test_pretraining_goes_on_and_is_kept(strategy, pearson, levels, tmp_path):
    with inline(plugin):
        for name, epochs in (("begun", 1), ("learned", 36)):
            exapt.train(recipe(levels, "masked-expression", strategy, epochs=epochs), tmp_path / name)
        begun, learned = metrics(tmp_path / "begun"), metrics(tmp_path / "learned")
        adapted = exapt.load(tmp_path / "learned", backbone=f"scgpt:{MODEL}")
    assert learned["mse"] < 0.5 * begun["mse"]
    assert learned["pearson"] > pearson
    assert learned["rmse"] == pytest.approx(learned["mse"] ** 0.5)
    assert adapted.metrics["test"]["mse"] == learned["mse"]


def test_cells_are_classified(table, tmp_path):
    with inline(plugin):
        head = {"name": "sequence-classification", "label": "kind"}
        exapt.train(recipe(table, head, "full", epochs=8), tmp_path / "kinds")
    assert metrics(tmp_path / "kinds")["accuracy"] == 1


def test_other_objectives_refuse_scgpt(table, tmp_path):
    with inline(plugin), pytest.raises(RecipeError) as refused:
        exapt.train(recipe(table, "masked-lm"), tmp_path / "out")
    assert str(refused.value) == "the backbone tells hidden values, not tokens, which is what this head asks for"


def test_what_a_gene_does_to_a_cell():
    tokenizer, backbone = reader(), built()
    value = cell({name: place + 1 for place, name in enumerate(NAMES)})
    encodings = [
        tokenizer.encode(value),
        tokenizer.perturbed(value, [NAMES[5]], "delete"),
        tokenizer.perturbed(value, [NAMES[5]], "overexpress"),
        tokenizer.perturbed(value, [genes_of(60)[50]], "delete"),
    ]
    assert [encoding.tokens for encoding in encodings] == [41, 40, 41, 41]
    assert tokens(encodings[3]) == tokens(encodings[0])
    with torch.inference_mode():
        before, *after = backbone(collate(encodings)).summary
    shifts = [float((state - before).norm()) for state in after]
    assert shifts[0] > 1e-3
    assert shifts[1] > 1e-3
    assert shifts[2] < 1e-5
