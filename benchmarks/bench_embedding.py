"""Embeddings from file to file, against stock ``EsmModel``."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import measure
import peers
from peers import Batches, Stock

from exapt.embedding import Embedder, embed_file

_ROWS = 32
_NAMED = "stock, 16 in arrival order"
_PEERS = {
    "stock, one by one": Batches(1),
    "stock, 8 in arrival order": Batches(8),
    _NAMED: Batches(16),
    "stock, 32, which are all": Batches(32),
    "stock, 8 by length": Batches(8, ordered=True),
    "stock, 16 by length": Batches(16, ordered=True),
    "stock, by length, 1,024 tokens": Batches(ordered=True, budget=1024),
}


def compare(folder: Path, mix: str, threshold: float | None) -> None:
    """Measure one mix of lengths; each round draws sequences of its own."""
    model = peers.write_esm2_8m(folder / "model")
    peers.same_states(model, measure.draw(mix, _ROWS, seed=0), f"{_ROWS} sequences, {mix} lengths")
    stock, embedder = Stock(model), Embedder.of(f"esm2:{model}")

    def prepare(number: int) -> measure.Case:
        sequences = measure.draw(mix, _ROWS, seed=number)
        table = peers.write_table(folder / "table.csv", sequences)
        out = folder / "embedding.parquet"
        ours = {"exapt": partial(embed_file, embedder, table, out, overwrite=True)}
        theirs = {name: partial(stock.embed_file, table, out, batches) for name, batches in _PEERS.items()}
        return measure.Case({**ours, **theirs}, measure.tokens(sequences))

    _warm_up(prepare(0))
    title = f"Embedding, ESM-2 8M, {mix} lengths, {_ROWS} sequences a round"
    measure.report(title, measure.measure(prepare), ["exapt"], _NAMED, threshold)


def _warm_up(case: measure.Case) -> None:
    case.variants["exapt"]()
    case.variants["stock, one by one"]()


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    for mix, threshold in (("protein", 3.0), ("antibody", None)):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), mix, threshold)
