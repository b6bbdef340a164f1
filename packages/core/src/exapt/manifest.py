"""``exapt.json``: what an adapter says of itself, and the card that says it to a reader."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exapt.errors import AdapterError, listed

MANIFEST = "exapt.json"
ALIGNMENT = "alignment.json"
FORMAT = 1
_PARTS = ("train", "valid", "test")
_SHOWN = (*_PARTS, "target", "reference before", "reference after")
HEADS = "heads.safetensors"
BACKBONE = "backbone.safetensors"
PEFT = "adapter_model.safetensors"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    """A part of the manifest as it must be; what a later exapt says besides is let be."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class _Written(_Section):
    format: int
    version: str


class _Component(_Section):
    name: str


class _Head(_Component):
    label: str | list[str] = ""
    classes: list[str] | None = None


class _Recipe(_Section):
    heads: dict[str, _Head] = Field(min_length=1)
    strategies: list[_Component] = Field(min_length=1)


class _Backbone(_Section):
    name: str
    family: str
    modality: str
    source: str
    revision: str
    local: bool
    width: int
    licence: str
    commercial: bool
    paper: str
    architecture: Sha256
    fingerprint: Sha256 | None


class _Tokenizer(_Section):
    name: str
    fingerprint: Sha256


class _Data(_Section):
    file: str
    sha256: Sha256
    rows: dict[str, int]


class _Tensor(_Section):
    shape: list[int]
    dtype: str
    sha256: Sha256


class _Tolerance(_Section):
    fp32: float = Field(gt=0, le=0.01)


class _Probe(_Section):
    inputs: list[Any] = Field(min_length=1)
    outputs: dict[str, list[list[float]]]
    tolerance: _Tolerance


class _Manifest(_Section):
    recipe: _Recipe
    plugins: dict[str, str]
    backbone: _Backbone
    tokenizer: _Tokenizer
    data: _Data
    metrics: dict[str, dict[str, float]]
    tensors: dict[str, dict[str, _Tensor]]
    probe: _Probe
    exapt: _Written

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        strange = self.tensors.keys() - {HEADS, BACKBONE, PEFT}
        if strange:
            raise ValueError(f"no adapter has a file of tensors '{min(strange)}'")
        if HEADS not in self.tensors:
            raise ValueError(f"it lists no tensors of {HEADS}")
        asked, probed = self.recipe.heads.keys(), self.probe.outputs
        if asked != probed.keys():
            raise ValueError(f"its heads are {listed(asked)}, but those of its probe are {listed(probed)}")
        for head, rows in probed.items():
            if len(rows) != len(self.probe.inputs):
                raise ValueError(f"its probe has {len(self.probe.inputs)} inputs, but {len(rows)} outputs of '{head}'")
        return self


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return an adapter's manifest. Raises ``AdapterError`` if the folder is none, or is of a later format."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder '{folder}'")
    if not path.is_file():
        aligned = (folder / ALIGNMENT).is_file()
        instead = (
            ": it aligns two backbones, for exapt retrieve, exapt classify and exapt.load_alignment" if aligned else ""
        )
        raise AdapterError(f"'{folder}' is no exapt adapter: it has no {MANIFEST}{instead}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written = manifest["exapt"]["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"'{path}' is damaged: {error}") from None
    if written != FORMAT:
        raise AdapterError(f"'{folder.name}' has format {written}; this exapt reads format {FORMAT}: upgrade exapt")
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise AdapterError(f"'{path}' is damaged: {_first_fault(error)}") from None
    return _as_today(manifest)


def _as_today(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest as it would be written now: up to 0.2 a group could stand beside a column of parts, and had no say."""
    split = manifest["recipe"].get("split")
    if not isinstance(split, Mapping) or not (split.get("column") and split.get("group")):
        return dict(manifest)
    return {**manifest, "recipe": {**manifest["recipe"], "split": {**split, "group": ""}}}


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"it lacks '{place}'"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"'{place}': {reason[0].lower()}{reason[1:]}" if place else reason


def finite(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report without what is no number, such as NaN: JSON has no such thing, and no run may be lost to one."""
    return {name: _plain(value) for name, value in report.items() if not _endless(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [None if _endless(one) else _plain(one) for one in value]
    return value


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def dumped(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as text: its order is that of the recipe, in which heads and inputs are asked again."""
    return json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def card(manifest: Mapping[str, Any]) -> str:
    """Return the adapter's model card, in Markdown with a metadata block."""
    backbone, recipe = manifest["backbone"], manifest["recipe"]
    merged = manifest.get("merged")
    named = ", ".join(strategy["name"] for strategy in (merged or recipe)["strategies"])
    strategies = f"{named}, merged," if merged else named
    lines = [
        "---",
        "library_name: exapt",
        # As JSON it is a quoted text of YAML, whatever characters stand in it.
        f"base_model: {json.dumps(backbone['source'] or backbone['name'], ensure_ascii=False)}",
        f"license: {backbone['licence'].lower()}",
        "tags: [exapt, transfer-learning, biology]",
        "---",
        "",
        f"# {strategies} on {backbone['name']}",
        "",
        f"An adapter for the {backbone['modality']} model `{backbone['name']}`, learned with exapt "
        f"{manifest['exapt']['version']}.",
        "",
        *_questions(recipe),
        "",
        *_metrics(manifest),
        *_data(manifest),
        "",
        *_transfer(manifest),
        "## Use",
        "",
        "```",
        "exapt predict THIS_FOLDER data.csv -o answers.csv",
        "```",
        "",
        "## Licence and citation of the backbone",
        "",
        f"Weights: {backbone['licence']}" + ("." if backbone["commercial"] else ", no commercial use."),
        f"Cite: {backbone['paper'] or 'not known'}",
        "",
    ]
    return "\n".join(lines)


def _questions(recipe: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, head in recipe["heads"].items():
        label = head.get("label", ())
        columns = label if isinstance(label, str) else ", ".join(label)
        classes = f" Classes: {', '.join(head['classes'])}." if head.get("classes") else ""
        lines.append(f"- `{name}`: {head['name']}{f' of `{columns}`' if columns else ', without labels'}.{classes}")
    return lines


def _metrics(manifest: Mapping[str, Any]) -> list[str]:
    known = manifest["metrics"]
    parts = {part: known[part] for part in _SHOWN if known.get(part)}
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    if not names:
        return []
    lines = ["| metric | " + " | ".join(parts) + " |", "|---|" + "---|" * len(parts)]
    for name in names:
        cells = [f"{values[name]:.4f}" if name in values else "" for values in parts.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _data(manifest: Mapping[str, Any]) -> list[str]:
    data = manifest["data"]
    rows = ", ".join(f"{data['rows'][part]:,} {part}" for part in _PARTS if part in data["rows"])
    return [f"Data: `{data['file']}` (sha256 `{data['sha256'][:16]}`), {rows}."]


def _transfer(manifest: Mapping[str, Any]) -> list[str]:
    """Return what each strategy had to tell of the run: facts in a line, and a table of what it has several of."""
    told: Mapping[str, Any] = manifest.get("transfer") or {}
    lines: list[str] = []
    for name, facts in told.items():
        sides = {key: value for key, value in facts.items() if isinstance(value, Mapping) and value}
        tables = {key: value for key, value in facts.items() if _is_table(value)}
        plain = {key: value for key, value in facts.items() if key not in sides and key not in tables}
        words = ", ".join(f"{key} {_said(value)}" for key, value in plain.items() if value != {})
        lines += [f"`{name}`: {words}." if words else f"`{name}`:", ""]
        if sides:
            lines += [*_table([{"": key, **_flat(value)} for key, value in sides.items()]), ""]
        for key, rows in tables.items():
            lines += [f"{key}:", "", *_table([_flat(row) for row in rows]), ""]
    return ["## Transfer", "", *lines] if lines else []


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    body = ["| " + " | ".join(_said(row[name]) if name in row else "" for name in names) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *body]


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(_said, value)) if isinstance(value, list) else str(value)
