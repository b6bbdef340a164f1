"""Design from structures to sequences: in memory, or from file to file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exapt import Adapted, DataError, RecipeError, open_table, open_writer
from exapt.parts import Array, Encoding
from exapt.structures import Structure, StructureType, structures_of
from exapt_esm.designing import DesignOptions
from exapt_esm.designing.model import Designer, Settings
from exapt_esm.designing.plan import Plan
from exapt_esm.designing.sampling import Canvas, Draws, Sample
from exapt_esm.proteinmpnn import ALPHABET

__all__ = ["Choice", "Named", "design", "design_file"]

Tell = Callable[[str], None]
Named = tuple[str, Structure]
Structures = Structure | Sequence[Structure] | Mapping[str, Structure]

# A structure's own sequence is scored in the orders of so many samples, however many are asked for.
_ORDERS = 8
_DIGITS = 4
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("structure", pa.string()),
        ("sample", pa.int64()),
        ("temperature", pa.float64()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
        ("global_score", pa.float64()),
        ("perplexity", pa.float64()),
        ("recovery", pa.float64()),
        ("chains", pa.string()),
        ("designed", pa.string()),
        ("backbone", pa.string()),
        ("sequence", pa.string()),
    ]
)


def design(
    structures: Structures | str | Path,
    backbone: str | Adapted,
    options: DesignOptions | None = None,
    *,
    settings: Settings | None = None,
    device: str = "",
    tell: Tell = lambda line: None,
) -> pa.Table:
    """Return sequences for structures (one, several, several by name, or a path of files): its own first, then designs.

    ``backbone`` is the name of a model, or an adapter of its native objective. ``settings`` holds options of ``backbone``,
    ``tokenizer`` and, of a path, ``reader``. ``score`` is the mean of minus the log-likelihoods (natural logarithms) of
    the designed residues, each given those sampled before it (Dauparas et al. 2022, doi:10.1126/science.add2187),
    ``global_score`` that of all residues, ``perplexity`` its exponential over the designed ones, ``recovery`` the share of
    them that is the structure's own. ``tell`` hears what there is to note. Raises ``DataError`` for options that do not go
    with a structure, before any is designed.
    """
    settings = dict(settings or {})
    source = _Source.of(structures, settings.pop("reader", None))
    designer = _designer(backbone, settings, device)
    batches = list(_designs(designer, source, options or DesignOptions(), tell))
    return pa.Table.from_batches(batches, _SCHEMA)


def _designer(backbone: str | Adapted, settings: Settings, device: str) -> Designer:
    if isinstance(backbone, str):
        return Designer.of(backbone, settings, device)
    if settings or device:
        raise RecipeError("an adapter that is loaded has its settings and its device already")
    return Designer.of_adapter(backbone)


@dataclass(frozen=True)
class Choice:
    """By which model a file is designed: a ``backbone`` or an ``adapter``; ``settings`` as ``design`` has them."""

    backbone: str = ""
    adapter: Path | None = None
    settings: Settings = field(default_factory=dict)
    device: str = ""

    def load(self) -> Designer:
        """Load the model. Raises ``RecipeError`` unless it is one, and one that designs."""
        if bool(self.backbone) == bool(self.adapter):
            raise RecipeError("give --backbone, or --adapter: one of them")
        settings = {part: options for part, options in self.settings.items() if part != "reader"}
        if self.adapter is not None:
            return Designer.at(self.adapter, settings, self.device)
        return Designer.of(self.backbone, settings, self.device)


def design_file(
    path: Path,
    out: Path | None,
    choice: Choice,
    options: DesignOptions,
    *,
    overwrite: bool = False,
    show: Callable[[pa.RecordBatch], None] = lambda batch: None,
    tell: Tell = lambda line: None,
) -> int:
    """Do the same from file to file, structure by structure, and return the number of rows; without ``out``, ``show`` them."""
    if out is None:
        return _shown(_chosen(path, choice, options, tell), show)
    with open_writer(out, overwrite=overwrite) as writer:
        return _shown(_chosen(path, choice, options, tell), writer.write)


def _chosen(path: Path, choice: Choice, options: DesignOptions, tell: Tell) -> Iterator[pa.RecordBatch]:
    source = _Source.at(path, choice.settings.get("reader", {}))
    return _designs(choice.load(), source, options, tell)


def _shown(batches: Iterable[pa.RecordBatch], show: Callable[[pa.RecordBatch], None]) -> int:
    rows = 0
    for batch in batches:
        show(batch)
        rows += batch.num_rows
    return rows


@dataclass(frozen=True)
class _Source:
    """Structures by name, gone through as often as need be; ``lines`` is what there is to tell once they were."""

    open: Callable[[], Iterable[Named]]
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, structures: Structures | str | Path, options: Mapping[str, Any] | None) -> _Source:
        if isinstance(structures, (str, Path)):
            return cls.at(Path(structures), options or {})
        if options is not None:
            raise RecipeError("options of the reader go with a path, not with structures in memory")
        if isinstance(structures, Structure):
            structures = {"structure": structures}
        elif not isinstance(structures, Mapping):
            structures = {f"structure_{place}": one for place, one in enumerate(structures, 1)}
        named = list(structures.items())
        return cls(lambda: named)

    @classmethod
    def at(cls, path: Path, options: Mapping[str, Any]) -> _Source:
        lines: list[str] = []

        def read() -> Iterator[Named]:
            reader = open_table(path, options=options)
            for batch in reader:
                yield from _named(batch, path.name)
            lines[:] = getattr(reader, "lines", list)()

        return cls(read, lines)


def _named(batch: pa.RecordBatch, name: str) -> Iterator[Named]:
    column = next((one.name for one in batch.schema if isinstance(one.type, StructureType)), "")
    if not column:
        raise DataError(f"{name} holds no structures: name a PDB or mmCIF file, or a folder of them")
    yield from zip(batch.column("id").to_pylist(), structures_of(pa.chunked_array([batch.column(column)])), strict=True)


def _designs(designer: Designer, source: _Source, options: DesignOptions, tell: Tell) -> Iterator[pa.RecordBatch]:
    """Yield the rows of each structure, once all of them are known to go with the options."""
    tally, records = designer.tokenizer.tally(), set[str]()
    for name, structure in source.open():
        asked = _Asked.of(designer, name, structure, options)
        tally.count([structure], [asked.encoding])
        for record in asked.records:
            if record in records:
                raise DataError(f"two sequences would be called '{record}': rename a structure")
            records.add(record)
        for line in asked.plan.told:
            tell(line)
    if not records:
        raise DataError("there is no structure to design")
    for line in (*designer.notes, *source.lines, *tally.lines("structure")):
        tell(line)
    for name, structure in source.open():
        yield _Asked.of(designer, name, structure, options).rows(designer)


@dataclass(frozen=True)
class _Asked:
    """One structure, as a model reads it, and what is sampled of it."""

    name: str
    structure: Structure
    encoding: Encoding
    plan: Plan
    options: DesignOptions

    @classmethod
    def of(cls, designer: Designer, name: str, structure: Structure, options: DesignOptions) -> _Asked:
        encoding = designer.encode(name, structure)
        plan = Plan.of(name, structure, encoding.arrays["resolved"], options)
        return cls(name, structure, encoding, plan, options)

    @property
    def records(self) -> list[str]:
        """What its sequences are called, its own first."""
        count = self.options.number * len(self.options.temperature)
        return [self.name, *(f"{self.name}_{place}" for place in range(1, count + 1))]

    def rows(self, designer: Designer) -> pa.RecordBatch:
        """Design it."""
        options = self.options
        canvas = Canvas(designer.model, designer.out, self.encoding, self.plan)
        native = canvas.native([self._draws(number) for number in range(1, _ORDERS + 1)])
        rows = [{"sample": 0, **self._told(native)}]
        for temperature in options.temperature:
            for start in range(1, options.number + 1, options.batch):
                numbers = range(start, min(start + options.batch, options.number + 1))
                samples = canvas.samples([self._draws(number) for number in numbers], temperature)
                rows += [
                    {"sample": number, "temperature": temperature, "seed": options.seed, **self._told(sample)}
                    | {"recovery": self._recovery(sample.ids)}
                    for number, sample in zip(numbers, samples, strict=True)
                ]
        shared = {"structure": self.name, "backbone": designer.name, **self._chains()}
        named = [{"id": name, **shared, **row} for name, row in zip(self.records, rows, strict=True)]
        return pa.RecordBatch.from_pylist(named, _SCHEMA)

    def _draws(self, number: int) -> Draws:
        return Draws.of(self.encoding, self.options.seed, number)

    def _told(self, sample: Sample) -> dict[str, Any]:
        score = sample.losses[self.plan.designed].mean()
        overall = sample.losses[self.encoding.arrays["resolved"]].mean()
        return {
            "score": round(float(score), _DIGITS),
            "global_score": round(float(overall), _DIGITS),
            "perplexity": round(float(np.exp(score)), _DIGITS),
            "sequence": self._text(sample.ids),
        }

    def _recovery(self, ids: Array) -> float | None:
        own = self.encoding.arrays["input_ids"]
        known = self.plan.designed & (own != ALPHABET.index("X"))
        return round(float((ids == own)[known].mean()), _DIGITS) if known.any() else None

    def _text(self, ids: Array) -> str:
        starts = self.structure.starts
        letters = "".join(ALPHABET[one] for one in ids)
        return "/".join(letters[begin:end] for begin, end in pairwise(starts))

    def _chains(self) -> dict[str, str]:
        designed = sorted(set(self.structure.chain_of[self.plan.designed].tolist()))
        chains = self.structure.chains
        return {"chains": "/".join(chains), "designed": "/".join(chains[number] for number in designed)}
