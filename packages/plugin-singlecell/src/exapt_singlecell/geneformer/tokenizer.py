"""Geneformer's tokens: the genes of a cell, ranked by how far each is above its usual level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from exapt import DataError
from exapt.cells import Cell, Genes
from exapt.parts import NO_UNIT, Array, Encoding, Tally, Tokenizer
from exapt_singlecell.geneformer import GeneformerTokenizerOptions
from exapt_singlecell.geneformer.dictionaries import Dictionaries, read_dictionaries
from exapt_singlecell.geneformer.files import files
from exapt_singlecell.geneformer.genes import GeneFinder
from exapt_singlecell.geneformer.shape import read_shape
from exapt_singlecell.matching import UNKNOWN, Matcher, MatchTally

_TARGET = 10_000.0
"""The total to which the counts of a cell are brought."""

# Arrays, because numpy makes them of plain numbers each time anew.
_PLACE, _ABOVE = np.array(0xFFFF), np.array(~0xFFFF)
_PLACES = np.arange(0xFFFF)


def build(options: GeneformerTokenizerOptions) -> GeneformerTokenizer:
    """Return the tokenizer of a checkpoint; raises ``DataError`` if its files are missing or do not fit together."""
    checkpoint = files(options.source, options.revision)
    shape = read_shape(checkpoint)
    dictionaries = read_dictionaries(checkpoint, options, shape.vocab_size)
    if dictionaries.tokens["<pad>"] != shape.pad_token_id:
        ids = (
            f"<pad> is {dictionaries.tokens['<pad>']} in its token dictionary, {shape.pad_token_id} in its config.json"
        )
        raise DataError(f"'{options.source}' does not fit together: {ids}")
    return GeneformerTokenizer(dictionaries, shape.max_position_embeddings, options.min_kept)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is the same for all cells of a table: ``tokens`` [genes], and their ``medians`` [genes], infinite if unknown.

    It does not hold the ``Genes`` of the table, by which it is kept for as long as they are there.
    """

    names: Sequence[str]
    tokens: Array
    medians: Array

    @cached_property
    def matched(self) -> bool:
        """Whether the model knows any gene."""
        return bool((self.tokens != UNKNOWN).any())

    @cached_property
    def shared(self) -> Array | None:
        """Whether each gene [genes] stands for a token for which others of the table stand too; None if none does."""
        distinct, counts = np.unique(self.tokens[self.tokens != UNKNOWN], return_counts=True)
        shared = np.isin(self.tokens, distinct[counts > 1])
        return shared if shared.any() else None

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each gene by its name."""
        return {name: place for place, name in enumerate(self.names)}


class GeneformerTokenizer(Tokenizer):
    """The known genes of a cell, by falling count over median (Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9).

    Counts are first brought to a total of 10,000 over *all* genes. Genes that stand for the same one are summed. Ties
    stand in the order of the table. What goes beyond the model's input is cut off. Where the dictionary has ``<cls>`` and
    ``<eos>`` (version 2), they stand around the genes. A token's unit is the first expressed gene that it stands for.
    """

    def __init__(self, dictionaries: Dictionaries, size: int, min_kept: float = 0.0) -> None:
        tokens = self.vocabulary = dictionaries.tokens
        self.mask = tokens["<mask>"]
        self.special = frozenset(token for name, token in tokens.items() if name.startswith("<"))
        self._pads = {"input_ids": tokens["<pad>"]}
        self._ends = [(place, tokens[name]) for place, name in ((0, "<cls>"), (-1, "<eos>")) if name in tokens]
        self._inside = slice(int("<cls>" in tokens), -1 if "<eos>" in tokens else None)
        self._most = size - len(self._ends)
        self._min_kept = min_kept
        self.rules = {
            "longest": size,
            "medians": dict(dictionaries.medians),
            "names": dict(dictionaries.names),
            "mapping": dict(dictionaries.mapping),
        }
        self._notes = dictionaries.notes
        self._finder = GeneFinder(dictionaries)
        self._matcher = Matcher(self._finder.find, dictionaries.medians)
        self._plans: WeakKeyDictionary[Genes, _Plan] = WeakKeyDictionary()
        self._medians = np.ones(len(tokens))
        for gene, median in dictionaries.medians.items():
            self._medians[tokens[gene]] = median

    def tally(self) -> Tally:
        """Return a new tally of the genes that cells have and the model knows."""
        return MatchTally(self._matcher, self._min_kept, self._notes)

    def unit_names(self, value: Any) -> list[str]:
        """Return the genes that a cell expresses, as its table calls them."""
        return Cell.of(value).names

    def encode(self, value: Any) -> Encoding:
        """Encode one cell; raises ``DataError`` unless it holds raw counts, and if its table has no gene of the model's."""
        cell = Cell.of(value)
        plan = self._plan(cell.genes, needed=cell is value)
        units, places, unknown = self._ranked(cell, plan)
        return self._encoding(plan.tokens, places, units, len(cell.places), unknown)

    def perturbed(self, cell: Any, genes: Sequence[str], how: Literal["delete", "overexpress"]) -> Encoding:
        """Encode a cell without some genes, or with them in front of all others, in the order in which they are given.

        In silico perturbation after Theodoris et al. 2023: what changes is the ranked genes, and no gene that was cut off
        comes back. A gene that the cell does not express becomes a unit of its own behind the others when it is
        overexpressed. Raises ``DataError`` for a gene that the table, or the model, does not know.
        """
        whole = Cell.of(cell)
        plan = self._plan(whole.genes, needed=False)
        units, places, unknown = self._ranked(whole, plan)
        tokens = plan.tokens[places]
        asked = np.array(list(dict.fromkeys(self._token(plan, gene) for gene in genes)), dtype=np.int64)
        stay = ~np.isin(tokens, asked)
        tokens, units, added = tokens[stay], units[stay], 0
        if how == "overexpress":
            fronts = _units_of(asked, plan.tokens[whole.places])
            added = int((fronts >= len(whole.places)).sum())
            tokens, units = (np.concatenate(pair)[: self._most] for pair in ((asked, tokens), (fronts, units)))
        elif how != "delete":
            raise DataError(f"there is no way '{how}' to perturb a cell; the ways are delete and overexpress")
        return self._encoding(tokens, np.arange(len(tokens)), units, len(whole.places) + added, unknown)

    def _plan(self, genes: Genes, needed: bool) -> _Plan:
        plan = self._plans.get(genes)
        if plan is None or not plan.matched:
            tokens = self._matcher.of(genes, needed).tokens
            medians = np.where(tokens == UNKNOWN, np.inf, self._medians[tokens])
            plan = self._plans[genes] = _Plan(genes.names, tokens, medians)
        return plan

    def _ranked(self, cell: Cell, plan: _Plan) -> tuple[Array, Array, int]:
        """Return the units and the places [kept genes] of a cell by falling rank, and how many of its genes are not known."""
        _refuse_normalised(cell)
        places, counts = cell.places.astype(np.intp), cell.values.astype(np.float64)
        # Whole numbers have the same sum in any order.
        total = np.add.reduce(counts) or 1.0
        if not total < np.inf:
            raise DataError("has counts that are no numbers")
        moved = 0 if plan.shared is None else _sum_up(plan.tokens, places, counts, plan.shared[places].nonzero()[0])
        counts /= total
        counts *= _TARGET
        counts /= plan.medians[places]
        # What is not known, or counted under another gene, is 0 now.
        order = falling(counts)
        units = order[: self._most]
        return units, places[units], len(counts) - len(order) - moved

    def _encoding(self, tokens: Array, which: Array, units: Array, length: int, unknown: int) -> Encoding:
        size = len(which) + len(self._ends)
        ids, starts = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        # With another mode numpy would take them to a buffer first, lest some be missing.
        tokens.take(which, out=ids[self._inside], mode="clip")
        starts[self._inside] = units
        for place, token in self._ends:
            ids[place], starts[place] = token, NO_UNIT
        # A token begins and ends on one unit, so one array holds both.
        spans: Array = np.ndarray((size, 2), np.int64, starts, 0, (starts.itemsize, 0))
        return Encoding({"input_ids": ids}, self._pads, spans, length, unknown)

    def _token(self, plan: _Plan, gene: str) -> int:
        place = plan.places.get(gene)
        token = int(plan.tokens[place] if place is not None else self._finder.find([gene]).tokens[0])
        if token == UNKNOWN:
            raise DataError(f"the model does not know the gene '{gene}'")
        if place is None and token not in plan.tokens:
            raise DataError(f"the table has no gene '{gene}'")
        return token


def _refuse_normalised(cell: Cell) -> None:
    if not cell.raw:
        raise DataError("holds values that were normalised before, and Geneformer reads raw counts: name their layer")
    rounded = np.rint(cell.values)
    # Bytes are compared several times as fast as numbers; of another type they may differ where the numbers do not.
    if rounded.tobytes() == cell.values.tobytes():
        return
    odd = rounded != cell.values
    if odd.any():
        first = int(odd.argmax())
        value = f"{cell.values[first]:g} for '{cell.genes.names[cell.places[first]]}'"
        raise DataError(f"holds {value}, and Geneformer reads raw counts, which are whole numbers: name their layer")


def _sum_up(tokens: Array, places: Array, counts: Array, shared: Array) -> int:
    """Give the first gene of each token, in place, the ``counts`` [expressed] of all of them; return how many have none now.

    ``tokens`` [genes] are those at ``places`` [expressed], of which the ones at ``shared`` may have one in common.
    """
    theirs = tokens[places[shared]]
    if len(set(theirs.tolist())) == len(theirs):
        return 0
    _, first, inverse = np.unique(theirs, return_index=True, return_inverse=True)
    sums = np.bincount(inverse, counts[shared])
    counts[shared] = 0
    counts[shared[first]] = sums
    return len(shared) - len(first)


def _units_of(asked: Array, tokens: Array) -> Array:
    """Return the first unit of each token that is asked for; those without one become units behind all others."""
    present = asked[:, None] == tokens
    there = present.any(1)
    units = present.argmax(1) if len(tokens) else np.zeros(len(asked), dtype=np.int64)
    return np.where(there, units, len(tokens) + np.cumsum(~there) - 1)


def falling(values: Array) -> Array:
    """Return the order of the ``values`` above 0, falling, in which equal ones stay as they were; none may be below 0."""
    if len(values) <= len(_PLACES):
        # Positive numbers fall as their bits do. The last of these make room for the place, so that plain numbers are
        # sorted, which is several times faster than sorting places by numbers, and ties come in order.
        keys: Array = values.view(np.int64) & _ABOVE
        np.subtract(_PLACES[: len(values)], keys, out=keys)
        keys.sort()
        order = keys[: keys.searchsorted(0)]
        order &= _PLACE
        ranked = values[order]
        rises = ranked[1:] > ranked[:-1]
        if not (len(rises) and rises[rises.argmax()]):
            return order
    return np.argsort(-values, kind="stable")[: np.count_nonzero(values)]
