"""scGPT and Geneformer on AnnData, for exapt."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # Fetched when first asked for: the tools import torch, which a command that only lists has no use for.
    if name != "tl":
        raise AttributeError(f"module 'exapt_singlecell' has no attribute '{name}'")
    return importlib.import_module("exapt_singlecell.tl")
