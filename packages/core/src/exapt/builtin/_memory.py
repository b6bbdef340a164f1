"""What is kept between tasks: one safetensors file, with facts as JSON beside the tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from exapt import device as devices
from exapt.errors import OutputError, RecipeError

_FACTS = "exapt"


def write_memory(path: str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a memory, whole or not at all. Raises ``OutputError`` if it cannot be written."""
    if not devices.is_main_process():
        return
    place = Path(path).expanduser()
    under_way = place.with_name(f".{place.name}.{os.getpid()}")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, under_way, metadata={_FACTS: json.dumps({"kind": kind, **facts})})
        under_way.replace(place)
    except (OSError, SafetensorError) as error:
        under_way.unlink(missing_ok=True)
        raise OutputError(f"'{place}' cannot be written: {getattr(error, 'strerror', None) or error}") from None


def read_memory(path: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the facts of a memory. Raises ``RecipeError`` if it is none of this ``kind``."""
    place = Path(path).expanduser()
    try:
        with safe_open(place, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
        tensors = load_file(place)
    except (OSError, ValueError, SafetensorError) as error:
        raise RecipeError(f"strategy '{kind}': memory '{place}' cannot be read: {error}") from None
    if facts.get("kind") != kind:
        raise RecipeError(f"strategy '{kind}': '{place}' is no memory that '{kind}' kept")
    return tensors, facts
