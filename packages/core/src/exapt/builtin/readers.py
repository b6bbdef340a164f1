"""Built-in readers: the formats that sequences and their labels come in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from exapt.hookspecs import hookimpl
from exapt.specs import Options, ReaderSpec

if TYPE_CHECKING:
    from exapt.data.tables import Reader

exapt_api = 1


def _csv(_options: Options, path: Path) -> Reader:
    from exapt.builtin._readers import Delimited

    return Delimited(path, ",")


def _tsv(_options: Options, path: Path) -> Reader:
    from exapt.builtin._readers import Delimited

    return Delimited(path, "\t")


def _parquet(_options: Options, path: Path) -> Reader:
    from exapt.builtin._readers import Parquet

    return Parquet(path)


def _jsonl(_options: Options, path: Path) -> Reader:
    from exapt.builtin._readers import JsonLines

    return JsonLines(path)


def _fasta(_options: Options, path: Path) -> Reader:
    from exapt.builtin._fasta import Fasta

    return Fasta(path)


def _vcf(_options: Options, path: Path) -> Reader:
    from exapt.builtin._vcf import Vcf

    return Vcf(path)


@hookimpl
def exapt_readers() -> Iterable[ReaderSpec]:
    """Yield CSV, TSV, Parquet, JSONL, FASTA and VCF; all but Parquet also compressed with gzip."""
    yield ReaderSpec(name="csv", summary="Comma-separated text with a header.", suffixes=(".csv",), build=_csv)
    yield ReaderSpec(name="tsv", summary="Tab-separated text with a header.", suffixes=(".tsv", ".tab"), build=_tsv)
    yield ReaderSpec(name="parquet", summary="Apache Parquet.", suffixes=(".parquet",), build=_parquet)
    yield ReaderSpec(name="jsonl", summary="One JSON object a line.", suffixes=(".jsonl", ".ndjson"), build=_jsonl)
    yield ReaderSpec(
        name="fasta",
        summary="FASTA: columns id, description, sequence, and one for each key=value of the headers.",
        suffixes=(".fasta", ".fa", ".faa", ".fna", ".fas"),
        build=_fasta,
        letters="sequence",
    )
    yield ReaderSpec(
        name="vcf",
        summary="VCF: columns id, chrom, position, ref, alt, and a row for each alternative allele.",
        suffixes=(".vcf",),
        build=_vcf,
    )
