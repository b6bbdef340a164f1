"""Ten epochs of ``probe``, whose features are computed once, against Trainer on a frozen backbone."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import measure
import peers

import exapt

_ROWS, _EPOCHS = 16, 10
_COLD, _NAMED = "exapt probe, cold cache", "Trainer, frozen, 16"


def probe(model: Path, table: Path, cache: Path) -> None:
    """Train as a user would, with the cache of features where it is said."""
    os.environ["EXAPT_CACHE"] = str(cache)
    exapt.train(
        {
            "data": {"path": str(table)},
            "split": {"fractions": (1, 0, 0)},
            "backbone": f"esm2:{model}",
            "head": {"name": "sequence-classification", "standardise": False},
            "strategy": "probe",
            "training": {"epochs": _EPOCHS, "batch_size": 16, "patience": 0},
        }
    )


def trainer(model: Path, table: Path, batch: int) -> None:
    """Train the same head with Trainer, by steps of 16 rows."""
    peers.train(peers.frozen(model), model, table, _EPOCHS, batch, accumulate=16 // batch)


def compare(folder: Path, mix: str, threshold: float | None) -> None:
    """Measure one mix of lengths; each round draws sequences of its own."""
    model = peers.write_esm2_8m(folder / "model")
    peers.same_states(model, measure.draw(mix, _ROWS, seed=0), f"{_ROWS} sequences, {mix} lengths")

    def prepare(number: int) -> measure.Case:
        sequences = measure.draw(mix, _ROWS, seed=number)
        table = peers.write_table(folder / f"table-{number}.csv", sequences)
        warm = folder / f"warm-{number}"
        probe(model, table, warm)
        variants = {
            _COLD: partial(probe, model, table, folder / f"cold-{number}"),
            "exapt probe, warm cache": partial(probe, model, table, warm),
            _NAMED: partial(trainer, model, table, 16),
            "Trainer, frozen, 16 x 1": partial(trainer, model, table, 1),
        }
        return measure.Case(variants, measure.tokens(sequences, _EPOCHS))

    trainer(model, peers.write_table(folder / "warm-up.csv", ["MKV", "GAST"]), 16)
    title = f"Ten epochs on a frozen backbone, ESM-2 8M, {mix} lengths, {_ROWS} sequences a round"
    rounds = measure.measure(prepare)
    measure.report(title, rounds, [_COLD, "exapt probe, warm cache"], _NAMED, threshold)


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    for mix, threshold in (("protein", 15.0), ("antibody", None)):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), mix, threshold)
