"""Built-in writers: where answers and embeddings go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from exapt.hookspecs import hookimpl
from exapt.specs import Options, WriterSpec

if TYPE_CHECKING:
    from exapt.data.tables import Writer

exapt_api = 1


def _csv(_options: Options, path: Path) -> Writer:
    from exapt.builtin._writers import Csv

    return Csv(path)


def _jsonl(_options: Options, path: Path) -> Writer:
    from exapt.builtin._writers import JsonLines

    return JsonLines(path)


def _parquet(_options: Options, path: Path) -> Writer:
    from exapt.builtin._writers import Parquet

    return Parquet(path)


def _npz(_options: Options, path: Path) -> Writer:
    from exapt.builtin._arrays import Npz

    return Npz(path)


def _safetensors(_options: Options, path: Path) -> Writer:
    from exapt.builtin._arrays import Safetensors

    return Safetensors(path)


@hookimpl
def exapt_writers() -> Iterable[WriterSpec]:
    """Yield CSV, JSONL and Parquet for tables; Parquet, npz and safetensors for embeddings."""
    yield WriterSpec(name="csv", summary="Comma-separated text; lists as JSON.", suffixes=(".csv",), build=_csv)
    yield WriterSpec(name="jsonl", summary="One JSON object a line.", suffixes=(".jsonl", ".ndjson"), build=_jsonl)
    yield WriterSpec(name="parquet", summary="Apache Parquet.", suffixes=(".parquet",), build=_parquet)
    yield WriterSpec(name="npz", summary="Embeddings as NumPy arrays.", suffixes=(".npz",), build=_npz)
    yield WriterSpec(
        name="safetensors", summary="Embeddings as safetensors.", suffixes=(".safetensors",), build=_safetensors
    )
