"""Small structures, made by a formula, whose outputs are kept with each adapter."""

from __future__ import annotations

from math import cos, radians, sin

Point = tuple[float | None, float | None, float | None]
Probe = dict[str, dict[str, str] | list[list[Point]]]

# Of N, CA, C and O in an alpha helix: the distance to its axis in Å, the turn in degrees, the rise in Å.
_HELIX = ((1.55, -27.8, -0.86), (2.29, 0.0, 0.0), (1.68, 26.9, 1.10), (2.03, 21.5, 2.30))
_TURN, _RISE = 100.0, 1.5
_NOWHERE: Point = (None, None, None)


def _residue(number: int, aside: float) -> list[Point]:
    turns = [(radius, radians(angle + _TURN * number), rise + _RISE * number) for radius, angle, rise in _HELIX]
    return [
        (round(radius * cos(turn) + aside, 3), round(radius * sin(turn), 3), round(rise, 3))
        for radius, turn, rise in turns
    ]


def _helix(letters: str, aside: float = 0.0) -> list[list[Point]]:
    return [
        [_NOWHERE] * len(_HELIX) if letter == "-" else _residue(number, aside) for number, letter in enumerate(letters)
    ]


def _probe(**chains: str) -> Probe:
    # Axes 9 Å apart, as of helices that touch.
    atoms = [residue for place, letters in enumerate(chains.values()) for residue in _helix(letters, 9.0 * place)]
    return {"chains": dict(chains), "atoms": atoms}


PROBES = (
    _probe(A="ACDEFGHIKLMNPQRSTVWY"),
    _probe(A="GSAEELLKKAAELAKRAGSP", B="MKVDLEAIKQLXRELGA"),
    _probe(A="TPEEVKRLAE--GDPEALRRAVELAKEHGFNVEVR"),
)
"""One helix, two chains side by side, and a chain with a gap."""
