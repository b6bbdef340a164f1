"""States of a backbone's lower blocks while nothing there learns: computed once, kept on disk, and gone on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import collate, micro_batches, padded
from exapt.errors import OutputError
from exapt.features import UNDER_WAY, FeatureKey, kept_folder
from exapt.model import Midway, Model, at_rest
from exapt.parts import Array, Backbone, Batch, Encoding

STATES = "states"
_FILE = "states.npy"
# All kept states together take no more than this share of what would be free without them: runs must still be able to
# write their checkpoints.
_SHARE_OF_DISK = 0.5


class KeptStates:
    """States [tokens, ...] of many inputs behind each other, special tokens included."""

    def __init__(self, folder: Path) -> None:
        self._states = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
        self._starts = np.load(folder / "starts.npy", allow_pickle=False)

    def take(self, rows: Array, longest: int) -> Tensor:
        """Return the states [rows, longest, ...] of some inputs, zero beyond their ends."""
        pieces = [self._states[self._starts[row] : self._starts[row + 1]] for row in rows]
        states = torch.from_numpy(padded(pieces, longest, 0))
        # As what they were written: numpy has no bfloat16.
        return states.view(torch.bfloat16) if states.dtype == torch.int16 else states


def kept_states(
    model: Model, encodings: Sequence[Encoding], key: FeatureKey, progress: Callable[[int, int], None]
) -> KeptStates:
    """Return the states of inputs after the first ``key.layer`` blocks, from the cache, or compute and keep them.

    Where there is no room beside the states of others, those go that were not asked for the longest. ``progress`` hears
    (done, all). Raises ``OutputError`` if the cache cannot be written, or the disk has no room.
    """

    def passes() -> Iterator[tuple[Array, Tensor]]:
        done, device = 0, next(model.parameters()).device
        tokens = np.array([encoding.tokens for encoding in encodings], dtype=np.int64)
        for rows in micro_batches(tokens, np.arange(len(encodings)), key.budget):
            yield rows, model.below(collate([encodings[row] for row in rows]).to(device), key.layer).cpu()
            done += len(rows)
            progress(done, len(encodings))

    folder = kept_folder(key, lambda folder: _write(folder, passes(), encodings))
    try:
        # Its date tells whoever looks for room that it was asked for just now; a cache that can only be read keeps its own.
        with suppress(OSError):
            os.utime(folder / _FILE)
        return KeptStates(folder)
    except OSError as error:
        raise OutputError(f"states kept in '{folder}' cannot be read: {error.strerror or error}") from None


def _write(folder: Path, passes: Iterable[tuple[Array, Tensor]], encodings: Sequence[Encoding]) -> None:
    counts = [encoding.tokens for encoding in encodings]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    states: Array | None = None
    for rows, hidden in passes:
        arrays = (hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden).numpy()
        if states is None:
            shape = (int(starts[-1]), *arrays.shape[2:])
            _make_room(int(np.prod(shape)) * arrays.itemsize, folder)
            states = np.lib.format.open_memmap(folder / _FILE, mode="w+", dtype=arrays.dtype, shape=shape)
            _reserve(folder / _FILE)
        for place, row in enumerate(rows):
            states[starts[row] : starts[row + 1]] = arrays[place, : counts[row]]
    assert isinstance(states, np.memmap)
    states.flush()
    np.save(folder / "starts.npy", starts)


def _make_room(wanted: int, folder: Path) -> None:
    """Remove states that were not asked for the longest, until others find room. Raises ``OutputError`` if there is none."""
    cache = folder.parent
    sizes = {}
    for path in cache.glob(f"*/{_FILE}"):
        # Another run may make room at the same time.
        with suppress(FileNotFoundError):
            sizes[path] = path.stat()
    taken, free = sum(stat.st_size for stat in sizes.values()), shutil.disk_usage(cache).free
    room = _SHARE_OF_DISK * (free + taken)
    # What others are about to write is not theirs to lose.
    old = [path for path in sorted(sizes, key=lambda path: sizes[path].st_mtime) if not _under_way(path)]
    if wanted + sum(stat.st_size for path, stat in sizes.items() if _under_way(path)) > room:
        raise OutputError(
            f"states of frozen blocks would take {wanted / 2**30:.1f} GiB of the {(free + taken) / 2**30:.1f} that are free "
            f"in '{cache}' or hold such states; name another folder in EXAPT_CACHE"
        )
    while wanted + taken > room:
        path = old.pop(0)
        shutil.rmtree(path.parent, ignore_errors=True)
        taken -= sizes[path].st_size


def _under_way(path: Path) -> bool:
    return path.parent.name.startswith(UNDER_WAY)


def _reserve(path: Path) -> None:
    """Claim the room that a sparse file will fill: a map of it that finds the disk full ends the whole process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


Keep = Callable[[Sequence[Encoding], int], KeptStates | None]
"""Keeps the states of inputs after so many blocks; None where there is no keeping them."""


@dataclass
class Trunk:
    """What is kept below all that learns, of the distinct ones of some inputs. All parts of the data share it.

    It is the one thing about rows that changes while a run goes on: a stage that lets lower blocks learn moves it down.
    """

    encodings: Sequence[Encoding]
    keep: Keep
    blocks: int = 0
    _kept: KeptStates | None = None
    _slots: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def move(self, blocks: int, numbers: Array) -> None:
        """Keep the states of some inputs after another number of blocks; after none, nothing is kept."""
        self.blocks, self._kept = blocks, None
        self._slots = np.full(len(self.encodings), -1, dtype=np.int64)
        if blocks and len(numbers):
            self._kept = self.keep([self.encodings[number] for number in numbers], blocks)
            self._slots[numbers] = np.arange(len(numbers))

    def take(self, numbers: Array, batch: Batch) -> Batch | Midway:
        """Return a batch of some inputs with their states, where they are kept."""
        slots = self._slots[numbers] if self._kept is not None else np.full(1, -1)
        if self._kept is None or (slots < 0).any():
            return batch
        hidden = self._kept.take(slots, batch.present.shape[1])
        return Midway(batch, hidden.to(batch.present.device), self.blocks)


def resting_blocks(model: Model, encodings: Sequence[Encoding]) -> int:
    """Return how many of the lowest blocks, with all before them, give states on which nothing that learns has a say.

    The gradient itself tells, so that what was put into the model from outside its blocks counts too.
    """
    backbone = model.backbone
    if not can_rest(backbone) or not encodings:
        return 0
    device = next(model.parameters()).device
    batch = collate([max(encodings, key=lambda encoding: encoding.tokens)]).to(device)
    if backbone.in_windows(batch):
        return 0
    with at_rest(backbone), devices.autocast(model.precision, device):
        hidden, rests = backbone.stem(batch), 0
        for block in backbone.blocks()[: model.layer]:
            # One row may pass parts of a block by, of which others make use.
            if hidden.requires_grad or any(parameter.requires_grad for parameter in block.parameters()):
                break
            hidden = backbone.run(hidden, batch, rests, rests + 1)
            rests += not hidden.requires_grad
    return rests


def can_rest(backbone: Backbone) -> bool:
    """Whether the lower blocks can be run apart from the others."""
    whole = type(backbone).forward is Backbone.forward and "forward" not in vars(backbone)
    return backbone.stepwise and whole and bool(backbone.blocks())


def can_keep(model: Model, encodings: Sequence[Encoding]) -> bool:
    """Whether the states of inputs are the same whatever is batched beside them: those of each, token by token."""
    backbone, device = model.backbone, next(model.parameters()).device
    if not can_rest(backbone) or "run" in vars(backbone):
        return False
    shapes = set()
    for pick in (min, max):
        batch = collate([pick(encodings, key=lambda encoding: encoding.tokens)]).to(device)
        if backbone.in_windows(batch):
            return False
        hidden = model.below(batch, 0)
        if hidden.shape[:2] != batch.present.shape:
            return False
        shapes.add(tuple(hidden.shape[2:]))
    return len(shapes) == 1
