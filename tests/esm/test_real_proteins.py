"""Real proteins end to end: where they go, whether they dissolve, what is disorder, and what mutations do to them.

A tiny ESM-2 of random weights reads little more than composition; AntiBERTy is pretrained, though on antibodies.
"""

import csv
import gzip
import importlib.util
from functools import cache
from pathlib import Path

import pytest

import exapt
from exapt.data.tables import read_examples
from exapt.recipe import DataOptions
from runs import DATA, MODEL, fresh

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
TINY, PRETRAINED = f"esm2:{MODEL}", "antiberty"
GB1 = "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
AMYLOID = "DAEFRHDSGYEVHHQKLVFFAEDVGSNKGAIIGLMVGGVVIA"
COMPARTMENTS = ("extracellular", "mitochondrion", "plastid", "ribosome")
CLASS, RESIDUE, NUMBER = "sequence-classification", "position-classification", "sequence-regression"
MUTATED = {"mutations": "mutations", "wild_type": GB1}
TASKS = {
    "compartment": ("compartments.csv", TINY, "probe", CLASS, {}, {}),
    "soluble": ("solubility.csv", TINY, "full", CLASS, {}, {}),
    "disorder": ("disordered.csv", PRETRAINED, "probe", RESIDUE, {}, {}),
    "disorder, random weights": ("disordered.csv", TINY, "probe", RESIDUE, {}, {}),
    "stability": ("gb1.csv", TINY, "probe", NUMBER, MUTATED, {"inputs": ["mutant"]}),
    "stability, difference": ("gb1.csv", TINY, "probe", NUMBER, MUTATED, {"join": "difference"}),
    "stability, difference, all learning": ("gb1.csv", TINY, "full", NUMBER, MUTATED, {"join": "difference"}),
    "nucleation": ("amyloid.csv", PRETRAINED, "probe", NUMBER, {"wild_type": AMYLOID}, {"join": "difference"}),
}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compartments(folder):
    """Write short proteins of four compartments, a few of each; no cluster stands in two parts."""
    path = SHARED / "prot_localization.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is no part of this repository, and not in ../shared/data either")
    rows = list(csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()))
    most, kept = {"train": 50, "valid": 10, "test": 25}, []
    for part, count in most.items():
        for name in COMPARTMENTS:
            of_name = [row for row in rows if (row["split"], row["label"]) == (part, name)]
            kept += [row for row in of_name if len(row["sequence"]) <= 140][:count]
    out = folder / "compartments.csv"
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(kept)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("proteins")


@pytest.fixture(autouse=True)
def _caches(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "caches"))


@pytest.fixture(scope="module")
def learned(folder):
    """Train for a task, once, with a few quick epochs; the adapter stands in the folder of its name."""

    @cache
    def _learned(task):
        table, backbone, strategy, head, data, options = TASKS[task]
        if backbone == PRETRAINED and importlib.util.find_spec("exapt_antiberty") is None:
            pytest.skip("the example plugin exapt-antiberty is not installed")
        path = compartments(folder) if task == "compartment" else DATA / table
        rates = {"head_learning_rate": 1e-2, "learning_rate": 3e-3}
        given = {
            "data": {"path": str(path)} | data,
            "split": {"column": "split"},
            "backbone": backbone,
            "head": {"name": head, "label": "labels" if head == RESIDUE else "label"} | options,
            "strategy": strategy,
            "training": {
                "epochs": 20 if strategy == "probe" and head != RESIDUE else 8,
                "batch_size": 8 if head == RESIDUE else 32,
            }
            | rates,
        }
        return exapt.train(given, folder / task)

    return _learned


def test_compartments_are_told_apart(learned):
    """By chance a quarter would be right."""
    adapted = learned("compartment")
    assert adapted.metrics["test"]["balanced_accuracy"] > 0.4
    assert adapted.metrics["test"]["auroc"] > 0.7
    assert set(adapted.predict([GB1, AMYLOID])["prediction"].to_pylist()) <= set(COMPARTMENTS)


def test_what_dissolves_is_told_from_what_does_not(learned):
    adapted = learned("soluble")
    assert adapted.manifest["data"]["rows"] == {"train": 120, "valid": 30, "test": 80}
    assert adapted.metrics["test"]["auroc"] > 0.65


def test_disorder_is_told_residue_by_residue_by_weights_that_have_learned_before(learned):
    adapted = learned("disorder")
    found, chance = (learned(task).metrics["test"]["auroc"] for task in ("disorder", "disorder, random weights"))
    assert found > 0.57
    assert found > chance + 0.05
    assert [len(said) for said in adapted.predict([GB1, AMYLOID])["prediction"].to_pylist()] == [len(GB1), len(AMYLOID)]


def test_mutants_of_gb1_are_those_that_were_measured():
    """Its positions count the first methionine, which the measured sequences leave out."""
    table = DATA / "gb1.csv"
    examples, _ = read_examples(DataOptions(path=str(table), **MUTATED), {})
    assert examples.inputs["mutant"] == ["M" + row["sequence"] for row in rows_of(table)]
    assert set(examples.inputs["wild_type"]) == {GB1}


@pytest.mark.parametrize("task", ["stability", "stability, difference", "stability, difference, all learning"])
def test_the_stability_of_gb1_is_learned_for_positions_never_seen(task, learned):
    parts = {(row["pos"], row["split"]) for row in rows_of(DATA / "gb1.csv")}
    assert len({position for position, _ in parts}) == len(parts)
    assert learned(task).metrics["test"]["spearman"] > 0.2


def test_one_wild_type_makes_no_difference_to_a_linear_head_on_a_frozen_model(learned):
    """Scaling takes off what is the same in all rows."""
    whole, difference = (learned(task).metrics["test"]["spearman"] for task in ("stability", "stability, difference"))
    assert whole == pytest.approx(difference, abs=1e-3)


def test_the_nucleation_of_amyloid_is_learned_from_mutants_and_their_wild_type(learned):
    assert learned("nucleation").metrics["test"]["spearman"] > 0.3


def test_adapters_answer_the_same_in_another_process(learned, folder):
    asked = {
        "soluble": [GB1, AMYLOID],
        "disorder": [GB1, AMYLOID],
        "stability, difference, all learning": {"mutant": [GB1.replace("Y", "W", 1), GB1], "wild_type": [GB1] * 2},
        "nucleation": {"sequence": [AMYLOID.replace("D", "K", 1)], "wild_type": [AMYLOID]},
    }
    here = {task: learned(task).predict(inputs)["prediction"].to_pylist() for task, inputs in asked.items()}
    code = (
        "from pathlib import Path; import exapt; folder, asked = given\n"
        "adapters = {task: exapt.load(Path(folder, task)) for task in asked}\n"
        "print(json.dumps({t: one.predict(asked[t])['prediction'].to_pylist() for t, one in adapters.items()}))"
    )
    assert fresh(code, str(folder), asked) == here
