"""One epoch of ``lora``, against PEFT and Trainer."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measure
import peers

import exapt

_ROWS = 16
_NAMED = "Trainer + PEFT, 16"


def lora(model: Path, table: Path) -> Any:
    """Train as a user would."""
    return exapt.train(
        {
            "data": {"path": str(table)},
            "split": {"fractions": (1, 0, 0)},
            "backbone": f"esm2:{model}",
            "head": {"name": "sequence-classification", "standardise": False},
            "strategy": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "key", "value"]},
            "training": {"epochs": 1, "batch_size": 16},
        }
    )


def trainer(model: Path, table: Path, batch: int) -> None:
    """Train the same update and head with Trainer, by steps of 16 rows."""
    peers.train(peers.lora(model), model, table, 1, batch, accumulate=16 // batch)


def same_size(model: Path, table: Path) -> None:
    """Stop unless as many parameters learn on both sides."""
    ours, theirs = _learning(lora(model, table).model), _learning(peers.lora(model))
    print(f"parameters that learn: {ours:,} and {theirs:,}")
    if ours != theirs:
        sys.exit(f"{ours:,} parameters learn in exapt, {theirs:,} in the peer: no speed is measured of other work")


def _learning(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def compare(folder: Path, mix: str, threshold: float | None) -> None:
    """Measure one mix of lengths; each round draws sequences of its own."""
    model = peers.write_esm2_8m(folder / "model")
    peers.same_states(model, measure.draw(mix, _ROWS, seed=0), f"{_ROWS} sequences, {mix} lengths")
    warm_up = peers.write_table(folder / "warm-up.csv", ["MKV", "GAST"])
    same_size(model, warm_up)
    trainer(model, warm_up, 16)

    def prepare(number: int) -> measure.Case:
        sequences = measure.draw(mix, _ROWS, seed=number)
        table = peers.write_table(folder / f"table-{number}.csv", sequences)
        variants = {
            "exapt lora": partial(lora, model, table),
            _NAMED: partial(trainer, model, table, 16),
            "Trainer + PEFT, 16 x 1": partial(trainer, model, table, 1),
        }
        return measure.Case(variants, measure.tokens(sequences))

    title = f"An epoch of LoRA, rank 8, ESM-2 8M, {mix} lengths, {_ROWS} sequences a round"
    measure.report(title, measure.measure(prepare), ["exapt lora"], _NAMED, threshold)


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    for mix, threshold in (("protein", 1.7), ("antibody", None)):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), mix, threshold)
