"""The scGPT tokenizer: the expressed genes of a cell, and the bins of their expression."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from exapt import DataError
from exapt.cells import Cell, Genes
from exapt.parts import NO_UNIT, Array, Encoding, Tally, Tokenizer
from exapt_singlecell.matching import Match, Matcher, MatchTally
from exapt_singlecell.scgpt import ScgptTokenizerOptions
from exapt_singlecell.scgpt.binning import binned
from exapt_singlecell.scgpt.files import Shape, Vocabulary, files, read_shape, read_vocabulary
from exapt_singlecell.scgpt.genes import Symbols, read_gene_map


class Expressed(NamedTuple):
    """What a model can read of a cell: tokens, bins and units, each [genes], in the order of its table.

    ``unknown`` counts the expressed genes that it cannot read.
    """

    tokens: Array
    bins: Array
    units: Array
    unknown: int

    def at(self, which: Array) -> Expressed:
        """Return some of the genes, by their places or by a mask."""
        return Expressed(self.tokens[which], self.bins[which], self.units[which], self.unknown)


class _Plan(NamedTuple):
    """What is the same for all cells of a table: ``tokens`` [genes], and whether several genes have one of them."""

    tokens: Array
    repeats: bool


class ScgptTokenizer(Tokenizer):
    """``<cls>``, then one token for each expressed gene of the vocabulary, in the table's order.

    The arrays are ``input_ids`` and ``values``, the bin of each gene's expression; ``<cls>`` and padding have the value
    that the checkpoint pads with. Bins are quantiles within the cell, so that values normalised before are read as well
    as counts. Genes that the vocabulary does not know are counted, and so are those of a cell that knows none, which is
    ``<cls>`` alone. Where columns of a table are the same gene, its counts are added up under the first of them; of
    normalised values, which cannot be added, the largest is taken.

    A cell that expresses more genes than there is room for keeps a subset that depends on the cell alone. Pretraining
    drew it at random from all levels of expression; a fixed hash of the genes' symbols does the same, and keeps the same
    genes in all cells that express them, so that cells stay comparable.
    """

    mask = None

    def __init__(self, vocabulary: Vocabulary, shape: Shape, options: ScgptTokenizerOptions) -> None:
        self.vocabulary = vocabulary.ids
        self.special = vocabulary.special
        self.hidden = shape.mask_value
        self.most = options.max_length or shape.max_seq_len
        self.bins = options.bins or shape.n_bins
        self._min_kept = options.min_kept
        self._surplus = options.surplus
        self._cls, self._pads = vocabulary.cls, {"input_ids": vocabulary.pad, "values": shape.pad_value}
        genes = {name: token for name, token in vocabulary.ids.items() if token not in vocabulary.special}
        gene_map = read_gene_map(options)
        self.rules = {"longest": self.most, "bins": self.bins, "surplus": self._surplus, "gene_map": gene_map}
        self._symbols = Symbols(genes, gene_map)
        self._matcher = Matcher(self._symbols, genes, self._symbols.hint)
        self._turn = _turns(vocabulary.ids)
        self._plans: WeakKeyDictionary[Genes, _Plan] = WeakKeyDictionary()

    def tally(self) -> Tally:
        """Return a tally of genes and counts that the vocabulary knows."""
        return MatchTally(self._matcher, self._min_kept)

    def unit_names(self, value: Any) -> list[str]:
        """Return the genes that a cell expresses, as its table calls them."""
        return Cell.of(value).names

    def encode(self, value: Any) -> Encoding:
        """Encode one cell; raises ``DataError`` for values that are negative or no numbers."""
        cell = Cell.of(value)
        # A cell on its own, such as a probe, may know none; a table that does is taken for one of other names.
        expressed = self._expressed(cell, needed=cell is value)
        return self._encoding(self._chosen(expressed), len(cell.places))

    def perturbed(self, cell: Any, genes: Sequence[str], how: Literal["delete", "overexpress"]) -> Encoding:
        """Encode a cell with some of its genes deleted or over-expressed, named by symbol or as its table names them.

        A deleted gene is left out, and a gene that was not expressed stays so. An over-expressed one gets the highest
        bin and a place among the tokens, as a new unit after the others where it was not expressed before. All other
        genes keep the bins and, but for the place of a gene that is new, the places they had, so that what changes in
        the model is the effect of these genes alone. Raises ``DataError`` for a gene that the model does not know.
        """
        given, cell = cell, Cell.of(cell)
        asked, expressed = self._asked(genes), self._expressed(cell, needed=cell is given)
        if how == "delete":
            chosen = self._chosen(expressed)
            return self._encoding(chosen.at(~np.isin(chosen.tokens, asked)), len(cell.places))
        if how != "overexpress":
            raise DataError(f"there is no way '{how}' to perturb a cell; the ways are delete and overexpress")
        new = asked[~np.isin(asked, expressed.tokens)]
        units = len(cell.places) + len(new)
        tokens = np.concatenate((expressed.tokens, new))
        raised = np.isin(tokens, asked)
        bins = np.where(raised, np.float32(self.bins - 1), np.append(expressed.bins, np.zeros(len(new), np.float32)))
        places = np.append(expressed.units, np.arange(len(cell.places), units))
        everything = Expressed(tokens, bins, places, expressed.unknown)
        return self._encoding(self._chosen(everything, raised), units)

    def _asked(self, genes: Sequence[str]) -> Array:
        match = Match.of(genes, map(self._symbols.tokens, genes))
        if match.ambiguous:
            raise DataError(f"the gene '{match.ambiguous[0]}' could be several genes of scGPT; name it by its symbol")
        if match.unmatched:
            raise DataError(f"scGPT knows no gene '{match.unmatched[0]}'; name genes by symbol, case and all")
        return np.unique(match.tokens)

    def _plan(self, genes: Genes, needed: bool) -> _Plan:
        plan = self._plans.get(genes)
        if plan is None:
            tokens = self._matcher.of(genes, needed).tokens
            known = tokens[tokens >= 0]
            plan = self._plans[genes] = _Plan(tokens, len(np.unique(known)) < len(known))
        return plan

    def _expressed(self, cell: Cell, needed: bool) -> Expressed:
        _refuse_values(cell)
        plan = self._plan(cell.genes, needed)
        tokens, values = plan.tokens[cell.places], cell.values
        units = (tokens >= 0).nonzero()[0]
        unknown = len(tokens) - len(units)
        if unknown:
            tokens, values = tokens[units], values[units]
        if plan.repeats:
            tokens, values, units = _merged(tokens, values, units, cell.raw)
        return Expressed(tokens, binned(values, self.bins), units, unknown)

    def _chosen(self, expressed: Expressed, first: Array | None = None) -> Expressed:
        """Return as many genes as there is room for; those that the mask ``first`` [genes] marks come before all others."""
        room = self.most - 1
        if len(expressed.tokens) <= room:
            return expressed
        turn = self._turn[expressed.tokens]
        if self._surplus == "highest":
            turn = turn - expressed.bins.astype(np.int64) * len(self._turn)
        if first is not None:
            turn = np.where(first, turn.min() - len(self._turn) + self._turn[expressed.tokens], turn)
        # No two genes have one turn.
        last = np.partition(turn, room - 1)[room - 1]
        return expressed.at((turn <= last).nonzero()[0])

    def _encoding(self, expressed: Expressed, length: int) -> Encoding:
        count = len(expressed.tokens) + 1
        ids, values = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
        ids[0], values[0] = self._cls, self._pads["values"]
        ids[1:], values[1:] = expressed.tokens, expressed.bins
        spans = np.empty((count, 2), dtype=np.int64)
        spans[0], spans[1:, 0], spans[1:, 1] = NO_UNIT, expressed.units, expressed.units
        return Encoding({"input_ids": ids, "values": values}, self._pads, spans, length, expressed.unknown)


def _refuse_values(cell: Cell) -> None:
    if len(cell.values) and not (np.minimum.reduce(cell.values) > 0 and np.maximum.reduce(cell.values) < np.inf):
        raise DataError("has values that are negative or no numbers; scGPT reads counts, or logarithms of 1 + counts")


def _merged(tokens: Array, values: Array, units: Array, raw: bool) -> tuple[Array, Array, Array]:
    """Return each token once, with the first of its units and the sum of its counts, or else the largest value."""
    once, first, place = np.unique(tokens, return_index=True, return_inverse=True)
    together = np.zeros(len(once), dtype=values.dtype)
    (np.add if raw else np.maximum).at(together, place, values)
    order = np.argsort(first)
    return once[order], together[order], units[first[order]]


def _turns(ids: dict[str, int]) -> Array:
    """Return in which turn each token [tokens] is taken where there is no room for all: as its name is hashed."""
    digests = {token: hashlib.blake2b(name.encode(), digest_size=8).digest() for name, token in ids.items()}
    turns = np.empty(len(ids), dtype=np.int64)
    turns[sorted(digests, key=lambda token: (digests[token], token))] = np.arange(len(ids))
    return turns


def build(options: ScgptTokenizerOptions) -> ScgptTokenizer:
    """Return the tokenizer of a checkpoint; raises ``DataError`` if its files, or a table of genes, cannot be used."""
    checkpoint = files(options.source, options.revision)
    shape = read_shape(checkpoint)
    return ScgptTokenizer(read_vocabulary(checkpoint, shape), shape, options)


def inferred(options: ScgptTokenizerOptions) -> ScgptTokenizerOptions:
    """Return the options with nothing left to read from ``args.json``."""
    shape = read_shape(files(options.source, options.revision))
    return options.model_copy(
        update={"max_length": options.max_length or shape.max_seq_len, "bins": options.bins or shape.n_bins}
    )
