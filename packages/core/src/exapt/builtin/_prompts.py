"""Learned vectors before an input's tokens, which the blocks see and of which nobody reads what they become.

Prompt tuning: Lester, Al-Rfou & Constant 2021, arXiv:2104.08691. Before every block: Li & Liang 2021, arXiv:2101.00190; Jia
et al. 2022, arXiv:2203.12119.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType

import numpy as np
import torch
from torch import Tensor, nn

from exapt.builtin.efficient import PromptOptions
from exapt.errors import RecipeError
from exapt.parts import NO_UNIT, Backbone, Batch, Features, Learns, Strategy, Training

_NAME = "prompt"


class Prompt(Strategy):
    """Vectors before the tokens learn; the model stays as it is.

    Lester, Al-Rfou & Constant 2021, arXiv:2104.08691; with vectors of their own for every block ("deep"), Jia et al. 2022,
    arXiv:2203.12119, the form that Li & Liang 2021, arXiv:2101.00190, call a prefix.
    """

    neutral = False

    def __init__(self, options: PromptOptions, deep: bool) -> None:
        self.options, self.deep = options, deep

    @property
    def _what(self) -> str:
        return f"strategy '{'prefix' if self.deep else 'prompt'}'"

    def prepare(self, backbone: Backbone) -> None:
        """Draw the vectors [blocks, length, width]. Raises ``RecipeError`` if the model cannot take them, or has no room."""
        blocks = self._blocks(backbone)
        self._make_room(backbone)
        vectors = torch.randn(blocks, self.options.length, backbone.width) * self.options.spread
        backbone.register_parameter(_NAME, nn.Parameter(vectors))
        # Methods bound to the model, so that those of a copy of it are bound to the copy.
        for method in (_run, _between, _finish):
            _replace(backbone, method.__name__.removeprefix("_"), method)
        _replace(backbone, "at_places", Backbone.at_places)

    def _blocks(self, backbone: Backbone) -> int:
        """Return before how many blocks vectors stand."""
        if not (backbone.stepwise and backbone.blocks()):
            raise RecipeError(
                f"{self._what} puts vectors before the tokens, and this backbone does not run block by block: it cannot "
                "take them"
            )
        reached = len(backbone.reached())
        if not reached:
            raise RecipeError(f"{self._what} changes what blocks see, and what the heads read lies before all of them")
        return reached if self.deep else 1

    def _make_room(self, backbone: Backbone) -> None:
        most, length = backbone.max_tokens, self.options.length
        if most is None:
            return
        if length >= most:
            raise RecipeError(
                f"{self._what}: {length} vectors leave no room in the {most} tokens that this backbone takes"
            )
        backbone.max_tokens = most - length

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the vectors."""
        yield Learns(frozenset({_NAME}))

    def begin(self, run: Training) -> None:
        """Answer for one row. Raises ``RecipeError`` if the model reads something of each token that a vector has not."""
        run.predict(run.train.subset(np.arange(1)).settled())


def _replace(backbone: Backbone, name: str, method: Callable[..., object]) -> None:
    setattr(backbone, name, MethodType(method, backbone))


def _vectors(backbone: Backbone) -> Tensor:
    return backbone.get_parameter(_NAME)


def _before(vectors: Tensor, hidden: Tensor) -> Tensor:
    if hidden.shape[-1] != vectors.shape[-1]:
        raise RecipeError(
            "vectors cannot stand before the tokens of this backbone: what passes between its blocks is more than states"
        )
    return torch.cat([vectors.to(hidden.dtype).expand(len(hidden), -1, -1), hidden], 1)


def _run(backbone: Backbone, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
    """Return ``hidden`` after the blocks ``start`` to ``stop`` (exclusive), which see the vectors too.

    It takes embeddings [batch, tokens, width] and returns [batch, length + tokens, width].
    """
    vectors, kind = _vectors(backbone), type(backbone)
    deep, length = vectors.shape[:2]
    # What comes from the stem has no vectors yet, so that embeddings stay those of the tokens.
    if hidden.shape[1] == batch.present.shape[1]:
        hidden = _before(vectors[0], hidden)
    longer = _longer(batch, length)
    if deep == 1:
        return kind.run(backbone, hidden, longer, start, stop)
    for block in range(start, stop):
        if 0 < block < deep:
            hidden = _before(vectors[block], hidden[:, length:])
        hidden = kind.run(backbone, hidden, longer, block, block + 1)
    return hidden


def _between(backbone: Backbone, hidden: Tensor, batch: Batch) -> Features:
    """Return the features of a layer, of the tokens alone."""
    return type(backbone).between(backbone, _tokens(hidden, batch), batch)


def _finish(backbone: Backbone, hidden: Tensor, batch: Batch) -> Features:
    """Return the features of the last layer, of the tokens alone."""
    return type(backbone).finish(backbone, _tokens(hidden, batch), batch)


def _tokens(hidden: Tensor, batch: Batch) -> Tensor:
    return hidden[:, hidden.shape[1] - batch.present.shape[1] :]


class _OfInputs(dict[str, Tensor]):
    """What is known of whole inputs; of single tokens nothing can be asked, for a vector is none."""

    def __missing__(self, name: str) -> Tensor:
        raise RecipeError(
            f"vectors cannot stand before the tokens of this backbone: its blocks read '{name}' of each token"
        )


def _longer(batch: Batch, length: int) -> Batch:
    """Return a batch as the blocks see it, with ``length`` tokens more, of no unit, before each input."""
    rows = len(batch.present)
    present = torch.cat([batch.present.new_ones(rows, length), batch.present], 1)
    spans = torch.cat([batch.spans.new_full((rows, length, 2), NO_UNIT), batch.spans], 1)
    facts = _OfInputs({name: batch.arrays[name] for name in batch.whole})
    return Batch(facts, present, spans, batch.lengths, batch.whole)
