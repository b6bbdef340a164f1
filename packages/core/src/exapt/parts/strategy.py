"""How knowledge is transferred: what of a backbone learns, how fast and from when, and what else the loop does for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from exapt.parts.backbone import Backbone
from exapt.parts.head import Head
from exapt.parts.inputs import Array, Encoding


@dataclass(frozen=True)
class Learns:
    """Parameters of the backbone, by name, that learn, at a multiple ``rate`` of the recipe's learning rate.

    ``since`` is the epoch, from 0, from which they do.
    """

    names: frozenset[str] = field(default_factory=frozenset)
    rate: float = 1.0
    since: int = 0


class Learner(Protocol):
    """The model that learns, as strategies see it: one backbone under its heads.

    ``questions`` hold the names and options of the heads, as they stand in a recipe; ``tokenizer`` is the fingerprint of what
    encodes its inputs.
    """

    backbone: Backbone
    heads: nn.ModuleDict
    questions: Mapping[str, Mapping[str, Any]]
    tokenizer: str
    changed: set[str]
    layer: int
    domains: Sequence[str]
    """Names of the domains of the rows that are learned from; none where the recipe does not tell them."""
    targeted: bool
    """Whether rows of another domain, which the model is for, come beside them."""

    def head(self, name: str) -> Head:
        """Return a head by name."""
        ...

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone learns."""
        ...

    def learned(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of all that a run can change, by name."""
        ...

    def restore(self, learned: Mapping[str, Tensor]) -> None:
        """Put back what ``learned`` returned."""
        ...


class Part(Protocol):
    """Rows of one part of the data: as many as its length, with the targets of each head that has some."""

    @property
    def targets(self) -> Mapping[str, Sequence[Array]]:
        """Targets by head, one array per row."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Taught:
    """What a teacher says of some rows: its ``heads`` by name, their ``outputs``, one array per row, and pooled ``features``
    [rows, width] by input.
    """

    heads: Mapping[str, Head]
    outputs: Mapping[str, Sequence[Array]]
    features: Mapping[str, Array]


class Training(Protocol):
    """A run under way, as strategies see it.

    ``streams`` holds the rows that a strategy asked for beside those of train; ``pretrained`` the values, on the CPU and by
    name in the backbone, from which what learns there started. ``metric`` is what chooses the best epoch.
    """

    @property
    def model(self) -> Learner:
        """The model that learns."""
        ...

    train: Any
    valid: Any
    seed: int
    epochs: int
    batch_size: int
    device: torch.device
    metric: str

    @property
    def streams(self) -> Mapping[str, Any]:
        """Rows by stream."""
        ...

    @property
    def pretrained(self) -> Mapping[str, Tensor]:
        """Values by name; of a run none of whose strategies is ``anchored``, none."""
        ...

    def evaluate(self, rows: Any) -> dict[str, float]:
        """Return loss and metrics of some rows."""
        ...

    def elsewhere(self) -> Mapping[str, Mapping[str, float]]:
        """Return loss and metrics of rows that are there to be measured and nothing else: ``target``, where it has labels."""
        ...

    def predict(self, rows: Any) -> list[dict[str, Array]]:
        """Return each row's outputs by head, padding cut off."""
        ...

    def settle(self) -> None:
        """Fit those heads anew that are fitted to features, after other weights were put in place."""
        ...

    def pooled(self, rows: Any) -> dict[str, Array]:
        """Return the mean features [rows, width] of each input, as the model has them now."""
        ...

    def taught(self, teacher: str, rows: Any) -> Taught:
        """Return what the adapter in a folder says of some rows; computed once, then kept."""
        ...

    def note(self, text: str) -> None:
        """Tell the user something, in one line."""
        ...


@dataclass(frozen=True)
class Seen:
    """What the model made of some rows in one forward pass.

    ``features`` are by input and then by what heads read; ``outputs`` and ``targets`` by head; ``rows`` [batch] are the
    numbers of the rows in their part. They are a ``share`` of the step's rows of that part or stream, over all processes; of a
    stream, ``even`` holds by head the same share [] of the weight of all targets of the step: that of these rows, if all
    weighed the same.
    """

    features: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    rows: Tensor
    share: float = 1.0
    even: Mapping[str, Tensor] = field(default_factory=dict)

    def pooled(self, name: str = "") -> Tensor:
        """Return the mean vectors [batch, width] of an input, the first unless it is named; of kept ones what was kept."""
        features = self.features[name] if name else next(iter(self.features.values()))
        reading = next(iter(features), "tokens")
        return mean_vectors(features[reading], reading)


def mean_vectors(features: Any, reading: str) -> Tensor:
    """Return the vectors [batch, width] of features: their mean over tokens or, of features kept pooled, what was kept."""
    pooled: Tensor = features.pool("mean" if reading == "tokens" else reading)
    return pooled


@dataclass(frozen=True)
class Step:
    """One forward pass in training: the rows that are learned from, and those of each stream.

    ``progress``, from 0 to 1, is how much of the training is behind.
    """

    source: Seen
    streams: Mapping[str, Seen]
    progress: float
    epoch: int


@dataclass(frozen=True)
class Blend:
    """Features as heads are to learn from them: those of each row, of which only a ``share`` is its own.

    ``features`` are by input and by what heads read; ``partner`` [batch] says which row the rest is of.
    """

    features: Mapping[str, Mapping[str, Any]]
    partner: Tensor
    share: float


class Strategy:
    """How knowledge is transferred. The base class transfers frozen features: nothing of the backbone learns.

    What a strategy lets learn is said once, by ``learns``; all else is asked of it while the one loop runs. What the
    streams are called: ``target`` are rows of the recipe's target data, ``target-again`` the same rows changed anew by
    augmentations, ``again`` those of train that are learned from, changed anew, and ``replay`` those that strategies recall.
    """

    pretrained: bool = True
    """Whether the pretrained weights are used; if not, the same architecture starts from fresh ones."""
    neutral: bool = True
    """Whether features are those of the pretrained model until something was learned."""
    streams: Sequence[str] = ()
    """Rows that are to come beside those of train, as many in a step."""
    over: str = ""
    """The stream whose rows its loss is a mean over; empty for the rows that are learned from.

    Where several processes share a step, the loss of each counts as much as its share of these rows.
    """
    whole: bool = False
    """Whether its loss compares the rows of a step, which then is never split into micro-batches."""
    replaces: int = 0
    """Whether it puts other weights in place at the end, and when: 1 comes before 2, and those that do not (0) come last."""
    anchored: bool = False
    """Whether it asks a run for ``pretrained``: a copy of all values from which what learns started."""

    def prepare(self, backbone: Backbone) -> None:
        """Add to the backbone what the strategy needs, before anything is set to learn."""

    def learns(self, backbone: Backbone) -> Iterable[Learns]:
        """Say what of the backbone learns. Raises ``RecipeError`` if the strategy fits nothing of this backbone."""
        return ()

    def merge(self, backbone: Backbone) -> None:
        """Fold what ``prepare`` added into the backbone's own weights, and take it away.

        Afterwards the backbone answers the same and is built as it was published. It is not called where the strategy's spec
        says that what it adds cannot be merged.
        """

    def arrange(self, backbone: Backbone, learns: Sequence[Learns]) -> Sequence[Learns]:
        """Return what all strategies together let learn, at other rates or from other epochs."""
        return learns

    def attach(self, model: Learner) -> nn.Module | None:
        """Return a module of the strategy's own, if it has one; heads may be told here how to learn.

        Its parameters learn at the rate of the heads. It is kept in checkpoints and never in an adapter.
        """
        return None

    def recall(self) -> Sequence[Mapping[str, Encoding]]:
        """Return rows of its own, each input encoded, for the stream ``replay``: without targets, which it keeps to itself."""
        return ()

    def begin(self, run: Training) -> None:
        """Take note of a run before its first step, also where it goes on from a checkpoint."""

    def rate(self, epoch: int) -> float:
        """Return the multiple of all rates of the backbone in an epoch."""
        return 1.0

    def epoch_begins(self, run: Training, epoch: int) -> None:
        """Hear of an epoch that begins."""

    def stepped(self, run: Training) -> None:
        """Hear of a step of the optimiser that was made."""

    def epoch_ends(self, run: Training, epoch: int) -> None:
        """Hear of an epoch that is over, after its validation."""

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether the state after an epoch, of so many, may be kept as the best: not before a strategy has set in."""
        return True

    def end(self, run: Training) -> Mapping[str, Any]:
        """Hear that training is over and the best state in place, which may still be changed; return what to report."""
        return {}

    def blend(
        self, features: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Tensor], readings: Iterable[str]
    ) -> Blend | None:
        """Return the features that heads are to learn from in place of those of a step's rows; None to leave them."""
        return None

    def combine(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the losses [] of the heads, weighed anew."""
        return losses

    def loss(self, step: Step) -> Tensor | None:
        """Return a loss [] to be added: a mean over the rows of the pass, those that ``over`` says; None if there is none."""
        return None

    def step(self, run: Training, rows: Array, number: int) -> float | None:
        """Compute the gradients of a step by itself and return its loss; None to leave that to the loop."""
        return None
