"""The tensors of both layouts under one set of names, and pickles that are read without running what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from exapt import DataError
from exapt.weights import Files, read_saved, refuse_text
from exapt_dna.hyenadna.shape import Shape

DROPPED = {
    "torchmetrics.": "counts of the metrics of the pretraining, which the training program kept beside the model"
}
"""Tensors that files may hold and the backbone leaves out, by name or beginning of the name, with the reason."""

_SINES = re.compile(r"(\.implicit_filter)\.\d+\.freq$")
# Blocks that the training program recomputed in the backward pass have one more name around their layers.
_RECOMPUTED = re.compile(r"\.(mixer|mlp)\.layer\.")

_PLAIN = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "typing.Any",
    "collections.defaultdict",
    "builtins.dict",
    "builtins.list",
    "builtins.tuple",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "__builtin__.dict",
    "__builtin__.list",
    "pathlib.PosixPath",
)
"""What a training program's notes of its settings are made of: data, each replaced by something that does nothing."""


class Note(dict[Any, Any]):
    """Stands in a checkpoint for a thing that is not read: it is made of anything, and does nothing with it."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        """Forget what the thing held."""


def read(shape: Shape, checkpoint: Files) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint, in the names of its layout with ``model.safetensors``.

    Raises ``DataError`` for weights that are missing or damaged, or for a pickle that would run code.
    """
    given = checkpoint.tensors() if shape.layout == "hf" else iter(_lightning(checkpoint.need("weights.ckpt")).items())
    for name, tensor in given:
        yield _renamed(name), tensor


def _renamed(name: str) -> str:
    if "torchmetrics" in name:
        return f"torchmetrics.{name}"
    full = re.sub(r"^model\.(?=backbone\.)|^(?=backbone\.)", "hyena.", name).removeprefix("model.")
    # One sine serves all layers of a filter; some files name it once, some at each of its places.
    return _SINES.sub(r"\1.1.freq", _RECOMPUTED.sub(r".\1.", full))


def _lightning(path: Path) -> Mapping[str, Tensor]:
    refuse_text(path)
    with safe_globals([(Note, name) for name in _PLAIN]):
        _refuse_code(path)
        saved = read_saved(path)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(map(_is_named_tensor, state, state.values())):
        raise DataError(f"'{path}' has no tensors by name under 'state_dict'")
    return state


def _is_named_tensor(name: Any, tensor: Any) -> bool:
    return isinstance(name, str) and isinstance(tensor, Tensor)


def _refuse_code(path: Path) -> None:
    unsafe: list[str] = []
    # A file that is damaged, or no archive at all, fails here in any way; it is refused where it is read.
    with suppress(Exception):
        unsafe = sorted(get_unsafe_globals_in_checkpoint(str(path)))
    if unsafe:
        raise DataError(f"'{path}' asks for '{unsafe[0]}' to be run, which exapt does not do; use the -hf checkpoint")
