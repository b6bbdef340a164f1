"""Checkpoints of a run under way: safetensors for tensors, JSON for facts, nothing pickled."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exapt.errors import OutputError, RecipeError
from exapt.model import Model

_UNDER_WAY = "under-way-"


@dataclass
class Position:
    """The next step to take."""

    epoch: int = 0
    step: int = 0


class Checkpoints:
    """The checkpoints of one run in its folder; without a folder nothing is kept.

    ``identity`` is everything that the run depends on: a checkpoint of another run is refused.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.resume = resume

    def save(
        self,
        model: Model,
        optimizer: Any,
        best: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep everything that the next step depends on; the one before is removed only when this one is whole.

        Raises ``OutputError`` if the folder cannot be written; then the one before stays.
        """
        if self.folder is None:
            return
        try:
            self._write(self.folder, model, optimizer, best, facts, own or {})
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"no checkpoint can be written to '{self.folder}': {reason}") from None

    def _write(
        self,
        folder: Path,
        model: Model,
        optimizer: Any,
        best: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        own: Mapping[str, Tensor],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": tensor for name, tensor in model.learned().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
        tensors |= {f"own.{name}": tensor.detach().to("cpu", copy=True) for name, tensor in own.items()}
        moments, scalars = _optimizer_state(optimizer)
        tensors |= moments
        under_way = Path(tempfile.mkdtemp(prefix=_UNDER_WAY, dir=folder))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, under_way / "state.safetensors")
        kept = {"identity": self.identity, "facts": facts, "optimizer": scalars}
        (under_way / "facts.json").write_text(json.dumps(kept), encoding="utf-8")
        older = list(self._kept())
        number = 1 + max((int(path.name.rpartition("-")[2]) for path in older), default=0)
        under_way.rename(folder / f"checkpoint-{number:06d}")
        for path in older:
            shutil.rmtree(path)

    def load(
        self, model: Model, optimizer: Any, best: dict[str, Tensor], own: dict[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Put model, optimiser and best state back; return the run's facts, or {} to start afresh.

        ``own`` takes what strategies keep of their own.

        Raises ``RecipeError`` if the newest checkpoint is damaged or belongs to another run.
        """
        newest = max(self._kept(), default=None) if self.resume else None
        if newest is None:
            return {}
        kept, tensors = _read(newest)
        self._check(newest, kept["identity"])
        model.restore(_under("model.", tensors))
        best.update(_under("best.", tensors))
        if own is not None:
            own.update(_under("own.", tensors))
        _restore_optimizer(optimizer, tensors, kept["optimizer"])
        facts: dict[str, Any] = kept["facts"]
        return facts

    def clear(self) -> None:
        """Remove all checkpoints, half-written ones too: the run is over."""
        for path in [*self._kept(), *(self.folder.glob(f"{_UNDER_WAY}*") if self.folder else ())]:
            shutil.rmtree(path)

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*")) if self.folder and self.folder.is_dir() else []

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        if identity == self.identity:
            return
        here, there = _flat(self.identity), _flat(identity)
        key = next(key for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key))
        raise RecipeError(
            f"checkpoint '{path}' belongs to another run: its {key} is {there.get(key)!r}, this run's {here.get(key)!r}"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        kept = json.loads((path / "facts.json").read_text(encoding="utf-8"))
        if not isinstance(kept, dict) or not {"identity", "facts", "optimizer"} <= kept.keys():
            raise ValueError("facts.json is not whole")
        return kept, load_file(path / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RecipeError(f"checkpoint '{path}' is damaged ({error}); delete it to start afresh") from None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}{name}.").items()}


def _optimizer_state(optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value.detach().cpu().clone()
            else:
                scalars[f"{number}.{name}"] = value
    return tensors, scalars


def _restore_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*_under("optimizer.", tensors).items(), *scalars.items()]:
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
