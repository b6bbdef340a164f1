"""What of a structure is designed, and from which letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exapt import DataError
from exapt.parts import Array
from exapt.structures import ABSENT, Structure
from exapt_esm.designing import DesignOptions, check_letters
from exapt_esm.designing.places import Places
from exapt_esm.proteinmpnn import ALPHABET

_TIED, _TIED_CHAINS, _OMIT_AT = "--tied", "--tied-chains", "--omit-at"


@dataclass(frozen=True)
class Plan:
    """What is sampled of a structure.

    ``designed`` [units] are the residues that are; ``groups`` sets of units among them that get one letter; ``allowed``
    [units, letters] the letters that may stand there; ``bias`` [letters] is added to logits. ``told`` is what there is to
    tell of it.
    """

    designed: Array
    groups: tuple[Array, ...]
    allowed: Array
    bias: Array
    told: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, structure: Structure, resolved: Array, options: DesignOptions) -> Plan:
        """Return the plan of the structure called ``name``, whose ``resolved`` [units] residues a model can read.

        Raises ``DataError``, with the option, for what does not go with this structure.
        """
        places = Places(name, structure, options.numbering)
        designed = _designed(places, resolved, options)
        groups, told = _groups(places, designed, resolved, options)
        allowed = _allowed(places, designed, groups, options)
        bias = np.array([options.bias.get(letter, 0.0) for letter in ALPHABET])
        return cls(designed, groups, allowed, bias, told)

    def turns(self, keys: Array) -> list[Array]:
        """Return the designed units in the order of ``keys`` [units], turn by turn: those of a group at its first one's.

        The units of a turn are decoded at once: none of them sees another.
        """
        member = {int(unit): group for group in self.groups for unit in group}
        done: set[int] = set()
        turns = []
        for unit in np.argsort(keys, kind="stable").tolist():
            if self.designed[unit] and unit not in done:
                group = member.get(unit, np.array([unit]))
                turns.append(group[np.argsort(keys[group], kind="stable")])
                done.update(group.tolist())
        return turns


def _designed(places: Places, resolved: Array, options: DesignOptions) -> Array:
    structure = places.structure
    chosen = np.zeros(len(structure), dtype=bool)
    for chain in structure.chains if options.chains is None else options.chains:
        chosen[places.chain(chain, "--chains")] = True
    for text in options.fixed:
        chosen[places.of(text, "--fixed")] = False
    if options.design_only is not None:
        alone = np.zeros(len(structure), dtype=bool)
        for text in options.design_only:
            units = places.of(text, "--design-only")
            if not chosen[units].all():
                raise DataError(f"--design-only: {text} is in a chain of {places.name} that is not among --chains")
            alone[units] = True
        chosen &= alone
    designed: Array = chosen & resolved
    if not designed.any():
        raise DataError(f"nothing of {places.name} is left to design: no residue with a backbone is chosen")
    return designed


def _groups(
    places: Places, designed: Array, resolved: Array, options: DesignOptions
) -> tuple[tuple[Array, ...], tuple[str, ...]]:
    sets: list[tuple[str, Array]] = []
    told: list[str] = []
    for text in options.tied:
        sets += ((_TIED, units) for units in _paired(places, _stretches(text), _TIED))
    for chains in options.tied_chains:
        found, lonely = _by_number(places, chains)
        sets += ((_TIED_CHAINS, units) for units in found)
        told += lonely
    seen: set[int] = set()
    for asked, units in sets:
        twice = next((unit for unit in units.tolist() if unit in seen or (units == unit).sum() > 1), None)
        if twice is not None:
            raise DataError(f"{asked}: residue {_called(places, twice)} is tied twice")
        seen.update(units.tolist())
        _refuse_half_fixed(places, units[resolved[units]], designed, asked)
    kept = (units[designed[units]] for _, units in sets)
    return tuple(units for units in kept if len(units) > 1), tuple(told)


def _refuse_half_fixed(places: Places, units: Array, designed: Array, asked: str) -> None:
    if designed[units].any() and not designed[units].all():
        one, other = units[designed[units]][0], units[~designed[units]][0]
        raise DataError(
            f"{asked}: {_called(places, one)} is designed and {_called(places, other)} is not; what is tied is designed, "
            "or kept, together"
        )


def _called(places: Places, unit: int) -> str:
    return f"{places.structure.names[unit]} of {places.name}"


def _stretches(text: str) -> list[str]:
    stretches = [part.strip() for part in text.split("=")]
    if len(stretches) < 2:
        raise DataError(f"{_TIED}: '{text}' ties nothing; write A:1-50=B:1-50")
    if not all(stretches):
        where = "behind the last" if not stretches[-1] else "before the first" if not stretches[0] else "beside one"
        raise DataError(f"{_TIED}: '{text}' lacks a stretch {where} '='; write A:1-50=B:1-50")
    return stretches


def _paired(places: Places, stretches: Sequence[str], asked: str) -> list[Array]:
    (first, one), *others = every = [(said, places.of(said, asked)) for said in stretches]
    for said, units in others:
        if len(units) != len(one):
            raise DataError(f"{asked}: {first} has {len(one)} positions, and {said} of {places.name} has {len(units)}")
    return list(np.stack([units for _, units in every], axis=1))


def _by_number(places: Places, chains: Sequence[str]) -> tuple[list[Array], list[str]]:
    """Return the units of chains that have one number, and what there is to tell of residues without a partner."""
    units = [places.chain(chain, _TIED_CHAINS) for chain in chains]
    if len(set(chains)) < len(chains):
        raise DataError(f"{_TIED_CHAINS}: {', '.join(chains)} names a chain twice")
    if places.numbering == "index":
        return _paired(places, chains, _TIED_CHAINS), []
    numbers = [{places.structure.numbers[unit]: unit for unit in some} for some in units]
    common = [number for number in numbers[0] if all(number in other for other in numbers[1:])]
    tied = set(common)
    if not common:
        raise DataError(
            f"{_TIED_CHAINS}: no residue number of {places.name} is in all of the chains {', '.join(chains)}; tie their "
            "stretches, such as A:1-50=B:101-150"
        )
    letters = places.structure.letters
    alone = sum(number not in tied and letters[unit] != ABSENT for some in numbers for number, unit in some.items())
    lonely = f"{places.name}: residues of the chains {', '.join(chains)} without a partner, not tied: {alone:,}"
    return [np.array([other[number] for other in numbers]) for number in common], [lonely] * bool(alone)


def _allowed(places: Places, designed: Array, groups: Sequence[Array], options: DesignOptions) -> Array:
    allowed = np.ones((len(designed), len(ALPHABET)), dtype=bool)
    allowed[:, _ids(f"{options.omit or ''}X")] = False
    for text in options.omit_at:
        place, equals, letters = text.partition("=")
        if not equals or not letters.strip():
            raise DataError(f"{_OMIT_AT}: '{text}' names no residues to leave out; write A:12=CP")
        units = places.of(place.strip(), _OMIT_AT)
        if not designed[units].any():
            raise DataError(f"{_OMIT_AT}: {place.strip()} of {places.name} is not designed")
        allowed[np.ix_(units, _ids(_known(letters.strip().upper(), text)))] = False
    for group in groups:
        allowed[group] = allowed[group].all(0)
    nothing = np.flatnonzero(designed & ~allowed.any(1))
    if len(nothing):
        raise DataError(f"{_OMIT_AT}: no residue is left to sample at {_called(places, int(nothing[0]))}")
    return allowed


def _known(letters: str, text: str) -> str:
    try:
        check_letters(letters)
    except ValueError as error:
        raise DataError(f"{_OMIT_AT}: {error}, in '{text}'") from None
    return letters


def _ids(letters: str) -> Array:
    return np.array([ALPHABET.index(letter) for letter in letters])
