"""Every strategy that core lists, on a protein, a DNA and a cell backbone: it trains, and what it learned is kept."""

import json

import numpy as np
import pytest

import exapt
from exapt.plugins import current
from exapt.specs import StrategySpec
from transfer.modalities import BACKBONES, INPUTS, MODALITIES, recipe, table

OPTIONS = {
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "bottleneck": {"reduction": 8},
    "gradual-unfreezing": {"head_epochs": 0, "blocks": 2},
}
"""Options without which a strategy would be out of proportion to a tiny model."""
ADAPTING = ("adversarial", "coral", "mmd")
"""Strategies for which several domains of the source would do in place of a target."""
AUGMENTATIONS = {"protein": "residue-substitution", "dna": "point-mutation", "cell": "gene-dropout"}


def specs():
    return {
        offer.spec.name: offer.spec for offer in current().offers(StrategySpec) if offer.info.distribution == "exapt"
    }


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {
        modality: (
            table(modality, folder / f"{modality}.csv"),
            table(modality, folder / f"{modality}-far.csv", shift=True),
        )
        for modality in MODALITIES
    }


@pytest.fixture(scope="session")
def teachers(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for modality in MODALITIES:
        exapt.train(recipe(modality, tables[modality][0], "full"), folder / modality)
    return folder


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", specs())
def test_a_strategy_works_in_every_modality(name, modality, tables, teachers, tmp_path):
    near, far = tables[modality]
    options = dict(OPTIONS.get(name, {}))
    if "teacher" in specs()[name].options.model_fields:
        options["teacher"] = str(teachers / modality)
    if name in ("ewc", "replay"):
        options["keep"] = str(tmp_path / "memory.safetensors")
    needs = specs()[name].needs
    adapts = "target" in needs or name in ADAPTING
    changes = {"target": {"path": str(far), "input": INPUTS[modality]}} if adapts else {}
    if "augmentations" in needs or name == "consistency":
        changes["augmentation"] = AUGMENTATIONS[modality]
    asked = recipe(modality, near, {"name": name, **options}, **changes)
    if name == "uncertainty-weights":
        asked["heads"] = {"kind": asked.pop("head"), "size": {"name": "sequence-regression", "label": "size"}}
    adapted = exapt.train(asked, tmp_path / "out")
    assert np.isfinite(adapted.metrics["valid"]["loss"])
    manifest = json.loads((tmp_path / "out" / "exapt.json").read_text())
    assert name in [strategy["name"] for strategy in manifest["recipe"]["strategies"]]
    queries = inputs(near)
    loaded = exapt.load(tmp_path / "out", backbone=BACKBONES[modality])
    assert loaded.predict(queries).to_pylist() == adapted.predict(queries).to_pylist()


def inputs(path):
    """Return the first inputs of a table."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["cell"] for line in path.read_text().splitlines()[:4]]
    return [line.split(",")[1] for line in path.read_text().splitlines()[1:5]]
