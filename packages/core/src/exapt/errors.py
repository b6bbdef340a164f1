"""Everything that exapt raises on purpose.

ExaptError                    one sentence: what, which, what to do
├── DataError                 a table, a sequence or a label that cannot be used
│   ├── TableError            a whole table, at whichever of its rows that is noticed
│   └── UnknownClassError     a label that is none of the classes that there are
├── RecipeError               a recipe that cannot be run as written
│   └── MetricError           a metric that nothing measures
├── ComponentError            a backbone, head, strategy, ... that is unknown or offered twice
├── AdapterError              an adapter that does not fit what stands on this machine
├── OutputError               a place that cannot be written to
└── PluginError               an installed plugin that does not keep the contract (exit code 1)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ExaptError(Exception):
    """A failure that a user can understand and mend; its text is one line."""

    exit_code = 2


class DataError(ExaptError):
    """The data cannot be used as they are."""


class TableError(DataError):
    """No row of a table can be used: raised at the first of them, and said of none in particular."""


class UnknownClassError(DataError):
    """A label is ``name``, which is none of the classes."""

    def __init__(self, name: str, classes: Sequence[str]) -> None:
        super().__init__(name, classes)
        self.name, self.classes = name, classes

    def __str__(self) -> str:
        # Made when it is read: a table may have many such labels, and what is nearest to each takes long to find.
        hint = did_you_mean(self.name, self.classes)
        return f"is '{self.name}', which is none of the classes {', '.join(self.classes)}.{hint}"


class RecipeError(ExaptError):
    """The recipe cannot be run as written."""


class MetricError(RecipeError):
    """The metric that is to choose is not measured."""


class ComponentError(ExaptError):
    """No installed plugin offers the named component, or more than one does."""


class AdapterError(ExaptError):
    """An adapter is damaged, or does not belong to what it is used with."""


class OutputError(ExaptError):
    """The answer cannot be written where it was asked for."""


class PluginError(ExaptError):
    """A plugin is broken, or breaks the contract of its hooks."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def listed(words: Iterable[str]) -> str:
    """Return the words as they stand in a message: sorted, with commas; ``none`` where there are none."""
    return ", ".join(sorted(words)) or "none"
