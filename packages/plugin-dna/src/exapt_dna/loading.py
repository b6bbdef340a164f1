"""From an architecture to a model: built without drawing weights, then filled from files, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from exapt.weights import Files, fill, refuse_missing

Built = TypeVar("Built", bound=nn.Module)


@dataclass(frozen=True)
class Layout:
    """Names of tensors in a model: its token embeddings, its language-model head and that head's decoder.

    ``dropped`` maps the names, or beginnings of names, that files may hold and the model leaves out, to the reason.
    """

    embeddings: str
    decoder: str
    head: str
    dropped: Mapping[str, str]


def blank(make: Callable[[], Built]) -> Built:
    """Build a model whose parameters have no values yet: drawing those of a large one takes longer than reading them."""
    with torch.device("meta"):
        model = make()
    return model.to_empty(device="cpu")


@torch.no_grad()
def draw(model: nn.Module, spread: float) -> None:
    """Give fresh weights from torch's generator, as BERT's: normal with the standard deviation ``spread``, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
        elif isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0, spread)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()


def load(
    model: nn.Module, given: Iterable[tuple[str, Tensor]], files: Files, layout: Layout, tied: bool, computed: set[str]
) -> bool:
    """Fill a model with tensors, and tell whether its language-model head was among them.

    A ``tied`` decoder is the embeddings; ``computed`` names the buffers that need not be given. Raises ``DataError`` for
    tensors that are missing, unknown, of another shape, or given twice with different values.
    """
    if tied:
        # A decoder in the file has to be the embeddings again, which filling one place twice makes sure of.
        given = ((layout.embeddings if name == layout.decoder else name, tensor) for name, tensor in given)
        computed = computed | {layout.decoder}
    wanted = model.state_dict()
    missing = fill(wanted, given, files, layout.dropped) - computed
    head = {name for name in wanted if name.startswith(layout.head)} - computed
    # A tied head without a bias has no tensor of its own: it came with the embeddings.
    without = bool(head) and head <= missing
    refuse_missing(missing - head if without else missing, files)
    return not without
