"""Scans: the score of every substitution of a sequence or a structure, as a table and as a heat map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt.building import Tallies, encode_one, refuse_mistaken
from exapt.data.alphabets import SUBSTITUTES
from exapt.data.changes import IncomparableError, UnscorableError
from exapt.data.files import open_writer
from exapt.data.positions import positions_of
from exapt.data.tables import read_examples
from exapt.data.variants import Placement, Told, Variant
from exapt.errors import DataError, ExaptError, RecipeError, did_you_mean, listed
from exapt.heat_maps import HeatMaps, heat_maps
from exapt.prediction import Stdout
from exapt.recipe import DataOptions
from exapt.scanned import Scanned, ScannedSequence, ScannedStructure
from exapt.scoring import Scoring
from exapt.structures import Structure
from exapt.substitutions import scores_together

# Substitutions that are scored together: all of most proteins, so that what they share is read once.
_TOGETHER = 1 << 15


@dataclass(frozen=True)
class Scan:
    """A scan to come: what scores, where, and what it is to leave without a score."""

    scoring: Scoring
    positions: str | Sequence[int] = ""
    skips: tuple[type[UnscorableError], ...] = ()
    tell: Callable[[str], None] = lambda line: None
    told: Told = field(init=False)
    tallies: Tallies = field(init=False)

    def __post_init__(self) -> None:
        if not self.scoring.reads_structures:
            positions_of(self.positions)
        object.__setattr__(self, "told", Told(self.skips))
        object.__setattr__(self, "tallies", Tallies(self.scoring.pairs.tokenizer))

    @property
    def alphabet(self) -> str:
        """The letters of what the model reads. Raises ``RecipeError`` for a model of anything else."""
        spec = self.scoring.pairs.parts[0].offer.spec
        if spec.modality not in SUBSTITUTES:
            raise RecipeError(
                f"'{self.scoring.pairs.name}' reads {spec.modality}, and a scan knows the letters of "
                f"{listed(SUBSTITUTES)} alone"
            )
        return SUBSTITUTES[spec.modality]

    def wilds(self, inputs: Mapping[str, Any]) -> list[Scanned]:
        """Return sequences, or structures, by id, as they are to be scanned.

        Raises ``DataError`` for positions that one does not have, and where there is nothing to scan at all.
        """
        pairs = self.scoring.pairs
        refuse_mistaken(pairs.tokenizer, list(inputs.values()), pairs.name)
        wilds = [self._wild(who, value) for who, value in inputs.items()]
        left_out = [(wild, position) for wild in wilds for position in wild.left_out]
        lacking = [(wild, position) for wild in wilds for position in wild.lacking]
        if len(left_out) == sum(len(wild.positions) for wild in wilds):
            atoms = f"no residue that is named has both the atoms that '{pairs.name}' reads and a letter of"
            raise DataError(f"there is nothing to scan: {atoms if lacking else 'no letter is one of'} {self.alphabet}")
        self._tell_left_out(lacking, "for lack of atoms")
        self._tell_left_out(left_out, f"of letters that are none of {self.alphabet}")
        return wilds

    def _tell_left_out(self, positions: Sequence[tuple[Scanned, int]], why: str) -> None:
        if positions:
            wild, first = positions[0]
            count = f"{len(positions):,} position is" if len(positions) == 1 else f"{len(positions):,} positions are"
            self.tell(f"{count} left out, {why}; first {wild.label(first)} of '{wild.who}'")

    def _wild(self, who: str, value: Any) -> Scanned:
        pairs = self.scoring.pairs
        if not self.scoring.reads_structures:
            wild = ScannedSequence.of(who, value, self.positions, self.alphabet)
            # Of a longer one a window is read around each position, which what cannot be read may be no part of.
            whole = pairs.context is None and (pairs.limit is None or len(value) <= pairs.limit)
            if whole and UnscorableError not in self.skips:
                encode_one(pairs.tokenizer, value, who, *pairs.parts)
            return wild
        read = encode_one(pairs.tokenizer, value, who, *pairs.parts).covered
        return ScannedStructure.of(who, Structure.of(value), self.positions, self.alphabet, read)

    def batches(self, wilds: Sequence[Scanned], pictures: HeatMaps) -> Iterator[pa.RecordBatch]:
        """Yield the rows of each sequence, with its picture drawn; in the end, tell of rows without a score."""
        self._warn(wilds)
        for wild in wilds:
            variants = [wild.variant(*one) for one in wild.substitutions()]
            scores: list[float | None] = []
            for begin in range(0, len(variants), _TOGETHER):
                scores += self._scores(wild, variants[begin : begin + _TOGETHER])
            batch = wild.rows(scores)
            pictures.save(wild.who, **self._picture(wild, scores))
            yield batch
        for line in (*self.told.lines(), *self.tallies.lines()):
            self.tell(line)

    def _scores(self, wild: Scanned, variants: Sequence[Variant | Placement]) -> Sequence[float | None]:
        made = [variant for variant in variants if isinstance(variant, Variant)]
        quick = (
            scores_together(self.scoring, wild.text, made, self.tallies) if isinstance(wild, ScannedSequence) else None
        )
        return self.scoring.scores(variants, self.tallies, self.told) if quick is None else quick

    def _picture(self, wild: Scanned, scores: Sequence[float | None]) -> dict[str, Any]:
        row = {letter: place for place, letter in enumerate(wild.alphabet)}
        column = {position: place for place, position in enumerate(wild.positions)}
        values = np.full((len(row), len(column)), np.nan)
        for (position, mutant), score in zip(wild.substitutions(), scores, strict=True):
            values[row[mutant], column[position]] = np.nan if score is None else score
        own = {
            (row[wild.letter(position)], place) for position, place in column.items() if wild.letter(position) in row
        }
        for cell in own:
            values[cell] = 0.0
        return {
            "values": values,
            "rows": list(wild.alphabet),
            "columns": [wild.label(position) for position in wild.positions],
            "title": f"{wild.who}: every substitution, by {self.scoring.pairs.name}",
            "unit": f"{self.scoring.scored_by.offer.spec.name} score",
            "marks": own,
        }

    def _warn(self, wilds: Sequence[Scanned]) -> None:
        """Say beforehand what a scorer costs that reads a whole input anew, many times, for each substitution."""
        wild = max(wilds, key=len)
        made = wild.substitutions()
        try:
            first, last = (self._read(wild.variant(*one)) for one in (made[0], made[-1]))
        except (ExaptError, IndexError):
            # What cannot be asked is refused, or counted, at its turn.
            return
        passes, count = len(last - first), sum(len(one.substitutions()) for one in wilds)
        if passes > 1:
            name = self.scoring.scored_by.offer.spec.name
            others = set(self.scoring.pairs.parts[0].offer.spec.scorers) - {name}
            instead = f"; much faster may be {listed(others)}" if others else ""
            self.tell(f"scorer '{name}' reads {passes:,} inputs for one of {count:,} substitutions{instead}")

    def _read(self, variant: Variant | Placement) -> set[bytes]:
        """Return the inputs that are read for one substitution."""
        tokenizer = self.scoring.pairs.tokenizer
        return {
            b"".join(array.tobytes() for array in question.encoding.arrays.values())
            for wild, mutant in self.scoring.pairs.of(variant)
            for question in self.scoring.scorer.ask(tokenizer, wild, mutant)
        }


def scan_sequences(
    scoring: Scoring,
    sequences: Mapping[str, str] | Sequence[str],
    *,
    positions: str | Sequence[int] = "",
    picture: str | Path | None = None,
    overwrite: bool = False,
    skip_incomparable: bool = False,
    skip_unscorable: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Return the score of every substitution of some sequences, by id or else numbered from 1.

    The columns are id, position (from 1), wild_type, mutant, mutation (A23G) and score; ``positions`` limits the scan,
    ``picture`` is a heat map or, of several sequences, a folder of them. Positions of letters that are none of the
    alphabet are left out, and ``tell`` hears of them. The skips are those of ``exapt.scores.score_table``.
    """
    scan = Scan(scoring, positions, _skips(skip_incomparable, skip_unscorable), tell)
    named = _named(sequences)
    wilds = scan.wilds(named)
    with heat_maps(picture, list(named), overwrite) as pictures:
        table = pa.Table.from_batches(list(scan.batches(wilds, pictures)))
        pictures.publish()
    return table


def scan_table(scoring: Scoring, path: Path, **options: Any) -> pa.Table:
    """Return what ``scan_sequences`` does of the sequences of a table; ``options`` are also those of ``sequences_of``."""
    reading = {name: options.pop(name) for name in ("columns", "rows", "reader") if name in options}
    tell = options.get("tell", lambda line: None)
    sequences = sequences_of(path, settings=scoring.choice.reading, accepts=scoring.accepts, tell=tell, **reading)
    return scan_sequences(scoring, sequences, **options)


def scan_file(
    scoring: Scoring,
    source: Path | Mapping[str, str] | Sequence[str],
    out: Path | None,
    *,
    columns: Mapping[str, str] | None = None,
    rows: str | Sequence[str] = (),
    reader: str = "",
    positions: str | Sequence[int] = "",
    picture: Path | None = None,
    format: str = "",  # noqa: A002 - the field's word
    overwrite: bool = False,
    skip_incomparable: bool = False,
    skip_unscorable: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Scan sequences, those of a table's path or themselves, into a file or, without one, to stdout as CSV.

    Returns the number of rows. The options are those of ``scan_sequences`` and, of a path, of ``sequences_of``. Table and
    pictures are there when both are whole, or not at all.
    """
    scan = Scan(scoring, positions, _skips(skip_incomparable, skip_unscorable), tell)
    writing_table = open_writer(out, format, overwrite=overwrite) if out else nullcontext(Stdout())
    reading: dict[str, Any] = {"settings": scoring.choice.reading, "accepts": scoring.accepts, "tell": tell}
    if isinstance(source, Path):
        named: Mapping[str, Any] = sequences_of(source, columns=columns, rows=rows, reader=reader, **reading)
    elif columns or rows or reader:
        raise RecipeError("columns, rows and reader go with the path of a table, not with sequences themselves")
    else:
        named = _named(source)
    wilds = scan.wilds(named)
    count = 0
    places = heat_maps(picture, [wild.who for wild in wilds], overwrite).apart_from(out)
    with places as pictures, writing_table as writer:
        for batch in scan.batches(wilds, pictures):
            writer.write(batch)
            count += batch.num_rows
        # The table goes to its place last, on leaving: the pictures can be taken back.
        pictures.publish()
    return count


def sequences_of(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    rows: str | Sequence[str] = (),
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    accepts: str = "sequence",
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return the sequences, or what else a model ``accepts``, of a table by id, each id once.

    ``rows`` are the ids that are wanted, all where none is named; ``reader`` names the table's reader, and ``settings``
    holds its options. ``columns`` maps ``id`` and ``sequence`` to their names in the table, where those are others.
    """
    columns = columns or {}
    for what in columns:
        if what not in ("id", accepts):
            raise RecipeError(f"'{what}' is nothing that a column of a scan can be: id, {accepts}")
    inputs = {accepts: columns.get(accepts, accepts)}
    options = DataOptions(
        path=str(path), format=reader, reader=dict(settings or {}), inputs=inputs, id=columns.get("id", "")
    )
    examples, report = read_examples(options, {}, keep_labels=False)
    for line in report.told:
        tell(line)
    found = dict(zip(examples.ids, examples.inputs[accepts], strict=True))
    wanted = [who.strip() for who in rows.split(",") if who.strip()] if isinstance(rows, str) else list(rows)
    for who in wanted:
        if who not in found:
            raise DataError(f"{path.name} has no row '{who}'.{did_you_mean(who, found)}")
    return {who: text for who, text in found.items() if not wanted or who in wanted}


def _named(sequences: Mapping[str, str] | Sequence[str]) -> Mapping[str, str]:
    """Return sequences by id, or numbered from 1. Raises ``DataError`` if there are none."""
    named = sequences if isinstance(sequences, Mapping) else {str(n): text for n, text in enumerate(sequences, 1)}
    if not named:
        raise DataError("there are no sequences to scan")
    return named


def _skips(incomparable: bool, unscorable: bool) -> tuple[type[UnscorableError], ...]:
    return (IncomparableError,) * incomparable + (UnscorableError,) * unscorable
