"""The weights of a scGPT checkpoint: every tensor read, renamed or counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from exapt import DataError
from exapt.weights import Files, fill, read_tensors, refuse_missing
from exapt_singlecell import tensors
from exapt_singlecell.scgpt.files import Shape

DECODER = "decoder."
_INSIDE = ("encoder.", "value_encoder.", "transformer_encoder.")
_NORMALISING = ("bn.", "dsbn.")
NAMES = ("best_model.pt", "model.safetensors")
# The layouts of flash-attention, of its wrapper in torch's place, and of torch itself.
_PACKED = re.compile(r"(transformer_encoder\.layers\.\d+\.self_attn\.)(?:Wqkv\.|in_proj_)(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def read(checkpoint: Files) -> Mapping[str, Tensor]:
    """Return the tensors of ``best_model.pt``, or of a copy of it as ``model.safetensors``, by their names in the model.

    Raises ``DataError`` if there are none, or if the file is damaged or holds code.
    """
    for name in NAMES:
        path = checkpoint.find(name)
        if path is not None:
            return tensors.unwrapped(read_tensors(path), _INSIDE)
    raise DataError(checkpoint.lacking(" or ".join(NAMES)))


def has_decoder(given: Mapping[str, Tensor], decoder: nn.Module) -> bool:
    """Return whether the decoder of a file is whole, and of the shapes of ``decoder``.

    One that was trained to read labels of batches beside the states has others.
    """
    wanted = decoder.state_dict()
    return all(
        f"{DECODER}{name}" in given and given[f"{DECODER}{name}"].shape == place.shape for name, place in wanted.items()
    )


def load(model: nn.Module, decoder: nn.Module | None, given: Mapping[str, Tensor], shape: Shape, files: Files) -> None:
    """Fill the model, and its decoder where there is one.

    Raises ``DataError`` for tensors of the model that are missing, unknown or of another shape; those outside of it are
    passed over.
    """
    wanted: dict[str, Tensor] = dict(model.state_dict())
    if decoder is not None:
        wanted |= {f"{DECODER}{name}": tensor for name, tensor in decoder.state_dict().items()}
    read = list(_apart(given, wanted, shape, files))
    for name, tensor in read:
        if name in wanted:
            _refuse_shape(name, tensor, tuple(wanted[name].shape), files)
    refuse_missing(fill(wanted, read, files, {}), files)


def _apart(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], shape: Shape, files: Files
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a model reads, with packed projections taken apart."""
    for name, tensor in given.items():
        if not name.startswith(_INSIDE) and name not in wanted:
            continue
        plain = name.replace(".self_attn._impl.", ".self_attn.")
        packed = _PACKED.fullmatch(plain)
        if packed is None:
            yield plain, tensor
            continue
        _refuse_shape(name, tensor, (3 * shape.embsize, shape.embsize)[: 1 + (packed[2] == "weight")], files)
        for projection, part in zip(_PROJECTIONS, tensor.chunk(3), strict=True):
            yield f"{packed[1]}{projection}.{packed[2]}", part


def _refuse_shape(name: str, tensor: Tensor, wanted: Sequence[int], files: Files) -> None:
    if list(tensor.shape) == list(wanted):
        return
    rows = name.startswith("encoder.embedding.") and tensor.shape[0] != wanted[0]
    says = "vocab.json has tokens" if rows else "args.json asks"
    raise DataError(
        f"'{name}' in the weights of '{files.source}' has the shape {list(tensor.shape)}, where its {says} for "
        f"{list(wanted)}"
    )


def outside(given: Mapping[str, Tensor], decoder: bool) -> list[str]:
    """Return the names of the tensors that are not read: heads of other tasks, what reads labels of batches for decoders,
    and a batch normalisation in front of the blocks, which changes all states.
    """
    inside = (*_INSIDE, f"{DECODER}fc.") if decoder else _INSIDE
    return sorted(name for name in given if not name.startswith(inside))


def told(names: Sequence[str]) -> list[str]:
    """Return the lines that tell of tensors that are not read, and what follows from it; none if all are."""
    lines, normalising = tensors.told(names), [name for name in names if name.startswith(_NORMALISING)]
    if normalising:
        lines.append(
            f"the checkpoint was trained with a batch normalisation in front of its blocks "
            f"({tensors.counted(normalising)}), which exapt does not apply: its states differ from those of the published "
            "program"
        )
    return lines
