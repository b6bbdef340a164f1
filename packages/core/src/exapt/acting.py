"""The strategies of a run as the one loop asks them: their own modules, what they blend, weigh and add to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exapt.errors import PluginError
from exapt.parts import Blend, Learner, Step, Strategy


class Acting(nn.Module):
    """The strategies of a run, by name, over the modules of their own.

    It stands inside the model, so that what these modules learn is learned in the one forward pass.
    """

    def __init__(self, strategies: Mapping[str, Strategy], model: Learner) -> None:
        super().__init__()
        self.strategies = dict(strategies)
        modules = {name: strategy.attach(model) for name, strategy in self.strategies.items()}
        self.own = nn.ModuleDict({_key(name): module for name, module in modules.items() if module is not None})

    @property
    def in_passes(self) -> bool:
        """Whether any strategy has a say inside the model's forward pass."""
        hooks = ("attach", "blend", "combine", "loss")
        strategies = self.strategies.values()
        return any(getattr(type(one), hook) is not getattr(Strategy, hook) for one in strategies for hook in hooks)

    @property
    def streams(self) -> list[str]:
        """The rows that are to come beside those of train."""
        return list(dict.fromkeys(name for strategy in self.strategies.values() for name in strategy.streams))

    @property
    def whole(self) -> bool:
        """Whether a step stays one micro-batch: its rows are compared, or have partners in streams."""
        return bool(self.streams) or any(strategy.whole for strategy in self.strategies.values())

    def blend(
        self, features: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Tensor], readings: Iterable[str]
    ) -> Blend | None:
        """Return the features that the first strategy that blends any makes."""
        every = list(readings)
        blends = (strategy.blend(features, targets, every) for strategy in self.strategies.values())
        return next((blend for blend in blends if blend is not None), None)

    def combine(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the losses of the heads as the strategies weigh them, one after the other."""
        for strategy in self.strategies.values():
            losses = strategy.combine(losses)
        return losses

    def loss(self, step: Step) -> Tensor | None:
        """Return the sum [] of what the strategies add to the loss, as the share of the step that it is of; None if none does."""
        given = {name: strategy.loss(step) for name, strategy in self.strategies.items()}
        added = {name: loss for name, loss in given.items() if loss is not None}
        for name, loss in added.items():
            if loss.dim():
                raise PluginError(f"strategy '{name}' gives a loss of shape {list(loss.shape)} and not one number")
        shared = [_share(step, self.strategies[name].over) * loss.float() for name, loss in added.items()]
        return torch.stack(shared).sum() if shared else None


def _share(step: Step, over: str) -> float:
    return (step.streams[over] if over else step.source).share


def _key(name: str) -> str:
    # No module can have a dot in its name.
    return name.replace(".", "_")


def readings_of(heads: Sequence[Any]) -> list[str]:
    """Return what heads read, each once."""
    return list(dict.fromkeys(head.reads for head in heads))
