"""The one loop, split by level: ``fit`` over epochs, ``_epoch`` over steps, ``_step`` over micro-batches.

Algorithms are data to it: what learns, at what rate and from which epoch, was settled by the strategies before it starts;
what else they do is asked of them at its three levels. A step is ``batch_size`` rows however many micro-batches and
processes it is split over, so its result does not depend on either. Strategies that compare the rows of a step with each
other (``adversarial``, ``coral``, ``mmd``, ``gradual-mixing``, ``mixup``) see in each process those of that process, so that
theirs depends on how many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin, gather_object
from torch import Tensor, nn

from exapt import device as devices
from exapt.acting import Acting
from exapt.checkpoint import Checkpoints, Position
from exapt.composition import IDLE
from exapt.data.batching import balanced_steps, micro_batches, steps_of_tasks, training_steps
from exapt.errors import DataError, MetricError, RecipeError, did_you_mean, listed
from exapt.events import Event
from exapt.fitting import fit_heads
from exapt.measuring import Report, predict, score
from exapt.metrics import better
from exapt.model import MicroBatch, Model
from exapt.parts import Array, Learns
from exapt.recipe import TrainingOptions
from exapt.resting import Resting
from exapt.rows import Rows
from exapt.under_way import UnderWay

_AGAIN, _STREAM = 1 << 30, 1 << 31

# Each process holds the whole model: checkpoints and evaluation rely on it.
_REPLICATED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


Schedule = Callable[[int, bool], float]
"""The share of its peak that a rate has at a step (from 0), of what learns in the backbone (True) or above it (False).

Where one is given it has the only say: all that learns does so from the first step, and strategies set no pace of their own.
"""


@dataclass
class Progress:
    """Where a run stands, as plain facts: they are written into checkpoints."""

    position: Position = field(default_factory=Position)
    best_epoch: int = -1
    best_metric: str = ""
    best_value: float = math.nan
    epoch_loss: float = 0.0


class Trainer:
    """Trains a model whose strategies have been applied. ``rates`` says how each backbone parameter learns.

    ``acting`` are the strategies, for all that they do beside that; ``schedule`` stands in for the recipe's own.
    """

    def __init__(
        self,
        model: Model,
        options: TrainingOptions,
        rates: Mapping[str, Learns],
        seed: int,
        tell: Callable[[Event], None],
        acting: Acting | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.options, self.seed, self.tell = options, seed, tell
        self.acting = acting or Acting({}, model)
        self.paced = schedule is None
        self.schedule = schedule or (lambda step, _: rate_factor(options, step, self.total_steps))
        if not self.paced:
            rates = {name: replace(learns, since=0) for name, learns in rates.items()}
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
        groups = _parameter_groups(model, options, rates, self.acting)
        # Heads that are fitted in closed form on a frozen backbone leave nothing that steps could move.
        self.learns = any(one.requires_grad for module in (model, self.acting) for one in module.parameters())
        if not self.learns and options.sampling == "balanced":
            raise RecipeError(IDLE)
        # What learns must be leaf parameters of the wrapped model, so the optimiser is made before the wrapping.
        optimizer = torch.optim.AdamW(groups)
        prepared = self.accelerator.prepare(model, optimizer) if self.learns else (model, optimizer)
        self.wrapped: nn.Module = prepared[0]
        self.optimizer: Any = prepared[1]
        self.model: Model = self.accelerator.unwrap_model(self.wrapped)
        self.resting = Resting(self.model, {group["since"] for group in groups}, options.epochs)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.streams: Mapping[str, Rows] = {}
        self.elsewhere: Mapping[str, Callable[[], Report]] = {}
        self.report: dict[str, Any] = {}

    def fit(
        self, train: Rows, valid: Rows, checkpoints: Checkpoints, streams: Mapping[str, Rows] | None = None
    ) -> None:
        """Train to the end and leave the model in its best state (the last, where there are no valid rows).

        Continues from the newest checkpoint, if ``checkpoints`` holds one. ``streams`` are the rows that strategies asked
        for; what they tell of the run is in ``report``.
        """
        self.streams = streams or {}
        self._refuse_idle_epochs()
        self.under_way = UnderWay(self, train, valid)
        strategies = self.acting.strategies
        self._resume(checkpoints)
        for strategy in strategies.values():
            strategy.begin(self.under_way)
        self.total_steps = self.options.epochs * len(self._order(train, 0))
        if self.options.metric:
            # A wrong name is to be refused before hours of training, not after the first of them.
            refuse_unknown_metric(self.options.metric, self.evaluate(valid, views=False))
        if not self.learns:
            self.tell(
                Event("note", {"text": "nothing learns by steps: the heads are fitted once, and no epoch is trained"})
            )
            self.progress.position = Position(self.options.epochs, 0)
        while self.progress.position.epoch < self.options.epochs and not self._patience_is_over():
            self._epoch(train, valid, checkpoints)
        if self.best:
            self.model.restore(self.best)
        self._all_learn()
        self.model.settle()
        self.model.eval()
        # What others tell of the model is to be told of that which is kept.
        in_turn = sorted(strategies, key=lambda name: strategies[name].replaces or math.inf)
        ends = {name: dict(strategies[name].end(self.under_way)) for name in in_turn}
        self.report = {name: ends[name] for name in strategies if ends[name]}
        if ends:
            # A strategy may have put other weights in place, which the fit was not made for.
            fit_heads(self.model, train, self.budget)
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
        answers = [gathered[row] for row in range(len(rows))]
        # Metrics take no such numbers, and would end in a traceback or call them a result.
        if not all(np.isfinite(output).all() for answer in answers for output in answer.values()):
            raise self._diverged("answers", "nan or infinite")
        report = score(self.model, rows, answers)
        if not math.isfinite(report["loss"]):
            raise self._diverged("loss of rows that are only measured", str(report["loss"]))
        return report

    def _diverged(self, what: str, value: str) -> DataError:
        position = self.progress.position
        learned = position.epoch + (position.step > 0)
        if not learned:
            return DataError(
                f"the {what} came out as {value} before anything learned; check the backbone's weights and the labels"
            )
        return DataError(
            f"the {what} became {value} in epoch {learned}; lower training.learning_rate or check the labels"
        )

    def _validated(self, valid: Rows) -> Report:
        # To choose an epoch one view does, at a fraction of the cost.
        return {f"valid.{name}": value for name, value in self.evaluate(valid, views=False).items()}

    def _epoch(self, train: Rows, valid: Rows, checkpoints: Checkpoints) -> None:
        position = self.progress.position
        order = self._order(train, position.epoch)
        self._those_of(position.epoch)
        self.resting.begin(position.epoch, [train, valid], list(self.streams.values()))
        for strategy in self.acting.strategies.values():
            strategy.epoch_begins(self.under_way, position.epoch)
        self.wrapped.train()
        for step in range(position.step, len(order)):
            self.progress.epoch_loss += self._step(train, order[step], position.epoch * len(order) + step)
            position.step = step + 1
            if self.options.checkpoint_steps and position.step % self.options.checkpoint_steps == 0:
                self._keep(checkpoints)
        report = {"train.loss": self.progress.epoch_loss / len(order)}
        fit_heads(self.model, train, self.budget)
        report |= self._validated(valid)
        self._judge(report, position.epoch)
        for strategy in self.acting.strategies.values():
            strategy.epoch_ends(self.under_way, position.epoch)
        self.progress.position = Position(position.epoch + 1, 0)
        self.progress.epoch_loss = 0.0
        self._keep(checkpoints)
        self.tell(Event("epoch", {"epoch": position.epoch + 1, "epochs": self.options.epochs, **report}))

    def _step(self, train: Rows, rows: Array, number: int) -> float:
        devices.seed_step(self.seed, number, self.accelerator.process_index)
        value = self._replaced(rows, number)
        if value is None:
            value = self._learn(self._micros(train, rows, number))
        self._update(number)
        for strategy in self.acting.strategies.values():
            strategy.stepped(self.under_way)
        if not math.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {number + 1}; lower training.learning_rate or check the labels"
            )
        self.tell(Event("step", {"step": number + 1, "steps": self.total_steps, "loss": value}))
        return value

    def _replaced(self, rows: Array, number: int) -> float | None:
        values = (strategy.step(self.under_way, rows, number) for strategy in self.acting.strategies.values())
        return next((value for value in values if value is not None), None)

    def _learn(self, micros: list[MicroBatch]) -> float:
        """Compute the gradients of a step, and return its loss."""
        totals = self._totals(micros)
        loss = torch.zeros((), device=self.device)
        for place, micro in enumerate(micros):
            last = place == len(micros) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                # Gradients are averaged over processes, but each holds only its share of the step's sum.
                share = self.wrapped(micro, totals) * self.accelerator.num_processes
                self.accelerator.backward(share)
            loss += share.detach()
        return float(self.accelerator.reduce(loss, "mean"))

    def _micros(self, train: Rows, rows: Array, number: int) -> list[MicroBatch]:
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        # Processes must meet in every backward pass: one without rows joins in with a row that weighs nothing.
        wanted = mine if len(mine) else rows[:1]
        epoch, numbers = self.progress.position.epoch, wanted
        facts: dict[str, Any] = {"progress": number / self.total_steps, "epoch": epoch}
        if self.streams or self.acting.streams:
            facts["streams"] = self._beside(train, wanted, len(mine) / len(rows), number)
        if train.renewed:
            train, wanted = train.seen(wanted, epoch), np.arange(len(wanted))
        if not len(mine):
            return [replace(self._idle(train.take(wanted, self.device)), **facts)]
        whole = self.acting.whole or any(self.model.head(name).whole for name in self.model.heads)
        parts = [wanted] if whole else micro_batches(train.tokens, wanted, self.budget)
        of = dict(zip(wanted.tolist(), numbers.tolist(), strict=True))
        return [
            replace(
                train.take(part, self.device),
                numbers=torch.tensor([of[row] for row in part.tolist()]),
                share=len(part) / len(rows),
                **facts,
            )
            for part in parts
        ]

    def _idle(self, stand_in: MicroBatch) -> MicroBatch:
        """Return rows that stand in for none, so that nothing of them counts."""
        targets = stand_in.targets.items()
        none = {name: torch.full_like(known, self.model.head(name).pad) for name, known in targets}
        return replace(stand_in, targets=none, rows=0, share=0.0)

    def _beside(self, train: Rows, wanted: Array, own: float, number: int) -> dict[str, MicroBatch]:
        """Return the rows of each stream in a step: a pass over them takes as many steps as it needs, and then another.

        ``own`` is the share that the rows ``wanted`` are of the step's.
        """
        found = {}
        for name in self.acting.streams:
            if name == "again":
                rows, chosen, share, times = train, wanted, own, self.progress.position.epoch
            else:
                rows = self.streams[name.removesuffix("-again")]
                chosen, share, times = self._drawn(rows, number)
            # Far from any number that there will be, so that nothing is seen twice alike.
            seen = rows.seen(chosen, times + (_AGAIN if name.endswith("again") else 0))
            micro = seen.take(np.arange(len(chosen)), self.device)
            if not share:
                micro = self._idle(micro)
            even = {head: share * self._weight(head, [known]) for head, known in micro.targets.items()}
            found[name] = replace(micro, numbers=torch.from_numpy(chosen), share=share, even=even)
        return found

    def _drawn(self, rows: Rows, number: int) -> tuple[Array, float, int]:
        """Return those of a stream's rows that a step has in this process, their share of all, and the number of the pass."""
        size = min(self.options.batch_size, len(rows))
        passes, place = divmod(number, max(1, len(rows) // size))
        order = np.random.default_rng((self.seed, _STREAM, passes)).permutation(len(rows))
        drawn = order[place * size : (place + 1) * size]
        mine: Array = drawn[self.accelerator.process_index :: self.accelerator.num_processes]
        return (mine, len(mine) / len(drawn), passes) if len(mine) else (drawn[:1], 0.0, passes)

    def _those_of(self, epoch: int) -> None:
        """Let learn what learns in an epoch; gradients end where nothing below does."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["since"] <= epoch)

    def _all_learn(self) -> None:
        self._those_of(self.options.epochs)

    def _totals(self, micros: list[MicroBatch]) -> dict[str, Tensor]:
        weights = {name: self._weight(name, [micro.targets[name] for micro in micros]) for name in self.model.heads}
        return {name: weight.clamp(min=torch.finfo(torch.float32).tiny) for name, weight in weights.items()}

    def _weight(self, head: str, targets: Sequence[Tensor]) -> Tensor:
        """Return the weight [] of a step's targets of a head, over all processes."""
        mine = torch.stack([self.model.head(head).weigh(some).float() for some in targets]).sum()
        whole: Tensor = self.accelerator.reduce(mine, "sum")
        return whole

    def _update(self, number: int) -> None:
        if self.options.clip:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.options.clip)
        strategies = self.acting.strategies.values() if self.paced else ()
        pace = math.prod(one.rate(self.progress.position.epoch) for one in strategies)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.schedule(number, group["paced"]) * (pace if group["paced"] else 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _order(self, train: Rows, epoch: int) -> list[Array]:
        if self.options.sampling == "balanced":
            classes = np.stack(train.targets[next(iter(self.model.heads))])
            return balanced_steps(classes, self.options.batch_size, self.seed, epoch)
        if self.options.sampling == "tasks":
            known = [train.known(name) for name in self.model.heads if self.model.head(name).labelled]
            heat = self.options.task_temperature
            return steps_of_tasks(known, heat, self.options.batch_size, self.seed, epoch)
        return training_steps(len(train), self.options.batch_size, self.seed, epoch)

    def _judge(self, report: Report, epoch: int) -> None:
        if not all(one.counts(epoch, self.options.epochs) for one in self.acting.strategies.values()):
            return
        progress, names = self.progress, [f"valid.{self.metric}", "valid.loss"]
        # An epoch in which the metric is undefined is judged by its loss, and loses to any in which it is defined.
        name = next((name for name in names if name in report), "")
        if not name:
            return
        behind = names.index(name) - (names.index(progress.best_metric) if progress.best_metric else len(names))
        if behind < 0 or (behind == 0 and better(name, report[name], progress.best_value)):
            progress.best_epoch, progress.best_metric, progress.best_value = epoch, name, report[name]
            self.best = self.model.learned()

    @property
    def metric(self) -> str:
        """The metric of the valid part that chooses the best epoch: the recipe's, else the first head's own."""
        first = next(iter(self.model.heads))
        own = self.model.head(first).metric
        return self.options.metric or (own if len(self.model.heads) == 1 else f"{first}.{own}")

    def _refuse_idle_epochs(self) -> None:
        first = min(group["since"] for group in self.optimizer.param_groups)
        if self.learns and first:
            raise RecipeError(
                f"nothing learns by steps before epoch {first + 1}, since the heads are fitted: let a part of the backbone "
                "learn from the first epoch on"
            )

    def _patience_is_over(self) -> bool:
        # Before the last part has begun to learn, an epoch without progress says nothing of what that part will do.
        last = max(group["since"] for group in self.optimizer.param_groups)
        waited = self.progress.position.epoch - 1 - max(self.progress.best_epoch, last - 1)
        return bool(self.options.patience and self.progress.best_epoch >= 0 and waited >= self.options.patience)

    def _keep(self, checkpoints: Checkpoints) -> None:
        if self.accelerator.is_main_process:
            own = self.acting.state_dict()
            checkpoints.save(self.model, self.optimizer, self.best, asdict(self.progress), own)
        self.accelerator.wait_for_everyone()

    def _resume(self, checkpoints: Checkpoints) -> None:
        own: dict[str, Tensor] = {}
        facts = checkpoints.load(self.model, self.optimizer, self.best, own)
        if facts:
            self.acting.load_state_dict(own)
            self.progress = Progress(**{**facts, "position": Position(**facts["position"])})


def refuse_unknown_metric(metric: str, report: Report) -> None:
    """Raise ``MetricError`` unless a report of the valid part, where there is one, holds the metric that is to choose."""
    if report and metric not in report:
        raise MetricError(
            f"training.metric '{metric}' is not measured here.{did_you_mean(metric, report)} Known: {listed(report)}"
        )


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


def _parameter_groups(
    model: Model, options: TrainingOptions, rates: Mapping[str, Learns], acting: Acting
) -> list[dict[str, Any]]:
    rated = [
        (parameter, options.head_learning_rate, parameter.ndim > 1, 0, False)
        for module in (model.heads, acting)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    # What scales or shifts is one number a channel, be it shaped as a row (IA3) or not: decay would pull it off its rest.
    rated += [
        (
            parameter,
            options.learning_rate * rates[name].rate,
            parameter.ndim > 1 and min(parameter.shape) > 1,
            rates[name].since,
            True,
        )
        for name, parameter in model.backbone.named_parameters()
        if name in rates
    ]
    # An optimiser takes no empty list: an idle number stands in for what does not learn.
    rated = rated or [(nn.Parameter(torch.zeros(1)), 0.0, False, 0, False)]
    groups: dict[tuple[float, float, int, bool], list[nn.Parameter]] = {}
    for parameter, rate, decays, since, paced in rated:
        key = (rate, options.weight_decay if decays else 0.0, since, paced)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay, "since": since, "paced": paced}
        for (rate, decay, since, paced), parameters in groups.items()
    ]
