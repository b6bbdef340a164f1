"""``alignment.json`` and what stands beside it: the projections, and copies of the adapters that towers are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor

from exapt import adapter
from exapt.alignment.recipe import TOWER_NAME
from exapt.errors import AdapterError, listed
from exapt.manifest import ALIGNMENT, HEADS, MANIFEST, dumped
from exapt.parts import Head

if TYPE_CHECKING:
    from exapt.alignment.towers import ChosenTower

FORMAT = 1

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    """A part of the manifest as it must be; what a later exapt says besides is let be."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class _Backbone(_Section):
    name: str
    family: str
    modality: str
    local: bool
    licence: str
    commercial: bool
    architecture: _Sha256
    fingerprint: _Sha256 | None


class _Tokenizer(_Section):
    name: str
    fingerprint: _Sha256


class _Tower(_Section):
    backbone: _Backbone
    tokenizer: _Tokenizer


class _Tensor(_Section):
    shape: list[int]
    dtype: str
    sha256: _Sha256


class _Tolerance(_Section):
    fp32: float = Field(gt=0, le=0.01)


class _Probe(_Section):
    inputs: list[Any] = Field(min_length=1)
    outputs: list[list[float]]
    tolerance: _Tolerance


class _Recipe(_Section):
    towers: dict[str, dict[str, Any]]
    head: dict[str, Any]


class _Manifest(_Section):
    recipe: _Recipe
    plugins: dict[str, str]
    towers: dict[str, _Tower] = Field(min_length=2, max_length=2)
    metrics: dict[str, dict[str, float]]
    tensors: dict[str, dict[str, _Tensor]]
    probes: dict[str, _Probe]

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.tensors.keys() != {HEADS}:
            raise ValueError(f"an alignment has one file of tensors, {HEADS}, and these are {listed(self.tensors)}")
        for what, names in (("recipe", self.recipe.towers), ("probes", self.probes)):
            if names.keys() != self.towers.keys():
                raise ValueError(f"its towers are {listed(self.towers)}, but those of its {what} are {listed(names)}")
        for name in self.towers:
            if not TOWER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a tower: use letters, digits, '-' and '_'")
        said = self.recipe.head.get("towers")
        if not isinstance(said, list) or said != list(self.recipe.towers):
            raise ValueError(f"its towers are {listed(self.towers)}, but its head names others or none, as head.towers")
        for name, probe in self.probes.items():
            if len({len(output) for output in probe.outputs}) > 1:
                raise ValueError(f"its probe '{name}' has outputs of several lengths")
            if len(probe.inputs) != len(probe.outputs):
                raise ValueError(f"its probe '{name}' has {len(probe.inputs)} inputs, but {len(probe.outputs)} outputs")
        return self


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return an alignment's manifest. Raises ``AdapterError`` if the folder holds none, or one of a later format."""
    path = folder / ALIGNMENT
    if not folder.is_dir():
        raise AdapterError(f"there is no folder '{folder}' of an alignment")
    if not path.is_file():
        raise AdapterError(f"'{folder}' is no alignment: it has no {ALIGNMENT}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written = manifest["exapt"]["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"'{path}' is damaged: {error}") from None
    if written != FORMAT:
        raise AdapterError(f"'{folder.name}' has format {written}; this exapt reads format {FORMAT}: upgrade exapt")
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place, reason = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        raise AdapterError(f"'{path}' is damaged: {f'{place!r}: ' if place else ''}{reason}") from None
    return manifest


def write(folder: Path, head: Head, manifest: Mapping[str, Any], towers: Sequence[ChosenTower]) -> None:
    """Write an alignment, whole or not at all, with a copy of each adapter that is a tower."""
    with adapter.written(folder) as under_way:
        for tower in towers:
            if tower.adapted is not None:
                tower.adapted.save(under_way / tower.name)
        tensors = {f"head.{key}": value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
        save_file(tensors, under_way / HEADS, metadata=adapter.questions(_as_adapter(manifest)))
        (under_way / ALIGNMENT).write_text(dumped(manifest), encoding="utf-8")
        (under_way / adapter.CARD).write_text(card(manifest), encoding="utf-8")


def read_tensors(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the head learned. Raises ``AdapterError`` unless it is what the manifest says."""
    try:
        tensors = adapter.read_tensors(folder, {**_as_adapter(manifest), "tensors": manifest["tensors"]})[HEADS]
    except AdapterError as error:
        # What an adapter says in its manifest, an alignment says in its own.
        raise AdapterError(str(error).replace(MANIFEST, ALIGNMENT)) from None
    return {name.removeprefix("head."): tensor for name, tensor in tensors.items()}


def _as_adapter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an adapter's manifest says of its heads: an alignment has one."""
    return {"recipe": {"heads": {"head": manifest["recipe"]["head"]}}}


def card(manifest: Mapping[str, Any]) -> str:
    """Return the alignment's card, in Markdown."""
    towers, data, metrics = manifest["towers"], manifest["data"], manifest["metrics"]
    names = [tower["backbone"]["name"] for tower in towers.values()]
    lines = [f"# {' and '.join(names)}, aligned", "", f"Learned with exapt {manifest['exapt']['version']}.", ""]
    for name, tower in towers.items():
        backbone = tower["backbone"]
        free = "" if backbone["commercial"] else ", no commercial use"
        lines.append(
            f"- `{name}`: {backbone['modality']} model `{backbone['name']}`. Weights: {backbone['licence']}{free}."
        )
    counted = ", ".join(f"{count:,} {part}" for part, count in data["pairs"].items())
    files = ", ".join(f"`{tower['file']}`" for tower in data["towers"].values())
    lines += ["", f"Pairs: {counted}; of {files}.", ""]
    parts = [part for part in ("valid", "test") if metrics.get(part)]
    if parts:
        lines += ["| metric | " + " | ".join(parts) + " |", "|---|" + "---|" * len(parts)]
    for metric in dict.fromkeys(metric for part in parts for metric in metrics[part]):
        cells = [f"{metrics[part][metric]:.4f}" if metric in metrics[part] else "" for part in parts]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
