"""Heat maps of several inputs: one of each, there together or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exapt.data.files import check_free, writing
from exapt.errors import OutputError
from exapt.pictures import check_picture, save_heat_map

_SUFFIX = ".png"
_LONGEST_NAME = 80


def heat_maps(place: str | Path | None, ids: Sequence[str], overwrite: bool) -> HeatMaps:
    """Return where the heat maps of some inputs go: a file or, of several inputs, a folder; nowhere if none is wanted.

    Raises ``OutputError`` for a place that does not suit, and for one that is taken.
    """
    if place is None:
        return HeatMaps(None, {}, overwrite)
    path = Path(place)
    if len(ids) == 1:
        return HeatMaps(check_picture(path, overwrite).parent, {ids[0]: path.name}, overwrite)
    if path.suffix and not path.is_dir():
        raise OutputError(f"there are {len(ids):,} inputs, and a picture of each: name a folder for them, not '{path}'")
    names = _names(ids)
    with writing(path):
        if path.is_dir():
            for name in names.values():
                check_picture(path / name, overwrite)
        else:
            check_free(path, overwrite=False)
    return HeatMaps(path, names, overwrite)


def _names(ids: Sequence[str]) -> dict[str, str]:
    """Return a file name for each id, none of them twice where capitals do not count either."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for who in ids:
        plain = re.sub(r"[^\w.-]", "_", who).strip(".")[:_LONGEST_NAME] or "_"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        names[who] = f"{name}{_SUFFIX}"
    return names


class HeatMaps:
    """Heat maps by id, drawn beside the place that they go to.

    Leaving by an exception throws them away, those that were published among them, and puts back what these replaced.
    """

    def __init__(self, folder: Path | None, names: dict[str, str], overwrite: bool) -> None:
        self._folder, self._names, self._overwrite = folder, names, overwrite
        self._drafts = Path()
        self._undo = ExitStack()

    def apart_from(self, table: Path | None) -> Self:
        """Return themselves. Raises ``OutputError`` if a table would take the place of one of them, or of their folder."""
        if self._folder is None or table is None:
            return self
        places = [self._folder, *(self._folder / name for name in self._names.values())]
        if table.resolve() in {place.resolve() for place in places}:
            raise OutputError(f"the table and a picture would both be '{table}': name another file for one of them")
        return self

    def __enter__(self) -> Self:
        if self._folder is not None:
            beside = self._folder if self._folder.is_dir() else self._folder.parent
            with writing(self._folder):
                self._drafts = Path(tempfile.mkdtemp(prefix=".pictures.", dir=beside))
        return self

    def save(self, who: str, **picture: Any) -> None:
        """Draw the heat map of the input ``who``, if pictures are wanted; ``picture`` is what ``save_heat_map`` draws."""
        if self._folder is not None:
            save_heat_map(self._drafts / self._names[who], **picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is None:
            return
        try:
            if kind is not None:
                with suppress(OSError):
                    self._undo.close()
        finally:
            shutil.rmtree(self._drafts, ignore_errors=True)

    def publish(self) -> None:
        """Move all of them to their place. Raises ``OutputError`` if it was taken meanwhile."""
        if self._folder is None:
            return
        with writing(self._folder):
            if not self._folder.is_dir():
                self._folder.mkdir()
                self._undo.callback(self._folder.rmdir)
            for draft in sorted(self._drafts.iterdir()):
                self._move(draft, self._folder / draft.name)

    def _move(self, draft: Path, place: Path) -> None:
        check_free(place, self._overwrite)
        undo: Callable[[], object] = place.unlink
        if os.path.lexists(place):
            replaced = draft.with_name(f"{draft.name}.replaced")
            shutil.copy2(place, replaced, follow_symlinks=False)
            undo = partial(replaced.replace, place)
        draft.replace(place)
        self._undo.callback(undo)
