"""The small tasks of meta-learning: found among the rows of a part, and drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from exapt.builtin.meta_learning import MamlOptions
from exapt.errors import DataError, RecipeError
from exapt.parts import Array, Head

_WAYS = 5

Kind = Literal["domains", "targets", "classes"]


@dataclass(frozen=True)
class Drawn:
    """One task: rows to adapt to and rows to be judged by and, of several ``targets`` of a head, the one that counts."""

    support: Array
    queries: Array
    target: int = -1

    def only(self, targets: Mapping[str, Tensor], heads: Mapping[str, Head]) -> dict[str, Tensor]:
        """Return the targets by head, all that are not of the task unknown."""
        if self.target < 0:
            return dict(targets)
        found = {}
        for name, given in targets.items():
            found[name] = given.clone()
            others = [at for at in range(given.shape[-1]) if at != self.target]
            found[name][..., others] = heads[name].pad
        return found


class Tasks:
    """The tasks of one part: their rows, by class where a task is about classes.

    Raises ``RecipeError`` if the options ask for tasks that the heads or the data do not have.
    """

    def __init__(self, options: MamlOptions, rows: Any, kind: Kind | None = None) -> None:
        self.options, self.rows = options, rows
        self.classes = _classes(rows)
        self.kind: Kind = kind or _kind(options, rows, self.classes)
        found = {"domains": self._domains, "targets": self._targets, "classes": self._subsets}[self.kind]()
        self._found = {name: groups for name, groups in found.items() if len(groups) >= self._least}

    @property
    def count(self) -> int:
        """How many tasks there are; of subsets of classes, one for all of them."""
        return len(self._found)

    @property
    def told(self) -> str:
        """What the tasks are, in words."""
        each = "rows" if self.classes is None else "examples of each class"
        if self.kind == "classes":
            (groups,) = self._found.values()
            return f"tasks are any {self._ways(len(groups))} of {len(groups)} classes, with {self.options.shots} {each}"
        return f"{self.count} tasks, one for each of the {self.kind}, with {self.options.shots} {each}"

    def check(self) -> None:
        """Raise ``DataError`` if there is no task."""
        if not self._found:
            need = (
                f"{self.options.shots + 1} {'rows' if self.classes is None else f'examples of {self._least} classes'}"
            )
            of = {"domains": "none of the domains", "targets": "none of the targets", "classes": "the training part"}
            verb = "does not have" if self.kind == "classes" else "has"
            raise DataError(
                f"strategy 'maml' adapts to {self.options.shots} shots and is judged by others: {of[self.kind]} {verb} "
                f"{need}; lower shots or ways"
            )

    def draw(self, chance: np.random.Generator) -> Drawn:
        """Return a task at random, and which of its rows it is adapted to and judged by."""
        names = sorted(self._found)
        name = names[int(chance.integers(len(names)))]
        groups, shots = self._found[name], self.options.shots
        ways = self._ways(len(groups))
        chosen = [chance.permutation(groups[at]) for at in chance.choice(len(groups), ways, replace=False)]
        support = np.concatenate([rows[:shots] for rows in chosen])
        queries = np.concatenate([rows[shots : shots + self.options.queries] for rows in chosen])
        return Drawn(support, queries, name if self.kind == "targets" else -1)

    def _ways(self, classes: int) -> int:
        if self.options.ways:
            return min(self.options.ways, classes)
        return min(_WAYS, classes) if self.kind == "classes" else classes

    @property
    def _least(self) -> int:
        """Groups without which a task is none: of a single class nothing can be asked."""
        return 1 if self.classes is None else max(2, self.options.ways)

    def _groups(self, rows: Array) -> list[Array]:
        """Return rows by class, of the classes with enough of them for a query; all together where there are no classes."""
        if self.classes is None:
            groups = [rows]
        else:
            groups = [rows[self.classes[rows] == one] for one in np.unique(self.classes[rows]) if one >= 0]
        return [group for group in groups if len(group) > self.options.shots]

    def _domains(self) -> dict[int, list[Array]]:
        # A part may have been made without the column.
        domains = np.full(len(self.rows), -1) if self.rows.domains is None else self.rows.domains
        return {int(one): self._groups(np.flatnonzero(domains == one)) for one in np.unique(domains)}

    def _targets(self) -> dict[int, list[Array]]:
        values = np.stack(self.rows.targets[_numbered(self.rows)])
        return {at: self._groups(np.flatnonzero(~np.isnan(values[:, at]))) for at in range(values.shape[1])}

    def _subsets(self) -> dict[int, list[Array]]:
        return {0: self._groups(np.arange(len(self.rows)))}


def _kind(options: MamlOptions, rows: Any, classes: Array | None) -> Kind:
    has = {"domains": rows.domains is not None, "targets": bool(_numbered(rows)), "classes": classes is not None}
    for kind in ("domains", "targets", "classes"):
        if has[kind] and options.tasks in ("auto", kind):
            return kind
    missing = {
        "domains": "name their column as data.domain",
        "targets": "ask with one head for several numbers",
        "classes": "ask with a head for classes of whole inputs",
    }
    lacking = "; or ".join(missing.values()) if options.tasks == "auto" else missing[options.tasks]
    raise RecipeError(f"strategy 'maml' finds no tasks: {lacking}")


def _classes(rows: Any) -> Array | None:
    """Return the class [rows] of each row by the first head that has classes of whole inputs; None if there is no such head."""
    for name, head in rows.heads.items():
        targets = rows.targets.get(name, ())
        if head.labelled and not head.ragged and len(targets) and targets[0].ndim == 0 and targets[0].dtype.kind == "i":
            return np.asarray(np.stack(targets))
    return None


def _numbered(rows: Any) -> str:
    """Return the name of the only head, if it learns several numbers of each input."""
    names = [name for name, targets in rows.targets.items() if len(targets) and targets[0].ndim == 1]
    head = rows.heads[names[0]] if len(names) == len(rows.heads) == 1 else None
    several = head is not None and not head.ragged and np.isnan(head.pad) and len(rows.targets[names[0]][0]) > 1
    return names[0] if several else ""
