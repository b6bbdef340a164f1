"""The same seed gives the same bytes; an interrupted run goes on to the very adapter that it would have made."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import exapt
from exapt import OutputError, RecipeError
from runs import TESTS, charges, contents, fresh, recipe, training

TRAIN = """
import exapt
for strategy, recipe, folder in given:
    exapt.train(recipe, folder)
print("{}")
"""
SLOW = {"probe": "probe", "lora": {"name": "lora", "dropout": 0.3}, "full": "full"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return charges(tmp_path_factory.mktemp("tables") / "charges.csv")


def given_for(table, name, **changes):
    options = {"epochs": 3, "checkpoint_steps": 2, "max_tokens": 128}
    return recipe(table, SLOW[name], **training(**options | changes))


@pytest.mark.slow
def test_two_processes_with_cold_and_warm_caches_write_the_same_bytes(table, tmp_path):
    def write(where):
        runs = [(name, given_for(table, name), str(tmp_path / where / name)) for name in SLOW]
        (tmp_path / where).mkdir()
        fresh(TRAIN, *runs, EXAPT_CACHE=str(tmp_path / "cache"), PYTHONHASHSEED=str(len(where)))
        return {name: contents(tmp_path / where / name) for name in SLOW}

    cold, warm = write("cold"), write("warmed")
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1
    for name, files in cold.items():
        assert files == warm[name]
        for file, content in files.items():
            for word in (str(tmp_path), str(TESTS), str(Path.home()), socket.gethostname()):
                assert len(word) < 5 or word.encode() not in content, (name, file, word)
            assert not re.search(rb"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", content.split(b"# ")[0]), (name, file)


def test_another_seed_gives_other_bytes(table, tmp_path):
    for seed in (0, 1):
        exapt.train(recipe(table) | {"seed": seed}, tmp_path / str(seed))
    assert contents(tmp_path / "0")["heads.safetensors"] != contents(tmp_path / "1")["heads.safetensors"]


def stop_at(step):
    """Return a listener that interrupts a run when it hears of a step."""

    def listen(run, event):
        if event.name == "step" and event.facts["step"] == step:
            raise KeyboardInterrupt

    return listen


@pytest.mark.parametrize("name", SLOW)
def test_an_interrupted_run_goes_on_to_the_same_bytes(table, tmp_path, name):
    given = given_for(table, name)
    exapt.train(given, tmp_path / "whole")
    # Three steps an epoch: after the checkpoint of step 2, after that of the first epoch, and again in the last.
    for step in (3, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            exapt.train(given, tmp_path / "again", resume=step > 3, listeners=[stop_at(step)])
        assert len(list((tmp_path / "again.run").glob("checkpoint-*"))) == 1
        assert not (tmp_path / "again").exists()
    exapt.train(given, tmp_path / "again", resume=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "again.run").iterdir()] == ["metrics.jsonl"]
    steps = [json.loads(line) for line in (tmp_path / "again.run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "step"] == [1, 2, 3, 3, 4, 5, 4, 5, 6, 7, 8, 7, 8, 9]


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_goes_on(table, tmp_path):
    given = given_for(table, "lora")
    code = (
        "import json, os, signal, sys, exapt\n"
        "recipe, out = json.loads(sys.argv[1])\n"
        "def kill(run, event):\n"
        "    if event.name == 'step' and event.facts['step'] == 6:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "exapt.train(recipe, out, listeners=[kill])\n"
    )
    command = [sys.executable, "-c", code, json.dumps([given, str(tmp_path / "killed")])]
    assert subprocess.run(command, check=False, env=dict(os.environ)).returncode == -signal.SIGKILL
    exapt.train(given, tmp_path / "killed", resume=True)
    exapt.train(given, tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture
def interrupted(table, tmp_path):
    """Return the recipe and the out folder of a run that was interrupted after its first checkpoint."""
    given = given_for(table, "probe")
    with pytest.raises(KeyboardInterrupt):
        exapt.train(given, tmp_path / "out", listeners=[stop_at(3)])
    return given, tmp_path / "out", tmp_path / "out.run" / "checkpoint-000001"


def test_a_run_that_is_not_resumed_is_not_overwritten(interrupted):
    given, out, checkpoint = interrupted
    before = contents(checkpoint)
    with pytest.raises(OutputError) as caught:
        exapt.train(given, out)
    assert str(caught.value) == (
        f"'{out}.run' holds an interrupted run: add --resume to continue it, or remove the folder"
    )
    assert contents(checkpoint) == before


def test_a_checkpoint_of_another_recipe_is_refused_with_both_values(interrupted):
    given, out, checkpoint = interrupted
    other = given | {"training": given["training"] | {"batch_size": 4}}
    with pytest.raises(RecipeError) as caught:
        exapt.train(other, out, resume=True)
    assert str(caught.value) == (
        f"checkpoint '{checkpoint}' belongs to another run: its recipe.training.batch_size is 8, this run's 4"
    )


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("state.safetensors", b"short", "Error while deserializing header: "),
        ("facts.json", b"{", "Expecting property name"),
        ("facts.json", b"{}", "facts.json is not whole"),
    ],
)
def test_a_damaged_checkpoint_is_refused(interrupted, file, content, reason):
    given, out, checkpoint = interrupted
    (checkpoint / file).write_bytes(content)
    with pytest.raises(
        RecipeError, match=rf"^checkpoint '{checkpoint}' is damaged \({reason}.*\); delete it to start afresh$"
    ):
        exapt.train(given, out, resume=True)


def test_a_run_that_fails_at_once_leaves_nothing_behind(table, tmp_path):
    with pytest.raises(RecipeError):
        exapt.train(recipe(table) | {"layer": 9}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_in_the_folder_of_a_run_are_left_alone(table, tmp_path):
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError):
        exapt.train(recipe(table) | {"layer": 9}, tmp_path / "out")
    exapt.train(recipe(table), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out.run").iterdir()) == ["metrics.jsonl", "notes.txt"]
