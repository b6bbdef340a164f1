"""What became of each task while others were learned: a matrix, and what it says in three numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exapt.metrics import LOWER_IS_BETTER

Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Sequenced:
    """Tasks learned one after the other.

    ``matrix`` [tasks, tasks] holds at (i, j) the metric of task j on its test part after task i was learned; None for a
    task that was not learned yet. ``metrics`` names the metric of each task.
    """

    method: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    matrix: Matrix
    adapters: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether all tasks are measured by one metric, so that a mean over them means something."""
        return len({metric.rpartition(".")[2] for metric in self.metrics}) == 1

    @property
    def average(self) -> float | None:
        """The mean metric over all tasks, after the last of them."""
        return self._mean(self._known(-1, task) for task in range(len(self.tasks)))

    @property
    def backward_transfer(self) -> float | None:
        """By how much tasks became better, on average, after they were learned (Lopez-Paz & Ranzato 2017, arXiv:1706.08840)."""
        return self._mean(
            self._sign(task) * (self._known(-1, task) - self._known(task, task)) for task in range(len(self.tasks) - 1)
        )

    @property
    def forgetting(self) -> float | None:
        """By how much tasks are worse, on average, than they were at their best (Chaudhry et al. 2018, arXiv:1801.10112)."""
        return self._mean(self._forgotten(task) for task in range(len(self.tasks) - 1))

    def _forgotten(self, task: int) -> float:
        sign = self._sign(task)
        earlier = [sign * self._known(row, task) for row in range(task, len(self.tasks) - 1)]
        return max(earlier) - sign * self._known(-1, task)

    def _known(self, row: int, task: int) -> float:
        value = self.matrix[row][task]
        assert value is not None
        return value

    def _sign(self, task: int) -> int:
        return -1 if self.metrics[task].rpartition(".")[2] in LOWER_IS_BETTER else 1

    def _mean(self, values: Iterator[float]) -> float | None:
        if not self.comparable:
            return None
        found = list(values)
        return sum(found) / len(found)

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        if self.average is None or self.forgetting is None or self.backward_transfer is None:
            return "The tasks are measured by different metrics: there is no mean over them."
        return (
            f"After all {len(self.tasks)} tasks, {self.metrics[0].rpartition('.')[2]} is {self.average:.3f} on average; "
            f"forgetting is {self.forgetting:+.3f}, backward transfer {self.backward_transfer:+.3f}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and words."""
        return {
            "method": self.method,
            "tasks": list(self.tasks),
            "metrics": list(self.metrics),
            "matrix": [list(row) for row in self.matrix],
            "average": self.average,
            "forgetting": self.forgetting,
            "backward_transfer": self.backward_transfer,
            "adapters": list(self.adapters),
            "verdict": self.verdict,
        }

    def rows(self) -> list[list[str]]:
        """Return the matrix as a table: a row after each task, a column for each."""
        return [
            [f"after {task}", *("" if value is None else f"{value:.4f}" for value in row)]
            for task, row in zip(self.tasks, self.matrix, strict=True)
        ]
