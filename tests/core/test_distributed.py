"""Two processes under accelerate's launcher reach what one process reaches."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from runs import QUERIES, charges, listened, recipe, training

SCRIPT = """
import json, os, sys, warnings
import exapt
runs, queries = json.loads(sys.argv[1])
answers = []
for given, out in runs:
    losses = []
    adapted = exapt.train(given, out, listeners=[lambda run, event: losses.append(dict(event.facts, event=event.name))])
    # Only the process that writes hears of a run; each of them has the whole of what was learned.
    answers.append({"heard": losses, "answer": adapted.predict(queries).to_pydict(), "metrics": adapted.metrics})
    assert os.path.isdir(out)
rank = os.environ["RANK"]
with open(f"{sys.argv[2]}-{rank}.json", "w") as file:
    json.dump(answers, file)
"""


@pytest.mark.slow
def test_two_processes_reach_what_one_reaches(tmp_path):
    # 25 rows in steps of 8: the last step has one row, so that one process has none.
    table = charges(tmp_path / "charges.csv", rows=38)
    plain = training(batch_size=8, max_tokens=64, learning_rate=1e-4)
    givens = [
        recipe(table, "full", **plain),
        recipe(table, {"name": "lora", "dropout": 0.0}, **plain),
        recipe(table, "probe", **plain),
        recipe(table, "full", **plain) | {"layer": 1},
        recipe(table, "partial", training=plain["training"] | {"sampling": "balanced"}),
        recipe(table, "full", **plain, strategies=[{"name": "gradual-unfreezing", "blocks": 2}]),
    ]
    (tmp_path / "two.py").write_text(SCRIPT)
    runs = [(given, str(tmp_path / f"out{number}")) for number, given in enumerate(givens)]
    # accelerate's word for several processes on one machine; exapt itself puts them on the CPU.
    words = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *words.split(), "--main_process_port", "0"]
    command = [*launcher, str(tmp_path / "two.py")]
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "EXAPT_CACHE": str(tmp_path / "cache")} | {"EXAPT_DEVICE": "cpu"}
    )
    done = subprocess.run(
        [*command, json.dumps([runs, QUERIES]), str(tmp_path / "said")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    for number, given in enumerate(givens):
        adapted, heard = listened(given)
        steps = [event["loss"] for event in first[number]["heard"] if event["event"] == "step"]
        assert len(steps) == 8
        assert steps == pytest.approx(heard.of("step", "loss"), rel=1e-5)
        assert second[number]["heard"] == []
        assert first[number]["answer"] == second[number]["answer"]
        assert first[number]["metrics"] == second[number]["metrics"]
        share = first[number]["answer"]["probability_acid"]
        np.testing.assert_allclose(share, adapted.predict(QUERIES)["probability_acid"].to_pylist(), atol=1e-5)
    names = {path.name for path in tmp_path.iterdir()}
    kept = {f"out{number}{end}" for number in range(len(givens)) for end in ("", ".run")}
    assert names == kept | {"charges.csv", "two.py", "said-0.json", "said-1.json", "cache"}
