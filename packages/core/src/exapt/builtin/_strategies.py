"""Strategies that let pretrained parameters learn as they are."""

from __future__ import annotations

from collections.abc import Iterable

from exapt.errors import RecipeError
from exapt.parts import Backbone, Learns, Strategy


class Full(Strategy):
    """Fine-tuning of every parameter of the bare model."""

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield all parameters of ``backbone.module``; a language-model head beside it stays as it was."""
        inside = {id(parameter) for parameter in backbone.module.parameters()}
        yield Learns(frozenset(name for name, parameter in backbone.named_parameters() if id(parameter) in inside))


class Scratch(Full):
    """No transfer: the same architecture, freshly initialised, learns as a whole."""

    pretrained = False


class Partial(Strategy):
    """Fine-tuning of the top blocks of those on which what the heads read depends."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Yield the parameters of the last ``blocks`` blocks. Raises ``RecipeError`` if there are not so many."""
        blocks = backbone.blocks()
        if self.blocks > len(blocks):
            raise RecipeError(f"strategy 'partial' wants the top {self.blocks} blocks; this backbone has {len(blocks)}")
        # Where the heads read a layer of the middle, what lies above it would learn nothing.
        below = backbone.reached() or blocks
        top = {id(parameter) for block in below[-self.blocks :] for parameter in block.parameters()}
        yield Learns(frozenset(name for name, parameter in backbone.named_parameters() if id(parameter) in top))
