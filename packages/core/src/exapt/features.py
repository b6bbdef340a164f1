"""Features of a frozen backbone: computed once, kept on disk, read back bit by bit."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import device as devices
from exapt.data.batching import collate, micro_batches, padded
from exapt.errors import OutputError
from exapt.installed import cache_folder
from exapt.parts import NO_UNIT, Array, Backbone, Encoding, Features, Pooled

TOKENS = "tokens"
UNDER_WAY = "under-way-"
_NOTE = "key.json"


@dataclass(frozen=True)
class FeatureKey:
    """Everything that the bits of kept features depend on; what differs in one of these is computed anew."""

    weights: str
    tokenizer: str
    code: Mapping[str, Any]
    """What turns weights and tokens into features: the backbone's options, its plugin's version, core's."""
    inputs: str
    """Digest of all encodings in their order: what is batched beside an input can move its last bits."""
    layer: int
    reading: str
    precision: str
    budget: int
    machine: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The key as one word."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def encodings_digest(encodings: Sequence[Encoding]) -> str:
    """Return the sha256 of what the model reads of all inputs, in order."""
    digest = hashlib.sha256()
    for encoding in encodings:
        for name in sorted(encoding.arrays):
            array = np.ascontiguousarray(encoding.arrays[name])
            pad = encoding.pads.get(name)
            digest.update(f"{name}{array.dtype}{array.shape}{pad}".encode() + array.tobytes())
        digest.update(np.ascontiguousarray(encoding.spans).tobytes() + str(encoding.length).encode())
    return digest.hexdigest()


def answers_digest(backbone: Backbone, probes: Sequence[Encoding], layer: int) -> str:
    """Return the sha256 of a backbone's features of some probe inputs: of weights, configuration and code together."""
    digest = hashlib.sha256()
    for _, features in forward_all(backbone, probes, layer, "fp32", budget=1):
        digest.update(features.hidden.numpy().tobytes() + features.mask.numpy().tobytes())
        digest.update(b"" if features.summary is None else features.summary.numpy().tobytes())
    return digest.hexdigest()


def distinct(encodings: Sequence[Encoding]) -> tuple[list[Encoding], Array]:
    """Return the distinct ones of some encodings, and which of them each is [encodings]."""
    words = [encodings_digest([encoding]) for encoding in encodings]
    first = {word: place for place, word in reversed(list(enumerate(words)))}
    order = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return [encodings[first[word]] for word in order], np.array([order[word] for word in words], dtype=np.int64)


class KeptFeatures:
    """Features of many inputs under one reading: pooled vectors [inputs, width], or the vectors of all their tokens."""

    def __init__(self, folder: Path, reading: str) -> None:
        self.reading = reading
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if reading == TOKENS:
            self._starts = np.load(folder / "starts.npy", allow_pickle=False)
            self._spans = np.load(folder / "spans.npy", mmap_mode="r", allow_pickle=False)
            self._lengths = np.load(folder / "lengths.npy", allow_pickle=False)
            summaries = folder / "summaries.npy"
            self._summaries = np.load(summaries, mmap_mode="r", allow_pickle=False) if summaries.is_file() else None

    def take(self, rows: Array, device: torch.device) -> Features | Pooled:
        """Return the features of some rows, padded to the longest of them."""
        if self.reading != TOKENS:
            return Pooled(self.reading, torch.from_numpy(np.array(self._vectors[rows])).to(device))
        pieces = [slice(self._starts[row], self._starts[row + 1]) for row in rows]
        longest = max(1, *(piece.stop - piece.start for piece in pieces))
        hidden = torch.from_numpy(padded([self._vectors[piece] for piece in pieces], longest, 0))
        spans = torch.from_numpy(padded([self._spans[piece] for piece in pieces], longest, NO_UNIT))
        lengths = torch.from_numpy(self._lengths[rows])
        summary = None if self._summaries is None else torch.from_numpy(np.array(self._summaries[rows]))
        return Features(hidden, spans[..., 0] >= 0, spans, lengths, summary).to(device)


def frozen_features(
    backbone: Backbone, encodings: Sequence[Encoding], key: FeatureKey, progress: Callable[[int, int], None]
) -> KeptFeatures:
    """Return the features of all inputs from the cache, or compute and keep them. ``progress`` hears (done, all).

    Kept files that are not what was written are thrown away. Raises ``OutputError`` if the cache cannot be written.
    """

    def write(folder: Path) -> None:
        keep = _keep_tokens if key.reading == TOKENS else _keep_pooled
        keep(folder, _passes(backbone, encodings, key, progress), encodings, backbone.width, key.reading)

    return KeptFeatures(kept_folder(key, write), key.reading)


def kept_folder(key: FeatureKey, write: Callable[[Path], None]) -> Path:
    """Return the folder with what is kept under a key; unless it is there and whole, ``write`` fills a new one.

    Raises ``OutputError`` if the cache cannot be written.
    """
    folder = cache_folder() / "features" / key.digest
    try:
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _compute(key, folder, write)
        return folder
    except OSError as error:
        raise OutputError(
            f"features cannot be kept in '{folder.parent}': {error.strerror or error}; name another folder in EXAPT_CACHE"
        ) from None


def _is_whole(folder: Path) -> bool:
    try:
        kept = json.loads((folder / _NOTE).read_text(encoding="utf-8"))["sha256"]
        return bool(kept) and all(_sha256(folder / name) == digest for name, digest in kept.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compute(key: FeatureKey, folder: Path, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    under_way = Path(tempfile.mkdtemp(prefix=UNDER_WAY, dir=folder.parent))
    try:
        write(under_way)
        note = {"key": asdict(key), "sha256": {path.name: _sha256(path) for path in under_way.iterdir()}}
        (under_way / _NOTE).write_text(json.dumps(note, indent=1, sort_keys=True), encoding="utf-8")
        _publish(under_way, folder)
    finally:
        shutil.rmtree(under_way, ignore_errors=True)


def _publish(under_way: Path, folder: Path) -> None:
    try:
        under_way.rename(folder)
    except OSError:
        # Another process kept the same features first: theirs are as good as ours.
        if not folder.is_dir():
            raise


def _passes(
    backbone: Backbone, encodings: Sequence[Encoding], key: FeatureKey, progress: Callable[[int, int], None]
) -> Iterator[tuple[Array, Features]]:
    done = 0
    for rows, features in forward_all(backbone, encodings, key.layer, key.precision, key.budget):
        yield rows, features
        done += len(rows)
        progress(done, len(encodings))


def forward_all(
    backbone: Backbone, encodings: Sequence[Encoding], layer: int, precision: str, budget: int
) -> Iterator[tuple[Array, Features]]:
    """Yield (rows, features in fp32 on the CPU) of all inputs, similar lengths together, without gradients."""
    device = next(backbone.parameters()).device
    tokens = np.array([encoding.tokens for encoding in encodings], dtype=np.int64)
    backbone.eval()
    for rows in micro_batches(tokens, np.arange(len(encodings)), budget):
        batch = collate([encodings[row] for row in rows]).to(device)
        with devices.resting(), devices.autocast(precision, device):
            features = backbone.at_layer(batch, layer)
        yield rows, features.to(torch.device("cpu")).float()


def _keep_pooled(
    folder: Path, passes: Iterator[tuple[Array, Features]], encodings: Sequence[Encoding], width: int, reading: str
) -> None:
    vectors = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(encodings), width)
    )
    for rows, features in passes:
        vectors[rows] = features.pool(reading).numpy()
    vectors.flush()


def _keep_tokens(
    folder: Path, passes: Iterator[tuple[Array, Features]], encodings: Sequence[Encoding], width: int, _reading: str
) -> None:
    counts = [int((encoding.spans[:, 0] >= 0).sum()) for encoding in encodings]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    shape = (int(starts[-1]), width)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=shape)
    spans = np.lib.format.open_memmap(folder / "spans.npy", mode="w+", dtype=np.int64, shape=(shape[0], 2))
    summaries: dict[int, Array] = {}
    for rows, features in passes:
        if features.summary is not None:
            summaries |= zip(rows.tolist(), features.summary.numpy(), strict=True)
        for place, row in enumerate(rows):
            piece = slice(starts[row], starts[row + 1])
            vectors[piece] = features.hidden[place][features.mask[place]].numpy()
            spans[piece] = features.spans[place][features.mask[place]].numpy()
    vectors.flush()
    spans.flush()
    if summaries:
        np.save(folder / "summaries.npy", np.stack([summaries[row] for row in range(len(encodings))]))
    np.save(folder / "starts.npy", starts)
    np.save(folder / "lengths.npy", np.array([encoding.length for encoding in encodings], dtype=np.int64))


def cache_size() -> int:
    """Return the bytes that kept features take on disk."""
    folder = cache_folder() / "features"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
