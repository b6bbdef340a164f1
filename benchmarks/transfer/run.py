"""Run the ways to transfer over the sets and seeds, each run in a process of its own, and add its line to the results.

    python benchmarks/transfer/run.py --models MODELS [--sets germline cells] [--ways probe full] [--seeds 0 1 2]

What stands in ``results.jsonl`` for a recipe as it is now is not run again. MODELS is the folder that ``pretrain.py``
filled; the tables are made in its ``tables``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import peft  # noqa: F401 - read before the runs, whose time is theirs alone
import scipy.stats  # noqa: F401 - likewise
import sklearn.metrics  # noqa: F401 - likewise
import tables
import torch
import transformers  # noqa: F401 - likewise
from recipes import digest, metric, recipe
from sets import SETS
from ways import WAYS

import exapt
import exapt.api
from exapt import Event, Run
from exapt.plugins import current

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
DATA = HERE.parents[2] / "shared" / "data"
EXAMPLES = HERE.parents[1] / "examples" / "data"
SEEDS = (0, 1, 2)


def placed(one: Any, folders: Mapping[str, Path]) -> Any:
    """Return a recipe with the folders where their names stand."""
    if isinstance(one, str):
        return one.format_map({name: str(path) for name, path in folders.items()}) if "{" in one else one
    if isinstance(one, Mapping):
        return {key: placed(value, folders) for key, value in one.items()}
    return [placed(value, folders) for value in one] if isinstance(one, (list, tuple)) else one


def measure(one: Mapping[str, Any], metric: str, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Train as a recipe says in this process, which does nothing else; return the metrics and what it took.

    ``seconds`` are of the processor, imports left out and a run before this one included; ``peak_mib`` is the most memory
    that the process held.
    """
    facts: dict[str, Any] = {}

    def note(_run: Run, event: Event) -> None:
        facts.update(event.facts if event.name in ("start", "end") else {})

    before = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        # Features that an earlier run kept would make this one look cheaper than it is.
        os.environ["EXAPT_CACHE"] = f"{work}/cache"
        full = placed(one, {**folders, "work": Path(work)})
        first = full.pop("first", None)
        if first is not None:
            exapt.train(first, Path(work) / "first")
        adapted = exapt.train(full, listeners=[note])
    parts = {part: values[metric] for part, values in adapted.metrics.items() if metric in values}
    return {
        "metric": metric,
        "value": parts["test"],
        "valid": parts["valid"],
        "seconds": round(time.process_time() - before, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "trainable": int(facts["trainable"]),
        "parameters": int(facts["parameters"]),
        "best_epoch": int(facts["best_epoch"]),
        "transfer": dict(facts.get("transfer", {})),
    }


def apart(one: Mapping[str, Any], metric: str, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return what ``measure`` does in a process of its own, which begins with all modules read."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_told, args=(there, one, metric, folders))
    process.start()
    there.close()
    try:
        told: dict[str, Any] = here.recv()
    except EOFError:
        told = {"error": f"the process ended with {process.exitcode}"}
    process.join()
    return told


def _told(there: Any, one: Mapping[str, Any], metric: str, folders: Mapping[str, Path]) -> None:
    torch.set_num_threads(1)
    try:
        there.send(measure(one, metric, folders))
    # Whatever ends one run is told of it, and the others go on.
    except Exception:
        there.send({"error": traceback.format_exc(limit=-3)})


def wanted(sets: Sequence[str], ways: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Yield the set, the way and the seed of each run: all seeds of a way together, so that what is there can be told."""
    for name in sets:
        for way in ways:
            yield from ((name, way, seed) for seed in seeds if name in WAYS[way].sets)


def known(results: Path) -> set[tuple[str, str, int, str]]:
    """Return the set, way, seed and digest of each run that there is a line of."""
    if not results.exists():
        return set()
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {(line["set"], line["way"], line["seed"], line["recipe"]) for line in lines}


def main(given: argparse.Namespace) -> None:
    """Run what is wanted and not yet known."""
    # Plugins too are read once, before all runs.
    current()
    folders = {"models": given.models.resolve(), "tables": given.models.resolve() / "tables"}
    tables.write(folders["tables"], given.data, EXAMPLES)
    done = known(given.results)
    for name, way, seed in wanted(given.sets, given.ways, given.seeds):
        one = recipe(name, way, seed)
        key = (name, way, seed, digest(one))
        if key in done:
            continue
        told = apart(one, metric(name, way), folders)
        print(f"{name:12} {way:24} {seed}  {_line(told)}", file=sys.stderr, flush=True)
        if "error" not in told:
            with given.results.open("a", encoding="utf-8") as lines:
                facts = {"set": name, "way": way, "seed": seed, "recipe": key[-1], "exapt": exapt.__version__}
                lines.write(json.dumps({**facts, **told}, sort_keys=True) + "\n")


def _line(told: Mapping[str, Any]) -> str:
    if "error" in told:
        return "FAILED " + " ".join(str(told["error"]).split())[-600:]
    return (
        f"{told['value']:.3f} (valid {told['valid']:.3f})  {told['seconds']:.1f} s  {told['trainable']:,}  "
        f"{told['peak_mib']} MiB  best {told['best_epoch']}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    main(parser.parse_args())
