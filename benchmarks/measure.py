"""The method: one thread, CPU seconds, variants in turn, ratios within a round, and a canary that tells sick rounds."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Before torch is imported: afterwards its pool of threads stands.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa
import torch

ROUNDS = 5
_SPARE = 3
"""How many sick rounds are made up for, before fewer healthy ones have to do."""
_HEALTHY = 0.9
_TOLERANCE = 1e-5
_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"

MIXES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "protein": lambda rng, count: rng.lognormal(np.log(300), 0.6, count).clip(50, 1000),
    "antibody": lambda rng, count: rng.normal(120, 9, count),
}
"""Lengths in residues: log-normal with median 300, as proteins have, and those of antibody chains."""

Variant = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What one round measures: ways to do the same work on the same data, and how many tokens (or runs) that work is."""

    variants: Mapping[str, Variant]
    work: int


@dataclass(frozen=True)
class Round:
    """CPU seconds of each variant, and the slower of the two canaries, in GF/s, that flew before and after them."""

    seconds: Mapping[str, float]
    canary: float
    work: int


def one_thread() -> None:
    """Hold every pool of threads in this process at one."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, fp32")


def draw(mix: str, count: int, seed: int) -> list[str]:
    """Return ``count`` sequences of random residues, with the lengths of a mix."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(_RESIDUES))
    return ["".join(rng.choice(letters, int(length))) for length in MIXES[mix](rng, count)]


def tokens(sequences: Sequence[str], epochs: int = 1) -> int:
    """Return the tokens, with <cls> and <eos> and without padding, that ``epochs`` passes over sequences read."""
    return epochs * sum(len(sequence) + 2 for sequence in sequences)


def cpu_seconds(variant: Variant) -> float:
    """Return the CPU seconds, of this process and of those that it waits for, that a variant takes."""
    start = _cpu()
    variant()
    return _cpu() - start


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def canary(size: int = 1024, times: int = 12) -> float:
    """Return the GF/s of a plain matrix product: what this machine gives one thread just now."""
    matrix = torch.ones(size, size)
    start = time.process_time()
    for _ in range(times):
        torch.mm(matrix, matrix)
    return times * 2 * size**3 / (time.process_time() - start) / 1e9


def measure(prepare: Callable[[int], Case], rounds: int = ROUNDS) -> list[Round]:
    """Measure until ``rounds`` healthy rounds are there; ``prepare``, which is not timed, makes the case of each."""
    done: list[Round] = []
    while len(healthy(done)) < rounds and len(done) < rounds + _SPARE:
        done.append(_round(prepare(len(done)), len(done)))
        print(f"round {len(done)}: canary {done[-1].canary:.0f} GF/s", file=sys.stderr)
    return done


def _round(case: Case, turn: int) -> Round:
    names = list(case.variants)
    first = turn % len(names)
    before = canary()
    seconds = {name: cpu_seconds(case.variants[name]) for name in names[first:] + names[:first]}
    return Round(seconds, min(before, canary()), case.work)


def healthy(rounds: Sequence[Round]) -> list[Round]:
    """Return the rounds whose canary came within a tenth of the best."""
    best = max((one.canary for one in rounds), default=0.0)
    return [one for one in rounds if one.canary >= _HEALTHY * best]


def ratio(rounds: Sequence[Round], slow: str, fast: str) -> float:
    """Return how many times as long ``slow`` takes as ``fast``: the median of the ratios within each round."""
    return median(one.seconds[slow] / one.seconds[fast] for one in rounds)


def report(
    title: str,
    rounds: Sequence[Round],
    ours: Sequence[str],
    named: str,
    threshold: float | None,
    unit: str = "tokens",
    judged: Sequence[str] = (),
) -> None:
    """Print a table: what every variant takes, and how many times as fast as the named peer and the fastest it is.

    The first of ``ours``, or those that are ``judged``, are held against the threshold, which is said and never raised.
    """
    kept = healthy(rounds)
    peers = [name for name in rounds[0].seconds if name not in ours]
    fastest = max(peers, key=lambda name: ratio(kept, named, name))
    canaries = [one.canary for one in rounds]
    print(f"\n{title}")
    print(
        f"{len(kept)} of {len(rounds)} rounds kept; canary {min(canaries):.0f} to {max(canaries):.0f} GF/s, "
        f"kept from {_HEALTHY * max(canaries):.0f} on"
    )
    print(f"  {'':34} {'CPU s':>8} {unit + '/s':>10} {'x named':>8} {'x fastest':>9}")
    for name in rounds[0].seconds:
        seconds = median(one.seconds[name] for one in kept)
        speed = median(one.work / one.seconds[name] for one in kept)
        mark = "  named" if name == named else ""
        mark += "  fastest peer" if name == fastest else ""
        versus = f"{ratio(kept, named, name):8.2f} {ratio(kept, fastest, name):9.2f}"
        print(f"  {name:34} {seconds:8.3f} {speed:10,.0f} {versus}{mark}")
    if threshold is not None:
        for name in judged or ours[:1]:
            _judge(rounds, named, name, threshold)
    sys.stdout.flush()


def _judge(rounds: Sequence[Round], named: str, ours: str, threshold: float) -> None:
    kept = healthy(rounds)
    found = ratio(kept, named, ours)
    met = "met" if found >= threshold else "NOT met"
    print(f"  threshold {threshold:g}x the named peer: {met}, {found:.2f}x: {ours}")
    if len(kept) < ROUNDS:
        all_of_them = f"{ratio(rounds, named, ours):.2f}x over all {len(rounds)} rounds"
        print(f"  that is of {len(kept)} healthy rounds only, and {all_of_them}: measure again on an idle machine")


def gate(what: str, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    """Stop unless both sides computed the same: speed at other results is none."""
    gap = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    print(f"{what}: differ by at most {gap:.1e} (allowed {_TOLERANCE:.0e})")
    if not gap <= _TOLERANCE:
        sys.exit(f"{what} differ by {gap:.2g}, more than {_TOLERANCE:g}: no speed is measured of wrong results")
