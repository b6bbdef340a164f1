"""Which scorer is taken, and over which views: what is chosen of scoring, held against what the model reads and tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exapt.building import build
from exapt.errors import ExaptError, PluginError, RecipeError, listed
from exapt.installed import commands
from exapt.parts import Augmentation, Backbone, LanguageModel, Scorer, Tokenizer
from exapt.plugins import Offer, Plugins, current
from exapt.recipe import validated
from exapt.resolve import Chosen
from exapt.specs import AugmentationSpec, BackboneSpec, ScorerSpec, Spec

if TYPE_CHECKING:
    from exapt.scoring import Choice


@dataclass(frozen=True)
class Parts:
    """A backbone under a language-model head, and the tokenizer that it reads with."""

    name: str
    made_of: tuple[Chosen, Chosen]
    tokenizer: Tokenizer
    backbone: Backbone
    language: LanguageModel


def own_settings(choice: Choice) -> dict[str, Mapping[str, Any]]:
    """Return the options of backbone and tokenizer. Raises ``RecipeError`` for those of any other part."""
    for part, options in choice.settings.items():
        if part not in ("scorer", "backbone", "tokenizer", "reader") or not isinstance(options, Mapping):
            raise RecipeError(
                f"'{part}' cannot be set: there are options of scorer, backbone, tokenizer and reader, such as "
                "scorer.units_only=true"
            )
    return {part: options for part, options in choice.settings.items() if part in ("backbone", "tokenizer")}


def check_reads(backbone: Chosen, name: str, choice: Choice) -> None:
    """Raise ``RecipeError`` for a backbone of inputs without variants, and for what does not go with its kind of inputs."""
    accepts = backbone.offer.spec.accepts
    if accepts == "structure":
        _refuse_windows(name, choice)
    elif accepts != "sequence":
        raise _no_variants(backbone, name)
    elif choice.structure is not None:
        offers = (offer.spec for offer in current().offers(BackboneSpec))
        others = listed(spec.name for spec in offers if spec.accepts == "structure")
        raise RecipeError(
            f"'{name}' reads sequences, not structures: leave out --structure, or take a model of structures: {others}"
        )


def _refuse_windows(name: str, choice: Choice) -> None:
    if choice.context is not None or choice.average:
        flag = "--average" if choice.average else "--context"
        raise RecipeError(f"'{name}' reads structures, whole and as they are: {flag} goes with sequences")


def _no_variants(backbone: Chosen, name: str) -> RecipeError:
    """Say so, with the commands that come with the backbone, if any."""
    accepts, distribution = backbone.offer.spec.accepts, backbone.offer.info.distribution
    theirs = [info.name for info in commands() if info.distribution == distribution]
    instead = f". For {accepts}s, {distribution} has the commands {listed(theirs)}" if theirs else ""
    return RecipeError(
        f"'{name}' reads {accepts}s, which have no variants to score: take a model of sequences, such as DNA or protein{instead}"
    )


def chosen_scorer(
    plugins: Plugins, backbone: Chosen, name: str, choice: Choice, language: Callable[[], LanguageModel]
) -> Chosen:
    """Return the scorer that was asked for or, else, the first that suits: of inputs by themselves, one that tells of them.

    Raises ``RecipeError`` if there is none, with those that fit the ``language`` model, which is asked for only then.
    """
    spec: BackboneSpec = backbone.offer.spec
    alone = choice.alone and spec.accepts == "structure"
    telling = [one for one in spec.scorers if not alone or _tells_alone(plugins.get(ScorerSpec, one))]
    wanted = choice.scorer or next(iter(telling), "")
    if not wanted:
        fit = _fitting(plugins, _asked_of(language(), name))
        known = listed(offer.spec.name for offer in fit if not alone or _tells_alone(offer)) or "none is installed"
        raise RecipeError(
            f"'{name}' does not say which scorer suits it: name one with --scorer. Those that fit: {known}."
        )
    offer = plugins.get(ScorerSpec, wanted)
    if alone and not _tells_alone(offer):
        raise RecipeError(
            f"scorer '{offer.spec.name}' tells the effect of variants, and of a structure's own sequence nothing; use "
            f"{listed(telling)}"
        )
    return Chosen(
        offer, validated(offer.spec.options, choice.settings.get("scorer", {}), f"scorer '{offer.spec.name}'")
    )


def _tells_alone(offer: Offer[ScorerSpec]) -> bool:
    try:
        scorer = build(Chosen(offer, validated(offer.spec.options, {}, f"scorer '{offer.spec.name}'")))
    except ExaptError:
        # One that cannot be built without options is asked with its own.
        return False
    return type(scorer).likelihood is not Scorer.likelihood


def chosen_view(plugins: Plugins, backbone: Chosen, name: str) -> Augmentation:
    """Return an augmentation that gives views. Raises ``RecipeError`` for one that gives none, or of other inputs."""
    offer = plugins.get(AugmentationSpec, name)
    modality = backbone.offer.spec.modality
    if not _suits(offer.spec, modality):
        raise RecipeError(
            f"augmentation '{offer.spec.name}' is for {listed(offer.spec.modalities)}, not for {modality}, which "
            f"'{backbone.offer.spec.name}' reads"
        )
    augmentation = _built(offer)
    if type(augmentation).views is Augmentation.views:
        others = (other for other in plugins.offers(AugmentationSpec) if _suits(other.spec, modality))
        names = listed(other.spec.name for other in others if _gives_views(other))
        raise RecipeError(
            f"augmentation '{offer.spec.name}' gives no views of an input to average over. Those that do: {names}."
        )
    return augmentation


def _suits(spec: AugmentationSpec, modality: str) -> bool:
    return not spec.modalities or modality in spec.modalities


def _built(offer: Offer[AugmentationSpec]) -> Augmentation:
    options = validated(offer.spec.options, {}, f"augmentation '{offer.spec.name}'")
    augmentation: Augmentation = build(Chosen(offer, options))
    return augmentation


def _gives_views(offer: Offer[AugmentationSpec]) -> bool:
    try:
        return type(_built(offer)).views is not Augmentation.views
    except ExaptError:
        # One that is not asked for and cannot be built is not worth naming.
        return False


def check_objective(scored_by: Chosen, parts: Parts) -> None:
    """Raise ``RecipeError`` for a language model of another kind than the scorer asks."""
    spec: ScorerSpec = scored_by.offer.spec
    objective = _asked_of(parts.language, parts.name)
    if spec.objective not in ("any", objective):
        names = [offer.spec.name for offer in _fitting(current(), objective)]
        raise RecipeError(
            f"scorer '{spec.name}' asks {_one(spec.objective)} language model, and '{parts.name}' is {_one(objective)} one; use "
            f"{'one of ' if len(names) > 1 else ''}{listed(names)}"
        )
    if objective == "masked" and parts.tokenizer.mask is None:
        reads: Spec = parts.made_of[1].offer.spec
        raise PluginError(f"tokenizer '{reads.name}' names no mask token, which a masked language model is asked with")


def language_of(backbone: Backbone, name: str) -> LanguageModel:
    """Return a backbone's language model. Raises ``RecipeError`` if it has none."""
    if backbone.language is None:
        raise RecipeError(f"'{name}' has no language model, or was saved without it, and cannot score variants")
    return backbone.language


def _asked_of(language: LanguageModel, name: str) -> str:
    if language.objective == "values":
        raise RecipeError(f"'{name}' tells hidden values, not how probable tokens are: it cannot score variants")
    return language.objective


def _fitting(plugins: Plugins, objective: str) -> list[Offer[ScorerSpec]]:
    """Return the scorers that ask a language model of this kind."""
    return [offer for offer in plugins.offers(ScorerSpec) if offer.spec.objective in ("any", objective)]


def _one(objective: str) -> str:
    return f"an {objective}" if objective == "ordered" else f"a {objective}"
