"""Zero-shot variant effects: what a pretrained language model expects of a mutant, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.building import Tallies, build, build_backbone, build_tokenizer, refuse_mistaken
from exapt.data.changes import IncomparableError, UnscorableError
from exapt.data.variants import Row, Told, Unchanged, Variant
from exapt.embedding import named_parts
from exapt.errors import DataError, ExaptError, PluginError, RecipeError, listed
from exapt.expectations import Expectations
from exapt.installed import commands
from exapt.pairs import Pairs
from exapt.parts import Augmentation, Backbone, LanguageModel, Question, Scorer, Tokenizer
from exapt.plugins import Offer, Plugins, current
from exapt.recipe import validated
from exapt.resolve import Chosen, resolve_backbone
from exapt.specs import AugmentationSpec, BackboneSpec, ScorerSpec, Spec


@dataclass(frozen=True)
class Choice:
    """What can be chosen of scoring: the scorer (the backbone's own, unless named), and options of the parts.

    ``settings`` holds options of the ``scorer``, the ``backbone`` and the ``tokenizer``. ``average`` names augmentations
    over whose views a score is averaged; ``context`` is how many letters are kept on each side of a variant, as many as
    the model takes unless it is said.
    """

    scorer: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    average: Sequence[str] = ()
    context: int | None = None
    precision: str = "fp32"


@dataclass(frozen=True)
class Scoring:
    """A language model, the scorer that asks it, and the views over which it is asked."""

    pairs: Pairs
    scorer: Scorer
    scored_by: Chosen
    expectations: Expectations
    licence: str = ""

    @classmethod
    def of(cls, backbone: str, choice: Choice | None = None, device: str = "") -> Scoring:
        """Load a backbone by name and make it score.

        Raises ``RecipeError`` if it has no language model, or none of the kind that the scorer asks.
        """
        plugins, choice = current(), choice or Choice()
        own = _own_settings(choice)
        chosen, checkpoint, reads = resolve_backbone(plugins, *named_parts(backbone, own))
        _check_letters(chosen, backbone)
        scored_by = _scorer(plugins, chosen, backbone, choice)
        views = [_view(plugins, chosen, name) for name in choice.average]
        tokenizer, model = build_tokenizer(reads), build_backbone(chosen)
        if model.language is None:
            raise RecipeError(f"'{backbone}' has no language model, or was saved without it, and cannot score variants")
        free = checkpoint is None or checkpoint.commercial
        licence = "" if free or checkpoint is None else f"{backbone}: {checkpoint.licence}, no commercial use"
        parts = Parts(backbone, (chosen, reads), tokenizer, model, model.language)
        return cls.with_head(parts, scored_by, views, choice, device, licence)

    @classmethod
    def of_adapter(cls, adapted: Adapted, choice: Choice | None = None, device: str = "") -> Scoring:
        """Make an adapter that learned a language model's objective score.

        Raises ``RecipeError`` if it has no such head, and for options of backbone or tokenizer, which it has already.
        """
        plugins, choice, resolved = current(), choice or Choice(), adapted.resolved
        _check_letters(resolved.backbone, adapted.name)
        if _own_settings(choice):
            raise RecipeError(
                "an adapter has the options of its backbone and tokenizer already: only scorer can be set"
            )
        heads = [adapted.model.head(name).language for name in adapted.model.heads]
        learned = [language for language in heads if language is not None]
        if not learned:
            raise RecipeError(
                "the adapter has no language-model head, such as masked-lm or causal-lm, and cannot score variants"
            )
        made_of = (resolved.backbone, resolved.tokenizer)
        scored_by = _scorer(plugins, resolved.backbone, adapted.name, choice)
        views = [_view(plugins, resolved.backbone, name) for name in choice.average]
        parts = Parts(adapted.name, made_of, adapted.tokenizer, adapted.model.backbone, learned[0])
        return cls.with_head(parts, scored_by, views, choice, device)

    @classmethod
    def with_head(
        cls,
        parts: Parts,
        scored_by: Chosen,
        views: Sequence[Augmentation],
        choice: Choice,
        device: str = "",
        licence: str = "",
    ) -> Scoring:
        """Make a backbone score with any language-model head, its own or one that has learned on."""
        _check_objective(scored_by, parts)
        expectations = Expectations(parts.backbone, parts.language, devices.choose(device), choice.precision)
        limit = parts.backbone.max_tokens
        pairs = Pairs(parts.name, parts.made_of, parts.tokenizer, limit, tuple(views), choice.context)
        return cls(pairs, build(scored_by), scored_by, expectations, licence)

    def scores(
        self, variants: Sequence[Row], tallies: Tallies | None = None, told: Told | None = None
    ) -> list[float | None]:
        """Return the score of each variant, in natural logarithms, above 0 where the mutant is expected more.

        The wild type itself scores 0. Rows that cannot have a score are taken up by ``told``, and have none; raises
        ``DataError``, with the variant, for those that are not to be skipped.
        """
        told = told or Told()
        pairs: dict[int, list[tuple[Any, Any]]] = {}
        for row, one in enumerate(variants):
            if isinstance(one, Variant):
                try:
                    pairs[row] = self.pairs.of(one, tallies)
                except UnscorableError as error:
                    told.skip(one.where, error)
        wild = [pair[0] for some in pairs.values() for pair in some]
        refuse_mistaken(self.pairs.tokenizer, wild, self.pairs.name)
        totals = self.expectations.sums(self._asked(variants, pairs, told), len(variants))
        # In the precision of the passes: more digits would differ from one order of rows to another.
        scores: dict[int, float] = {row: float(np.float32(totals[row] / len(some))) for row, some in pairs.items()}
        scores |= {row: 0.0 for row, one in enumerate(variants) if isinstance(one, Unchanged)}
        return [scores.get(row) for row in range(len(variants))]

    def _asked(
        self, variants: Sequence[Row], pairs: dict[int, list[tuple[Any, Any]]], told: Told
    ) -> Iterator[tuple[int, Question]]:
        """Yield each row's questions; a row that cannot be asked leaves ``pairs``."""
        for row, some in list(pairs.items()):
            where = variants[row].where
            try:
                # All of a row's before the first of them is asked: half a row has no score.
                questions = [one for wild, mutant in some for one in self._questions(where, wild, mutant)]
            except UnscorableError as error:
                told.skip(where, error)
                del pairs[row]
                continue
            for question in questions:
                yield row, question

    def _questions(self, where: str, wild: Any, mutant: Any) -> Iterator[Question]:
        try:
            yield from self.scorer.ask(self.pairs.tokenizer, wild, mutant)
        except DataError as error:
            reason = "a change that the scorer cannot compare with the wild type"
            raise IncomparableError(f"{where}: {error}", reason) from None
        except (ExaptError, MemoryError):
            raise
        # As in ``building``: whatever else a plugin's code raises is that plugin's fault.
        except Exception as error:
            spec, info = self.scored_by.offer.spec, self.scored_by.offer.info
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise PluginError(f"scorer '{spec.name}' of {info.distribution} fails on {where}: {said}") from error


@dataclass(frozen=True)
class Parts:
    """A backbone under a language-model head, and the tokenizer that it reads with."""

    name: str
    made_of: tuple[Chosen, Chosen]
    tokenizer: Tokenizer
    backbone: Backbone
    language: LanguageModel


def _own_settings(choice: Choice) -> dict[str, Mapping[str, Any]]:
    for part, options in choice.settings.items():
        if part not in ("scorer", "backbone", "tokenizer") or not isinstance(options, Mapping):
            raise RecipeError(
                f"'{part}' cannot be set: there are options of scorer, backbone and tokenizer, such as "
                "scorer.units_only=true"
            )
    return {part: options for part, options in choice.settings.items() if part != "scorer"}


def _check_letters(backbone: Chosen, name: str) -> None:
    """Raise ``RecipeError`` for a backbone of other inputs than sequences, with the commands that come with it, if any."""
    accepts, distribution = backbone.offer.spec.accepts, backbone.offer.info.distribution
    if accepts == "sequence":
        return
    theirs = [info.name for info in commands() if info.distribution == distribution]
    instead = f". For {accepts}s, {distribution} has the commands {listed(theirs)}" if theirs else ""
    raise RecipeError(
        f"'{name}' reads {accepts}s, which have no variants to score: take a model of sequences, such as DNA or protein{instead}"
    )


def _scorer(plugins: Plugins, backbone: Chosen, name: str, choice: Choice) -> Chosen:
    spec: BackboneSpec = backbone.offer.spec
    wanted = choice.scorer or next(iter(spec.scorers), "")
    if not wanted:
        known = listed(offer.spec.name for offer in plugins.offers(ScorerSpec))
        raise RecipeError(f"'{name}' does not say which scorer suits it: name one with --scorer. Installed: {known}.")
    offer = plugins.get(ScorerSpec, wanted)
    return Chosen(
        offer, validated(offer.spec.options, choice.settings.get("scorer", {}), f"scorer '{offer.spec.name}'")
    )


def _view(plugins: Plugins, backbone: Chosen, name: str) -> Augmentation:
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


def _check_objective(scored_by: Chosen, parts: Parts) -> None:
    spec: ScorerSpec = scored_by.offer.spec
    objective = parts.language.objective
    if objective == "values":
        raise RecipeError(f"'{parts.name}' tells hidden values, not how probable tokens are: it cannot score variants")
    if spec.objective not in ("any", objective):
        fit = (offer.spec for offer in current().offers(ScorerSpec))
        names = [one.name for one in fit if one.objective in ("any", objective)]
        raise RecipeError(
            f"scorer '{spec.name}' asks a {spec.objective} language model, and '{parts.name}' is a {objective} one; use "
            f"{'one of ' if len(names) > 1 else ''}{listed(names)}"
        )
    if objective == "masked" and parts.tokenizer.mask is None:
        reads: Spec = parts.made_of[1].offer.spec
        raise PluginError(f"tokenizer '{reads.name}' names no mask token, which a masked language model is asked with")
