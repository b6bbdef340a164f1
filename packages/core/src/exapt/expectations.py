"""A pretrained language model at work: it answers many questions, of equal inputs once, in passes of similar lengths."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import collate, micro_batches
from exapt.parts import Array, Backbone, Encoding, LanguageModel, Question

# Encodings wait until they fill this many passes, so that each pass finds inputs of like length.
_PASSES = 32
_KEPT_BYTES = 1 << 27


@dataclass
class _Waiting:
    """One input that is to be read, the places that were asked for, and who asked for what."""

    encoding: Encoding
    places: set[int] = field(default_factory=set)
    asked: list[tuple[int, Question]] = field(default_factory=list)


class Expectations:
    """What a language model expects at places of inputs.

    Logits are kept, up to a fixed size, so that an input that is asked about again costs no further pass.
    """

    def __init__(self, backbone: Backbone, language: LanguageModel, device: torch.device, precision: str) -> None:
        self._backbone = backbone.to(device).eval()
        self._head = language.head.to(device).eval()
        self._device = device
        self._precision = precision
        self._budget = devices.token_budget(device)
        self._kept: OrderedDict[bytes, dict[int, Tensor]] = OrderedDict()
        self._bytes = 0

    def sums(self, asked: Iterable[tuple[int, Question]], rows: int) -> Array:
        """Return the answers to the questions of each row, summed by their weights [rows], in double precision.

        Nothing depends on the order of the questions, nor on what else is asked, but for the last bits of fp32.
        """
        totals = np.zeros(rows)
        waiting: dict[bytes, _Waiting] = {}
        tokens = 0
        for row, question in asked:
            if not len(question.places):
                continue
            key = _digest(question.encoding)
            if key not in waiting:
                waiting[key] = _Waiting(question.encoding)
                tokens += question.encoding.tokens
            waiting[key].places.update(question.places.tolist())
            waiting[key].asked.append((row, question))
            if tokens >= _PASSES * self._budget:
                self._answer(waiting, totals)
                waiting, tokens = {}, 0
        self._answer(waiting, totals)
        return totals

    def _answer(self, waiting: Mapping[bytes, _Waiting], totals: Array) -> None:
        unread = []
        for key, one in waiting.items():
            known = self._kept.get(key, {})
            if one.places <= known.keys():
                _add(one, known, totals)
            else:
                unread.append((key, one))
        tokens = np.array([one.encoding.tokens for _, one in unread], dtype=np.int64)
        # Answered pass by pass: all logits of a wide vocabulary would not fit into memory together.
        for rows in micro_batches(tokens, np.arange(len(unread)), self._budget):
            some = [unread[row] for row in rows]
            for (key, one), logits in zip(some, self._pass([one for _, one in some]), strict=True):
                _add(one, logits, totals)
                self._keep(key, logits)

    def _pass(self, waiting: list[_Waiting]) -> list[dict[int, Tensor]]:
        batch = collate([one.encoding for one in waiting]).to(self._device)
        places = [sorted(one.places) for one in waiting]
        rows = [row for row, asked in enumerate(places) for _ in asked]
        at = [place for asked in places for place in asked]
        with devices.resting(), devices.autocast(self._precision, self._device):
            # The head sees the places that were asked for alone: a vocabulary of k-mers is wider than most models.
            logits = self._head(self._backbone.at_layer(batch, -1).hidden[rows, at]).float().cpu()
        pieces = logits.split([len(asked) for asked in places])
        return [
            dict(zip(asked, piece.clone().unbind(), strict=True)) for asked, piece in zip(places, pieces, strict=True)
        ]

    def _keep(self, key: bytes, logits: Mapping[int, Tensor]) -> None:
        kept = self._kept.setdefault(key, {})
        self._bytes += sum(_size(row) for place, row in logits.items() if place not in kept)
        kept.update(logits)
        while self._bytes > _KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= sum(map(_size, oldest.values()))


def _size(row: Tensor) -> int:
    return row.numel() * row.element_size()


def _digest(encoding: Encoding) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(encoding.arrays):
        array = np.ascontiguousarray(encoding.arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    # Some models read positions off the spans.
    digest.update(np.ascontiguousarray(encoding.spans).tobytes())
    return digest.digest()


def _add(one: _Waiting, logits: Mapping[int, Tensor], totals: Array) -> None:
    for row, question in one.asked:
        totals[row] += _weighed(question, logits)


def _weighed(question: Question, logits: Mapping[int, Tensor]) -> float:
    rows = torch.stack([logits[place] for place in question.places.tolist()]).double()
    shared = rows if question.among is None else rows[:, torch.from_numpy(question.among)]
    told = rows.gather(1, torch.from_numpy(question.tokens)[:, None])[:, 0] - shared.logsumexp(1)
    return float(told @ torch.from_numpy(question.weights).double())
