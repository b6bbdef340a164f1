"""A run under way, as strategies see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from exapt import device as devices
from exapt.data.batching import micro_batches
from exapt.errors import RecipeError
from exapt.events import Event
from exapt.fitting import fit_heads
from exapt.measuring import Report, predict
from exapt.model import Model, backbone_state
from exapt.parts import Array, Strategy, Taught, mean_vectors
from exapt.rows import Inputs, Rows

if TYPE_CHECKING:
    from exapt.trainer import Trainer


class UnderWay:
    """What strategies may ask of a run; see ``exapt.parts.Training``."""

    def __init__(self, trainer: Trainer, train: Rows, valid: Rows) -> None:
        self._trainer = trainer
        self.train, self.valid, self.streams = train, valid, trainer.streams
        self.seed, self.epochs = trainer.seed, trainer.options.epochs
        self.batch_size, self.device = trainer.options.batch_size, trainer.device
        self.metric = trainer.metric
        state = backbone_state(self.model.backbone)
        anchored = any(strategy.anchored for strategy in trainer.acting.strategies.values())
        self.pretrained: dict[str, Tensor] = {
            name: state[name].detach().to("cpu", copy=True)
            for name in (sorted(self.model.changed | self.model.watched.keys()) if anchored else ())
        }

    @property
    def model(self) -> Model:
        """The model that learns."""
        return self._trainer.model

    def evaluate(self, rows: Rows) -> Report:
        """Return loss and metrics of some rows, seen as they are."""
        return self._trainer.evaluate(rows, views=False)

    def elsewhere(self) -> dict[str, Report]:
        """Return loss and metrics of rows of other tables that are there to be measured."""
        return {name: report() for name, report in self._trainer.elsewhere.items()}

    def predict(self, rows: Rows) -> list[dict[str, Array]]:
        """Return each row's outputs by head, padding cut off."""
        answers = predict(self.model, rows, np.arange(len(rows)), self._trainer.budget, views=False)
        return [answers[row] for row in range(len(rows))]

    def settle(self) -> None:
        """Fit those heads anew that are fitted to features, after other weights were put in place."""
        fit_heads(self.model, self.train, self._trainer.budget)

    def pooled(self, rows: Rows) -> dict[str, Array]:
        """Return the mean features [rows, width] of each input, as the model has them now."""
        return pooled(self.model, rows, self._trainer.budget)

    def taught(self, teacher: str, rows: Rows) -> Taught:
        """Return what the adapter in a folder says of some rows; computed once, then kept."""
        # A run seldom has a teacher, which is loaded by nearly all of exapt.
        from exapt.teaching import Teacher

        return Teacher.of(teacher, self.device).teach(rows)

    def note(self, text: str) -> None:
        """Tell the user something, in one line."""
        self._trainer.tell(Event("note", {"text": text}))


def recalled(strategies: Iterable[Strategy], answered: Mapping[str, str]) -> dict[str, Rows]:
    """Return the stream ``replay``, of the rows that a strategy brings itself; none if no strategy does.

    Raises ``RecipeError`` if two of them do: each knows its own rows by their numbers.
    """
    brought = [rows for rows in (strategy.recall() for strategy in strategies) if rows]
    if len(brought) > 1:
        raise RecipeError("two strategies recall rows of their own; leave one of them out")
    if not brought:
        return {}
    (rows,) = brought
    return {"replay": Rows({name: Inputs.bare([row[name] for row in rows]) for name in rows[0]}, {}, {}, answered)}


def pooled(model: Model, rows: Rows, budget: int) -> dict[str, Array]:
    """Return the mean features [rows, width] of each input of some rows; of kept ones, what was kept."""
    model.eval()
    device = next(model.parameters()).device
    found: dict[str, dict[int, Array]] = {name: {} for name in rows.inputs}
    for part in micro_batches(rows.tokens, np.arange(len(rows)), budget):
        micro = rows.take(part, device)
        for name, given in micro.inputs.items():
            with devices.resting():
                features = model.features(given)
                reading = next(iter(features), "tokens")
                vectors = mean_vectors(features[reading], reading).float().cpu().numpy()
            found[name] |= dict(zip(part.tolist(), vectors, strict=True))
    return {name: np.stack([values[row] for row in range(len(rows))]) for name, values in found.items()}
