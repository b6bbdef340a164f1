"""Elastic weight consolidation: what earlier tasks need is held where they left it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exapt.builtin._likelihood import drawn, surprise
from exapt.builtin._memory import read_memory, write_memory
from exapt.builtin.continual import ElasticOptions
from exapt.errors import RecipeError
from exapt.parts import Step, Strategy, Training

_NAME = "ewc"


class Elastic(Strategy):
    """Each weight is held where the tasks before left it, as hard as its Fisher information for them says.

    EWC: Kirkpatrick et al. 2017, arXiv:1612.00796. One penalty for all tasks, around the last one's weights: online EWC,
    Schwarz et al. 2018, arXiv:1805.06370, after Huszar 2018, arXiv:1712.03847.
    """

    def __init__(self, options: ElasticOptions) -> None:
        self.options = options
        self._kept: dict[str, Tensor] = {}
        self._tasks = 0
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def begin(self, run: Training) -> None:
        """Read what earlier tasks need. Raises ``RecipeError`` if it is of another model."""
        if not self.options.memory:
            return
        self._kept, facts = read_memory(self.options.memory, _NAME)
        self._tasks = int(facts["tasks"])
        learning = dict(_learning(run))
        for name, fisher in self._kept.items():
            what, number, parameter = name.split(".", 2)
            if what != "fisher" or parameter not in learning:
                continue
            if learning[parameter].shape != fisher.shape:
                raise RecipeError(f"strategy 'ewc': its memory is of another model: '{parameter}' has another shape")
            anchor = self._kept[f"anchor.{number}.{parameter}"]
            self._held.append((learning[parameter], anchor.to(run.device), fisher.to(run.device)))
        if not self._held:
            raise RecipeError(
                "strategy 'ewc': its memory is of another model: of all that it holds nothing learns here"
            )

    def loss(self, step: Step) -> Tensor | None:
        """Return the penalty [], the same for all rows; none in a first task."""
        return self.options.weight / 2 * self._pull() if self._held else None

    def _pull(self) -> Tensor:
        return torch.stack([(fisher * (now.float() - then).square()).sum() for now, then, fisher in self._held]).sum()

    def end(self, run: Training) -> Mapping[str, Any]:
        """Keep what this task needs, if that is asked for; return how many tasks were held, and the penalty at the end."""
        with torch.no_grad():
            held = (
                {"tasks": self._tasks, "penalty": float(self.options.weight / 2 * self._pull())} if self._held else {}
            )
        if self.options.keep:
            write_memory(self.options.keep, _NAME, self._with(run, self._information(run)), {"tasks": self._tasks + 1})
        return held

    def _with(self, run: Training, information: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the memory with this task in it."""
        number = self._tasks if self.options.anchors == "each" else 0
        kept, now = dict(self._kept), dict(_learning(run))
        for name, fisher in information.items():
            before = kept.get(f"fisher.{number}.{name}")
            kept[f"fisher.{number}.{name}"] = fisher if before is None else self.options.decay * before + fisher
            kept[f"anchor.{number}.{name}"] = now[name].detach().float().cpu()
        return kept

    def _information(self, run: Training) -> dict[str, Tensor]:
        """Return the diagonal of the Fisher information of all that learns, on the CPU: mean squared gradients."""
        learning = dict(_learning(run))
        chosen = np.random.default_rng(run.seed).permutation(len(run.train))[: self.options.rows or None]
        torch.manual_seed(run.seed)
        total = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in learning.items()}
        for row in chosen:
            # One by one: the square of a sum of gradients is not the sum of their squares.
            gradients = torch.autograd.grad(
                self._surprise(run, int(row)), list(learning.values()), allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(learning, gradients, strict=True):
                total[name] += gradient.float().square()
        return {name: (squares / len(chosen)).cpu() for name, squares in total.items()}

    def _surprise(self, run: Training, row: int) -> Tensor:
        """Return the surprise [] at one row's targets, or at answers drawn in their place, over all heads."""
        model: Any = run.model
        model.eval()
        losses = []
        for part in run.train.settled().passes():
            micro = part.take(np.array([row]), run.device)
            for name, output in model.answer(micro, part.heads).items():
                head, target = model.head(name), micro.targets[name]
                if self.options.fisher == "sampled":
                    target = drawn(head, output.detach(), target)
                losses.append(surprise(head, output, target))
        return torch.stack(losses).sum()


def _learning(run: Training) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield all that learns, of the backbone and of the heads, by name."""
    for prefix, module in (("backbone", run.model.backbone), ("heads", run.model.heads)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter
