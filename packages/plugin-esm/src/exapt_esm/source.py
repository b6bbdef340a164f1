"""Where the files of a checkpoint lie: a local folder, or the Hugging Face hub and its cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from exapt import DataError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def find(source: str, revision: str, name: str) -> Path | None:
    """Return a file of a checkpoint, downloaded if need be; None if the checkpoint has no such file.

    Raises ``DataError`` if ``source`` is neither a folder nor a hub id, or if the hub does not give it.
    """
    folder = _folder(source)
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    if not _HUB_ID.fullmatch(source):
        raise DataError(
            f"there is no folder '{source}'; name a folder with an ESM-2 checkpoint, or a hub id OWNER/NAME"
        )
    return _from_hub(source, revision, name)


def _folder(source: str) -> Path | None:
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    return path if source and path.is_dir() else None


def _from_hub(repository: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    # An entry that is missing from the cache of a machine offline raises a subclass of this one.
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise DataError(f"the hub does not give '{repository}'{at}: {_first_line(error)}") from None


def need(source: str, revision: str, name: str) -> Path:
    """Return a file without which the checkpoint cannot be used; raises ``DataError`` if it is not there."""
    path = find(source, revision, name)
    if path is None:
        raise DataError(lacking(source, name))
    return path


def lacking(source: str, name: str) -> str:
    """Return the sentence for a file that a checkpoint should have."""
    if _folder(source) is not None:
        return f"the folder '{source}' has no {name}, so it is no ESM-2 checkpoint"
    return (
        f"'{source}' is no folder here, and its {name} is neither on the hub nor in the cache of this machine; "
        "connect once to download it, or name a local folder as esm2:PATH"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; raises ``DataError`` if it holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"'{path}' is not a JSON object; download it again")
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
