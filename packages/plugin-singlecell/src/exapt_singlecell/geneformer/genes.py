"""How the names that tables give to genes become a Geneformer's own: Ensembl ids, with or without version, or symbols."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from exapt_singlecell.geneformer.dictionaries import Dictionaries
from exapt_singlecell.matching import UNKNOWN, Match

# Genes on both sex chromosomes stand twice in GENCODE, once with this ending.
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d+)(?:\.\d+)?(?:_PAR_Y)?")


class GeneFinder:
    """Finds the tokens of genes by name.

    An Ensembl id counts for the gene that ``mapping`` names, else for itself. A symbol is looked up in ``mapping`` and
    ``names``, first as it is written and then without regard to case; where they name several genes, it is ambiguous.
    """

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._tokens = {gene: token for gene, token in dictionaries.tokens.items() if not gene.startswith("<")}
        self._names = dictionaries.names
        self._mapping = dictionaries.mapping
        self._folded: dict[str, set[int]] = {}
        for name, gene in dictionaries.names.items():
            if gene in self._tokens:
                self._folded.setdefault(name.upper(), set()).add(self._tokens[gene])

    def find(self, names: Sequence[str]) -> Match:
        """Return the tokens of genes."""
        match = Match.of(names, map(self._candidates, names))
        known = zip(names, match.tokens.tolist(), strict=True)
        return replace(match, recased=tuple(name for name, token in known if token != UNKNOWN and self._recased(name)))

    def _recased(self, name: str) -> bool:
        """Whether a symbol is none that the dictionaries spell so."""
        stripped = name.strip()
        spelt = stripped in self._names or stripped in self._mapping or stripped in self._tokens
        return not spelt and not _ENSEMBL.fullmatch(stripped.upper())

    def _candidates(self, name: str) -> Collection[int]:
        stripped = name.strip()
        upper = stripped.upper()
        ensembl = _ENSEMBL.fullmatch(upper)
        if ensembl:
            genes = (self._mapping.get(ensembl[1]), ensembl[1])
            return next(({self._tokens[gene]} for gene in genes if gene in self._tokens), ())
        named = {self._mapping.get(upper), self._names.get(stripped), stripped}
        exact = {self._tokens[gene] for gene in named if gene in self._tokens}
        return exact or self._folded.get(upper, ())
