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

_TARGET = 10_000
"""The total to which the counts of a cell are brought."""

_PLACE = 0xFFFF


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
    """What is the same for all cells of a table: ``tokens`` [genes] and their ``medians`` [genes].

    It does not hold the ``Genes`` of the table, by which it is kept for as long as they are there.
    """

    names: Sequence[str]
    tokens: Array
    medians: Array

    @cached_property
    def known(self) -> Array:
        """Whether the model knows each gene [genes]."""
        return np.asarray(self.tokens != UNKNOWN)

    @cached_property
    def shared(self) -> Array:
        """Whether each gene [genes] stands for a token for which others of the table stand too."""
        distinct, counts = np.unique(self.tokens[self.known], return_counts=True)
        return np.isin(self.tokens, distinct[counts > 1])

    @cached_property
    def several(self) -> bool:
        """Whether there is any such gene."""
        return bool(self.shared.any())

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
        self._pad = tokens["<pad>"]
        self._before, self._after = (
            np.array([tokens[name]] if name in tokens else [], dtype=np.int64) for name in ("<cls>", "<eos>")
        )
        self._most = size - len(self._before) - len(self._after)
        self._min_kept = min_kept
        self._finder = GeneFinder(dictionaries)
        self._matcher = Matcher(self._finder.find, dictionaries.medians)
        self._plans: WeakKeyDictionary[Genes, _Plan] = WeakKeyDictionary()
        self._medians = np.ones(len(tokens))
        for gene, median in dictionaries.medians.items():
            self._medians[tokens[gene]] = median

    def tally(self) -> Tally:
        """Return a new tally of the genes that cells have and the model knows."""
        return MatchTally(self._matcher, self._min_kept)

    def encode(self, value: Any) -> Encoding:
        """Encode one cell; raises ``DataError`` unless it holds raw counts, and if its table has no gene of the model's."""
        cell = Cell.of(value)
        return self._encoding(cell, *self._ranked(cell, self._plan(cell.genes, needed=cell is value)))

    def perturbed(self, cell: Any, genes: Sequence[str], how: Literal["delete", "overexpress"]) -> Encoding:
        """Encode a cell without some genes, or with them in front of all others, in the order in which they are given.

        In silico perturbation after Theodoris et al. 2023: what changes is the ranked genes, and no gene that was cut off
        comes back. A gene that the cell does not express becomes a unit of its own behind the others when it is
        overexpressed. Raises ``DataError`` for a gene that the table, or the model, does not know.
        """
        whole = Cell.of(cell)
        plan = self._plan(whole.genes, needed=False)
        tokens, units = self._ranked(whole, plan)
        asked = np.array(list(dict.fromkeys(self._token(plan, gene) for gene in genes)), dtype=np.int64)
        stay = ~np.isin(tokens, asked)
        if how == "delete":
            return self._encoding(whole, tokens[stay], units[stay])
        if how != "overexpress":
            raise DataError(f"there is no way '{how}' to perturb a cell; the ways are delete and overexpress")
        fronts = _units_of(asked, plan.tokens[whole.places])
        added = int((fronts >= len(whole.places)).sum())
        tokens, units = (np.concatenate(pair)[: self._most] for pair in ((asked, tokens[stay]), (fronts, units[stay])))
        return self._encoding(whole, tokens, units, added)

    def _plan(self, genes: Genes, needed: bool) -> _Plan:
        tokens = self._matcher.of(genes, needed).tokens
        plan = self._plans.get(genes)
        if plan is None:
            plan = self._plans[genes] = _Plan(genes.names, tokens, self._medians[tokens])
        return plan

    def _ranked(self, cell: Cell, plan: _Plan) -> tuple[Array, Array]:
        """Return the tokens [kept genes] of a cell by falling rank, and the unit of each."""
        _refuse_normalised(cell)
        places = cell.places.astype(np.intp)
        units = np.flatnonzero(plan.known[places])
        places, counts = places[units], cell.values[units].astype(np.float64)
        if plan.several:
            stays = _summed(plan.tokens[places], counts, np.flatnonzero(plan.shared[places]))
            places, units, counts = places[stays], units[stays], counts[stays]
        order = falling(counts / (cell.total or 1) * _TARGET / plan.medians[places])[: self._most]
        return plan.tokens[places[order]], units[order]

    def _encoding(self, cell: Cell, tokens: Array, units: Array, added: int = 0) -> Encoding:
        ids = np.concatenate((self._before, tokens, self._after))
        ends = np.concatenate((np.full(len(self._before), NO_UNIT), units, np.full(len(self._after), NO_UNIT)))
        known = int(np.count_nonzero(self._plans[cell.genes].known[cell.places]))
        spans = np.repeat(ends, 2).reshape(-1, 2)
        arrays, pads = {"input_ids": ids}, {"input_ids": self._pad}
        return Encoding(arrays, pads, spans, len(cell.places) + added, len(cell.places) - known)

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
    whole = np.rint(cell.values) == cell.values
    if not whole.all():
        odd = int(np.argmin(whole))
        value = f"{cell.values[odd]:g} for '{cell.genes.names[cell.places[odd]]}'"
        raise DataError(f"holds {value}, and Geneformer reads raw counts, which are whole numbers: name their layer")


def _summed(tokens: Array, counts: Array, shared: Array) -> Array | slice:
    """Give the first gene of each token the counts of all of them, in place, and return which genes [genes] stay.

    ``shared`` are the places of genes whose token others may share.
    """
    theirs = tokens[shared]
    if len(set(theirs.tolist())) == len(theirs):
        return slice(None)
    _, first, inverse = np.unique(theirs, return_index=True, return_inverse=True)
    sums = np.bincount(inverse, counts[shared])
    stays = np.ones(len(tokens), dtype=bool)
    stays[shared] = False
    stays[shared[first]] = True
    counts[shared[first]] = sums
    return stays


def _units_of(asked: Array, tokens: Array) -> Array:
    """Return the first unit of each token that is asked for; those without one become units behind all others."""
    present = asked[:, None] == tokens
    there = present.any(1)
    units = present.argmax(1) if len(tokens) else np.zeros(len(asked), dtype=np.int64)
    return np.where(there, units, len(tokens) + np.cumsum(~there) - 1)


def falling(values: Array) -> Array:
    """Return the order [values] of falling values above 0, in which equal ones stay as they were."""
    if len(values) <= _PLACE:
        # Positive numbers fall as their bits do. The last of these make room for the place, so that plain numbers are
        # sorted, which is several times faster than sorting places by numbers, and ties come in order.
        keys = ~values.view(np.int64) & ~np.int64(_PLACE) | np.arange(len(values))
        keys.sort()
        order: Array = keys & _PLACE
        ranked = values[order]
        if (ranked[1:] <= ranked[:-1]).all():
            return order
    return np.argsort(-values, kind="stable")
