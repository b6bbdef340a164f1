"""Many questions of one structure: its graph is encoded once, whatever the letters and the orders that are asked about."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from exapt.parts import Batch
from exapt_esm.proteinmpnn.network import State

_STRUCTURAL = ("atoms", "resolved", "residue_index", "chain")
# Of states that are kept for the next pass, the sum of their edges.
_KEPT_BYTES = 1 << 26
# Of a module, what is looked at otherwise: its tensors, and the modules inside.
_HELD = {"_parameters", "_buffers", "_modules"}


class Encoded:
    """What the encoder knows of the structures that were asked about last, as long as it stays what it is, bit by bit."""

    def __init__(self) -> None:
        self._states: OrderedDict[bytes, State] = OrderedDict()
        self._tensors: list[Tensor] = []
        self._told: tuple[object, ...] = ()

    def under(self, module: nn.Module, batch: Batch) -> Encoded:
        """Return what is known under a module as it is now, on the device of a batch; it is for this batch alone where
        gradients, chance or hooks take part.
        """
        if torch.is_grad_enabled() or any(map(_is_alive, module.modules())):
            return Encoded()
        tensors = _tensors(module)
        told = (*_settings(module, batch["atoms"].device), *((one.shape, one.dtype, one.device) for one in tensors))
        # No counter tells of all ways to write into a tensor: what is in it does.
        if told != self._told or not all(map(torch.equal, tensors, self._tensors)):
            self._states, self._told = OrderedDict(), told
            self._tensors = [tensor.detach().clone() for tensor in tensors]
        return self

    def of(self, key: bytes, encode: Callable[[], State]) -> State:
        """Return the state of a structure that is told by ``key``."""
        state = self._states.pop(key, None) or encode()
        self._states[key] = state
        while len(self._states) > 1 and sum(one.edges.nbytes for one in self._states.values()) > _KEPT_BYTES:
            self._states.popitem(last=False)
        return state


def _is_alive(part: nn.Module) -> bool:
    return bool(part.training or part._forward_hooks or part._forward_pre_hooks)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return all tensors of a module: parameters, buffers, and those that its parts hold beside them."""
    beside = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *beside]


def _settings(module: nn.Module, device: torch.device) -> tuple[object, ...]:
    """Return what else than its tensors a module's answers depend on, such as which low-rank updates are at work."""
    parts = [
        (type(part), repr({name: value for name, value in vars(part).items() if name not in _HELD}))
        for part in module.modules()
    ]
    cast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return (*parts, device, *cast, torch.get_float32_matmul_precision())


def structures_in(batch: Batch) -> dict[bytes, list[int]]:
    """Return the inputs that hold each structure, by what tells it."""
    arrays = [batch[name].cpu().numpy() for name in _STRUCTURAL]
    inputs: dict[bytes, list[int]] = {}
    for row, tokens in enumerate(batch.present.sum(1).tolist()):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array[row, :tokens]).tobytes())
        inputs.setdefault(digest.digest(), []).append(row)
    return inputs


def only(batch: Batch, rows: list[int]) -> Batch:
    """Return some inputs of one length, without the padding behind them."""
    tokens = int(batch.present[rows[0]].sum())
    arrays = {name: array[rows, :tokens] for name, array in batch.arrays.items()}
    return Batch(arrays, batch.present[rows, :tokens], batch.spans[rows, :tokens], batch.lengths[rows], batch.whole)


def decoded(
    batch: Batch, rows: Tensor, places: Tensor, state_of: Callable[[bytes, Batch], State], decode: Callable[..., Tensor]
) -> Tensor:
    """Return the last states [asked, width] at ``places`` [asked] of the inputs ``rows`` [asked].

    ``state_of`` encodes one structure, ``decode`` takes a state, letters and orders to last states [inputs, tokens, width].
    """
    found: list[Tensor] = []
    order: list[Tensor] = []
    for key, inputs in structures_in(batch).items():
        some = only(batch, inputs)
        state = state_of(key, only(batch, inputs[:1])).repeated(len(inputs))
        states = decode(state, some["input_ids"], some["rank"])
        for number, row in enumerate(inputs):
            asked = torch.nonzero(rows == row)[:, 0]
            order.append(asked)
            found.append(states[number, places[asked]])
    return torch.cat(found)[torch.cat(order).argsort()]
