"""How VCF is read (version 4, by the specification of samtools/hts-specs): places and alleles, one row an allele."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from exapt.builtin._pieces import pieces
from exapt.data.text import lines
from exapt.errors import DataError

_SCHEMA = pa.schema(
    [("id", pa.string()), ("chrom", pa.string()), ("position", pa.int64()), ("ref", pa.string()), ("alt", pa.string())]
)
# A column of positions holds no more digits.
_POSITION = re.compile(r"[0-9]{1,18}")
_Row = tuple[str | None, str, int, str, str]


@dataclass(frozen=True)
class Vcf:
    """Records with a row for each alternative allele; the genotypes are not read. An id of ``.`` is missing."""

    path: Path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        empty = True
        for piece in pieces(self._rows(), lambda row: len(row[3]) + len(row[4])):
            empty = False
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*piece, strict=True), _SCHEMA.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
        if empty:
            raise DataError(f"{self.path.name} has no records.")

    def _rows(self) -> Iterator[_Row]:
        with closing(lines(self.path)) as text:
            for number, line in enumerate(text, 1):
                if number == 1 and not line.startswith("##fileformat=VCF"):
                    raise DataError(f"{self.path.name} is not VCF: its first line must begin with '##fileformat=VCF'.")
                if line.strip() and not line.startswith("#"):
                    yield from self._alleles(number, line)

    def _alleles(self, number: int, line: str) -> Iterator[_Row]:
        fields = line.rstrip("\r\n").split("\t", 5)[:5]
        where = f"{self.path.name} line {number}"
        if len(fields) < 5:
            raise DataError(
                f"{where} has {len(fields)} of the fields chromosome, position, id, ref and alt; tabs part them."
            )
        chrom, position, name, ref, alts = fields
        if not _POSITION.fullmatch(position):
            raise DataError(f"{where} has the position '{position}', which is no whole number of at most 18 digits.")
        for alt in alts.split(","):
            yield None if name == "." else name, chrom, int(position), ref, alt
