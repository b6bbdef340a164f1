"""The ESM-2 protein language models and ProteinMPNN as an exapt plugin."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exapt_esm.designing import DesignOptions
    from exapt_esm.designing.run import design

__all__ = ["DesignOptions", "design"]

__version__ = "0.4.0"

_HOME_OF = {"DesignOptions": "exapt_esm.designing", "design": "exapt_esm.designing.run"}


def __getattr__(name: str) -> Any:
    # Fetched when first asked for: to design takes torch, which a command that only lists has no use for.
    if name not in _HOME_OF:
        raise AttributeError(f"module 'exapt_esm' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
