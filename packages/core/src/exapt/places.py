"""Where on this machine stands what an adapter was learned with: an adapter holds no path, each machine keeps notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from exapt.installed import cache_folder

BACKBONES, TOKENIZERS = "backbones", "tokenizers"


def remember(kind: str, word: str, paths: Mapping[str, str]) -> None:
    """Note, on this machine only, where what has a fingerprint stands; without ``paths`` nothing is noted."""
    if not paths:
        return
    place = _place(kind, word)
    said = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items()}
    # A help for later, that no run should fail for; without it ``load`` asks where they are.
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(_noted(place) | said), encoding="utf-8")


def remembered(kind: str, word: str) -> dict[str, str]:
    """Return where what has a fingerprint was last seen on this machine, as far as it is still there."""
    return {name: path for name, path in _noted(_place(kind, word)).items() if Path(path).exists()}


def _place(kind: str, word: str) -> Path:
    return cache_folder() / kind / f"{word}.json"


def _noted(place: Path) -> dict[str, str]:
    try:
        noted = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(path) for name, path in noted.items()} if isinstance(noted, dict) else {}


def found_here(files: Mapping[str, str], kind: str, word: str, weights: str) -> dict[str, str]:
    """Return where ``files``, known by their last names, stand on this machine, those that are nowhere left out.

    That is where what has the fingerprint ``word`` was last seen, else in the folder of the ``weights`` or beside it.
    """
    noted = remembered(kind, word)
    here = {key: noted.get(key) or _beside(weights, Path(file).name) for key, file in files.items()}
    return {key: path for key, path in here.items() if path}


def _beside(weights: str, name: str) -> str:
    folder = Path(weights).expanduser()
    places = (folder / name, folder.parent / name) if weights and folder.is_dir() else ()
    return next((str(place) for place in places if place.exists()), "")
