"""The folder of a search: what it is a search of, its trials, and the best recipe."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exapt.data.files import writing
from exapt.errors import OutputError, RecipeError
from exapt.searching.aside import MARK
from exapt.toml_text import toml_of

FORMAT = 1
_SEARCH, _JOURNAL, _TRIALS, _FINAL = "search.json", "journal.log", "trials.csv", "final.json"


@dataclass(frozen=True)
class SearchFolder:
    """Where a search keeps what it found, so that it can go on another day."""

    path: Path

    @property
    def journal(self) -> Path:
        """Optuna's own log of the trials: JSON, one entry a line."""
        return self.path / _JOURNAL

    @property
    def best(self) -> Path:
        """The adapter of the best recipe, once it was measured on the test part."""
        return self.path / "best"

    @property
    def begun(self) -> bool:
        """Whether a trial was over."""
        return (self.path / _TRIALS).is_file()

    def check(self, resume: bool) -> None:
        """Raise ``OutputError`` if another search stands there, or anything else."""
        if self.best.exists():
            raise OutputError(
                f"the test part was looked at in '{self.path}' already, and is looked at once: search on in another folder"
            )
        if (self.path / _SEARCH).is_file():
            if not resume:
                raise OutputError(
                    f"'{self.path}' holds a search: add --resume to go on with it, or name another folder"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise OutputError(f"'{self.path}' exists already; name another folder")
        elif not self.path.resolve().parent.is_dir():
            raise OutputError(f"there is no folder '{self.path.parent}' to put '{self.path.name}' into")

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write down what is searched, or compare it. Raises ``RecipeError``, naming what differs, for another search."""
        asked = json.loads(json.dumps({"format": FORMAT, **identity}))
        place = self.path / _SEARCH
        if not place.is_file():
            self._write(place, json.dumps(asked, indent=1, ensure_ascii=False))
            return
        try:
            held = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"'{place}' cannot be read ({error}); search in another folder") from None
        here, there = dict(_leaves(asked)), dict(_leaves(held))
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                raise RecipeError(
                    f"'{self.path}' holds another search: its {key} is {_word(there, key)}, this one's {_word(here, key)}; "
                    "search in another folder"
                )

    def mend(self) -> None:
        """Take off what an interruption left: of the journal half an entry and the lock on it, and what a trial wrote."""
        for left in self.path.glob(f"{MARK}*"):
            shutil.rmtree(left)
        self.journal.with_name(f"{_JOURNAL}.lock").unlink(missing_ok=True)
        if self.journal.is_file():
            whole = self.journal.read_bytes()
            if whole and not whole.endswith(b"\n"):
                self.journal.write_bytes(whole[: whole.rfind(b"\n") + 1])

    def begin_final(self, recipe: Mapping[str, Any]) -> bool:
        """Note which recipe is trained once more; return whether it was begun, and can go on.

        The run of another recipe, which was the best before more trials, is taken away: its test part was not reached.
        """
        asked, run = json.loads(json.dumps(recipe)), self.best.with_name(f"{self.best.name}.run")
        place = self.path / _FINAL
        if run.exists() and place.is_file() and json.loads(place.read_text(encoding="utf-8")) == asked:
            return True
        if run.exists():
            shutil.rmtree(run)
        self._write(place, json.dumps(asked, indent=1, ensure_ascii=False))
        return False

    def end_final(self) -> None:
        """Take off the note: the adapter says what it was learned by."""
        (self.path / _FINAL).unlink()

    def write_trials(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write ``trials.csv``, one row a trial."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        self._write(self.path / _TRIALS, text.getvalue())

    def write_best(self, recipe: Mapping[str, Any], says: str) -> None:
        """Write ``best.toml``, a recipe that ``exapt train`` runs."""
        self._write(self.path / "best.toml", f"# {says}\n{toml_of(recipe)}")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self._write(self.path / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False))

    def _write(self, place: Path, text: str) -> None:
        draft = place.with_name(f".{place.name}.draft")
        with writing(place):
            draft.write_text(text, encoding="utf-8")
            draft.replace(place)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else key)
    else:
        yield place, value


def _word(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not given"
