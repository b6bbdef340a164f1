"""From the names of a table's genes to tokens: symbols as they are, Ensembl ids through a table of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from exapt import DataError
from exapt_singlecell.matching import HOW, Match
from exapt_singlecell.scgpt import ScgptTokenizerOptions

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(\.\d+)?")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Symbols:
    """Finds genes by the symbols of a vocabulary, case and all, or by Ensembl ids with or without a version."""

    def __init__(self, tokens: Mapping[str, int], symbols_of: Mapping[str, Sequence[str]]) -> None:
        self._tokens = tokens
        self._symbols_of = symbols_of

    def __call__(self, names: Sequence[str]) -> Match:
        """Match genes."""
        return Match.of(names, map(self.tokens, names))

    def hint(self, names: Sequence[str]) -> str:
        """Return what to do about unknown genes that are Ensembl ids where nothing tells their symbols; else nothing."""
        ensembl = list(filter(_ENSEMBL.fullmatch, names))
        own = sum(map(bool, map(_ENSEMBL.fullmatch, self._tokens)))
        if not ensembl or self._symbols_of or 2 * own > len(self._tokens):
            return ""
        return (
            f"the genes are Ensembl ids ({', '.join(ensembl[:3])}), and scGPT knows symbols: name the column of var "
            f"that holds their symbols, {HOW}, or give a table of both as tokenizer.gene_map"
        )

    def tokens(self, name: str) -> set[int]:
        """Return all tokens that a gene could be."""
        token = self._tokens.get(name)
        if token is not None:
            return {token}
        ensembl = _ENSEMBL.fullmatch(name) if self._symbols_of else None
        symbols = self._symbols_of.get(ensembl[1], ()) if ensembl else ()
        return {self._tokens[symbol] for symbol in symbols if symbol in self._tokens}


def read_gene_map(options: ScgptTokenizerOptions) -> dict[str, list[str]]:
    """Return the symbols of each Ensembl id, its version cut off, in the table of the options; none without a table.

    Raises ``DataError`` if the table cannot be read or lacks a column.
    """
    if not options.gene_map:
        return {}
    path = Path(options.gene_map).expanduser()
    table = _read(path)
    for column, option in ((options.gene_map_ids, "gene_map_ids"), (options.gene_map_symbols, "gene_map_symbols")):
        if column not in table.column_names:
            columns = ", ".join(table.column_names)
            raise DataError(
                f"{path.name} has no column '{column}'. Its columns are: {columns}. Name one as tokenizer.{option}"
            )
    symbols_of: dict[str, list[str]] = {}
    pair = (options.gene_map_ids, options.gene_map_symbols)
    for ensembl, symbol in zip(*(table[name].cast(pa.string()).to_pylist() for name in pair), strict=True):
        if ensembl and symbol:
            symbols_of.setdefault(ensembl.partition(".")[0], []).append(symbol)
    if not symbols_of:
        raise DataError(f"{path.name} holds no Ensembl id with a symbol; give another table as tokenizer.gene_map")
    return symbols_of


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; give a table of Ensembl ids and symbols as tokenizer.gene_map")
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in (".parquet", *_DELIMITERS):
        raise DataError(f"'{path}' is no .csv, .tsv or .parquet file; give tokenizer.gene_map as one of these")
    try:
        if kind == ".parquet":
            return pa.parquet.read_table(path)
        return pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter=_DELIMITERS[kind]))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from None
