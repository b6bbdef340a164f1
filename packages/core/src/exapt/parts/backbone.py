"""What was pretrained: a backbone, its language model, and how it reads what is too long for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from exapt.errors import RecipeError
from exapt.parts.inputs import Batch, Features


@dataclass(frozen=True)
class LanguageModel:
    """What a pretrained model says of its tokens: ``head`` takes its last states [..., width] to logits [..., vocabulary].

    A ``masked`` model says which token stands where one is hidden, a ``causal`` one which comes next. One of ``values``
    takes them to [..., 1] instead: how much stands where the value of a token is hidden. An ``ordered`` one says which
    token stands at a place from those that come before it in an order that the input itself names.
    """

    head: nn.Module
    objective: Literal["masked", "causal", "values", "ordered"]


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
    features_layer: int = -1
    """The layer whose states stand for an input, to heads with labels and in embeddings, unless another is asked for."""
    lora_targets: tuple[str, ...] = ()
    """Last names of the linear layers inside ``blocks()`` that low-rank updates go to; empty for all of them."""
    bottleneck_targets: tuple[str, ...] = ()
    """Last names of the layers inside ``blocks()`` at which bottleneck adapters stand; empty for the blocks themselves."""
    layer: int = -1
    """The layer that heads read, -1 the last. Core sets it."""
    recompute: bool = False
    """Whether activations inside blocks are computed again for the gradient instead of kept. Core sets it."""
    notes: Sequence[str] = ()
    """What there is to tell of its weights, such as tensors of the checkpoint that it leaves aside."""
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

    def reached(self) -> Sequence[nn.Module]:
        """Return the blocks on which what the heads read depends, from input to output."""
        blocks = self.blocks()
        return blocks if self.layer == -1 else blocks[: self.layer]

    def stem(self, batch: Batch) -> Tensor:
        """Return the embeddings, ``hidden`` before the first block."""
        raise RecipeError(f"{type(self).__name__} gives features of its last layer only")

    def run(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Return ``hidden`` after the blocks ``start`` to ``stop`` (exclusive)."""
        raise RecipeError(f"{type(self).__name__} gives features of its last layer only")

    def between(self, hidden: Tensor, batch: Batch) -> Features:
        """Return the features of a layer below the last: ``hidden`` as ``run`` returns it, which may hold more than them."""
        return batch.features(hidden)

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

    def _through(self, hidden: Tensor, batch: Batch, stop: int, start: int = 0) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return self.run(hidden, batch, start, stop)
        for block in range(start, stop):
            hidden = checkpoint(self.run, hidden, batch, block, block + 1, use_reentrant=False)
        return hidden

    def in_windows(self, batch: Batch) -> bool:
        """Whether a batch has inputs longer than the model takes, which are read in windows."""
        return bool(self.windows and self.max_tokens and batch.present.shape[1] > self.max_tokens)

    def at_layer(self, batch: Batch, layer: int) -> Features:
        """Return the features of a layer: 0 embeddings, n after block n; the last includes what ``finish`` adds.

        Inputs longer than ``max_tokens`` are read in windows, where ``windows`` allows it. Raises ``RecipeError`` if the
        model has no such layer, or cannot be run in steps.
        """
        if self.in_windows(batch):
            from exapt.windows import pooled

            return pooled(self, batch, lambda windows: self._at_layer(windows, layer))
        return self._at_layer(batch, layer)

    def onward(self, hidden: Tensor, batch: Batch, start: int, layer: int) -> Features:
        """Return the features of a layer as ``at_layer`` does, from ``hidden`` as it is after the first ``start`` blocks."""
        last = len(self.blocks())
        if layer in (-1, last):
            return self.finish(self._through(hidden, batch, last, start), batch)
        return self.between(self._through(hidden, batch, layer, start), batch)

    def at_places(self, batch: Batch, rows: Tensor, places: Tensor) -> Tensor:
        """Return the last states [asked, width] of some tokens alone: of inputs ``rows`` [asked] those at ``places`` [asked].

        The tokens of each input stand together, in the order of the inputs. A model that can leave out work on all other
        tokens does so here; nothing else may differ. Called without gradients.
        """
        return self.at_layer(batch, -1).hidden[rows.to(batch.present.device), places.to(batch.present.device)]

    def _at_layer(self, batch: Batch, layer: int) -> Features:
        last = len(self.blocks())
        if layer in (-1, last):
            return cast_features(self(batch))
        if not 0 <= layer < last:
            raise RecipeError(f"there is no layer {layer}: this backbone has layers 0 to {last}")
        return self.between(self._through(self.stem(batch), batch, layer), batch)


def cast_features(features: Features) -> Features:
    """Narrow what ``nn.Module.__call__`` returns; raises ``TypeError`` if a plugin returns something else."""
    if not isinstance(features, Features):
        raise TypeError(f"a backbone returns Features, not {type(features).__name__}")
    return features
