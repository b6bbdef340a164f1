"""Ten epochs in which the lower blocks rest, with their states kept, against the same runs that compute them anew."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
import peers

import exapt

_ROWS, _EPOCHS = 16, 10
_KEPT, _ANEW = "states kept, cold cache", "states computed in each epoch"
_STAGES = [
    {"blocks": 0, "epochs": 2},
    {"blocks": 1, "epochs": 3},
    {"blocks": 2, "epochs": 3},
    {"blocks": "all", "epochs": 2},
]
_STRATEGIES: dict[str, list[Any]] = {
    "The top block learns": [{"name": "partial", "blocks": 1}],
    "Heads, the top block, two blocks, and all for two epochs": [
        "full",
        {"name": "gradual-unfreezing", "stages": _STAGES},
    ],
}


def train(strategies: list[Any], model: Path, table: Path, folder: Path, cache: bool) -> list[float]:
    """Train as a user would, with an empty cache; return the loss of each step."""
    os.environ["EXAPT_CACHE"] = tempfile.mkdtemp(dir=folder)
    losses: list[float] = []
    exapt.train(
        {
            "data": {"path": str(table)},
            "split": {"fractions": (1, 0, 0)},
            "backbone": f"esm2:{model}",
            "head": {"name": "sequence-classification", "standardise": False},
            "strategies": strategies,
            "training": {"epochs": _EPOCHS, "batch_size": 16, "cache": cache},
        },
        listeners=[lambda run, event: losses.extend([event.facts["loss"]] if event.name == "step" else [])],
    )
    return losses


def same_losses(strategies: list[Any], model: Path, table: Path, folder: Path) -> None:
    """Stop unless both runs learn the same."""
    kept, anew = (train(strategies, model, table, folder, cache) for cache in (True, False))
    most = max(abs(one - other) for one, other in zip(kept, anew, strict=True))
    print(f"losses of {len(kept)} steps with and without kept states: differ by at most {most:.1e} (allowed 1e-4)")
    if most > 1e-4:
        sys.exit("no speed is measured of other work")


def compare(folder: Path, title: str, strategies: list[Any], threshold: float | None) -> None:
    """Measure one set of strategies; each round draws sequences of its own."""
    model = peers.write_esm2_8m(folder / "model")
    same_losses(strategies, model, peers.write_table(folder / "same.csv", measure.draw("antibody", 8, seed=99)), folder)

    def prepare(number: int) -> measure.Case:
        sequences = measure.draw("antibody", _ROWS, seed=number)
        table = peers.write_table(folder / f"table-{number}.csv", sequences)
        variants = {
            _KEPT: partial(train, strategies, model, table, folder, True),
            _ANEW: partial(train, strategies, model, table, folder, False),
        }
        return measure.Case(variants, measure.tokens(sequences, _EPOCHS))

    what = f"{title}: {_EPOCHS} epochs, ESM-2 8M, antibody lengths, {_ROWS} sequences a round"
    measure.report(what, measure.measure(prepare), [_KEPT], _ANEW, threshold)


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    for (title, strategies), threshold in zip(_STRATEGIES.items(), (1.5, None), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), title, strategies, threshold)
