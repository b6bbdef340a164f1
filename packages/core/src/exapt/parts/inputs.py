"""What goes into a model: encodings, batches of them, features that come out, and the tokenizer that begins it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exapt.errors import RecipeError

Pooling = Literal["mean", "cls", "max", "attention"]
Array = npt.NDArray[Any]

NO_UNIT = -1
"""Both ends of the span of a token that stands for no unit: ``<cls>``, ``<eos>``, padding."""


def unit_spans(units: int, before: int = 0, after: int = 0) -> Array:
    """Return the spans [tokens, 2] of one token per unit, with special tokens ``before`` and ``after`` them."""
    spans = np.full((before + units + after, 2), NO_UNIT, dtype=np.int64)
    spans[before : before + units] = np.arange(units)[:, None]
    return spans


@dataclass(frozen=True)
class Encoding:
    """One input as a model reads it, unpadded.

    ``arrays`` are each [tokens, ...], and ``pads`` holds the value that fills them up in a batch; an array without one
    is a fact of the whole input, of the same shape for all inputs (a species, a batch). ``spans`` [tokens, 2] holds each
    token's first and last unit, ``NO_UNIT`` for special tokens; ``length`` counts units. ``unknown`` counts units that the
    vocabulary does not know.
    """

    arrays: Mapping[str, Array]
    pads: Mapping[str, float]
    spans: Array
    length: int
    unknown: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.spans)

    @property
    def empty(self) -> bool:
        """Whether no token stands for a unit: a cell of which no gene is known pools to zeros."""
        return not (self.spans[:, 0] != NO_UNIT).any()

    @property
    def covered(self) -> Array:
        """Which units [units] a token stands for. Of others, such as genes that were cut off, the model knows nothing."""
        first, last = self.spans[self.spans[:, 0] != NO_UNIT].T
        ends = np.zeros(self.length + 1, dtype=np.int64)
        np.add.at(ends, first, 1)
        np.add.at(ends, last + 1, -1)
        covered: Array = ends.cumsum()[:-1] > 0
        return covered


@dataclass
class Batch:
    """Padded encodings: ``arrays`` [batch, tokens, ...], ``present`` [batch, tokens] True wherever there is no padding
    (special tokens included), ``spans`` [batch, tokens, 2] and ``lengths`` [batch] in units.
    """

    arrays: dict[str, Tensor]
    present: Tensor
    spans: Tensor
    lengths: Tensor
    whole: frozenset[str] = frozenset()
    """Names of the arrays that hold one fact for each input, and nothing for its tokens."""

    def __getitem__(self, name: str) -> Tensor:
        """Return one of the padded arrays, such as ``input_ids``."""
        return self.arrays[name]

    def features(self, hidden: Tensor, summary: Tensor | None = None) -> Features:
        """Wrap a model's last states ``hidden`` [batch, tokens, width] and its own whole-input vector, if it has one."""
        return Features(hidden, self.spans[..., 0] >= 0, self.spans, self.lengths, summary)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = {name: array.to(device) for name, array in self.arrays.items()}
        return Batch(moved, self.present.to(device), self.spans.to(device), self.lengths.to(device), self.whole)


@dataclass
class Features:
    """What a backbone says of a batch.

    ``hidden`` [batch, tokens, width]; ``mask`` [batch, tokens] True exactly at tokens that stand for units, never at
    special tokens or padding; ``spans`` [batch, tokens, 2] first and last unit of each token; ``lengths`` [batch] in
    units; ``summary`` [batch, width] the model's own whole-input vector, or None.
    """

    hidden: Tensor
    mask: Tensor
    spans: Tensor
    lengths: Tensor
    summary: Tensor | None = None

    def to(self, device: torch.device) -> Features:
        """Return the features on a device."""
        summary = None if self.summary is None else self.summary.to(device)
        places = (self.mask.to(device), self.spans.to(device), self.lengths.to(device))
        return Features(self.hidden.to(device), *places, summary)

    def float(self) -> Features:
        """Return the features in fp32."""
        summary = None if self.summary is None else self.summary.float()
        return Features(self.hidden.float(), self.mask, self.spans, self.lengths, summary)

    def pool(self, pooling: str) -> Tensor:
        """Return one vector per input [batch, width]: ``mean``, ``max`` or ``cls``. An input without a token gives zeros.

        Raises ``RecipeError`` for ``cls`` where the model has no whole-input vector, and for an unknown pooling.
        """
        if pooling == "cls":
            if self.summary is None:
                raise RecipeError("this backbone has no whole-input vector; use pooling 'mean', 'max' or 'attention'")
            return self.summary
        mask = self.mask.unsqueeze(-1)
        if pooling == "mean":
            total = torch.where(mask, self.hidden, 0).sum(1)
            return total / mask.sum(1).clamp(min=1)
        if pooling == "max":
            if not self.hidden.shape[1]:
                # Of no tokens at all there is no highest.
                return self.hidden.new_zeros(self.hidden.shape[0], self.hidden.shape[2])
            highest = self.hidden.masked_fill(~mask, -torch.inf).amax(1)
            return torch.where(mask.any(1), highest, torch.zeros_like(highest))
        raise RecipeError(f"unknown pooling '{pooling}'; poolings are mean, max, cls and attention")

    def attend(self, score: nn.Module) -> Tensor:
        """Return one vector per input [batch, width]: the mean of its tokens, weighted by the softmax of their ``score``.

        ``score`` takes [batch, tokens, width] to [batch, tokens, 1]. An input without a token gives zeros.
        """
        mask = self.mask.unsqueeze(-1)
        hidden = torch.where(mask, self.hidden, 0).type_as(next(score.parameters()))
        scores: Tensor = score(hidden).float()
        # The least finite number, not minus infinity: an input without a token would give NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1) * mask
        return (weights * hidden).sum(1)

    def per_unit(self) -> tuple[Tensor, Tensor]:
        """Return one vector per unit [batch, units, width] and the mask [batch, units] of units that a token covers.

        A unit under several tokens (overlapping k-mers) gets their mean; a token over several units (6-mers, BPE)
        gives its vector to each of them.
        """
        batch, _, width = self.hidden.shape
        units = int(self.lengths.max()) if batch else 0
        total = self.hidden.new_zeros(batch, units, width)
        count = self.hidden.new_zeros(batch, units)
        first, last = self.spans.unbind(-1)
        # Without a unit there is no place for tokens that cover nothing either.
        reach = int((last - first).max()) + 1 if first.numel() and units else 0
        for offset in range(reach):
            unit = first + offset
            covers = self.mask & (unit <= last)
            # Tokens that cover nothing at this offset add zero to unit 0, so that all shapes stay rectangular.
            place = torch.where(covers, unit, 0)
            value = torch.where(covers.unsqueeze(-1), self.hidden, 0)
            total = total.scatter_add(1, place.unsqueeze(-1).expand_as(value), value)
            count = count.scatter_add(1, place, covers.to(count.dtype))
        return total / count.clamp(min=1).unsqueeze(-1), count > 0


class Pooled:
    """Features that were pooled earlier and kept: ``vectors`` [batch, width] of one pooling. It cannot give units."""

    def __init__(self, pooling: str, vectors: Tensor) -> None:
        self.pooling = pooling
        self.vectors = vectors

    def pool(self, pooling: str) -> Tensor:
        """Return the kept vectors; raises ``RecipeError`` if another pooling is asked for than was kept."""
        if pooling != self.pooling:
            raise RecipeError(f"features were kept with pooling '{self.pooling}', not '{pooling}'")
        return self.vectors


class Tally(ABC):
    """Counts what becomes of the inputs while they are encoded, for what there is to tell of them all."""

    @abstractmethod
    def count(self, values: Sequence[Any], encodings: Sequence[Encoding]) -> None:
        """Take in some inputs and what became of them."""

    @abstractmethod
    def lines(self, name: str) -> list[str]:
        """Return what there is to tell, one sentence a line, of the input called ``name``; none if all is well.

        Asked once all inputs are counted, and before anything that was made of them is kept. Raises ``DataError`` where
        too little of them all is known.
        """


class Letters(Tally):
    """Counts the letters that a vocabulary does not know."""

    def __init__(self) -> None:
        self._letters = self._records = self._values = self._empty = 0

    def count(self, values: Sequence[Any], encodings: Sequence[Encoding]) -> None:
        """Take in some sequences."""
        self._letters += sum(encoding.unknown for encoding in encodings)
        self._records += sum(encoding.unknown > 0 for encoding in encodings)
        self._values += len(encodings)
        self._empty += sum(encoding.empty for encoding in encodings)

    def lines(self, name: str) -> list[str]:
        """Return one line if there were any such letters, and one if there were sequences without a token."""
        letters, values = "letter" if self._letters == 1 else "letters", "value" if self._values == 1 else "values"
        said = f"{self._letters:,} unknown {letters} in {self._records:,} of {self._values:,} {values} of '{name}'"
        nothing = f"{self._empty:,} of {self._values:,} {values} of '{name}' hold nothing that the model reads"
        return [*([said] if self._letters else []), *([nothing] if self._empty else [])]


class Tokenizer(ABC):
    """Turns one input into one unpadded ``Encoding``."""

    vocabulary: Mapping[str, int]
    """Token to id. Core fingerprints it, together with ``rules`` and what ``encode`` makes of the probe inputs."""
    rules: Mapping[str, Any] = {}
    """What else decides on tokens and might not show in the probe inputs, such as tables read from files; ready for JSON."""
    mistaken_for: Mapping[str, str] = {}
    """Other kinds of data and their letters: ``{"DNA": "ACGTUN"}`` refuses a table that holds these letters alone."""
    mask: int | None = None
    """Id of the token that hides another from a masked language model; None if there is no such token."""
    special: frozenset[int] = frozenset()
    """Ids of ``mask``, of tokens that stand for no unit, and of that for unknown ones: never hidden, never guessed."""
    ids: str = "input_ids"
    """Name of the array that holds the tokens' ids."""

    def tally(self) -> Tally:
        """Return a new tally of inputs that are about to be encoded."""
        return Letters()

    def unit_names(self, value: Any) -> Sequence[str] | None:
        """Return the name of each unit of an input, such as the genes of a cell; None if its place is all that tells it.

        Of one tokenizer all inputs have names or none has. They stand beside whatever is said unit by unit.
        """
        return None

    @abstractmethod
    def encode(self, value: Any) -> Encoding:
        """Encode one input. Raises ``DataError``, with position and character, for what the model cannot read."""
