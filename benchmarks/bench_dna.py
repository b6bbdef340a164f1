"""Embeddings of DNA against stock transformers or the published operations; the cost of length; the memory of biases."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import measure
import numpy as np
import peers
import torch
from dna_models import FAMILIES, LONGEST, Family, alibi_bert, hyena
from dna_peers import Peer

from exapt import device as devices
from exapt.data.batching import collate, micro_batches
from exapt.embedding import Embedder
from exapt.parts import Encoding

_ROWS, _TOLERANCE = 16, 1e-4
_NAMED, _EQUAL, _SINGLE = "16 in arrival order", "exapt's batches", "one by one"
_FASTER, _EXPONENT = 2.0, 1.2
_LENGTHS = tuple(2**power for power in range(10, 16))
_MEMORY_LENGTHS = (1024, 2048, 4096)

Rows = list[Sequence[int]]


def draw(stretch: float, count: int, seed: int) -> list[str]:
    """Return random DNA whose lengths are those of proteins, stretched."""
    rng = np.random.default_rng(seed)
    lengths = measure.MIXES["protein"](rng, count) * stretch
    return ["".join(rng.choice(list("ACGT"), int(length))) for length in lengths]


def _arrival(encodings: Sequence[Encoding]) -> Rows:
    return [range(start, min(start + 16, len(encodings))) for start in range(0, len(encodings), 16)]


def _singly(encodings: Sequence[Encoding]) -> Rows:
    return [[row] for row in range(len(encodings))]


def _as_exapt(encodings: Sequence[Encoding]) -> Rows:
    tokens = np.array([encoding.tokens for encoding in encodings])
    budget = devices.token_budget(torch.device("cpu"))
    return [rows.tolist() for rows in micro_batches(tokens, np.arange(len(tokens)), budget)]


_BATCHES: dict[str, Callable[[Sequence[Encoding]], Rows]] = {_NAMED: _arrival, _EQUAL: _as_exapt, _SINGLE: _singly}


def compare(family: Family, folder: Path) -> None:
    """Measure one family; each round draws sequences of its own."""
    states = family.write(folder / "model")
    embedder = Embedder.of(f"{family.backbone}:{folder / 'model'}")
    peer = Peer(states, embedder.tokenizer.encode, family.pad)
    _same(embedder, peer, draw(family.stretch, 8, seed=0), family.title)

    def prepare(number: int) -> measure.Case:
        sequences = draw(family.stretch, _ROWS, seed=number + 1)
        theirs = {f"{family.peer}, {name}": partial(peer.embed, sequences, of) for name, of in _BATCHES.items()}
        tokens = sum(embedder.tokenizer.encode(sequence).tokens for sequence in sequences)
        return measure.Case({"exapt": partial(embedder.arrays, sequences), **theirs}, tokens)

    for variant in prepare(-1).variants.values():
        variant()
    rounds = measure.measure(prepare)
    title = f"Embedding, {family.title}, {_ROWS} sequences a round, fp32"
    measure.report(title, rounds, ["exapt"], f"{family.peer}, {_NAMED}", _FASTER)
    fair = [f"{family.peer}, {_EQUAL}", f"{family.peer}, {_SINGLE}"]
    found = min(measure.ratio(measure.healthy(rounds), name, "exapt") for name in fair)
    print(f"  equal work, the better of two: {found:.2f}x, at least 1.0x: {'met' if found >= 1 else 'NOT met'}")


def _same(embedder: Embedder, peer: Peer, sequences: list[str], title: str) -> None:
    # Together and one by one, so that padding is tested on both sides.
    ours = embedder.arrays(sequences)
    gap = max(float(np.abs(ours - peer.embed(sequences, of)).max()) for of in (_arrival, _singly))
    print(f"\nmeans of {len(sequences)} sequences, {title}: differ by at most {gap:.1e} (allowed {_TOLERANCE:.0e})")
    if not gap <= _TOLERANCE:
        sys.exit(f"{title}: results differ by {gap:.2g}: no speed is measured of wrong results")


def cost_of_length(folder: Path) -> None:
    """Fit the exponent of HyenaDNA's cost against the length, from 1,024 to 32,768 tokens, one input at a time."""
    peer = hyena(folder / "model")
    backbone = Embedder.of(f"hyenadna:{folder / 'model'}").backbone
    assert backbone.max_tokens == LONGEST
    ids = {length: torch.randint(7, 11, (1, length)) for length in _LENGTHS}
    batches = {length: collate([_encoded(ids[length][0].numpy())]) for length in _LENGTHS}
    print("\nHyenaDNA small-32k, CPU seconds of one input, the least of 4")
    for name, forward in {
        "exapt": lambda length: backbone(batches[length]),
        "published": lambda length: peer(ids[length], None),
    }.items():
        with torch.inference_mode():
            seconds = [min(measure.cpu_seconds(partial(forward, length)) for _ in range(4)) for length in _LENGTHS]
        exponent = float(np.polyfit(np.log(_LENGTHS), np.log(seconds), 1)[0])
        figures = "  ".join(f"{length:,}: {each:.3f}" for length, each in zip(_LENGTHS, seconds, strict=True))
        print(f"  {name:10} {figures}  fitted exponent {exponent:.2f}")
        if name == "exapt":
            print(f"  fitted exponent at most {_EXPONENT:g}: {'met' if exponent <= _EXPONENT else 'NOT met'}")


def _encoded(ids: np.ndarray) -> Encoding:
    spans = np.repeat(np.arange(len(ids))[:, None], 2, 1)
    return Encoding({"input_ids": ids}, {"input_ids": 0}, spans, len(ids))


def memory_of_biases(folder: Path) -> None:
    """Print how far the peak of a process's memory rises over one layer of DNABERT-2, each in a process of its own."""
    alibi_bert(folder / "model", layers=1)
    print(
        "\nDNABERT-2, one layer, one input: MiB by which a pass lifts the peak of the process; a square of biases beside"
    )
    print(f"  {'tokens':>8} {'exapt':>8} {'published':>10} {'12 x L x L':>11}")
    for length in _MEMORY_LENGTHS:
        ours, theirs = (_risen(folder / "model", side, length) for side in ("exapt", "published"))
        print(f"  {length:8,} {ours:8.0f} {theirs:10.0f} {12 * length**2 * 4 / 2**20:11.0f}")


def _risen(model: Path, side: str, length: int) -> float:
    command = [sys.executable, str(Path(__file__).with_name("dna_memory.py")), str(model), side, str(length)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _in_folder(script: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script(Path(folder))


if __name__ == "__main__":
    measure.one_thread()
    peers.quiet()
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    for family in FAMILIES:
        if not wanted or family.backbone in wanted:
            _in_folder(partial(compare, family))
    if not wanted or "length" in wanted:
        _in_folder(cost_of_length)
    if not wanted or "memory" in wanted:
        _in_folder(memory_of_biases)
