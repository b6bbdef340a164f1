"""What a run depends on, before it is run: its recipe, and the content of all that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from exapt.base import named_base
from exapt.data.files import table_sha256
from exapt.recipe import Recipe


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return all that a run depends on: the recipe, the content of its tables, and of the adapters under it.

    Raises ``DataError`` for a table that is not there, and ``RecipeError`` for a base that is none.
    """
    tables = {"data": recipe.data, "target": recipe.target, "reference": recipe.reference}
    tables |= {f"heads.{name}.data": head.data for name, head in recipe.heads.items()}
    content = {
        f"{name}.{key}": table_sha256(path, table.format if key == "path" else "")
        for name, table in tables.items()
        if table is not None
        for key in ("path", "labels", "masks")
        if (path := getattr(table, key))
    }
    if recipe.start:
        content["start"] = _folder_sha256(Path(recipe.start))
    base = named_base(recipe.base, recipe.start)
    told = recipe.model_copy(update={"base": "", "start": ""}).model_dump(mode="json")
    return {**told, **content, "base": base.digest if base else ""}


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    # What it stands upon, in a folder of its own, is told as the base.
    for file in sorted(path for path in folder.glob("*") if path.is_file()):
        with file.open("rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
