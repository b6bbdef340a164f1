"""The recipe of an alignment: two towers, the pairs between them, and how their projections learn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from exapt.errors import RecipeError, listed
from exapt.plugins import Plugins
from exapt.recipe import Component, SplitOptions, TrainingOptions, parsed, validated
from exapt.resolve import Chosen
from exapt.specs import HeadSpec, Options

TOWER_NAME = re.compile(r"[A-Za-z0-9_-]+")


class TowerData(Options):
    """The table of a tower, and what its columns mean."""

    path: str = Field("", description="Table of the tower's inputs, in any format that a reader is installed for.")
    format: str = Field("", description="Reader to use; empty to choose by the file's suffix.")
    reader: dict[str, Any] = Field({}, description="Options of the reader.")
    input: str = Field("", description="Column of the inputs; empty for what the backbone reads, such as sequence.")
    id: str = Field("", description="Column of ids; empty for a column 'id' if there is one, else row numbers.")


class TowerOptions(Options):
    """One of the two encoders: a backbone as it was published, or one that an adapter has changed; it stays as it is."""

    data: TowerData = Field(TowerData(), description="Table and columns.")
    pair: str = Field("", description="Column whose values stand in the other tower's table too; empty for the ids.")
    backbone: Component | None = Field(None, description="Pretrained model: a checkpoint, or FAMILY:PATH_OR_REPO.")
    tokenizer: Component | None = Field(None, description="Tokenizer; the backbone's own if it is not named.")
    adapter: str = Field("", description="Folder of an adapter of exapt whose backbone it is, in place of one by name.")
    layer: int = Field(
        -1, description="Layer whose features are read; -1 for the one that backbone or adapter offer as theirs."
    )
    pooling: Literal["mean", "max", "cls"] = Field("mean", description="How an input gets its vector.")

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        full = {key: _named(value) if key in ("backbone", "tokenizer") else value for key, value in given.items()}
        if isinstance(full.get("tokenizer"), Mapping):
            full["tokenizer"] = {"name": "", **full["tokenizer"]}
        return full

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if bool(self.adapter) == (self.backbone is not None):
            raise ValueError("a tower is a backbone or an adapter: name one of them")
        if self.adapter and self.tokenizer is not None:
            raise ValueError("an adapter brings its tokenizer: leave tokenizer out")
        if not self.data.path:
            raise ValueError("it has no table: name one as data.path, of the tower or of both")
        return self


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def by_chance(metric: str) -> bool:
    """Return whether a metric is not of what is learned, but of a random order."""
    return metric.startswith("chance.")


class AlignTraining(Options):
    """How long and how fast the projections learn. Features are computed once, so that an epoch takes little."""

    epochs: int = Field(200, ge=1, description="Passes over the training pairs.")
    batch_size: int = Field(
        64, ge=2, description="Pairs per step; each is told from all others of its step, so that more are harder."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak rate.")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's decay.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps over which the rate rises.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the rate falls after the rise."
    )
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 for no clipping.")
    patience: int = Field(
        30, ge=0, description="Stop after this many epochs without a better metric; 0 never stops early."
    )
    metric: str = Field(
        "", description="Metric of the valid part that chooses the best epoch; empty for mrr, the mean reciprocal rank."
    )

    @field_validator("metric")
    @classmethod
    def _learned(cls, metric: str) -> str:
        if by_chance(metric):
            raise ValueError("what a random order has is the same in each epoch: name a metric of what is learned")
        return metric

    @property
    def of_the_loop(self) -> TrainingOptions:
        """The same for the loop that all runs share."""
        given = self.model_dump(exclude={"learning_rate"})
        # A row costs one token for each tower: no step is ever split, since its rows are compared with each other.
        return TrainingOptions(
            **given, head_learning_rate=self.learning_rate, max_tokens=2 * self.batch_size, precision="fp32"
        )


class AlignRecipe(Options):
    """All parts of an alignment. ``data`` and ``pair`` are said once for both towers, or in each of them."""

    data: TowerData = Field(TowerData(), description="What the tables of both towers have in common.")
    pair: str = Field("", description="Column of the pairs, in both tables.")
    towers: dict[str, TowerOptions] = Field(description="The two encoders, by name.")
    split: SplitOptions = Field(SplitOptions(), description="Train, valid and test, of the pairs.")
    head: Component = Field(
        Component(name="contrastive-alignment"), description="What projects both towers to one space."
    )
    training: AlignTraining = Field(AlignTraining(), description="How long, how fast and when to stop.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random but the split.")

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        full = {key: _named(value) if key == "head" else value for key, value in given.items()}
        towers, common = full.get("towers"), full.get("data", {})
        if isinstance(towers, Mapping) and isinstance(common, Mapping):
            validated(TowerData, common, "data")
            pair = {"pair": full.pop("pair")} if "pair" in full else {}
            full.pop("data", None)
            full["towers"] = {name: _with(tower, common, pair) for name, tower in towers.items()}
        return full

    @field_validator("towers")
    @classmethod
    def _two(cls, towers: dict[str, TowerOptions]) -> dict[str, TowerOptions]:
        if len(towers) != 2:
            raise ValueError(f"an alignment has two towers, and these are {len(towers)}: {listed(towers)}")
        for name in towers:
            if not TOWER_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no name for a tower: use letters, digits, '-' and '_'")
        return towers


def _with(tower: Any, data: Mapping[str, Any], pair: Mapping[str, Any]) -> Any:
    if not isinstance(tower, Mapping) or not isinstance(tower.get("data", {}), Mapping):
        return tower
    return {**pair, **tower, "data": {**data, **tower.get("data", {})}}


def read_align_recipe(given: AlignRecipe | Mapping[str, Any] | str | Path) -> AlignRecipe:
    """Return the recipe of an alignment from a model, a mapping, or a TOML or JSON file; raises ``RecipeError``."""
    if isinstance(given, AlignRecipe):
        return given
    if isinstance(given, Mapping):
        return _validated(given, "recipe")
    path = Path(given)
    return _validated(parsed(path), f"recipe '{path.name}'")


def _validated(given: Any, what: str) -> AlignRecipe:
    """Return a recipe; raises ``RecipeError``, which names a whole table that is wrong by its key alone."""
    try:
        return AlignRecipe.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        if place and fault["type"] == "value_error" and isinstance(fault["input"], Mapping):
            raise RecipeError(f"{what}: '{place}': {fault['msg'].removeprefix('Value error, ')}") from None
    return validated(AlignRecipe, given, what)


def chosen_head(recipe: AlignRecipe, plugins: Plugins) -> Chosen:
    """Look up the head and check its options. Raises ``RecipeError`` for one that does not compare two towers."""
    offer = plugins.get(HeadSpec, recipe.head.name)
    if not offer.spec.towers:
        able = listed(other.spec.name for other in plugins.offers(HeadSpec) if other.spec.towers)
        raise RecipeError(f"head '{offer.spec.name}' answers for one backbone; those that align two are: {able}")
    towers = list(recipe.towers)
    if list(recipe.head.options.get("towers", towers)) != towers:
        raise RecipeError(f"head.towers are those of the recipe, {' and '.join(towers)}, in its order: leave it out")
    given = {**recipe.head.options, "towers": tuple(towers)}
    return Chosen(offer, validated(offer.spec.options, given, f"head '{offer.spec.name}'"))
