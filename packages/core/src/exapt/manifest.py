"""``exapt.json``: what an adapter says of itself, and the card that says it to a reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exapt.errors import AdapterError

MANIFEST = "exapt.json"
FORMAT = 1
_PARTS = ("train", "valid", "test")
_SECTIONS = ("recipe", "plugins", "backbone", "tokenizer", "data", "metrics", "tensors", "probe")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return an adapter's manifest. Raises ``AdapterError`` if the folder is none, or is of a later format."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder '{folder}'")
    if not path.is_file():
        raise AdapterError(f"'{folder}' is no exapt adapter: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written = manifest["exapt"]["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"'{path}' is damaged: {error}") from None
    if written != FORMAT:
        raise AdapterError(f"'{folder.name}' has format {written}; this exapt reads format {FORMAT}: upgrade exapt")
    lacking = [name for name in _SECTIONS if not isinstance(manifest.get(name), dict)]
    if lacking:
        raise AdapterError(f"'{path}' is damaged: it lacks '{lacking[0]}'")
    return dict(manifest)


def dumped(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as text: its order is that of the recipe, in which heads and inputs are asked again."""
    return json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def card(manifest: Mapping[str, Any]) -> str:
    """Return the adapter's model card, in Markdown with a metadata block."""
    backbone, recipe = manifest["backbone"], manifest["recipe"]
    strategies = ", ".join(strategy["name"] for strategy in recipe["strategies"])
    lines = [
        "---",
        "library_name: exapt",
        f"base_model: {backbone['source'] or backbone['name']}",
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
        label = head["label"] if isinstance(head["label"], str) else ", ".join(head["label"])
        classes = f" Classes: {', '.join(head['classes'])}." if head.get("classes") else ""
        lines.append(f"- `{name}`: {head['name']} of `{label}`.{classes}")
    return lines


def _metrics(manifest: Mapping[str, Any]) -> list[str]:
    parts = {part: manifest["metrics"][part] for part in _PARTS if manifest["metrics"].get(part)}
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
