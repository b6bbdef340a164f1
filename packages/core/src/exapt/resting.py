"""Which of the lowest blocks rest in which epochs of a run, and whose states are kept meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from exapt.model import Model
from exapt.rows import Rows
from exapt.trunk import resting_blocks


class Resting:
    """Lets the lowest blocks rest for as long as nothing in them learns.

    ``since`` are the epochs from which more of the model learns, of as many ``epochs`` as there are.
    """

    def __init__(self, model: Model, since: Collection[int], epochs: int) -> None:
        self._model, self._since, self._epochs = model, since, epochs
        self._stage = -1

    def begin(self, epoch: int, parts: Sequence[Rows], streams: Sequence[Rows]) -> None:
        """See which blocks rest from an epoch on; keep their states of all rows that more than one epoch asks for.

        ``parts`` are those of one table.
        """
        stage = max((since for since in self._since if since <= epoch), default=0)
        if stage == self._stage:
            return
        self._stage = stage
        ends = min((since for since in self._since if since > epoch), default=self._epochs)
        inputs = next(iter(parts[0].inputs.values()))
        self._model.resting = 0 if inputs.kept else resting_blocks(self._model, inputs.encodings)
        for table in (parts, *([rows] for rows in streams)):
            # Of the whole stage, so that a run resumed in its last epoch computes with the same states as a straight one.
            _keep(self._model.resting if ends - stage > 1 else 0, table)


def _keep(blocks: int, parts: Sequence[Rows]) -> None:
    for name, inputs in parts[0].inputs.items():
        if inputs.trunk is not None and inputs.trunk.blocks != blocks:
            numbers = np.unique(np.concatenate([part.inputs[name].distinct for part in parts]))
            inputs.trunk.move(blocks, numbers)
