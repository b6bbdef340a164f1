"""The one loop, split by level: ``fit`` over epochs, ``_epoch`` over steps, ``_step`` over micro-batches.

Algorithms are data to it: what learns, and at what rate, was settled by the strategies before it starts. A step is
``batch_size`` rows however many micro-batches and processes it is split over, so its result does not depend on either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin, gather_object
from torch import Tensor, nn

from exapt import device as devices
from exapt.checkpoint import Checkpoints, Position
from exapt.data.batching import micro_batches, training_steps
from exapt.errors import DataError, RecipeError, did_you_mean, listed
from exapt.events import Event
from exapt.measuring import Report, predict, score
from exapt.metrics import better
from exapt.model import MicroBatch, Model
from exapt.parts import Array
from exapt.recipe import TrainingOptions
from exapt.rows import Rows

# Each process holds the whole model: checkpoints and evaluation rely on it.
_REPLICATED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass
class Progress:
    """Where a run stands, as plain facts: they are written into checkpoints."""

    position: Position = field(default_factory=Position)
    best_epoch: int = -1
    best_metric: str = ""
    best_value: float = math.nan
    epoch_loss: float = 0.0


class Trainer:
    """Trains a model whose strategies have been applied. ``rates`` holds the rate multiple of each backbone parameter."""

    def __init__(
        self,
        model: Model,
        options: TrainingOptions,
        rates: Mapping[str, float],
        seed: int,
        tell: Callable[[Event], None],
    ) -> None:
        self.options, self.seed, self.tell = options, seed, tell
        # Not every backbone uses all that learns in every pass, which DDP has to be told.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=bool(rates))
        # A step is the recipe's: no launcher's setting divides it once more.
        whole = GradientAccumulationPlugin(num_steps=1)
        self.device = next(model.parameters()).device
        self.budget = options.max_tokens or devices.token_budget(self.device)
        # The recipe's own precision is kept inside the model, whatever the launcher was told.
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision="no",
            kwargs_handlers=[ddp],
            gradient_accumulation_plugin=whole,
        )
        _refuse_sharding(self.accelerator)
        groups = _parameter_groups(model, options, rates)
        # What learns must be leaf parameters of the wrapped model, so the optimiser is made before the wrapping.
        optimizer = torch.optim.AdamW(groups)
        prepared = self.accelerator.prepare(model, optimizer)
        self.wrapped: nn.Module = prepared[0]
        self.optimizer: Any = prepared[1]
        self.model: Model = self.accelerator.unwrap_model(self.wrapped)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def fit(self, train: Rows, valid: Rows, checkpoints: Checkpoints) -> None:
        """Train to the end and leave the model in its best state (the last, where there are no valid rows).

        Continues from the newest checkpoint, if ``checkpoints`` holds one.
        """
        self._resume(checkpoints)
        self.total_steps = self.options.epochs * len(self._order(train, 0))
        if self.options.metric:
            # A wrong name is to be refused before hours of training, not after the first of them.
            self._refuse_unknown_metric(self._validated(valid))
        while self.progress.position.epoch < self.options.epochs and not self._patience_is_over():
            self._epoch(train, valid, checkpoints)
        if self.best:
            self.model.restore(self.best)
        self.model.settle()
        self.model.eval()

    def evaluate(self, rows: Rows, views: bool = True) -> Report:
        """Return loss and metrics of all heads; the work is shared by all processes, the answer is known to each.

        Answers are averaged over the ``views`` of augmentations, unless they are left out.
        """
        if not len(rows):
            return {}
        mine = np.arange(self.accelerator.process_index, len(rows), self.accelerator.num_processes)
        outputs = predict(self.model, rows, mine, self.budget, views=views)
        gathered: dict[int, dict[str, Array]] = dict(gather_object(list(outputs.items())))
        return score(self.model, rows, [gathered[row] for row in range(len(rows))])

    def _validated(self, valid: Rows) -> Report:
        # To choose an epoch one view does, at a fraction of the cost.
        return {f"valid.{name}": value for name, value in self.evaluate(valid, views=False).items()}

    def _epoch(self, train: Rows, valid: Rows, checkpoints: Checkpoints) -> None:
        position = self.progress.position
        order = self._order(train, position.epoch)
        self.wrapped.train()
        for step in range(position.step, len(order)):
            self.progress.epoch_loss += self._step(train, order[step], position.epoch * len(order) + step)
            position.step = step + 1
            if self.options.checkpoint_steps and position.step % self.options.checkpoint_steps == 0:
                self._keep(checkpoints)
        report = {"train.loss": self.progress.epoch_loss / len(order)}
        report |= self._validated(valid)
        self._judge(report, position.epoch)
        self.progress.position = Position(position.epoch + 1, 0)
        self.progress.epoch_loss = 0.0
        self._keep(checkpoints)
        self.tell(Event("epoch", {"epoch": position.epoch + 1, "epochs": self.options.epochs, **report}))

    def _step(self, train: Rows, rows: Array, number: int) -> float:
        devices.seed_step(self.seed, number, self.accelerator.process_index)
        micros = self._micros(train, rows)
        totals = self._totals(micros)
        loss = torch.zeros((), device=self.device)
        for place, micro in enumerate(micros):
            last = place == len(micros) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                # Gradients are averaged over processes, but each holds only its share of the step's sum.
                share = self.wrapped(micro, totals) * self.accelerator.num_processes
                self.accelerator.backward(share)
            loss += share.detach()
        self._update(number)
        value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {number + 1}; lower training.learning_rate or check the labels"
            )
        self.tell(Event("step", {"step": number + 1, "steps": self.total_steps, "loss": value}))
        return value

    def _micros(self, train: Rows, rows: Array) -> list[MicroBatch]:
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        # Processes must meet in every backward pass: one without rows joins in with a row that weighs nothing.
        wanted = mine if len(mine) else rows[:1]
        if train.renewed:
            train, wanted = train.seen(wanted, self.progress.position.epoch), np.arange(len(wanted))
        if len(mine):
            return [train.take(part, self.device) for part in micro_batches(train.tokens, wanted, self.budget)]
        idle = train.take(wanted, self.device)
        targets = {name: torch.full_like(target, self.model.head(name).pad) for name, target in idle.targets.items()}
        return [MicroBatch(idle.inputs, targets, 0)]

    def _totals(self, micros: list[MicroBatch]) -> dict[str, Tensor]:
        totals = {}
        for name in self.model.heads:
            mine = torch.stack([self.model.head(name).weigh(micro.targets[name]).float() for micro in micros]).sum()
            totals[name] = self.accelerator.reduce(mine, "sum").clamp(min=torch.finfo(torch.float32).tiny)
        return totals

    def _update(self, number: int) -> None:
        if self.options.clip:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.options.clip)
        factor = rate_factor(self.options, number, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _order(self, train: Rows, epoch: int) -> list[Array]:
        return training_steps(len(train), self.options.batch_size, self.seed, epoch)

    def _judge(self, report: Report, epoch: int) -> None:
        progress, names = self.progress, [f"valid.{self._metric}", "valid.loss"]
        # An epoch in which the metric is undefined is judged by its loss, and loses to any in which it is defined.
        name = next((name for name in names if name in report), "")
        if not name:
            return
        behind = names.index(name) - (names.index(progress.best_metric) if progress.best_metric else len(names))
        if behind < 0 or (behind == 0 and better(name, report[name], progress.best_value)):
            progress.best_epoch, progress.best_metric, progress.best_value = epoch, name, report[name]
            self.best = self.model.learned()

    @property
    def _metric(self) -> str:
        first = next(iter(self.model.heads))
        own = self.model.head(first).metric
        return self.options.metric or (own if len(self.model.heads) == 1 else f"{first}.{own}")

    def _refuse_unknown_metric(self, report: Report) -> None:
        known = [name.removeprefix("valid.") for name in report]
        if known and self._metric not in known:
            raise RecipeError(
                f"training.metric '{self._metric}' is not measured here.{did_you_mean(self._metric, known)} "
                f"Known: {listed(known)}"
            )

    def _patience_is_over(self) -> bool:
        waited = self.progress.position.epoch - 1 - self.progress.best_epoch
        return bool(self.options.patience and self.progress.best_epoch >= 0 and waited >= self.options.patience)

    def _keep(self, checkpoints: Checkpoints) -> None:
        if self.accelerator.is_main_process:
            checkpoints.save(self.model, self.optimizer, self.best, asdict(self.progress))
        self.accelerator.wait_for_everyone()

    def _resume(self, checkpoints: Checkpoints) -> None:
        facts = checkpoints.load(self.model, self.optimizer, self.best)
        if facts:
            self.progress = Progress(**{**facts, "position": Position(**facts["position"])})


def _refuse_sharding(accelerator: Accelerator) -> None:
    if accelerator.distributed_type not in _REPLICATED:
        raise RecipeError(
            f"this launcher shards the model ({accelerator.distributed_type.value}); exapt trains on one process, or with DDP"
        )


def rate_factor(options: TrainingOptions, step: int, total: int) -> float:
    """Return the share of the peak rate at a step (from 0): a linear rise, then the chosen fall to zero."""
    rise = math.ceil(options.warmup * total)
    if step < rise:
        return (step + 1) / rise
    if options.schedule == "constant":
        return 1.0
    left = (total - step) / max(1, total - rise)
    return left if options.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def _parameter_groups(model: Model, options: TrainingOptions, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    rated = [
        (parameter, options.head_learning_rate, parameter.ndim > 1)
        for parameter in model.heads.parameters()
        if parameter.requires_grad
    ]
    # What scales or shifts is one number a channel, be it shaped as a row (IA3) or not: decay would pull it off its rest.
    rated += [
        (parameter, options.learning_rate * rates[name], parameter.ndim > 1 and min(parameter.shape) > 1)
        for name, parameter in model.backbone.named_parameters()
        if name in rates
    ]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, rate, decays in rated:
        groups.setdefault((rate, options.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
