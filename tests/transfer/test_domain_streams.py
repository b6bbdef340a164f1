"""Rows of another domain beside those that are learned from: which they are, what of them is seen anew, and by whom."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import exapt
from exapt import StrategySpec, hookimpl
from exapt.installed import chosen, installed
from exapt.parts import Strategy
from exapt.plugins import Plugins, using
from runs import contents, listened
from transfer.shifted import brief, domain, recipe

SURE = {"name": "self-training", "threshold": 0.5, "begin": 0}


class Watching(Strategy):
    """Keeps which rows of the target come into each step, and what the model makes of them."""

    streams = ("target", "target-again")
    views: list
    targeted: bool

    def begin(self, run):
        type(self).views, type(self).targeted = [], run.model.targeted

    def loss(self, step):
        for name, seen in step.streams.items():
            for row, vector in zip(seen.rows.tolist(), seen.pooled().detach(), strict=True):
                self.views.append((name, row, tuple(vector.tolist())))


class Others:
    exapt_api = 1

    @hookimpl
    def exapt_strategies(self):
        yield StrategySpec(name="watching", summary="Watches.", selects=False, build=lambda _: Watching())


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    return domain(folder / "near.csv", "near", rows=24), domain(folder / "far.csv", "far", rows=24, seed=5)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """The memory of an earlier task, whose rows are of a third domain."""
    folder = tmp_path_factory.mktemp("memory")
    old = domain(folder / "old.csv", "third", rows=24, seed=9)
    exapt.train(recipe(old, "", "probe", {"name": "replay", "keep": str(folder / "memory")}, **brief(1)))
    return {"name": "replay", "memory": str(folder / "memory")}


def stop_at(name, number):
    def listen(run, event):
        if event.name == name and event.facts[name] == number:
            raise KeyboardInterrupt

    return listen


def learned(given):
    return exapt.train(given).model.learned()


@pytest.mark.parametrize("name", ["adversarial", "coral", "mmd"])
def test_the_target_is_the_target_whatever_comes_beside_it(tables, memory, name):
    one, other = (
        learned(recipe(*tables, *strategies, **brief(1)))
        for strategies in (("full", memory, name), (name, memory, "full"))
    )
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-6, rtol=1e-5)


def test_rows_in_memory_are_no_domain(tmp_path, memory):
    """Rows of which nothing is learned change nothing of how the domains of train come together."""
    several = domain(tmp_path / "several.csv", "near", "far", rows=24)
    given = recipe(several, "", **brief(1)) | {"data": {"path": several, "domain": "origin"}}
    plain = learned(given | {"strategies": ["full", "coral"]})
    beside = learned(given | {"strategies": ["full", memory | {"weight": 1e-9}, "coral"]})
    assert all(torch.allclose(beside[key], value, atol=1e-4) for key, value in plain.items())


def test_each_pass_over_a_small_target_sees_it_anew(tmp_path, tables):
    lines = Path(tables[1]).read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:5]) + "\n", encoding="utf-8")
    changes = {"augmentations": [{"name": "residue-substitution", "rate": 0.5}]}
    with using(Plugins(chosen(installed()), [Others()])):
        # Sixteen rows are learned from in four steps of an epoch, in each of which all four of the target are seen twice.
        exapt.train(
            recipe(tables[0], str(tmp_path / "few.csv"), "probe", "watching", **changes, **brief(2, batch_size=4))
        )
    for row in range(4):
        seen = [view for _, number, view in Watching.views if number == row]
        assert len(seen) == 2 * 2 * 4
        assert len(set(seen)) == len(seen)
    assert Watching.targeted


@pytest.mark.parametrize(("name", "number"), [("step", 3), ("epoch", 2)])
def test_self_training_goes_on_wherever_it_was_interrupted(tables, tmp_path, name, number):
    """Also where all epochs are over, and the run ended before it was measured."""
    changes = {"augmentations": ["residue-substitution"]}
    given = recipe(*tables, "full", SURE, "consistency", **changes, **brief(2, batch_size=8, checkpoint_steps=1))
    exapt.train(given, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        exapt.train(given, tmp_path / "again", listeners=[stop_at(name, number)])
    exapt.train(given, tmp_path / "again", resume=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


SCRIPT = """
import json, os, sys
import exapt
losses = []
for given in json.loads(sys.argv[1]):
    losses.append([])
    listen = lambda run, event: losses[-1].append(event.facts["loss"]) if event.name == "step" else None
    exapt.train(given, listeners=[listen])
if os.environ["RANK"] == "0":
    print(json.dumps(losses))
"""


@pytest.mark.slow
def test_two_processes_learn_the_same_labels_as_one(tmp_path, tables):
    """Of 17 rows in steps of 8, in the last one process has no row with a label of its own, but rows of the target."""
    near = domain(tmp_path / "near.csv", "near", rows=26)
    strategies = [["full", SURE | {"threshold": 0.6}], ["full", {"name": "consistency", "weight": 5}]]
    changes = {"augmentations": ["residue-substitution"]}
    givens = [recipe(near, tables[1], *one, **changes, **brief(2, batch_size=8)) for one in strategies]
    words = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    (tmp_path / "two.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "accelerate.commands.launch", *words.split(), "--main_process_port", "0"]
    environment = os.environ | {"EXAPT_CACHE": str(tmp_path / "cache"), "EXAPT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command += [str(tmp_path / "two.py"), json.dumps(givens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for given, there in zip(givens, json.loads(done.stdout.splitlines()[-1]), strict=True):
        _, heard = listened(given)
        np.testing.assert_allclose(there, heard.of("step", "loss"), rtol=1e-4)
