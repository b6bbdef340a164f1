"""A pretrained language model at work: it answers many questions, of equal inputs once, in passes of similar lengths."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
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


class Logits(dict[int, Tensor]):
    """Logits [vocabulary] by place, and the logarithm of what is shared out there, worked out once."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: dict[int, tuple[Array | None, float]] = {}

    def total(self, place: int, among: Array | None) -> float:
        """Return the log of the sum of the exponentials at a place: of the whole vocabulary, or ``among`` some ids."""
        known = self._shared.get(place)
        # The same scorer hands over the same ids again and again.
        if known is None or known[0] is not among:
            row = self[place].double()
            shared = row if among is None else row[torch.from_numpy(among)]
            known = self._shared[place] = (among, float(shared.logsumexp(0)))
        return known[1]


Measure = Callable[[Question, Logits], float]
"""Returns what the answers to a question come to, from the logits [vocabulary] at each place."""


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
        self._kept: OrderedDict[bytes, Logits] = OrderedDict()
        self._bytes = 0

    @property
    def backbone(self) -> Backbone:
        """The model that is asked."""
        return self._backbone

    def sums(self, asked: Iterable[tuple[int, Question]], rows: int) -> Array:
        """Return the answers to the questions of each row, summed by their weights [rows], in double precision.

        Nothing depends on the order of the questions, nor on what else is asked, but for the last bits of fp32.
        """
        totals: Array = self.measured(asked, rows, (told,))[:, 0]
        return totals

    def measured(self, asked: Iterable[tuple[int, Question]], rows: int, measures: Sequence[Measure]) -> Array:
        """Return what each of some measures says of the answers to the questions of each row, in sum [rows, measures]."""
        totals = np.zeros((rows, len(measures)))
        waiting: dict[bytes, _Waiting] = {}
        last: Encoding | None = None
        tokens, key = 0, b""
        for row, question in asked:
            if not len(question.places):
                continue
            # A scan asks of one input many times in a row.
            if question.encoding is not last:
                last, key = question.encoding, _digest(question.encoding)
            if key not in waiting:
                waiting[key] = _Waiting(question.encoding)
                tokens += question.encoding.tokens
            waiting[key].places.update(question.places.tolist())
            waiting[key].asked.append((row, question))
            if tokens >= _PASSES * self._budget:
                self._answer(waiting, totals, measures)
                waiting, tokens = {}, 0
        self._answer(waiting, totals, measures)
        return totals

    def _answer(self, waiting: Mapping[bytes, _Waiting], totals: Array, measures: Sequence[Measure]) -> None:
        unread = []
        for key, one in waiting.items():
            known = self._kept.get(key, Logits())
            if one.places <= known.keys():
                _add(one, known, totals, measures)
            else:
                unread.append((key, one))
        tokens = np.array([one.encoding.tokens for _, one in unread], dtype=np.int64)
        # Answered pass by pass: all logits of a wide vocabulary would not fit into memory together.
        for rows in micro_batches(tokens, np.arange(len(unread)), self._budget):
            some = [unread[row] for row in rows]
            for (key, one), logits in zip(some, self._pass([one for _, one in some]), strict=True):
                _add(one, logits, totals, measures)
                self._keep(key, logits)

    def _pass(self, waiting: list[_Waiting]) -> list[Logits]:
        batch = collate([one.encoding for one in waiting]).to(self._device)
        places = [sorted(one.places) for one in waiting]
        rows = [row for row, asked in enumerate(places) for _ in asked]
        at = [place for asked in places for place in asked]
        with devices.resting(), devices.autocast(self._precision, self._device):
            # The head sees the places that were asked for alone: a vocabulary of k-mers is wider than most models.
            hidden = self._backbone.at_places(batch, torch.tensor(rows), torch.tensor(at))
            logits = self._head(hidden).float().cpu()
        answers = []
        for asked, piece in zip(places, logits.split([len(asked) for asked in places]), strict=True):
            answers.append(Logits())
            answers[-1].update(zip(asked, piece.clone().unbind(), strict=True))
        return answers

    def _keep(self, key: bytes, logits: Logits) -> None:
        kept = self._kept.setdefault(key, Logits())
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


def _add(one: _Waiting, logits: Logits, totals: Array, measures: Sequence[Measure]) -> None:
    for row, question in one.asked:
        totals[row] += [measure(question, logits) for measure in measures]


def told(question: Question, logits: Logits) -> float:
    """Return the natural-log probabilities of the tokens that a question names, by their weights."""
    total = 0.0
    asked = zip(question.places.tolist(), question.tokens.tolist(), question.weights.tolist(), strict=True)
    for place, token, weight in asked:
        total += weight * (float(logits[place].numpy()[token]) - logits.total(place, question.among))
    return total


def recovered(question: Question, logits: Logits) -> float:
    """Return of how many of the tokens that a question names the model expects none more, by their weights."""
    rows = torch.stack([logits[place] for place in question.places.tolist()])
    likeliest = rows.argmax(1) == torch.from_numpy(question.tokens)
    return float(likeliest.double() @ torch.from_numpy(question.weights).double())
