"""A Geneformer's dictionaries: which gene has which token, which usual level, which names; found, read and checked."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from exapt import DataError
from exapt.weights import Files, refuse_text
from exapt_singlecell.geneformer import GeneformerTokenizerOptions
from exapt_singlecell.geneformer.pickles import read_pickle

TOKENS, MEDIANS, NAMES, MAPPING = (
    *("token_dictionary", "gene_median_dictionary"),
    *("gene_name_id_dict", "ensembl_mapping_dict"),
)
_MANY = 10**18
_SUFFIXES = ("_gc104M", "_gc95M", "_gc30M", "")
_ENDINGS = (".parquet", ".json", ".pkl")
_OLDER = "gene_dictionaries_30m/"
_PLACES = tuple(place + folder for place in ("", "geneformer/", "../geneformer/", "../") for folder in ("", _OLDER))
# What is published, in the order in which the hub is asked for it.
_ON_HUB = (
    *(("../geneformer/", "_gc104M"), (f"../geneformer/{_OLDER}", "_gc30M"), ("../geneformer/", "_gc95M")),
    *(("geneformer/", "_gc104M"), (f"geneformer/{_OLDER}", "_gc30M"), ("geneformer/", "_gc95M")),
    *(("../geneformer/", ""), ("geneformer/", ""), ("", "_gc104M"), ("", "_gc95M"), ("", "_gc30M"), ("", "")),
)


@dataclass(frozen=True)
class Dictionaries:
    """``tokens`` gene to id, with the special tokens; ``medians`` gene to its usual level; ``names`` symbol to gene;
    ``mapping`` names in upper case to the gene for which they are counted. Genes are Ensembl ids. ``notes`` tells which
    of the files are from elsewhere than beside the weights.
    """

    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    names: Mapping[str, str]
    mapping: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Release:
    """Dictionaries that belong together: at one place beside the checkpoint, with one suffix. ``here`` is its folder."""

    files: Files
    here: Path
    place: str
    suffix: str

    def local(self, stem: str) -> Path | None:
        paths = (self.here / name for name in self._spellings(stem))
        return next((path for path in paths if path.is_file()), None)

    def find(self, stem: str) -> Path | None:
        found = (self.files.find(name) for name in self._spellings(stem))
        return self.local(stem) or next(filter(None, found), None)

    def _spellings(self, stem: str) -> Iterator[str]:
        yield from (f"{self.place}{stem}{self.suffix}{ending}" for ending in _ENDINGS)


def read_dictionaries(files: Files, options: GeneformerTokenizerOptions, size: int) -> Dictionaries:
    """Return the dictionaries of a checkpoint whose weights know ``size`` tokens.

    Raises ``DataError`` if there are none, if they are of other weights or of different releases, or damaged.
    """
    release = _release(files, options, size)
    tokens = _Found(files, release, options.token_dictionary, TOKENS).need()
    medians = _Found(files, release, options.gene_medians, MEDIANS).need()
    ids = read_tokens(tokens)
    if len(ids) != size:
        raise DataError(_wrong(files, tokens, len(ids), size))
    names, mapping = (
        _texts(path) if (path := _Found(files, release, named, stem).path()) else {}
        for named, stem in ((options.gene_names, NAMES), (options.gene_mapping, MAPPING))
    )
    levels = _levels(medians, ids, tokens)
    return Dictionaries(ids, levels, names, mapping, tuple(_from_elsewhere(files, (tokens, medians))))


def _from_elsewhere(files: Files, paths: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each dictionary outside of the folders in which a checkpoint has its own."""
    here = files.need("config.json").parent
    own = {(here / place).resolve() for place in _PLACES}
    for path in paths:
        if path.parent.resolve() not in own:
            # Two releases may have as many genes, under other ids.
            yield (
                f"'{path}' is read from outside of the checkpoint's folders: it fits in size, and nothing tells whether it "
                "is of the release of the weights"
            )


@dataclass(frozen=True)
class _Found:
    """Where one dictionary is: named by an option, or a part of a release."""

    files: Files
    release: _Release | None
    named: str
    stem: str

    def path(self) -> Path | None:
        if self.named:
            path = Path(self.named).expanduser()
            if not path.is_file():
                raise DataError(f"there is no file '{self.named}', which is named for the {self.stem}")
            return path
        return self.release.find(self.stem) if self.release else None

    def need(self) -> Path:
        path = self.path()
        if path is None:
            raise DataError(
                f"'{self.files.source}' has no {self.stem} ({', '.join(_ENDINGS)}) in its folder, in 'geneformer' there "
                "or beside it, or in the folder above; name the folder that has it as tokenizer.dictionaries"
            )
        return path


def _release(files: Files, options: GeneformerTokenizerOptions, size: int) -> _Release | None:
    """Return the release that fits the weights; else any that is there, for its sizes to be told; else None."""
    if options.token_dictionary:
        path = Path(options.token_dictionary).expanduser()
        known = path.stem.startswith(TOKENS)
        return _Release(_folder(files, path.parent), path.parent, "", path.stem[len(TOKENS) :]) if known else None
    if options.dictionaries:
        folder = Path(options.dictionaries).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder '{options.dictionaries}', which tokenizer.dictionaries names")
        return _nearby(_folder(files, folder), folder, size)
    here = files.need("config.json").parent
    release = _nearby(files, here, size)
    if release is not None and _size(release) == size:
        return release
    remote = (_Release(files, here, place, suffix) for place, suffix in _ON_HUB)
    return next((other for other in remote if _size(other) == size), release)


def _folder(files: Files, folder: Path) -> Files:
    return replace(files, source=str(folder))


def _nearby(files: Files, here: Path, size: int) -> _Release | None:
    """Return the release near a folder that fits the weights, else the first that there is."""
    first = None
    for place in _PLACES:
        there = [release for suffix in _SUFFIXES if (release := _Release(files, here, place, suffix)).local(TOKENS)]
        fitting = [release for release in there if _size(release) == size]
        if len(fitting) > 1:
            names = " and ".join(f"'{release.local(TOKENS)}'" for release in fitting[:2])
            raise DataError(
                f"{names} both fit the weights; name the one of their release as tokenizer.token_dictionary"
            )
        if fitting:
            return fitting[0]
        first = first or next(iter(there), None)
    return first


def _size(release: _Release) -> int:
    path = release.find(TOKENS)
    return len(read_tokens(path)) if path else 0


def _wrong(files: Files, path: Path, found: int, size: int) -> str:
    return (
        f"'{path}' has {found:,} tokens, but the weights of '{files.source}' know {size:,}: it is the token dictionary of "
        "another Geneformer; name the folder of their own dictionaries as tokenizer.dictionaries"
    )


def read_tokens(path: Path) -> dict[str, int]:
    """Return a token dictionary; raises ``DataError`` unless its ids count from 0, and padding and mask have one."""
    ids = _read(
        path,
        lambda key, value: (
            isinstance(key, str) and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MANY
        ),
    )
    if sorted(ids.values()) != list(range(len(ids))):
        twice = [value for value, count in Counter(ids.values()).items() if count > 1]
        fault = f"id {twice[0]} stands twice" if twice else f"its ids are not 0 to {len(ids) - 1:,}"
        raise DataError(f"'{path}' is no token dictionary: {fault}")
    lacking = [token for token in ("<pad>", "<mask>") if token not in ids]
    if lacking:
        raise DataError(f"'{path}' is no token dictionary: it lacks {' and '.join(lacking)}")
    return ids


def _levels(path: Path, tokens: Mapping[str, int], beside: Path) -> dict[str, float]:
    levels = _read(path, lambda key, value: isinstance(key, str) and isinstance(value, int | float))
    genes = [token for token in tokens if not token.startswith("<")]
    lacking = [gene for gene in genes if gene not in levels]
    if lacking:
        count = f"{len(lacking):,} of the {len(genes):,} genes of '{beside}', such as {lacking[0]}"
        raise DataError(f"'{path}' lacks {count}: the two are not of one release")
    found = {gene: _level(levels[gene]) for gene in genes}
    odd = next((gene for gene, level in found.items() if not (math.isfinite(level) and level > 0)), None)
    if odd is not None:
        raise DataError(f"'{path}' is no median dictionary: the level of {odd} is {found[odd]}, not above 0")
    return found


def _level(value: float) -> float:
    try:
        return float(value)
    # Whole numbers may be of any size.
    except OverflowError:
        return math.inf


def _texts(path: Path) -> dict[str, str]:
    found = _read(path, lambda key, value: all(isinstance(side, str) or _nothing(side) for side in (key, value)))
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def _nothing(value: Any) -> bool:
    # Tables of genes hold NaN where a gene has no name.
    return value is None or (isinstance(value, float) and math.isnan(value))


def _read(path: Path, fits: Callable[[Any, Any], bool]) -> dict[Any, Any]:
    refuse_text(path)
    found = {".json": _json, ".parquet": _parquet}.get(path.suffix, read_pickle)(path)
    if not isinstance(found, dict):
        raise DataError(f"'{path}' holds {type(found).__name__}, not a dictionary")
    odd = next(((key, value) for key, value in found.items() if not fits(key, value)), None)
    if odd is not None or not found:
        what = f"{_short(odd[0])} stands for {_short(odd[1])}" if odd else "it is empty"
        raise DataError(f"'{path}' is not the dictionary that its name says: {what}")
    return found


def _short(value: Any) -> str:
    # A dictionary may hold others without end, and a whole number more digits than can be written out.
    if isinstance(value, int) and abs(value) >= _MANY:
        return "a number of many digits"
    plain = value is None or isinstance(value, (str, int, float))
    return f"{value!r:.40}" if plain else f"a value of the type {type(value).__name__}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise DataError(f"'{path}' is not JSON, is cut short, or names a gene twice; download it again") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _parquet(path: Path) -> Any:
    try:
        table = parquet.read_table(path, columns=["key", "value"])
        keys, values = table["key"].to_pylist(), table["value"].to_pylist()
    except (pa.ArrowException, KeyError, OSError, ValueError):
        raise DataError(f"'{path}' is not Parquet with the columns key and value; download it again") from None
    found = dict(zip(keys, values, strict=True))
    if len(found) < len(keys):
        raise DataError(f"'{path}' names a gene twice; download it again")
    return found
