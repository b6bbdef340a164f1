"""The contract of the heavy half: what a tokenizer, a backbone, a head and a strategy are, and what passes between them.

Sizes are written [batch, tokens, width]. A *unit* is what a biologist counts: a residue, a base, a gene; a *token* is
what a model reads. Core alone pads, buckets and moves to a device; a part never does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
        reach = int((last - first).max()) + 1 if first.numel() else 0
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


class Tokenizer(ABC):
    """Turns one input into one unpadded ``Encoding``."""

    vocabulary: Mapping[str, int]
    """Token to id. Core fingerprints it, together with what ``encode`` makes of the probe inputs."""
    mistaken_for: Mapping[str, str] = {}
    """Other kinds of data and their letters: ``{"DNA": "ACGTUN"}`` refuses a table that holds these letters alone."""
    mask: int | None = None
    """Id of the token that hides another from a masked language model; None if there is no such token."""
    special: frozenset[int] = frozenset()
    """Ids of the tokens that stand for no unit, ``mask`` included: never hidden, never guessed."""
    ids: str = "input_ids"
    """Name of the array that holds the tokens' ids."""

    @abstractmethod
    def encode(self, value: Any) -> Encoding:
        """Encode one input. Raises ``DataError``, with position and character, for what the model cannot read."""


@dataclass(frozen=True)
class LanguageModel:
    """What a pretrained model says of its tokens: ``head`` takes its last states [..., width] to logits [..., vocabulary].

    A ``masked`` model says which token stands where one is hidden, a ``causal`` one which comes next.
    """

    head: nn.Module
    objective: Literal["masked", "causal"]


@dataclass(frozen=True)
class Windows:
    """How an input longer than the model takes is read: in windows of ``max_tokens``.

    ``overlap`` is the share of a window that the next one repeats. ``pool`` puts the states of all windows together
    again; ``score`` makes each window an input of its own.
    """

    mode: Literal["pool", "score"]
    overlap: float


class Backbone(nn.Module):
    """A pretrained model.

    The least that is asked: ``width``, and either ``forward`` or its three steps ``stem``, ``run`` and ``finish``.
    With the steps, features come from any layer; with ``blocks``, parts of the model can learn.
    """

    width: int
    max_tokens: int | None = None
    """The most tokens that one input may have, special ones included; None if there is no limit."""
    lora_targets: tuple[str, ...] = ()
    """Last names of the linear layers inside ``blocks()`` that low-rank updates go to; empty for all of them."""
    recompute: bool = False
    """Whether activations inside blocks are computed again for the gradient instead of kept. Core sets it."""
    windows: Windows | None = None
    """How inputs longer than ``max_tokens`` are read; None to refuse them. Core sets it from the user's options."""

    @property
    def module(self) -> nn.Module:
        """The bare inner model, on which PEFT sits and whose parameters ``full`` lets learn."""
        return self

    @property
    def language(self) -> LanguageModel | None:
        """The pretrained language model's head; None if the model, or this checkpoint of it, has none."""
        return None

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks from input to output; none if the model is not built of blocks."""
        return ()

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings, ``hidden`` before the first block."""
        raise RecipeError(f"{type(self).__name__} gives features of its last layer only")

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the blocks ``start`` to ``stop`` (exclusive)."""
        raise RecipeError(f"{type(self).__name__} gives features of its last layer only")

    def finish(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of the last layer: ``hidden`` after all blocks, with whatever follows them."""
        return batch.features(hidden)

    def forward(self, batch: Batch) -> Features:
        """Return the features of the last layer."""
        return self.finish(self._through(self.stem(batch), batch, len(self.blocks())), batch)

    @property
    def stepwise(self) -> bool:
        """Whether it can be run block by block."""
        return type(self).run is not Backbone.run

    def _through(self, hidden: Tensor, batch: Batch, stop: int) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return self.run(hidden, batch, 0, stop)
        for block in range(stop):
            hidden = checkpoint(self.run, hidden, batch, block, block + 1, use_reentrant=False)
        return hidden

    def at_layer(self, batch: Batch, layer: int) -> Features:
        """Return the features of a layer: 0 embeddings, n after block n; the last includes what ``finish`` adds.

        Inputs longer than ``max_tokens`` are read in windows, where ``windows`` allows it. Raises ``RecipeError`` if the
        model has no such layer, or cannot be run in steps.
        """
        if self.windows and self.max_tokens and batch.present.shape[1] > self.max_tokens:
            from exapt.windows import cut, merged

            pieces, plan = cut(batch, self.max_tokens, self.windows.overlap)
            return merged(self._at_layer(pieces, layer), batch, plan)
        return self._at_layer(batch, layer)

    def _at_layer(self, batch: Batch, layer: int) -> Features:
        last = len(self.blocks())
        if layer in (-1, last):
            return cast_features(self(batch))
        if not 0 <= layer < last:
            raise RecipeError(f"there is no layer {layer}: this backbone has layers 0 to {last}")
        return batch.features(self._through(self.stem(batch), batch, layer))


def cast_features(features: Features) -> Features:
    """Narrow what ``nn.Module.__call__`` returns; raises ``TypeError`` if a plugin returns something else."""
    if not isinstance(features, Features):
        raise TypeError(f"a backbone returns Features, not {type(features).__name__}")
    return features


@dataclass(frozen=True)
class HeadContext:
    """What a head is built from: the width of each input's features, and what it needs to pose questions of its own.

    ``language`` maps inputs to the pretrained language model of their backbone, where it has one; ``tokenizer`` makes
    the encodings of all inputs.
    """

    widths: Mapping[str, int]
    language: Mapping[str, LanguageModel] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None


class Head(nn.Module, ABC):
    """A question: it reads features, and has its own loss, its own metrics and its own words for the answer."""

    reads: str = "tokens"
    """The pooling without parameters that this head reads (``mean``, ``max``, ``cls``), or ``tokens`` for the whole."""
    answers: Literal["input", "unit", "token"] = "input"
    """What ``forward`` answers for: an input, [batch, ...], each of its units, [batch, units, ...], or tokens."""
    labelled: bool = True
    """Whether its targets are labels of the data; if not, ``pose`` makes them of the input itself."""
    pad: float = -100
    """What fills up targets of unequal length; ``weigh`` and ``loss`` leave it out."""
    metric: str
    """The metric by which the best epoch is chosen, unless the recipe names another."""

    @property
    def ragged(self) -> bool:
        """Whether inputs differ in how many answers they have: one for each unit or token."""
        return self.answers != "input"

    def adjust(self, features: Mapping[str, Any]) -> None:
        """See the features of some training examples of a frozen backbone, once, before training: to set a normalisation.

        It is not called where the backbone learns, since its features then move.
        """

    def encode(self, label: Any, length: int) -> Array:
        """Return one label as a target array: [] or [targets] per input, [units] where it answers per unit.

        Raises ``DataError`` for a label that the head does not know or whose length differs from the input's.
        """
        raise RecipeError(f"{type(self).__name__} takes no labels")

    def pose(self, encoding: Encoding, rng: np.random.Generator) -> tuple[Encoding, Array]:
        """Return an input as the model is to see it (such as with tokens hidden), and the target [tokens].

        Asked only of heads without labels, anew each time an input is seen in training; all chance is to come from
        ``rng``.
        """
        raise RecipeError(f"{type(self).__name__} learns from labels")

    def condense(self, output: Tensor, target: Tensor) -> Tensor:
        """Return what of a batch's outputs is kept until all rows are measured: all of it, unless that is too much.

        Only of heads without labels; ``loss``, ``decode`` and ``metrics`` then meet what was kept.
        """
        return output

    @abstractmethod
    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Answer: [batch, answers], or [batch, units or tokens, answers], as ``answers`` says. ``features`` maps inputs to
        ``Features`` (or ``Pooled``, if ``reads`` is a pooling).
        """

    @abstractmethod
    def weigh(self, target: Tensor) -> Tensor:
        """Return the summed weight [] of the targets that count; the loss is divided by it over the whole step."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the weighted *sum* [] of the losses of all targets that count."""

    @abstractmethod
    def decode(self, outputs: Sequence[Array]) -> dict[str, list[Any]]:
        """Put outputs, one array per input (padding cut off), into words: columns such as ``prediction``."""

    @abstractmethod
    def metrics(self, outputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, float]:
        """Return the metrics of outputs against targets, one array per input each."""


@dataclass(frozen=True)
class Learns:
    """Parameters of the backbone, by name, that learn, at a multiple ``rate`` of the recipe's learning rate."""

    names: frozenset[str] = field(default_factory=frozenset)
    rate: float = 1.0


class Strategy:
    """How knowledge is transferred. The base class transfers frozen features: nothing of the backbone learns."""

    pretrained: bool = True
    """Whether the pretrained weights are used; if not, the same architecture starts from fresh ones."""

    def prepare(self, backbone: Backbone) -> None:
        """Add to the backbone what the strategy needs, before anything is set to learn."""

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Say what of the backbone learns. Raises ``RecipeError`` if the strategy fits nothing of this backbone."""
        return ()


@dataclass(frozen=True)
class Changed:
    """An input after a change.

    ``units`` [units] says of each unit which one of the input it was before, ``NO_UNIT`` for a new one; None where every
    unit stayed in its place.
    """

    value: Any
    units: Array | None = None


class Augmentation:
    """Changes inputs without changing what they mean, before they are encoded."""

    trains: bool = True
    """Whether ``change`` does anything, so that no features can be kept of training rows."""

    def change(self, value: Any, rng: np.random.Generator) -> Changed:
        """Return a training input, changed at random; all chance is to come from ``rng``."""
        return Changed(value)

    def views(self, value: Any) -> Sequence[Changed]:
        """Return other views of an input: the answers for all of them are averaged with the answer for itself."""
        return ()


@dataclass(frozen=True)
class Question:
    """What a scorer asks of a language model: how probable are some tokens at some places of one input.

    ``places`` [asked] are token positions of ``encoding``, ``tokens`` [asked] the ids that might stand there, ``weights``
    [asked] what their natural-log probabilities count in the score. A masked model answers of the token at a place, a
    causal one of the token after it. ``among`` are the ids that share the probability; None for the whole vocabulary.
    """

    encoding: Encoding
    places: Array
    tokens: Array
    weights: Array
    among: Array | None = None


class Scorer(ABC):
    """Tells the effect of a variant from what a pretrained language model expects, without labels."""

    @abstractmethod
    def ask(self, tokenizer: Tokenizer, wild: Any, mutant: Any) -> Iterable[Question]:
        """Yield what to ask about a pair of inputs.

        The score is the sum of all answers by their weights: above 0 where the model expects the mutant more than the
        wild type. Equal encodings cost one pass, whoever asks. Raises ``DataError``, saying which other scorer to use,
        for a pair that this one cannot compare.
        """
