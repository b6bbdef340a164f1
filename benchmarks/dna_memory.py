"""Print by how many MiB one pass of a DNABERT-2 lifts the peak of this process (on Linux): ``dna_memory.py MODEL SIDE TOKENS``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import torch
from dna_peers import AlibiBert

from exapt.data.batching import collate
from exapt.embedding import Embedder
from exapt.parts import Encoding


def _encoded(length: int) -> Encoding:
    ids = np.random.default_rng(0).integers(9, 4096, length)
    return Encoding({"input_ids": ids}, {"input_ids": 3}, np.repeat(np.arange(length)[:, None], 2, 1), length)


def _exapt(model: Path, longest: int) -> Callable[[int], object]:
    settings = {"backbone": {"max_tokens": longest}}
    backbone = Embedder.of(f"dnabert2:{model}", settings=settings).backbone
    return lambda length: backbone(collate([_encoded(length)]))


def _published(model: Path) -> Callable[[int], object]:
    peer = AlibiBert(768, 1, 12, 3072, 4096).eval()
    peer.load_state_dict(torch.load(model / "pytorch_model.bin", weights_only=True))
    there: dict[int, torch.Tensor] = {}
    return lambda length: peer(
        torch.from_numpy(_encoded(length).arrays["input_ids"])[None],
        there.setdefault(length, torch.ones(1, length, dtype=torch.bool)),
    )


def _memory(line: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.partition(f"{line}:")[2].split()[0]) / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, length = Path(sys.argv[1]), int(sys.argv[3])
    run = _exapt(path, length) if sys.argv[2] == "exapt" else _published(path)
    with torch.inference_mode():
        measure.cpu_seconds(lambda: run(64))
        # Reading the weights took more for a moment than they take now: the peak is counted from here on.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _memory("VmRSS")
        run(length)
    print(_memory("VmHWM") - before)
