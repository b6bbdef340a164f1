"""Strategies that hold what learns near its start, or make what it learns from smoother."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exapt.builtin.regularised import DropoutOptions, MixupOptions, SmoothingOptions, StartingPointOptions
from exapt.errors import RecipeError
from exapt.parts import Backbone, Blend, Learner, Pooled, Step, Strategy, Training


@dataclass(frozen=True)
class LowRank:
    """A low-rank update of a layer, ``scale`` x B A: the names of A [rank, in] and B [out, rank] in the backbone."""

    a: str
    b: str
    scale: float


def low_rank(backbone: Backbone) -> Iterator[LowRank]:
    """Yield the low-rank updates that PEFT put into a backbone; DoRA's, too, of which lengths are parameters besides."""
    for prefix, module in backbone.named_modules():
        # Told by what they hold, and not by their class: to import PEFT takes seconds.
        downs, ups = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
        if isinstance(downs, nn.ModuleDict) and isinstance(ups, nn.ModuleDict):
            scaling: Any = module.scaling
            for name in downs:
                yield LowRank(f"{prefix}.lora_A.{name}.weight", f"{prefix}.lora_B.{name}.weight", float(scaling[name]))


def _moved(update: LowRank, now: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """Return the squared distance [] of an update's effect on its layer from what it was at the start."""
    # Through matrices of rank x rank, since the effect itself is as large as the layer; and of differences, so that a small
    # move away from a large start is not lost in rounding.
    outer = torch.cat([now[update.b] - start[update.b], start[update.b]], 1).float()
    inner = torch.cat([now[update.a], now[update.a] - start[update.a]], 0).float()
    return update.scale**2 * ((outer.T @ outer) * (inner @ inner.T)).sum()


class StartingPoint(Strategy):
    """Half the squared distance of what learns from where it started is added to the loss.

    L2-SP: Li, Grandvalet & Davoine 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks,
    arXiv:1802.01483. Of a low-rank update it is the distance of the weights that come of it; of other parameters that were
    put into the model, the distance from their own start, at which they change nothing.
    """

    anchored = True

    def __init__(self, options: StartingPointOptions) -> None:
        self.options = options

    def begin(self, run: Training) -> None:
        """Take note of the start."""
        parameters = dict(run.model.backbone.named_parameters())
        self._start = {name: value.to(run.device) for name, value in run.pretrained.items() if name in parameters}
        self._now = {name: parameters[name] for name in self._start}
        self._updates = [one for one in low_rank(run.model.backbone) if {one.a, one.b} <= self._start.keys()]
        in_updates = {name for one in self._updates for name in (one.a, one.b)}
        self._plain = [name for name in self._start if name not in in_updates]
        self._new = [parameter for parameter in run.model.heads.parameters() if parameter.requires_grad]

    def loss(self, step: Step) -> Tensor | None:
        """Return the penalty [], the same for all rows."""
        penalty = self.options.weight / 2 * self._squared_distance()
        # Heads that are fitted have nothing that learns by steps.
        if self.options.new and self._new:
            new = torch.stack([p.float().square().sum() for p in self._new])
            penalty = penalty + self.options.new / 2 * new.sum()
        return penalty

    def _squared_distance(self) -> Tensor:
        plain = [(self._now[name].float() - self._start[name].float()).square().sum() for name in self._plain]
        return torch.stack([*plain, *(_moved(one, self._now, self._start) for one in self._updates)]).sum()

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return how far from its start the best state lies."""
        with torch.no_grad():
            return {"distance": float(self._squared_distance().clamp(min=0).sqrt())}


class LabelSmoothing(Strategy):
    """Targets of classes are spread a little over all of them.

    Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567. Losses of the valid
    and the test part are of the labels as they are.
    """

    def __init__(self, options: SmoothingOptions) -> None:
        self.options = options

    def attach(self, model: Learner) -> None:
        """Set the share of all heads that have classes. Raises ``RecipeError`` if none of them can smooth its targets."""
        able = [head for head in map(model.head, model.heads) if head.smoothing is not None]
        if not able:
            raise RecipeError("strategy 'label-smoothing': no head of this recipe can smooth its targets")
        for head in able:
            head.smoothing = self.options.share


class Shares(nn.Module):
    """The shares in which examples were mixed so far: how many, their sum and the sum of their squares."""

    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(3))

    def add(self, share: float) -> None:
        """Take in one share."""
        self.moments += torch.tensor([1.0, share, share**2], device=self.moments.device)


class Mixup(Strategy):
    """Features of each example are blended with those of another one of its step, and the losses of both labels as well.

    Mixup: Zhang et al. 2018, arXiv:1710.09412; of states inside a model: Verma et al. 2019, Manifold Mixup,
    arXiv:1806.05236. Letters cannot be blended, so it is done where heads read: one vector of each input.
    """

    # Partners are rows of a step: split into smaller passes, it would have others.
    whole = True

    def __init__(self, options: MixupOptions) -> None:
        self.options = options
        self._shares = Shares()

    def attach(self, model: Learner) -> nn.Module:
        """Return the tally of shares. Raises ``RecipeError`` for a head that reads tokens."""
        for name in model.heads:
            if model.head(name).reads == "tokens":
                raise RecipeError(
                    f"strategy 'mixup' blends one vector of each input, and head '{name}' reads all tokens"
                )
        return self._shares

    def blend(
        self, features: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Tensor], readings: Iterable[str]
    ) -> Blend:
        """Return the blended vectors of a step: one share for all its rows, by chance, and a partner for each."""
        share = float(torch.distributions.Beta(self.options.alpha, self.options.alpha).sample())
        self._shares.add(share)
        vectors = {name: {one: kept[one].pool(one) for one in readings} for name, kept in features.items()}
        first = next(iter(next(iter(vectors.values())).values()))
        partner = torch.randperm(len(first)).to(first.device)
        blended = {
            name: {one: Pooled(one, share * own + (1 - share) * own[partner]) for one, own in kept.items()}
            for name, kept in vectors.items()
        }
        return Blend(blended, partner, share)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return how many steps were blended, and mean and deviation of the shares."""
        count, total, squares = self._shares.moments.tolist()
        if not count:
            return {"steps": 0}
        mean = total / count
        return {"steps": int(count), "mean_share": mean, "deviation": max(0.0, squares / count - mean**2) ** 0.5}


class _Epochs(nn.Module):
    """How many epochs there were."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


class EarlyStopping(Strategy):
    """Training stops once it gets no better on rows that are not learned from.

    Prechelt 1998, Early Stopping - But When?, doi:10.1007/3-540-49430-8_3. What does it is ``training.patience``.
    """

    def __init__(self) -> None:
        self._epochs = _Epochs()

    def attach(self, model: Learner) -> nn.Module:
        """Return the count of epochs."""
        return self._epochs

    def epoch_ends(self, run: Training, epoch: int) -> None:
        """Count an epoch."""
        self._epochs.count.fill_(epoch + 1)

    def end(self, run: Training) -> Mapping[str, Any]:
        """Return after how many epochs, and of how many, training stopped."""
        return {"epochs": int(self._epochs.count), "of": run.epochs}


class HeadDropout(Strategy):
    """Heads drop some of the features that they read while they learn.

    Srivastava et al. 2014, Dropout, JMLR 15:1929.
    """

    def __init__(self, options: DropoutOptions) -> None:
        self.options = options

    def attach(self, model: Learner) -> None:
        """Set the dropout of all heads. Raises ``RecipeError`` if a head has none."""
        for name in model.heads:
            layers = [module for module in model.head(name).modules() if isinstance(module, nn.Dropout)]
            if not layers:
                raise RecipeError(f"strategy 'head-dropout': head '{name}' has no dropout to set")
            for layer in layers:
                layer.p = self.options.share
