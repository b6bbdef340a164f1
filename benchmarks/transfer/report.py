"""Make ``README.md`` of ``results.jsonl`` and ``pretraining.jsonl``, so that no number in it is typed.

python benchmarks/transfer/report.py            write the page
python benchmarks/transfer/report.py --check    say whether it is what the results say
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recipes import digest, recipe
from scipy import stats
from sets import SETS
from ways import WAYS

HERE = Path(__file__).resolve().parent
PAGE, TEXT = HERE / "README.md", HERE / "method.md"
RESULTS, CURVES = HERE / "results.jsonl", HERE / "pretraining.jsonl"
LEAST = 3
"""Seeds without which a run is no result."""
_NEAR = 0.01


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval, Student's t; ``low`` and ``high`` are its ends."""

    mean: float
    reach: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.reach

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.reach


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some values and how far its interval reaches."""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1)) * spread)


class Results:
    """Runs by set, way and seed: of each recipe as it is now, the newest."""

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._runs: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
        for line in lines:
            name, way, seed = line["set"], line["way"], line["seed"]
            if way in WAYS and name in WAYS[way].sets and line["recipe"] == digest(recipe(name, way, seed)):
                self._runs.setdefault((name, way), {})[seed] = line

    def of(self, name: str, way: str) -> Mapping[int, Mapping[str, Any]]:
        """Return the runs of a way on a set by seed; none where there are fewer than ``LEAST``."""
        found = self._runs.get((name, way), {})
        return found if len(found) >= LEAST else {}

    def mean(self, name: str, way: str, fact: str) -> float:
        """Return the mean of a fact over the seeds."""
        return float(np.mean([run[fact] for run in self.of(name, way).values()]))

    def gain(self, name: str, way: str, other: str, fact: str = "value") -> Interval | None:
        """Return by how much a way is better than another, paired by seed; None where they cannot be compared."""
        one, two = self.of(name, way), self.of(name, other)
        seeds = sorted(set(one) & set(two))
        if way == other or len(seeds) < LEAST:
            return None
        sign = -1 if SETS[name].lower else 1
        return interval([sign * (one[seed][fact] - two[seed][fact]) for seed in seeds])


def page(results: Results, curves: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return the whole page."""
    sets = [name for name in SETS if any(results.of(name, way) for way in WAYS)]
    parts = [text.rstrip(), "## What comes of it", *_verdicts(results), "## By set"]
    for name in sets:
        parts += [f"### `{name}`", _about(name, results), _table(name, results)]
    parts += ["## The models that were pretrained here", *map(_pretrained, curves)]
    return "\n\n".join(parts) + "\n"


def _about(name: str, results: Results) -> str:
    one = SETS[name]
    few = f"{one.few} labelled rows to learn from, " if one.few else ""
    better = "lower is better" if one.lower else "higher is better"
    parameters = results.mean(name, next(way for way in WAYS if results.of(name, way)), "parameters")
    return (
        f"{one.title[:1].upper()}{one.title[1:]}{'' if one.title.endswith('?') else '.'} Weights: {one.weights}; "
        f"{parameters:,.0f} parameters with the head. "
        f"{few[:1].upper()}{few[1:]}{one.metric.replace('_', ' ')}, {better}."
    )


def _table(name: str, results: Results) -> str:
    head = "| way | test | against `scratch` | against `probe` | against what it is without its effect | CPU s | learn | MiB |"
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for way, how in WAYS.items():
        runs = results.of(name, way)
        if runs:
            test = interval([run["value"] for run in runs.values()])
            against = _signed(results.gain(name, way, how.against))
            cells = [
                f"`{way}`",
                f"{test.mean:.3f} ± {test.reach:.3f}",
                _signed(results.gain(name, way, "scratch")),
                _signed(results.gain(name, way, "probe")),
                f"{against} (`{how.against}`)" if way not in ("scratch", "probe") and against else "",
                f"{results.mean(name, way, 'seconds'):.1f}",
                f"{results.mean(name, way, 'trainable'):,.0f}",
                f"{results.mean(name, way, 'peak_mib'):.0f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _signed(gain: Interval | None) -> str:
    if gain is None:
        return ""
    told = f"{gain.mean:+.3f} ± {gain.reach:.3f}"
    return f"**{told}**" if gain.low > 0 else told


def _verdicts(results: Results) -> Iterator[str]:
    ahead, mean_only, never = [], [], []
    for way in WAYS:
        gains = _gains(results, way)
        if way in ("scratch", "probe") or not gains:
            continue
        clearly = [name for name, gain in gains.items() if gain.low > 0]
        better = [name for name, gain in gains.items() if gain.mean > 0]
        if clearly:
            ahead.append(f"* `{way}` beats `{WAYS[way].against}` on {_listed(clearly)} (of {_listed(gains)}).")
        elif better:
            mean_only.append(f"* `{way}` against `{WAYS[way].against}`: " + _reasons(results, way, gains))
        else:
            never.append(f"* `{way}` against `{WAYS[way].against}`: " + _reasons(results, way, gains))
    yield "**The interval of the difference to its ablation lies above zero on some set.**"
    yield "\n".join(ahead) or "None."
    yield "**Ahead of its ablation in the mean of some set, on none by more than seeds alone may do.**"
    yield "\n".join(mean_only) or "None."
    yield "**Never ahead of its ablation, on no set, not even in the mean.**"
    yield "\n".join(never) or "None."


def _gains(results: Results, way: str) -> dict[str, Interval]:
    found = {name: results.gain(name, way, WAYS[way].against) for name in WAYS[way].sets}
    return {name: gain for name, gain in found.items() if gain is not None}


def _reasons(results: Results, way: str, gains: Mapping[str, Interval]) -> str:
    """Return, for each set, what the numbers tell of why the way is not ahead."""
    return "; ".join(f"on `{name}` {_reason(results, name, way, gain)}" for name, gain in gains.items()) + "."


def _reason(results: Results, name: str, way: str, gain: Interval) -> str:
    other = WAYS[way].against
    epochs = recipe(name, way, 0).get("training", {}).get("epochs", 0)
    best = results.mean(name, way, "best_epoch")
    valid = results.gain(name, way, other, "valid")
    told = f"{gain.mean:+.3f} ± {gain.reach:.3f}"
    if gain.mean == 0 and gain.reach == 0:
        return "the model that is kept is the same to the last answer"
    why = []
    if gain.high < 0:
        why.append("it loses")
    elif abs(gain.mean) < gain.reach:
        why.append("the seeds differ more than that")
    if epochs > 1 and best > epochs - 0.5:
        why.append(f"its best epoch was the last of {epochs} with every seed, so that it had not learned to its end")
    if gain.mean <= 0 and valid is not None and valid.mean > _NEAR:
        why.append(f"what it gained on the valid part ({valid.mean:+.3f}) did not carry over")
    faster = results.mean(name, other, "seconds") / results.mean(name, way, "seconds")
    if faster > 1.2:
        why.append(f"in 1/{faster:.1f} of the time")
    return told + (f" ({', '.join(why)})" if why else "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _pretrained(facts: Mapping[str, Any]) -> str:
    curve = [point for point in facts["curve"] if "loss" in point]
    shown = [curve[round(place * (len(curve) - 1) / 7)] for place in range(8)]
    metrics = ", ".join(f"{key} {value:.3f}" for key, value in facts["metrics"].items())
    return (
        f"**{facts['model']}**, pretrained here: {facts['parameters']:,} parameters, {facts['tokens']:,} tokens a pass, "
        f"{facts['epochs']} passes over {facts['rows']:,} inputs, seed {facts['seed']}, {facts['seconds']:.0f} s of one "
        f"core. Held-out inputs: {metrics}. Loss in training, by step: "
        + ", ".join(f"{point['step']}: {point['loss']:.3f}" for point in shown)
        + "."
    )


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def made() -> str:
    """Return the page as the files say it."""
    return page(Results(read(RESULTS)), read(CURVES), TEXT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(None if PAGE.read_text(encoding="utf-8") == made() else f"{PAGE.name} is not what the results say")
    PAGE.write_text(made(), encoding="utf-8")
