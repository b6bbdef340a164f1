"""The evidence of benchmarks/transfer: its page says what its results say, and a cell of it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exapt.plugins import current
from exapt.specs import StrategySpec
from transfer.modalities import BACKBONES, table

FOLDER = Path(__file__).parents[2] / "benchmarks" / "transfer"
RESULTS = [json.loads(line) for line in (FOLDER / "results.jsonl").read_text().splitlines()]


def asked(code, *given):
    """Return what code, run beside the scripts of the benchmark, prints as JSON."""
    command = [sys.executable, "-c", f"import json, sys\n{code}", *map(str, given)]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_page_is_made_of_the_results():
    command = [sys.executable, "report.py", "--check"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.fixture(scope="module")
def plan():
    """Return the strategies by way, the sets of each, what is left out, and the digest of each recipe with three seeds."""
    return asked(
        "from ways import LEFT_OUT, WAYS; from recipes import digest, recipe\n"
        "print(json.dumps({'ways': {way: [s['name'] for s in how.strategies] for way, how in WAYS.items()},"
        " 'against': {way: how.against for way, how in WAYS.items()}, 'left_out': LEFT_OUT,"
        " 'digests': [[name, way, seed, digest(recipe(name, way, seed))]"
        " for way, how in WAYS.items() for name in how.sets for seed in range(5)]}))"
    )


def test_every_strategy_is_measured_or_said_not_to_be(plan):
    measured = {name for names in plan["ways"].values() for name in names}
    listed = {offer.spec.name for offer in current().offers(StrategySpec)}
    assert listed - measured == set(plan["left_out"])
    assert set(plan["against"].values()) <= set(plan["ways"])


def test_each_result_is_of_a_recipe_as_it_is_now_and_stands_once(plan):
    found = [[line["set"], line["way"], line["seed"], line["recipe"]] for line in RESULTS]
    assert [one for one in found if one not in plan["digests"]] == []
    assert len({tuple(one) for one in found}) == len(found)


def test_each_way_has_three_seeds_on_some_set(plan):
    seeds = {}
    for line in RESULTS:
        seeds.setdefault((line["way"], line["set"]), set()).add(line["seed"])
    enough = {way for (way, _), found in seeds.items() if len(found) >= 3}
    assert set(plan["ways"]) - enough == set()


def test_one_cell_of_the_table_runs(tmp_path):
    rows = table("protein", tmp_path / "rows.csv")
    told = asked(
        "from pathlib import Path; import run, sets; from recipes import digest, metric, recipe; from ways import WAYS\n"
        "rows, backbone = sys.argv[1:]\n"
        "classes = {'name': 'sequence-classification', 'label': 'kind'}\n"
        "given = {'backbone': backbone, 'data': {'path': '{tables}/rows.csv'}, 'split': {'column': 'split'}, 'head': classes}\n"
        "rates = {'whole': 1e-3, 'part': 1e-3, 'vectors': 1e-2, 'fresh': 1e-3}\n"
        "training = {'epochs': 1, 'metric': 'balanced_accuracy'}\n"
        "sets.SETS['tiny'] = sets.Set('t', 'w', given, 'balanced_accuracy', 'masked-lm', 12, rates, training=training)\n"
        "one = recipe('tiny', 'bitfit', 0)\n"
        "told = run.apart(one, metric('tiny', 'bitfit'), {'tables': Path(rows).parent})\n"
        "print(json.dumps(told))",
        rows,
        BACKBONES["protein"],
    )
    assert set(told) == set(RESULTS[0]) - {"set", "way", "seed", "recipe", "exapt"}
    assert 0 <= told["value"] <= 1
    assert 0 < told["trainable"] < told["parameters"]
    assert told["seconds"] > 0
    assert told["peak_mib"] > 100
