"""Meta-learning: weights from which a model adapts to a new task in a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from exapt import device as devices
from exapt.builtin._tasks import Drawn, Tasks
from exapt.builtin.meta_learning import MamlOptions
from exapt.errors import RecipeError
from exapt.model import MicroBatch, Model
from exapt.parts import Array, Learner, Pooled, Strategy, Training

_STEPS, _JUDGED = 1 << 29, 1 << 28
_TASKS_JUDGED = 20

State = dict[str, Tensor]
"""Parameters and buffers of a model by name, in place of its own."""


class Maml(Strategy):
    """A step adapts to each of some tasks, by a few steps on its examples, and learns from how it then answers for others.

    MAML and its first-order form: Finn, Abbeel and Levine 2017, arXiv:1703.03400. With only the heads adapting it is ANIL:
    Raghu et al. 2020, arXiv:1909.09157. Heads that are fitted in closed form are fitted to each task: without a step that is
    the episodic training of prototypes (Snell et al. 2017, arXiv:1703.05175) and of ridge (Bertinetto et al. 2019,
    arXiv:1805.08136). The epoch that is kept is the one whose model adapts best to tasks of the valid part.
    """

    def __init__(self, options: MamlOptions) -> None:
        self.options = options
        self.kept: Kept | None = None

    def attach(self, model: Learner) -> nn.Module:
        """Return what keeps the best state: a checkpoint holds it too."""
        assert isinstance(model, Model)
        self.kept = Kept(model)
        return self.kept

    def begin(self, run: Training) -> None:
        """Find the tasks. Raises ``RecipeError`` if there are none, or nothing that could adapt to one."""
        self.learner = Adapting(run.model)
        self.train = Tasks(self.options, run.train)
        self.valid = Tasks(self.options, run.valid, self.train.kind) if len(run.valid) else None
        self.train.check()
        if self.options.inner_steps and not self._adapting():
            raise RecipeError(
                'strategy \'maml\': adapts = "heads", and none of the heads learns by steps: choose adapts = "all", or '
                "inner_steps = 0"
            )
        run.note(f"maml: {self.train.told}")

    def _adapting(self) -> State:
        """Return the parameters that change inside a task."""
        of = "model.heads." if self.options.adapts == "heads" else "model."
        named = self.learner.named_parameters()
        return {name: value for name, value in named if value.requires_grad and name.startswith(of)}

    def step(self, run: Training, rows: Array, number: int) -> float:
        """Add up the gradients of some tasks and return their mean loss."""
        # All processes take the same tasks and drop out the same, so that their gradients are the same.
        devices.seed_step(run.seed, number, 0)
        chance, total = np.random.default_rng((run.seed, _STEPS, number)), 0.0
        for _ in range(self.options.batch):
            drawn = self.train.draw(chance)
            with nullcontext() if self.options.first_order else _differentiable_twice():
                state = self._adapted(run.train, drawn, run.device, graph=not self.options.first_order)
                loss = self._loss(state, _micro(run.train, drawn, drawn.queries, run.device)) / self.options.batch
                torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    def _adapted(self, rows: Any, drawn: Drawn, device: torch.device, graph: bool) -> State:
        """Return the state after the inner steps on the examples of a task; with ``graph``, gradients lead through them."""
        support, changing = _micro(rows, drawn, drawn.support, device), self._adapting()
        if self.options.adapts == "heads":
            # Below the heads nothing changes: one pass does for all steps.
            support = replace(support, inputs=self.learner.features(support))
        fitted = self.learner.fitted(changing, support)
        for _ in range(self.options.inner_steps):
            loss = self._loss({**changing, **fitted}, support)
            given = list(changing.items())
            slopes = torch.autograd.grad(
                loss, [value for _, value in given], create_graph=graph, retain_graph=True, allow_unused=True
            )
            changing = {
                name: value if slope is None else value - self.options.inner_rate * slope
                for (name, value), slope in zip(given, slopes, strict=True)
            }
            fitted = self.learner.fitted(changing, support)
        return {**changing, **fitted}

    def _loss(self, state: State, micro: MicroBatch) -> Tensor:
        loss: Tensor = functional_call(self.learner, state, (micro,))
        return loss

    def epoch_ends(self, run: Training, epoch: int) -> None:
        """Keep the model if it adapts to tasks of the valid part better than any before, or there are none to tell."""
        assert self.kept is not None
        assert isinstance(run.model, Model)
        judged = self._judged(run, measure=False)
        if not judged or judged["after"]["loss"] < float(self.kept.value):
            self.kept.keep(run.model, judged["after"]["loss"] if judged else torch.inf, epoch)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Put the kept model in place; return how well it answers for tasks of the valid part before and after adapting."""
        assert self.kept is not None
        assert isinstance(run.model, Model)
        epoch = self.kept.restore(run.model)
        facts = {"tasks": self.train.kind, "count": self.train.count, "epoch": epoch + 1}
        return {**facts, "inner_steps": self.options.inner_steps, **self._judged(run)}

    def _judged(self, run: Training, measure: bool = True) -> dict[str, dict[str, float]]:
        """Return loss and metrics of the queries of some tasks of the valid part, before and after adapting; {} of none.

        If they are not to be ``measure``d, it is the loss after adapting alone, and in a fraction of the time.
        """
        if self.valid is None or not self.valid.count:
            return {}
        self.learner.eval()
        found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
        for number in range(_TASKS_JUDGED):
            drawn = self.valid.draw(np.random.default_rng((run.seed, _JUDGED, number)))
            queries = _micro(run.valid, drawn, drawn.queries, run.device)
            adapted = self._adapted(run.valid, drawn, run.device, graph=False)
            for when, state in (("before", {}), ("after", adapted)) if measure else (("after", adapted),):
                with devices.resting():
                    found[when].append(self.learner.measured(state, queries, measure))
        return {when: _means(reports) for when, reports in found.items() if reports}


def _means(reports: list[dict[str, float]]) -> dict[str, float]:
    # A metric that a task leaves undefined is the mean over the others.
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: float(np.mean([report[name] for report in reports if name in report])) for name in names}


def _micro(rows: Any, drawn: Drawn, chosen: Array, device: torch.device) -> MicroBatch:
    """Return rows of a task as one micro-batch, in which only targets of the task are known."""
    micro: MicroBatch = rows.take(chosen, device)
    return MicroBatch(micro.inputs, drawn.only(micro.targets, rows.heads), micro.rows, micro.numbers)


def _differentiable_twice() -> AbstractContextManager[Any]:
    # The fused kernels of attention have a first derivative and no second.
    return sdpa_kernel(SDPBackend.MATH)


class Adapting(nn.Module):
    """A model that answers, is judged and is fitted under another state than its own."""

    def __init__(self, model: Learner) -> None:
        super().__init__()
        assert isinstance(model, Model)
        self.model = model

    def forward(self, micro: MicroBatch, fits: bool = False) -> Tensor | State:
        """Return the mean loss [] of some rows or, if ``fits``, the buffers of the heads that are fitted to them."""
        if fits:
            return self._fitted(micro)
        loss: Tensor = self.model(micro, self._totals(micro))
        return loss

    def features(self, micro: MicroBatch) -> dict[str, Any]:
        """Return the features of some rows by input, to stand in for these."""
        return {name: self.model.features(given) for name, given in micro.inputs.items()}

    def fitted(self, state: State, micro: MicroBatch) -> State:
        """Return the buffers of the heads that are fitted, made of some rows under a state, through which gradients lead."""
        if not any(self.model.head(name).fits for name in self.model.heads):
            return {}
        found: State = functional_call(self, state, (micro, True))
        return found

    def measured(self, state: State, micro: MicroBatch, metrics: bool) -> dict[str, float]:
        """Return the loss of some rows under a state and, of a lone head if they are wanted, its metrics."""
        loss: Tensor = functional_call(self, state, (micro,))
        report = {"loss": float(loss)}
        if metrics and len(self.model.heads) == 1:
            ((name, output),) = functional_call(_Answering(self.model), state, (micro,)).items()
            head = self.model.head(name)
            arrays = ([*output.float().cpu().numpy()], [*micro.targets[name].cpu().numpy()])
            report |= head.metrics(*arrays)
        return report

    def _totals(self, micro: MicroBatch) -> dict[str, Tensor]:
        least = torch.finfo(torch.float32).tiny
        heads = {name: self.model.head(name) for name in self.model.heads}
        return {name: head.weigh(micro.targets[name]).float().clamp(min=least) for name, head in heads.items()}

    def _fitted(self, micro: MicroBatch) -> State:
        found: State = {}
        for name in self.model.heads:
            head = self.model.head(name)
            if head.fits:
                features = {key: self.model.features(given)[head.reads] for key, given in micro.inputs.items()}
                pooled = {key: Pooled(head.reads, value.pool(head.reads)) for key, value in features.items()}
                fitted = head.fit(pooled, micro.targets[name])
                found |= {f"model.heads.{name}.{key}": value for key, value in fitted.items()}
        return found


class _Answering(nn.Module):
    """A model's answers, so that a state can be put in its place."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro: MicroBatch) -> dict[str, Tensor]:
        """Return the outputs of all heads."""
        return self.model.answer(micro)


class Kept(nn.Module):
    """The best state of a run so far, as buffers: all that can change, in the order of its names."""

    value: Tensor
    epoch: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.names = list(model.learned())
        self.register_buffer("value", torch.tensor(torch.inf))
        self.register_buffer("epoch", torch.tensor(-1))
        for place, tensor in enumerate(model.learned().values()):
            self.register_buffer(f"best_{place}", tensor)

    def keep(self, model: Model, value: float, epoch: int) -> None:
        """Keep the state of a model, and how good it is."""
        learned = model.learned()
        with torch.no_grad():
            for place, name in enumerate(self.names):
                self.get_buffer(f"best_{place}").copy_(learned[name])
        self.value.fill_(value)
        self.epoch.fill_(epoch)

    def restore(self, model: Model) -> int:
        """Put the kept state into a model and return its epoch."""
        kept = {name: self.get_buffer(f"best_{place}") for place, name in enumerate(self.names)}
        # What moved without a gradient since, and is not kept, stays as the loop left it.
        model.restore({**model.learned(), **kept})
        return int(self.epoch)
