"""What a check is: a name, the fault that it guards against, and a function that yields what is wrong with a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from exapt.recipe import validated
from exapt.specs import Options, Spec

C = TypeVar("C")

Faults = Iterator[str]
"""Sentences, each saying what is wrong, on which input, by how much; none if all is well."""


class ConformanceError(AssertionError):
    """A component breaks a promise; one sentence says which component, which check and what was seen."""


@dataclass(frozen=True)
class Check(Generic[C]):
    """One promise of the contract."""

    name: str
    guards: str
    """The fault, seen in published toolkits, that this check would have caught."""
    faults: Callable[[C], Faults]

    @property
    def promise(self) -> str:
        """What the check holds a component to."""
        return " ".join((self.faults.__doc__ or "").split())


def run_checks(subject: str, case: C, checks: Iterable[Check[C]]) -> None:
    """Run checks in order; raises ``ConformanceError`` with the first fault found."""
    for check in checks:
        fault = _first_fault(check, case)
        if fault:
            raise ConformanceError(f"{subject} fails {check.name}: {fault[0]}") from fault[1]


def _first_fault(check: Check[C], case: C) -> tuple[str, BaseException | None] | None:
    try:
        fault = next(check.faults(case), None)
    # The code under test belongs to someone else: whatever it raises is a fault of the component, told with its name.
    except Exception as error:
        return f"it raises {said(error)}", error
    return (fault, None) if fault else None


def said(error: BaseException) -> str:
    """Return an error as one line: its type and its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def options_of(spec: Spec, given: Options | Mapping[str, Any] | None, **defaults: Any) -> Options:
    """Return options of a component from a model, a mapping or nothing; ``defaults`` fill in what was not said."""
    if isinstance(given, Options):
        return given
    known = {key: value for key, value in defaults.items() if key in spec.options.model_fields}
    return validated(spec.options, {**known, **(given or {})}, f"{spec.kind} '{spec.name}'")
