# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a plugin as a whole: what its module may do when it is imported, and what its source may not hold."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from exapt.errors import listed
from exapt.plugins import Loaded, Plugins
from exapt.testing._check import Check, Faults

HEAVY = ("numpy", "pandas", "peft", "pyarrow", "scipy", "sklearn", "tensorflow", "torch", "transformers")
_UNPICKLES = {("pickle", "load"), ("pickle", "loads"), ("dill", "load"), ("joblib", "load"), ("cloudpickle", "load")}


@dataclass(frozen=True)
class PluginCase:
    """A plugin: an importable module, or an object that holds hooks."""

    plugin: Any

    @property
    def name(self) -> str:
        """The module's name, or the class's."""
        return str(getattr(self.plugin, "__name__", type(self.plugin).__name__))

    @cached_property
    def loaded(self) -> Loaded:
        """What exapt makes of the plugin."""
        return Plugins([], [self.plugin]).loaded[-1]

    @property
    def module(self) -> ModuleType | None:
        """The module, if another process can import it too."""
        findable = isinstance(self.plugin, ModuleType) and importlib.util.find_spec(self.plugin.__name__) is not None
        return self.plugin if findable else None

    @property
    def sources(self) -> Iterator[Path]:
        """The Python files of the plugin's own package."""
        if self.module is None or self.module.__file__ is None:
            return
        package = importlib.import_module(self.module.__name__.partition(".")[0])
        folders = list(getattr(package, "__path__", ()))
        yield from (
            sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
            if folders
            else [Path(self.module.__file__)]
        )


def keeps_the_contract(case: PluginCase) -> Faults:
    """The plugin declares ``exapt_api``, spells its hooks as they are and yields what they ask for."""
    if case.loaded.fault:
        yield case.loaded.fault
    elif not case.loaded.specs:
        yield "it offers nothing"


def options_described(case: PluginCase) -> Faults:
    """Every option says what it is."""
    for spec in case.loaded.specs:
        for name, field in spec.options.model_fields.items():
            if not (field.description or "").strip():
                yield f"option '{name}' of {spec.kind} '{spec.name}' has no description"


def light_import(case: PluginCase) -> Faults:
    """Importing the plugin, which every command may do, imports nothing that works with tensors."""
    if case.module is None:
        return
    code = f"import sys, {case.name}; print(*(set({HEAVY}) & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        yield f"a fresh process cannot import it: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    elif done.stdout.split():
        yield f"importing it imports {listed(done.stdout.split())}; import that inside build"


def safe_source(case: PluginCase) -> Faults:
    """The source unpickles nothing and trusts no code that comes with weights."""
    for path in case.sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            deed = _unsafe(node)
            if deed:
                yield f"{path.name}, line {getattr(node, 'lineno', 0)}, {deed}"


def _unsafe(node: ast.AST) -> str:
    if isinstance(node, ast.Dict) and any(
        isinstance(key, ast.Constant) and key.value == "trust_remote_code" for key in node.keys
    ):
        return "sets trust_remote_code"
    if not isinstance(node, ast.Call):
        return ""
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if not _is(named.get("trust_remote_code"), False, absent=True):
        return "sets trust_remote_code"
    if not _is(named.get("allow_pickle"), False, absent=True):
        return "sets allow_pickle"
    called = _called(node.func)
    if called == ("torch", "load") and not _is(named.get("weights_only"), True):
        return "calls torch.load without weights_only=True"
    return f"calls {'.'.join(called)}" if called in _UNPICKLES else ""


def _is(given: ast.expr | None, wanted: bool, absent: bool = False) -> bool:
    return absent if given is None else isinstance(given, ast.Constant) and given.value is wanted


def _called(function: ast.expr) -> tuple[str, str]:
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id, function.attr
    return "", ""


PLUGIN_CHECKS: tuple[Check[PluginCase], ...] = (
    Check("keeps-the-contract", "a misspelt hook that is never called", keeps_the_contract),
    Check("options-described", "an option that nobody can choose", options_described),
    Check("light-import", "a plugin that makes every command slow", light_import),
    Check("safe-source", "pickles and remote code", safe_source),
)
