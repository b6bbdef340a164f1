"""The only file that names a device: which one to use, how precise to be on it, and what it makes of a seed."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

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


def token_budget(device: torch.device) -> int:
    """Return the padded tokens per forward pass without gradients that suit a device."""
    return 1024 if device.type == "cpu" else 16384


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch, and make CUDA repeat itself."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's generators, to be put back by ``set_random_state``."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what ``random_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


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
