"""Cells against the published way: making tokens, embedding cells of mixed gene counts, and memory over many cells."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anndata
import measure
import numpy as np
import pandas as pd
import peers
import torch
from cell_models import FAMILIES, GENEFORMER, SCGPT, Family, Table, dictionary, mixed_cells, real_cells, scgpt
from cell_peers import BinnedLoop, Peer, RankedLoop, Rows

from exapt import device as devices
from exapt.cells import Cell
from exapt.data.batching import micro_batches
from exapt.embedding import Embedder
from exapt.parts import Encoding, Tokenizer

_CELLS, _TOLERANCE = 16, 1e-4
_NAMED, _EQUAL, _SINGLE = "stock, 16 in arrival order", "stock, exapt's batches", "stock, one by one"
_LOOP, _LEAN = "published loop", "published loop, made lean"
_BARE, _TOLD = "exapt, without its report of genes", "exapt, with its report of genes"
_TOKENS, _FASTER = 5.0, 2.0
_MANY = (10_000, 100_000)
_SHARE = 0.1
"""Share of the molecules of a real cell that each of the many resampled ones has."""


def tokenise(family: Family, folder: Path) -> None:
    """Measure how long tokens take, from a sparse matrix in memory, each round in another order of the real cells."""
    family.write(folder / "model")
    embedder = Embedder.of(f"{family.backbone}:{folder / 'model'}", settings=family.settings)
    tokenizer, table = embedder.tokenizer, real_cells(family.names)
    loop, check = {GENEFORMER: _ranked, SCGPT: _binned}[family](tokenizer)
    check()

    def encode(table: Table) -> tuple[list[Cell], list[Encoding]]:
        cells = table.cells()
        return cells, [tokenizer.encode(cell) for cell in cells]

    def prepare(number: int) -> measure.Case:
        shuffled = table.rows(np.random.default_rng(number + 1).permutation(table.counts.shape[0]))
        variants = {
            _BARE: partial(encode, shuffled),
            _TOLD: lambda: tokenizer.tally().count(*encode(shuffled)),
            _LOOP: partial(loop, shuffled.counts),
            _LEAN: partial(loop, shuffled.counts, lean=True),
        }
        return measure.Case(variants, shuffled.counts.shape[0])

    _warm(prepare)
    rounds = measure.measure(prepare)
    expressed = table.counts.nnz / table.counts.shape[0]
    title = (
        f"Tokens of {family.backbone}, {table.counts.shape[0]} real cells of {expressed:,.0f} expressed genes a round"
    )
    # Commands always make the report, and the published loop makes none: both are judged.
    measure.report(title, rounds, [_BARE, _TOLD], _LOOP, _TOKENS, "cells", judged=[_BARE, _TOLD])


def _ranked(tokenizer: Tokenizer) -> tuple[RankedLoop, Callable[[], None]]:
    table, tokens, medians = real_cells("ensembl"), dictionary("token_dictionary"), dictionary("gene_median_dictionary")
    counted_as = dictionary("ensembl_mapping_dict")
    named = [counted_as.get(gene.upper()) for gene in table.genes.names]
    known = [place for place, gene in enumerate(named) if gene in tokens]
    loop = RankedLoop(
        np.array(known),
        np.array([tokens[named[place]] for place in known]),
        np.array([medians[named[place]] for place in known]),
        4096,
        tokens["<cls>"],
        tokens["<eos>"],
    )

    def check() -> None:
        ours = [tokenizer.encode(cell).arrays["input_ids"] for cell in table.cells()]
        pairs = zip(ours, loop(table.counts, kind="stable"), strict=True)
        _agree("geneformer", sum(np.array_equal(*pair) for pair in pairs), len(ours))

    return loop, check


def _binned(tokenizer: Tokenizer) -> tuple[BinnedLoop, Callable[[], None]]:
    table, ids = real_cells("symbol"), tokenizer.vocabulary
    known = np.array([place for place, gene in enumerate(table.genes.names) if gene in ids])
    loop = BinnedLoop(known, np.array([ids[table.genes.names[place]] for place in known]), ids["<cls>"])

    def same(encoding: Encoding, values: np.ndarray, genes: np.ndarray) -> bool:
        low, high = loop.bounds(values)
        found = np.searchsorted(genes, encoding.spans[1:, 0])
        bins, low, high = encoding.arrays["values"][1:], low[found], high[found]
        drawable = np.where(low == high, bins == high, (low < bins) & (bins <= high))
        tokens = encoding.arrays["input_ids"][1:]
        return bool(drawable.all()) and len(tokens) == min(len(genes), loop.most - 1)

    def check() -> None:
        cells = table.cells()
        inside = np.isin(np.arange(len(table.genes)), known)
        pairs = [(cell, np.flatnonzero(inside[cell.places])) for cell in cells]
        good = sum(same(tokenizer.encode(cell), cell.values[units], units) for cell, units in pairs)
        _agree("scgpt", good, len(cells))

    return loop, check


def _agree(what: str, good: int, cells: int) -> None:
    print(
        f"\ntokens of {good} of {cells} cells, {what}: those of the published loop, but for what that leaves to chance"
    )
    if good < cells:
        sys.exit(f"{what}: tokens differ: no speed is measured of wrong results")


def _arrival(encodings: Sequence[Encoding]) -> Rows:
    return [range(start, min(start + 16, len(encodings))) for start in range(0, len(encodings), 16)]


def _singly(encodings: Sequence[Encoding]) -> Rows:
    return [[row] for row in range(len(encodings))]


def _as_exapt(encodings: Sequence[Encoding]) -> Rows:
    tokens = np.array([encoding.tokens for encoding in encodings])
    budget = devices.token_budget(torch.device("cpu"))
    return [rows.tolist() for rows in micro_batches(tokens, np.arange(len(tokens)), budget)]


_BATCHES: dict[str, Callable[[Sequence[Encoding]], Rows]] = {_NAMED: _arrival, _EQUAL: _as_exapt, _SINGLE: _singly}


def embed(family: Family, folder: Path) -> None:
    """Measure embeddings; each round draws cells of its own."""
    states = family.write(folder / "model")
    embedder = Embedder.of(f"{family.backbone}:{folder / 'model'}", family.pooling, settings=family.settings)
    peer = Peer(states, embedder.tokenizer.encode, family.pooling)
    _same(embedder, peer, family)

    def prepare(number: int) -> measure.Case:
        cells = mixed_cells(family.names, _CELLS, number + 1).cells()
        theirs = {name: partial(peer.embed, cells, of) for name, of in _BATCHES.items()}
        tokens = sum(embedder.tokenizer.encode(cell).tokens for cell in cells)
        return measure.Case({"exapt": partial(embedder.arrays, cells), **theirs}, tokens)

    _warm(prepare)
    rounds = measure.measure(prepare)
    measure.report(f"Embedding, {family.title}, {_CELLS} cells a round, fp32", rounds, ["exapt"], _NAMED, _FASTER)
    found = min(measure.ratio(measure.healthy(rounds), name, "exapt") for name in (_EQUAL, _SINGLE))
    print(f"  equal work, the better of two: {found:.2f}x, at least 1.0x: {'met' if found >= 1 else 'NOT met'}")


def _warm(prepare: Callable[[int], measure.Case]) -> None:
    for variant in prepare(-1).variants.values():
        variant()


def _same(embedder: Embedder, peer: Peer, family: Family) -> None:
    # Together and one by one, so that padding is tested on both sides.
    cells = mixed_cells(family.names, 8, 0).cells()
    ours = embedder.arrays(cells)
    gap = max(float(np.abs(ours - peer.embed(cells, of)).max()) for of in (_arrival, _singly))
    print(f"\nvectors of {len(cells)} cells, {family.title}: differ by at most {gap:.1e} (allowed {_TOLERANCE:.0e})")
    if not gap <= _TOLERANCE:
        sys.exit(f"{family.title}: results differ by {gap:.2g}: no speed is measured of wrong results")


def memory(folder: Path) -> None:
    """Print the peak memory of ``exapt embed`` over a backed file, each number of cells in a process of its own."""
    scgpt(folder / "model", layers=1, width=32, heads=2, longest=64)
    print("\nexapt embed, a tiny scGPT, real cells resampled from a backed .h5ad: peak memory of the process")
    print(f"  {'cells':>8} {'expressed':>10} {'file MiB':>9} {'peak MiB':>9} {'CPU s':>7}")
    peaks = []
    for count in _MANY:
        path = folder / f"{count}.h5ad"
        expressed = _resampled(path, count)
        command = [sys.executable, str(Path(__file__).with_name("cell_memory.py")), "embed", str(path)]
        command += ["--backbone", f"scgpt:{folder / 'model'}", "-o", str(folder / f"{count}.parquet")]
        seconds = measure.cpu_seconds(lambda command=command: peaks.append(_peak(command)))
        size = path.stat().st_size / 2**20
        print(f"  {count:8,} {expressed:10,.0f} {size:9,.0f} {peaks[-1]:9,.0f} {seconds:7,.0f}", flush=True)
    few, many = _MANY
    print(f"  {(peaks[1] - peaks[0]) * 2**20 / (many - few):,.0f} bytes for each cell more")


def _peak(command: list[str]) -> float:
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    return float(said.splitlines()[-1])


def _resampled(path: Path, count: int) -> float:
    """Write that many cells, each a real one of which a tenth of the molecules were counted; return their mean gene count."""
    rng, table = np.random.default_rng(count), real_cells("symbol")
    chosen = table.rows(rng.choice(table.counts.shape[0], count))
    counts = chosen.fainter(rng, np.full(count, _SHARE)).counts
    names = pd.DataFrame(index=[f"cell{row}" for row in range(count)])
    anndata.AnnData(counts, names, pd.DataFrame(index=list(table.genes.names))).write_h5ad(path)
    return counts.nnz / count


def _in_folder(script: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script(Path(folder))


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    for part in (tokenise, embed):
        for family in FAMILIES:
            if not wanted or part.__name__ in wanted:
                _in_folder(partial(part, family))
    if not wanted or "memory" in wanted:
        _in_folder(memory)
