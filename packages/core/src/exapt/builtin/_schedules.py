"""When and how fast each part of a backbone learns, by its blocks.

What stands before the blocks goes with the input, what stands behind them with the top block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from exapt.builtin.schedules import RatesOptions, Stage, UnfreezingOptions
from exapt.errors import RecipeError
from exapt.parts import Backbone, Learns, Strategy

NEVER = 1 << 30


class GradualUnfreezing(Strategy):
    """What is general is kept for longer: blocks begin to learn one after the other, the most special ones first.

    Howard & Ruder 2018, arXiv:1801.06146.
    """

    def __init__(self, options: UnfreezingOptions) -> None:
        self.options = options

    def arrange(self, backbone: Backbone, learns: Sequence[Learns]) -> Sequence[Learns]:
        """Return what learns, each part from the epoch in which its stage begins; what no stage reaches is left out.

        Raises ``RecipeError`` if a stage has more blocks than there are, or none of the stages reaches anything that learns.
        """
        count = len(_blocks(backbone, "gradual-unfreezing"))
        begins = self._begins(count)
        timed = [
            replace(one, names=names, since=max(one.since, begins[place]))
            for one in learns
            for place, names in _by_place(backbone, one.names).items()
            if begins[place] != NEVER
        ]
        if not timed:
            raise RecipeError(
                "strategy 'gradual-unfreezing': none of its stages reaches what the other strategies let learn"
            )
        return timed

    def _begins(self, count: int) -> Mapping[int, int]:
        """Return the epoch from which each place learns, -1 what stands before the blocks and ``count`` what is behind."""
        begins = dict.fromkeys(range(-1, count + 1), NEVER)
        epoch = 0
        for number, stage in enumerate(self._stages(count), 1):
            if stage.blocks != "all" and stage.blocks > count:
                raise RecipeError(
                    f"strategy 'gradual-unfreezing': stage {number} lets {stage.blocks} blocks learn, and what the heads "
                    f"read depends on {count}"
                )
            lowest = -1 if stage.blocks == "all" else count - stage.blocks if stage.blocks else count + 1
            for place in range(lowest, count + 1):
                begins[place] = min(begins[place], epoch)
            epoch += stage.epochs
        return begins

    def _stages(self, count: int) -> Sequence[Stage]:
        if self.options.stages:
            return self.options.stages
        options = self.options
        more = options.blocks or -(-count // 3)
        steps: list[int | Literal["all"]] = [more] if more > count else [*range(more, count, more), "all"]
        heads = [Stage(blocks=0, epochs=options.head_epochs)] if options.head_epochs else []
        return [*heads, *(Stage(blocks=blocks, epochs=options.every) for blocks in steps)]

    def rate(self, epoch: int) -> float:
        """Return the rate of the stage that an epoch is in."""
        for stage in self.options.stages:
            epoch -= stage.epochs
            if epoch < 0:
                return stage.rate
        return self.options.stages[-1].rate if self.options.stages else 1.0


class DiscriminativeRates(Strategy):
    """Lower blocks, which know what is general, move less.

    Howard & Ruder 2018, arXiv:1801.06146; by a decay from layer to layer: Clark et al. 2020, arXiv:2003.10555, and Bao et
    al. 2022, arXiv:2106.08254.
    """

    def __init__(self, options: RatesOptions) -> None:
        self.options = options

    def arrange(self, backbone: Backbone, learns: Sequence[Learns]) -> Sequence[Learns]:
        """Return what learns, each part at the rate of its place. Raises ``RecipeError`` if a group names no block."""
        factor = self._factor(len(_blocks(backbone, "discriminative-rates")), len(backbone.blocks()))
        return [
            replace(one, names=names, rate=one.rate * factor(place))
            for one in learns
            for place, names in _by_place(backbone, one.names).items()
        ]

    def _factor(self, count: int, all_blocks: int) -> Callable[[int], float]:
        """Return the function from a place to what its rates are multiplied by."""
        if not self.options.groups:
            return lambda place: self.options.decay ** max(0, count - 1 - place)
        rates = {place: group.rate for group in self.options.groups for place in group.places}
        if max(rates) >= all_blocks:
            raise RecipeError(
                f"strategy 'discriminative-rates': groups name block {max(rates)}; this backbone has blocks 0 to "
                f"{all_blocks - 1}"
            )
        return lambda place: rates.get(min(max(place, 0), count - 1), 1.0)


def _blocks(backbone: Backbone, strategy: str) -> Sequence[nn.Module]:
    """Return the blocks on which what the heads read depends. Raises ``RecipeError`` if there are none."""
    if not backbone.blocks():
        raise RecipeError(f"strategy '{strategy}' goes block by block, and this backbone has no blocks")
    blocks = backbone.reached()
    if not blocks:
        raise RecipeError(f"strategy '{strategy}' goes block by block, and what the heads read lies before all of them")
    return blocks


def _by_place(backbone: Backbone, names: frozenset[str]) -> Mapping[int, frozenset[str]]:
    """Return names of parameters by the block that they stand in: -1 before all blocks, their number behind them."""
    blocks = backbone.reached()
    of = {id(parameter): place for place, block in enumerate(blocks) for parameter in _own(block)}
    found: dict[int, set[str]] = defaultdict(set)
    place = -1
    # A model has its parts in the order in which it goes through them.
    for name, parameter in backbone.named_parameters():
        inside = of.get(id(parameter))
        if inside is not None and place < len(blocks):
            place = len(blocks)
        if name in names:
            found[place if inside is None else inside].add(name)
    return {place: frozenset(several) for place, several in found.items()}


def _own(block: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a block, and of what was hung onto its layers from outside, as bottlenecks are."""
    yield from block.parameters()
    for module in block.modules():
        for hook in module._forward_hooks.values():
            for part in vars(hook).values() if hasattr(hook, "__dict__") else ():
                if isinstance(part, nn.Module):
                    yield from part.parameters()
