"""The only file that names a device: which one to use, how precise to be on it, and what it makes of a seed."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, PartialState

from exapt.errors import RecipeError, listed

KNOWN = ("auto", "cpu", "cuda", "mps")


def choose(asked: str = "") -> torch.device:
    """Return the device asked for (or by ``EXAPT_DEVICE``), else the fastest there is: CUDA, MPS, CPU.

    Raises ``RecipeError`` for a device that this machine lacks.
    """
    name = asked or os.environ.get("EXAPT_DEVICE") or "auto"
    family = name.partition(":")[0]
    if family not in KNOWN:
        raise RecipeError(f"unknown device '{name}'. Known: {listed(KNOWN)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if family == "auto":
        return torch.device("cuda" if there["cuda"] else "mps" if there["mps"] else "cpu")
    if not there[family]:
        raise RecipeError(f"this machine has no device '{name}'; use --device cpu, or auto")
    return torch.device(name)


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` takes bf16 on CUDA from Ampere on.

    On a CPU fp32 is the faster one to train with: the backward pass of attention in bf16 takes five times as long.
    """
    if asked != "auto":
        return asked
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return "bf16" if fast else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which forward passes run."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def resting() -> AbstractContextManager[Any]:
    """Return the context of passes without gradients.

    Not inference mode: a backbone that keeps a table of positions from such a pass could not use it in training.
    """
    return torch.no_grad()


def token_budget(device: torch.device) -> int:
    """Return the padded tokens per forward pass without gradients that suit a device."""
    return 1024 if device.type == "cpu" else 16384


def processes(device: torch.device) -> PartialState:
    """Return accelerate's view of the processes of this run: one, or those that a launcher started."""
    # accelerate settles on one device for the life of a process; a second run in it may want another.
    if PartialState._shared_state and PartialState().num_processes == 1 and PartialState().device.type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return PartialState(cpu=device.type == "cpu")


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks, among those that a launcher started."""
    return bool(PartialState().is_main_process)


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch, and make CUDA repeat itself."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed what is random within one step, such as dropout: each process draws its own, whatever ran before."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0]))


def describe(device: torch.device) -> dict[str, str]:
    """Return what bits depend on besides the recipe: device, threads, torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": device.type,
        "name": name,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors held on an accelerator so far; 0 on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0
