"""Structures and their mutants as a model reads them, told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exapt.building import Tallies
from exapt.data.changes import IncomparableError, UnscorableError
from exapt.data.variants import Placement
from exapt.pairs import TOO_LONG, Pairs
from exapt.parts import Encoding
from exapt.structures import Structure


@dataclass(frozen=True)
class Placed(Pairs):
    """Makes pairs of placements. A structure is read whole: there is no window around what changes."""

    _counted: set[tuple[int, int]] = field(default_factory=set)

    def check_room(self, variant: Placement) -> None:
        """Raise ``UnscorableError`` for a structure that the model has no room for."""
        if self.limit is not None and len(variant.wild) > self.limit:
            self._window(variant)

    def _window(self, variant: Placement) -> tuple[Structure, Structure]:
        where, wild = variant.where, variant.wild
        encoding = self._encode(where, wild)
        if self.limit is not None and encoding.tokens > self.limit:
            raise UnscorableError(
                f"{where}: the structure makes {encoding.tokens:,} tokens; '{self.name}' takes at most {self.limit:,}",
                TOO_LONG,
            )
        covered = encoding.covered
        unread = [unit for unit in variant.units if not covered[unit]]
        if unread:
            raise IncomparableError(
                f"{where}: residue {wild.names[unread[0]]} lacks atoms that '{self.name}' reads, and nothing is told of it; "
                "leave such rows without a score with --skip-incomparable",
                "residues that lack atoms",
            )
        return wild, variant.mutant

    def _count(self, tallies: Tallies, pair: tuple[Any, Any], encodings: tuple[Encoding, Encoding]) -> None:
        # Mutants lack what their structure lacks: it is told of each structure once.
        wild, _ = pair
        if (id(tallies), id(wild)) not in self._counted:
            self._counted.add((id(tallies), id(wild)))
            tallies.count("structure", [wild], encodings[:1])
