"""The folder of ``exapt leave-one-out``: an adapter for each domain left out, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exapt.data.files import writing
from exapt.errors import OutputError

FORMAT = 1
RESULTS = "domains.json"
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class GeneralisationFolder:
    """Where adapters and results of domains are kept, so that an interrupted run can go on; without a path, nowhere."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.identity: Mapping[str, Any] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Take up what is there. Raises ``OutputError`` if that is of another recipe or of another kind altogether."""
        self.identity = json.loads(json.dumps(identity))
        if self.path is None:
            return
        if not (self.path / RESULTS).is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise OutputError(f"'{self.path}' exists already; name another folder")
            self._write()
            return
        try:
            held = json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
            there, self.results = held["of"], held["results"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"'{self.path / RESULTS}' cannot be read ({error}); name another folder") from None
        if there != self.identity:
            raise OutputError(f"'{self.path}' holds domains of another recipe or table; name another folder")

    def place(self, number: int, name: str) -> Path | None:
        """Return the folder of the adapter that one domain was left out of."""
        return None if self.path is None else self.path / f"{number}-{_UNFIT.sub('_', name)}"

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """Write down what one domain gave."""
        self.results[name] = dict(result)
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        assert self.path is not None
        held = {"format": FORMAT, "of": self.identity, "results": self.results}
        place = self.path / RESULTS
        draft = place.with_name(f".{RESULTS}.draft")
        with writing(place):
            self.path.mkdir(exist_ok=True)
            draft.write_text(json.dumps(held, indent=1, ensure_ascii=False), encoding="utf-8")
            draft.replace(place)
