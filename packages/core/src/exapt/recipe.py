"""The recipe: everything that is needed to repeat a run, as one frozen model."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exapt.errors import RecipeError, did_you_mean, listed
from exapt.specs import Options

M = TypeVar("M", bound=BaseModel)

_HEAD_NAME = re.compile(r"[A-Za-z0-9_-]+")
MUTANT, WILD_TYPE = "mutant", "wild_type"
"""The inputs that are made of mutations."""


class DataOptions(Options):
    """Which table, and what its columns mean."""

    path: str = Field(description="Table to learn from: CSV, TSV, Parquet, JSONL, FASTA or what a plugin reads.")
    format: str = Field("", description="Reader to use; empty to choose by the file's suffix.")
    reader: dict[str, Any] = Field({}, description="Options of the reader, such as the layer of an h5ad file.")
    inputs: dict[str, str] = Field(
        {"sequence": "sequence"},
        description="Name of each input and the column that holds it; a lone column name does, and for a backbone of "
        "cells or structures none is needed.",
    )
    mutations: str = Field(
        "",
        description="Column of mutations, such as A23G:K41R or WT: with wild_type it makes the inputs mutant and wild_type.",
    )
    wild_type: str = Field(
        "",
        description="Wild type, as the input wild_type: its column, a FASTA file with one sequence, or the sequence itself, in "
        "capitals.",
    )
    wild_type_is: Literal["", "column", "sequence", "file"] = Field(
        "",
        description="What wild_type is: a column, the sequence itself, or that of a file; empty to see by the table.",
    )
    id: str = Field("", description="Column of ids; empty for a column 'id' if there is one, else row numbers.")
    labels: str = Field(
        "", description="Second table with the labels, joined by id; empty if they stand beside the inputs."
    )
    masks: str = Field(
        "",
        description="Table of masks, joined by id: which units count, 0 or 1 for each; FASTA, or a column 'mask' of any.",
    )
    mask: str = Field("", description="Column of the masks, in their own table or, without one, beside the labels.")
    domain: str = Field(
        "", description="Column that names the domain of each row, such as its species, donor or batch."
    )
    only: tuple[str, ...] = Field((), description="Domains whose rows are read, by name; empty for all.")
    missing_labels: Literal["error", "drop", "keep"] = Field(
        "error",
        description="What to do with rows without a label: refuse the table; drop and count them; or, of several heads, keep "
        "those that have a label of any.",
    )

    @property
    def made(self) -> dict[str, str]:
        """The inputs that core makes, and what of: ``mutant`` of the column of mutations, ``wild_type`` of what is said of it."""
        told = {MUTANT: self.mutations, WILD_TYPE: self.wild_type}
        return {name: of for name, of in told.items() if of}

    @model_validator(mode="before")
    @classmethod
    def _with_made(cls, given: Any) -> Any:
        """Put the inputs that core makes beside those that are named; without any other there is no 'sequence'."""
        if not isinstance(given, Mapping) or not (given.get("mutations") or given.get("wild_type")):
            return given
        if not given.get("wild_type"):
            raise ValueError(
                "mutations need their wild type: name it as wild_type, which is a column, a FASTA file with one sequence, "
                "or the sequence itself"
            )
        made = {WILD_TYPE: given["wild_type"]}
        if given.get("mutations"):
            made = {MUTANT: given["mutations"], **made}
        named = given.get("inputs", {} if MUTANT in made else {"sequence": "sequence"})
        if not isinstance(named, Mapping):
            return given
        for name in made:
            if named.get(name, made[name]) != made[name]:
                raise ValueError(
                    f"inputs names '{name}', which is made of mutations and wild_type: leave it out of inputs"
                )
        return {**given, "inputs": {**named, **made}}

    @field_validator("only", mode="before")
    @classmethod
    def _named_domains(cls, only: Any) -> Any:
        several = only if isinstance(only, (list, tuple)) else [only]
        return tuple(str(name) if isinstance(name, int) else name for name in several)

    @model_validator(mode="after")
    def _of_a_column(self) -> Self:
        if self.only and not self.domain:
            raise ValueError("only names domains: name the column that tells them as domain")
        return self

    @field_validator("inputs")
    @classmethod
    def _some(cls, inputs: dict[str, str]) -> dict[str, str]:
        if not inputs:
            raise ValueError("name at least one input and its column")
        return inputs


class SplitOptions(Options):
    """What is learned from, what is selected on, and what is touched once at the end."""

    column: str = Field(
        "",
        description="Column that names each row's part: train, valid (val, dev) or test; or, with valid or test, any column.",
    )
    valid: tuple[str, ...] = Field((), description="Values of the column whose rows are the valid part.")
    test: tuple[str, ...] = Field(
        (), description="Values of the column whose rows are the test part; others are train."
    )
    group: str = Field(
        "", description="Column whose groups must not be torn apart; not beside column, which names the parts itself."
    )
    homology: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Identity from which two DNA or protein sequences stand in the same part; 0 does not look.",
    )
    coverage: float = Field(
        0.5, ge=0, le=1, description="Share of the shorter sequence that an alignment must span to count."
    )
    evalue: float = Field(
        1e-3, gt=0, description="Chance hits of one sequence among all from which an alignment is not significant."
    )
    engine: Literal["auto", "mmseqs", "pyopal"] = Field(
        "auto", description="What compares the sequences; auto is mmseqs where that program is on PATH."
    )
    leakage: bool = Field(
        False,
        description="Report each test row's nearest training row, and the metrics by identity; on where homology is set.",
    )
    origins: tuple[str, ...] = Field(
        (),
        description="Columns of which to report the values that stand on both sides; of cells, those called donor, "
        "patient, sample, batch and the like are reported unasked.",
    )
    fractions: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="Shares of train, valid and test.")
    stratify: bool = Field(True, description="Keep the share of each class the same in all parts.")
    seed: int = Field(0, ge=0, description="Seed of the split; apart from the run's seed, so that runs can be paired.")
    train_size: int | None = Field(
        None, ge=1, description="Learn from this many rows only, drawn (by class) with the run's seed."
    )
    valid_size: int | None = Field(None, ge=1, description="Select on this many rows only, drawn with the run's seed.")

    @model_validator(mode="before")
    @classmethod
    def _reported(cls, given: Any) -> Any:
        return {"leakage": bool(given.get("homology")), **given} if isinstance(given, Mapping) else given

    @field_validator("valid", "test", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        several = values if isinstance(values, (list, tuple)) else [values]
        if "" in several:
            raise ValueError("an empty text is no value of a column")
        return tuple(str(value) if isinstance(value, int) else value for value in several)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.homology and self.column:
            raise ValueError("homology deals the rows to parts itself: leave out column, or write group for it")
        if self.group and self.column:
            raise ValueError(
                "column names each row's part, so that group has no say: leave one of them out; "
                f'origins = ["{self.group}"] tells which of its values stand on both sides'
            )
        if (self.valid or self.test) and not self.column:
            raise ValueError("valid and test are values of a column: name it as column")
        for value in self.valid:
            if value in self.test:
                raise ValueError(f"both valid and test name '{value}'")
        return self

    @field_validator("fractions", mode="before")
    @classmethod
    def _three(cls, fractions: Any) -> Any:
        if isinstance(fractions, (list, tuple)) and len(fractions) != 3:
            raise ValueError("three shares are needed: of train, of valid and of test")
        return fractions

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) < 0 or fractions[0] == 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("train, valid and test must be shares that add up to 1, train above 0")
        return fractions


class TrainingOptions(Options):
    """How long, how fast and when to stop."""

    epochs: int = Field(10, ge=1, description="Passes over the training rows.")
    batch_size: int = Field(16, ge=1, description="Rows per optimiser step, over all processes.")
    max_tokens: int = Field(
        0,
        ge=0,
        description="Tokens per forward pass: splits a step into micro-batches, never changes its result; "
        "0 for what suits the device.",
    )
    learning_rate: float = Field(1e-4, gt=0, description="Peak rate of what learns in the backbone.")
    head_learning_rate: float = Field(1e-3, gt=0, description="Peak rate of the heads.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay; not applied to biases and norms.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps over which the rate rises.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the rate falls after the rise."
    )
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 for no clipping.")
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this many epochs without a better metric, of those in which all learns that is to learn; 0 "
        "never stops early.",
    )
    metric: str = Field(
        "", description="Metric of the valid part that chooses the best epoch; empty for the head's own."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the device is fast in it."
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="Checkpoint every so many steps, besides each epoch's end; 0 never."
    )
    sampling: Literal["uniform", "balanced", "tasks"] = Field(
        "uniform",
        description="Rows of an epoch, as many in all: each once; the classes of the first head equally often; or tasks, which "
        "are the heads with labels, in proportion to their size to the power of 1 / task_temperature.",
    )
    task_temperature: float = Field(
        2.0, ge=1, description="For sampling tasks: 1 goes by their size, a large number takes all equally often."
    )
    cache: bool = Field(
        True,
        description="Keep on disk what frozen lower blocks make of inputs that stay the same, instead of computing it in "
        "each epoch.",
    )
    recompute: bool = Field(
        False,
        description="Keep no activations inside blocks but compute them again for the gradient: less memory, more time.",
    )


class Component(BaseModel):
    """A component by name, with its options beside the name: ``{name = "lora", rank = 4}``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name of the component.")

    @property
    def options(self) -> dict[str, Any]:
        """What was said beside the name."""
        return dict(self.model_extra or {})


class HeadChoice(Component):
    """A head by name, with the column(s) of its labels."""

    label: str | tuple[str, ...] = Field(
        "label",
        description="Column of the labels, or several for several targets; none for a head that learns without labels.",
    )
    weight: float = Field(1.0, gt=0, description="Weight of this head's loss among several.")
    data: DataOptions | None = Field(
        None, description="Table of this head alone, if it is not that of the recipe; what it leaves out is as there."
    )


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Recipe(Options):
    """All parts of a run. ``head``, ``strategy`` and ``augmentation`` stand for one of each; a bare name for a component."""

    data: DataOptions = Field(description="Table and columns.")
    split: SplitOptions = Field(SplitOptions(), description="Train, valid and test.")
    target: DataOptions | None = Field(
        None,
        description="Table of the domain that the model is for. Its inputs are learned from by strategies that adapt to a "
        "domain; labels, if it has them, only measure.",
    )
    reference: DataOptions | None = Field(
        None,
        description="Table without labels, on which the loss of the pretrained language model is measured before and after.",
    )
    backbone: Component = Field(description="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
    layer: int = Field(
        -1,
        description="Layer whose features the heads read: 0 embeddings, n after block n, -1 the last, or the one that the "
        "backbone offers as its features.",
    )
    tokenizer: Component | None = Field(None, description="Tokenizer; the backbone's own if it is not named.")
    heads: dict[str, HeadChoice] = Field(min_length=1, description="The questions, by name.")
    strategies: tuple[Component, ...] = Field(min_length=1, description="How to transfer.")
    augmentations: tuple[Component, ...] = Field(
        (), description="Changes of the inputs, made at random in training or averaged over when answering."
    )
    training: TrainingOptions = Field(TrainingOptions(), description="How long, how fast and when to stop.")
    start: str = Field("", description="Adapter folder, exapt's or PEFT's, to start from.")
    base: str = Field(
        "",
        description="Adapter folder to stand upon: what it learned becomes part of the backbone and stays, and the new adapter "
        "holds it.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random but the split.")

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        full = dict(given)
        if "head" in full:
            others = full.get("heads") or {}
            if not isinstance(others, Mapping) or "head" in others:
                raise ValueError("head is short for heads.head: write one of them")
            full["heads"] = {"head": _named(full.pop("head")), **others}
        for one, several in (("strategy", "strategies"), ("augmentation", "augmentations")):
            if one in full:
                full[several] = [full.pop(one), *full.get(several, ())]
            if isinstance(full.get(several), Sequence) and not isinstance(full[several], str):
                full[several] = [_named(component) for component in full[several]]
        if isinstance(full.get("heads"), Mapping):
            full["heads"] = {_head_name(name): _named(head) for name, head in full["heads"].items()}
            _share_data(full)
        for key in ("backbone", "tokenizer"):
            full[key] = _named(full.get(key))
        if isinstance(full["tokenizer"], Mapping):
            # Options without a name are for the backbone's own.
            full["tokenizer"] = {"name": "", **full["tokenizer"]}
        for key in ("data", "target", "reference"):
            if isinstance(full.get(key), Mapping):
                full[key] = _data_shorthand(full[key])
        return {key: value for key, value in full.items() if value is not None}


# What belongs to one table and means nothing of another.
_OF_ONE_TABLE = ("path", "labels", "masks", "mask", "format", "reader", "mutations")


def _share_data(recipe: dict[str, Any]) -> None:
    """Let the tables of single heads take over what the recipe says of its own; without one, the first of them is it."""
    heads = {name: head for name, head in recipe["heads"].items() if isinstance(head, Mapping) and head.get("data")}
    tables = [head["data"] for head in heads.values() if isinstance(head["data"], Mapping)]
    if "data" not in recipe and heads and len(heads) == len(recipe["heads"]):
        recipe["data"] = dict(tables[0]) if tables else {}
    above = recipe.get("data")
    if not isinstance(above, Mapping):
        return
    shared = {key: value for key, value in _data_shorthand(above).items() if key not in _OF_ONE_TABLE}
    for name, head in heads.items():
        if isinstance(head["data"], Mapping):
            recipe["heads"] = {**recipe["heads"], name: {**head, "data": {**shared, **_data_shorthand(head["data"])}}}


def _head_name(name: Any) -> str:
    if not _HEAD_NAME.fullmatch(str(name)):
        raise ValueError(f"'{name}' is no name for a head: use letters, digits, '-' and '_'")
    return str(name)


def _data_shorthand(given: Mapping[str, Any]) -> dict[str, Any]:
    full = dict(given)
    if "input" in full:
        full["inputs"] = full.pop("input")
    if isinstance(full.get("inputs"), str):
        full["inputs"] = {"sequence": full["inputs"]}
    return full


def read_recipe(given: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    """Return a recipe from a model, a mapping, or a TOML or JSON file.

    Raises ``RecipeError`` for a missing or malformed file, an unknown key (with the nearest known one) or a value out
    of range.
    """
    if isinstance(given, Recipe):
        return given
    if isinstance(given, Mapping):
        return validated(Recipe, given, "recipe")
    path = Path(given)
    return validated(Recipe, parsed(path), f"recipe '{path.name}'")


def parsed(path: Path) -> Any:
    """Return what a TOML or JSON file holds. Raises ``RecipeError`` if it is missing or malformed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe '{path}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe '{path}' cannot be read: {error}") from None
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise RecipeError(
            f"recipe '{path}' is not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}"
        ) from None


def validated(model: type[M], given: Any, what: str) -> M:
    """Return ``given`` as a ``model``; raises ``RecipeError``, in one line, naming the key, the value and what is known."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise RecipeError(f"{what}: {_first_fault(model, error)}") from None


def _first_fault(model: type[BaseModel], error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        word = str(fault["loc"][-1])
        return f"unknown key '{place}'.{did_you_mean(word, known)} Known: {listed(known)}"
    if fault["type"] == "missing":
        return f"'{place}' is missing"
    reason = fault["msg"].removeprefix("Value error, ")
    reason = f"{reason[0].lower()}{reason[1:]}"
    return f"'{place}' is {fault['input']!r}: {reason}" if place else reason


def _keys_at(model: type[BaseModel], place: Sequence[int | str]) -> set[str]:
    for part in place:
        inner = model.model_fields.get(str(part))
        if inner is None:
            continue
        for candidate in (inner.annotation, *get_args(inner.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return set(model.model_fields)
