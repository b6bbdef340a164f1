"""From a recipe to its parts: every name looked up, every option checked, before any data or weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exapt.composition import check_sampling, check_together
from exapt.errors import DataError, RecipeError
from exapt.plugins import Offer, Plugins
from exapt.recipe import Component, DataOptions, HeadChoice, Recipe, TrainingOptions, validated
from exapt.specs import (
    AugmentationSpec,
    BackboneSpec,
    Checkpoint,
    HeadSpec,
    Options,
    Sourced,
    Spec,
    StrategySpec,
    TokenizerSpec,
    Windowed,
    local_paths,
)


@dataclass(frozen=True)
class Chosen:
    """A component with its options, all of them."""

    offer: Offer[Any]
    options: Options

    @property
    def files(self) -> dict[str, str]:
        """The files and folders of this machine that options name, by option."""
        named = {name: getattr(self.options, name) for name in local_paths(type(self.options))}
        return {name: path for name, path in named.items() if path}

    @property
    def kept(self) -> dict[str, Any]:
        """All options, ready for JSON; files and folders by their last name: where they stand is a matter of one machine."""
        short = {name: Path(path).expanduser().resolve().name for name, path in self.files.items()}
        return {**self.options.model_dump(mode="json"), **short}

    def as_component(self, name: str = "") -> dict[str, Any]:
        """Return it as it stands in a recipe: every option written out."""
        return {"name": name or self.offer.spec.name, **self.kept}


@dataclass(frozen=True)
class ChosenHead(Chosen):
    """A head with its options, the column(s) of its labels (none if it learns without), the weight of its loss, and its own
    table if it has one.
    """

    label: str | tuple[str, ...]
    weight: float
    data: DataOptions | None = None


@dataclass(frozen=True)
class Resolved:
    """A recipe whose every part is known."""

    recipe: Recipe
    backbone: Chosen
    checkpoint: Checkpoint | None
    tokenizer: Chosen
    heads: Mapping[str, ChosenHead]
    strategies: tuple[Chosen, ...]
    augmentations: tuple[Chosen, ...]
    training: TrainingOptions

    @property
    def folder(self) -> str:
        """The local folder or file of the backbone's weights, or nothing where they have a name on every machine."""
        return weights_folder(self.checkpoint, self.backbone.options)

    @property
    def labels(self) -> dict[str, str | tuple[str, ...]]:
        """The label column(s) of each head that learns from labels."""
        return {name: head.label for name, head in self.heads.items() if head.offer.spec.labelled}

    @property
    def per_unit(self) -> frozenset[str]:
        """The heads whose labels are of units, or of pairs of them."""
        return frozenset(name for name in self.labels if self.heads[name].offer.spec.answers in ("unit", "pair"))

    @property
    def answered(self) -> dict[str, str]:
        """The input whose units each head answers for: the first that it reads."""
        every = tuple(self.recipe.data.inputs)
        return {name: (getattr(head.options, "inputs", ()) or every)[0] for name, head in self.heads.items()}

    @property
    def plugins(self) -> dict[str, str]:
        """Distribution and version of every plugin that takes part."""
        parts = (self.backbone, self.tokenizer, *self.heads.values(), *self.strategies, *self.augmentations)
        return {part.offer.info.distribution: part.offer.info.version for part in parts}

    def infer(self, labels: Mapping[str, Sequence[Any]]) -> Resolved:
        """Return the recipe with what only the labels know, such as class names, written into the heads' options.

        Raises ``DataError`` for labels that a head cannot learn from, naming their column.
        """
        heads = {
            name: self._inferred(head, labels[name]) if name in labels else head for name, head in self.heads.items()
        }
        return replace(self, heads=heads)

    def _inferred(self, head: ChosenHead, labels: Sequence[Any]) -> ChosenHead:
        try:
            return replace(head, options=head.offer.spec.infer(head.options, labels))
        except DataError as error:
            raise DataError(f"label '{column_name(head.label)}': {error}") from None

    def as_recipe(self) -> dict[str, Any]:
        """Return the recipe with nothing left to infer, ready for JSON: it can be run again.

        Folders are written as their last name: where they stand is a matter of one machine.
        """
        recipe = self.recipe.model_dump(mode="json")
        recipe |= {key: _portable_table(recipe[key]) for key in ("data", "target", "reference") if recipe[key]}
        recipe |= {key: Path(recipe[key]).name for key in ("start", "base")}
        recipe["backbone"] = portable(self.backbone.as_component(self.recipe.backbone.name), self.folder)
        recipe["tokenizer"] = portable(self.tokenizer.as_component(self._tokenizer_name), self.folder)
        recipe["heads"] = {name: self._head(name, head) for name, head in self.heads.items()}
        recipe["strategies"] = [
            chosen.as_component(named.name)
            for chosen, named in zip(self.strategies, self.recipe.strategies, strict=True)
        ]
        recipe["augmentations"] = [
            chosen.as_component(named.name)
            for chosen, named in zip(self.augmentations, self.recipe.augmentations, strict=True)
        ]
        recipe["training"] = self.training.model_dump(mode="json")
        return recipe

    @property
    def _tokenizer_name(self) -> str:
        return self.recipe.tokenizer.name if self.recipe.tokenizer else ""

    def _head(self, name: str, head: ChosenHead) -> dict[str, Any]:
        label = {"label": head.label} if head.offer.spec.labelled else {}
        data = {"data": _portable_table(head.data.model_dump(mode="json"))} if head.data else {}
        return {**head.as_component(self.recipe.heads[name].name), **label, "weight": head.weight, **data}


def _portable_table(table: dict[str, Any]) -> dict[str, Any]:
    return {**table, **{key: Path(table[key]).name for key in ("path", "labels", "masks")}}


def column_name(label: str | tuple[str, ...]) -> str:
    """Return label columns as they stand in a message."""
    return label if isinstance(label, str) else ", ".join(label)


def weights_folder(checkpoint: Checkpoint | None, options: Options) -> str:
    """Return the local folder or file of a backbone's weights, or nothing where they have a name on every machine."""
    source = "" if checkpoint else getattr(options, "source", "")
    return source if source and Path(source).exists() else ""


def portable(component: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a component that names the local ``folder`` (or file), if it does, by its last name only."""
    if not folder or component.get("source") != folder:
        return component
    short = Path(folder).resolve().name
    return {**component, "source": short, "name": component["name"].replace(folder, short)}


def resolve(recipe: Recipe, plugins: Plugins, source: str = "") -> Resolved:
    """Look up every component and check every option; ``source`` overrides where the backbone's weights are.

    Raises ``ComponentError`` for unknown names and ``RecipeError`` for options out of range or parts that do not go
    together.
    """
    model = resolve_backbone(plugins, recipe.backbone, recipe.tokenizer, source)
    recipe = recipe.model_copy(update={"data": read_by(recipe.data, model[0].offer.spec.accepts)})
    if recipe.tokenizer is None or not recipe.tokenizer.name:
        named = Component(name=_own_tokenizer(model[0].offer, plugins))
        recipe = recipe.model_copy(update={"tokenizer": named})
    recipe = recipe.model_copy(update={"data": _with_wild_type(recipe.data, model[0], plugins)})
    heads = {name: _head(plugins, name, head, tuple(recipe.data.inputs)) for name, head in recipe.heads.items()}
    recipe = recipe.model_copy(update={"data": _without_unread(recipe.data, heads)})
    recipe = recipe.model_copy(update={"target": _target(recipe, model[0], heads, plugins)})
    recipe, strategies = _strategies(recipe, plugins)
    augmentations = tuple(
        _choose(plugins.get(AugmentationSpec, named.name), named, f"augmentations.{place}")
        for place, named in enumerate(recipe.augmentations)
    )
    _check_inputs(recipe, heads)
    recipe = _with_engine(recipe, model[0].offer.spec.modality)
    training = _training(recipe, strategies)
    # What is asked of a recipe is asked of the training that it amounts to, with the defaults of its strategies.
    check_together(strategies, recipe.model_copy(update={"training": training}), heads)
    _check_augmentations(augmentations, model[0])
    _check_windows(model[0], heads, recipe)
    _check_prompts(model[0], strategies)
    check_sampling(training, strategies, heads)
    return Resolved(recipe, *model, heads, strategies, augmentations, training)


def read_by(data: DataOptions, accepts: str) -> DataOptions:
    """Return how to read data for a backbone: a lone input is called what it ``accepts``, and so is its column unless named."""
    if accepts == "sequence" or list(data.inputs) != ["sequence"]:
        return data
    column = data.inputs["sequence"] if "inputs" in data.model_fields_set else accepts
    return data.model_copy(update={"inputs": {accepts: column}})


def _with_wild_type(data: DataOptions, backbone: Chosen, plugins: Plugins) -> DataOptions:
    if not data.made:
        return data
    if backbone.offer.spec.accepts != "sequence":
        raise RecipeError(
            f"data.{'mutations' if data.mutations else 'wild_type'} is of sequences; '{backbone.offer.spec.name}' reads a "
            f"{backbone.offer.spec.accepts}"
        )
    # Only where there is a wild type is there anything to import.
    from exapt.data.mutants import told_wild_type

    return told_wild_type(data, plugins)


def _target(recipe: Recipe, backbone: Chosen, heads: Mapping[str, ChosenHead], plugins: Plugins) -> DataOptions | None:
    """Return how to read the target data: with the columns of the inputs that are learned from, unless others are named."""
    data, target = recipe.data, recipe.target
    if target is None:
        return None
    if Path(target.path).expanduser().resolve() == Path(data.path).expanduser().resolve():
        _check_parted(data, target, f"target.path and data.path are one table, '{Path(target.path).name}'")
    own = target.model_fields_set & {"inputs", "mutations", "wild_type"}
    inherited = {} if own else {key: getattr(data, key) for key in ("inputs", "mutations", "wild_type", "wild_type_is")}
    target = target.model_copy(update=inherited)
    if not own:
        return target
    target = read_by(target, backbone.offer.spec.accepts)
    return _without_unread(_with_wild_type(target, backbone, plugins), heads)


def _check_parted(data: DataOptions, target: DataOptions, how: str) -> None:
    """Raise ``RecipeError`` if rows of one table can stand both among those that are learned from and in the target."""
    if not target.only or not data.only or (data.domain == target.domain and set(target.only) & set(data.only)):
        raise RecipeError(
            f"{how}, so that there is no other domain: name another table or, of one with a column "
            "of domains, the domains of each as data.only and target.only"
        )
    if data.domain != target.domain:
        raise RecipeError(
            f"{how}, whose domains are told by '{target.domain}' and by '{data.domain}', so that a "
            "row can be of both: name one column as data.domain and target.domain"
        )


def check_apart(resolved: Resolved, data: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Raise ``RecipeError`` if the target is a copy of a table whose labels are learned from, as the facts of both tell.

    Asked of a run, once both were read: an adapter is loaded where its tables are not.
    """
    recipe = resolved.recipe
    assert recipe.target is not None
    tables = [("data.path", recipe.data, data)]
    if "tables" in data:
        tables = [(*_read_by(resolved, heads.split(", ")), facts) for heads, facts in data["tables"].items()]
    for key, options, facts in tables:
        # A head without labels may well go on with pretraining on the very rows of the target.
        if facts["sha256"] == target["sha256"] and key:
            _check_parted(
                options, recipe.target, f"target.path and {key} hold the same, '{target['file']}' and '{facts['file']}'"
            )


def _read_by(resolved: Resolved, heads: Sequence[str]) -> tuple[str, DataOptions]:
    """Return the key of the table that some heads read, and how it is read; no key if none of them learns from labels of it."""
    own = resolved.recipe.heads[heads[0]].data
    labelled = any(resolved.heads[name].offer.spec.labelled for name in heads)
    key = "data.path" if own is None else f"heads.{heads[0]}.data.path"
    return (key if labelled else ""), own or resolved.recipe.data


def _without_unread(data: DataOptions, heads: Mapping[str, ChosenHead]) -> DataOptions:
    """Return how to read data without those inputs that core would make for no head: a model would read them in vain."""
    every = tuple(data.inputs)
    read = {name for head in heads.values() for name in getattr(head.options, "inputs", ()) or every}
    kept = {name: column for name, column in data.inputs.items() if name in read or name not in data.made}
    return data.model_copy(update={"inputs": kept}) if kept else data


def resolve_backbone(
    plugins: Plugins, named: Component, tokenizer: Component | None = None, source: str = ""
) -> tuple[Chosen, Checkpoint | None, Chosen]:
    """Look up a backbone, its published checkpoint (if one was named) and its tokenizer, as ``resolve`` does."""
    offer, checkpoint, found = plugins.checkpoint(named.name)
    files = {"source": source or found, "revision": checkpoint.revision if checkpoint else ""}
    given = tokenizer or Component(name="")
    name = given.name or _own_tokenizer(offer, plugins)
    reads = _choose(plugins.get(TokenizerSpec, name), given, "tokenizer", files)
    return _choose(offer, named, "backbone", files), checkpoint, reads


def _own_tokenizer(offer: Offer[BackboneSpec], plugins: Plugins) -> str:
    """Prefer the tokenizer of the backbone's own distribution, should another offer one of the same name."""
    name, distribution = offer.spec.tokenizer, offer.info.distribution
    sources = {other.info.distribution for other in plugins.offers(TokenizerSpec) if other.spec.name == name}
    return f"{distribution}:{name}" if len(sources) > 1 and distribution in sources else name


def _choose(offer: Offer[Any], named: Component, place: str, files: Mapping[str, str] | None = None) -> Chosen:
    spec: Spec = offer.spec
    given = named.options
    if files and issubclass(spec.options, Sourced):
        # What the name says wins: a manifest's copy of the source may be of another machine.
        given = {**given, **{key: value for key, value in files.items() if value or key not in given}}
    return Chosen(offer, validated(spec.options, given, f"{place} '{spec.name}'"))


def _head(plugins: Plugins, name: str, head: HeadChoice, inputs: tuple[str, ...]) -> ChosenHead:
    offer = plugins.get(HeadSpec, head.name)
    if offer.spec.towers:
        raise RecipeError(
            f"heads.{name}: '{offer.spec.name}' aligns two backbones, and a recipe of this kind has one: write one with two "
            "towers for 'exapt align'"
        )
    if not offer.spec.labelled and "label" in head.model_fields_set:
        raise RecipeError(f"heads.{name}: '{offer.spec.name}' learns without labels; leave 'label' out")
    if isinstance(head.label, tuple) and offer.spec.columns and offer.spec.columns not in head.options:
        head = head.model_copy(update={offer.spec.columns: head.label})
    if "inputs" in offer.spec.options.model_fields and "inputs" not in head.options:
        head = head.model_copy(update={"inputs": inputs})
    chosen = _choose(offer, head, f"heads.{name}")
    return ChosenHead(chosen.offer, chosen.options, head.label, head.weight, head.data)


def _training(recipe: Recipe, strategies: Sequence[Chosen]) -> TrainingOptions:
    defaults: dict[str, Any] = {}
    for chosen in strategies:
        defaults |= chosen.offer.spec.training_of(chosen.options)
    given = recipe.training.model_dump(exclude_unset=True)
    return validated(TrainingOptions, {**defaults, **given}, "training")


def _strategies(recipe: Recipe, plugins: Plugins) -> tuple[Recipe, tuple[Chosen, ...]]:
    """Return the strategies, with ``full`` before companions that leave open what learns, and the recipe that says so."""
    offers = [plugins.get(StrategySpec, named.name) for named in recipe.strategies]
    if not any(offer.spec.selects for offer in offers):
        recipe = recipe.model_copy(update={"strategies": (Component(name="full"), *recipe.strategies)})
        offers = [plugins.get(StrategySpec, "full"), *offers]
    chosen = tuple(
        _choose(offer, named, f"strategies.{place}")
        for place, (offer, named) in enumerate(zip(offers, recipe.strategies, strict=True))
    )
    return recipe, chosen


def _check_augmentations(augmentations: Sequence[Chosen], backbone: Chosen) -> None:
    modality = backbone.offer.spec.modality
    for chosen in augmentations:
        spec = chosen.offer.spec
        if spec.modalities and modality not in spec.modalities:
            raise RecipeError(
                f"augmentation '{spec.name}' is for {' and '.join(spec.modalities)}; "
                f"'{backbone.offer.spec.name}' reads {modality}"
            )


def _check_windows(backbone: Chosen, heads: Mapping[str, ChosenHead], recipe: Recipe) -> None:
    options = backbone.options
    if not isinstance(options, Windowed) or options.windows != "score":
        return
    for name, head in heads.items():
        if head.offer.spec.answers in ("unit", "pair"):
            each = "each unit" if head.offer.spec.answers == "unit" else "pairs of units"
            raise RecipeError(f"head '{name}' answers for {each}: use backbone windows = \"pool\"")
    if len(recipe.data.inputs) > 1:
        raise RecipeError('windows of several inputs do not belong together: use backbone windows = "pool"')


def _check_prompts(backbone: Chosen, strategies: Sequence[Chosen]) -> None:
    spec = backbone.offer.spec
    for chosen in strategies:
        if "prompts" in chosen.offer.spec.needs and not spec.prompts:
            raise RecipeError(
                f"strategy '{chosen.offer.spec.name}' puts vectors before the tokens, which '{spec.name}' cannot take: "
                "its blocks read more of each token than its state"
            )


def _with_engine(recipe: Recipe, modality: str) -> Recipe:
    """Write into the recipe what is to compare its sequences; raises ``RecipeError`` if nothing can align their kind."""
    options = recipe.split
    key = "homology" if options.homology else "leakage"
    if not getattr(options, key):
        return recipe
    if modality not in ("dna", "protein"):
        raise RecipeError(
            f"split.{key} compares sequences of DNA or protein, but '{recipe.backbone.name}' reads {modality}: leave it out; "
            "split.group keeps rows of one origin together, and split.origins names columns to tell of"
        )
    found = "mmseqs" if shutil.which("mmseqs") else "pyopal"
    engine = found if options.engine == "auto" else options.engine
    return recipe.model_copy(update={"split": options.model_copy(update={"engine": engine})})


def _check_masks(data: DataOptions, heads: Mapping[str, ChosenHead]) -> None:
    of_units = [name for name, head in heads.items() if head.offer.spec.answers in ("unit", "pair")]
    if (data.masks or data.mask) and not of_units:
        key = "masks" if data.masks else "mask"
        raise RecipeError(
            f"data.{key} says which units count, and no head learns from labels of units: leave it out, or ask with "
            "a head such as position-classification"
        )


def _check_inputs(recipe: Recipe, heads: Mapping[str, ChosenHead]) -> None:
    _check_masks(recipe.data, heads)
    known = set(recipe.data.inputs)
    for name, head in heads.items():
        wanted = getattr(head.options, "inputs", ())
        missing = [one for one in wanted if one not in known]
        if missing:
            raise RecipeError(
                f"head '{name}' reads the input '{missing[0]}', which data.inputs does not name: {', '.join(sorted(known))}"
            )
