"""Zero-shot variant effects: what a pretrained language model expects of a mutant, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.building import Tallies, build, build_backbone, build_tokenizer, encode_one, refuse_mistaken
from exapt.data.variants import Unscored, Variant
from exapt.embedding import named_parts
from exapt.errors import DataError, ExaptError, PluginError, RecipeError, listed
from exapt.expectations import Expectations
from exapt.parts import Augmentation, Backbone, Encoding, LanguageModel, Question, Scorer, Tokenizer
from exapt.plugins import Plugins, current
from exapt.recipe import validated
from exapt.resolve import Chosen, resolve_backbone
from exapt.specs import AugmentationSpec, BackboneSpec, ScorerSpec, Spec

# A window is widened this often, to what the number of its tokens leaves room for.
_WIDENED = 3


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

    name: str
    parts: tuple[Chosen, Chosen]
    """What backbone and tokenizer were made of."""
    tokenizer: Tokenizer
    limit: int | None
    scorer: Scorer
    scored_by: Chosen
    views: tuple[Augmentation, ...]
    context: int | None
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
        views: Sequence[Chosen],
        choice: Choice,
        device: str = "",
        licence: str = "",
    ) -> Scoring:
        """Make a backbone score with any language-model head, its own or one that has learned on."""
        _check_objective(scored_by, parts)
        expectations = Expectations(parts.backbone, parts.language, devices.choose(device), choice.precision)
        augmentations = tuple(build(view) for view in views)
        return cls(
            name=parts.name,
            parts=parts.made_of,
            tokenizer=parts.tokenizer,
            limit=parts.backbone.max_tokens,
            scorer=build(scored_by),
            scored_by=scored_by,
            views=augmentations,
            context=choice.context,
            expectations=expectations,
            licence=licence,
        )

    def scores(
        self,
        variants: Sequence[Variant | Unscored],
        tallies: Tallies | None = None,
        unscored: list[Unscored] | None = None,
    ) -> list[float | None]:
        """Return the score of each variant, in natural logarithms, above 0 where the mutant is expected more.

        Pairs that the scorer cannot compare are added to ``unscored``, where it is given, and have no score. Raises
        ``DataError``, with the variant, for them otherwise, for letters that the model cannot read, and for what it has
        no room for.
        """
        pairs = {row: self._pairs(one, tallies) for row, one in enumerate(variants) if isinstance(one, Variant)}
        refuse_mistaken(self.tokenizer, [pair[0] for some in pairs.values() for pair in some], self.name)
        totals = self.expectations.sums(self._asked(variants, pairs, unscored), len(variants))
        # In the precision of the passes: more digits would differ from one order of rows to another.
        means = {row: float(np.float32(totals[row] / len(some))) for row, some in pairs.items()}
        return [means.get(row) for row in range(len(variants))]

    def _asked(
        self,
        variants: Sequence[Variant | Unscored],
        pairs: dict[int, list[tuple[Any, Any]]],
        unscored: list[Unscored] | None,
    ) -> Iterator[tuple[int, Question]]:
        """Yield each row's questions; a row that cannot be asked leaves ``pairs``, where ``unscored`` takes it up."""
        for row, some in list(pairs.items()):
            where = variants[row].where
            try:
                # All of a row's before the first of them is asked: half a row has no score.
                questions = [one for wild, mutant in some for one in self._questions(where, wild, mutant)]
            except DataError:
                if unscored is None:
                    raise
                unscored.append(Unscored(where, "a change that the scorer cannot compare with the wild type"))
                del pairs[row]
                continue
            for question in questions:
                yield row, question

    def _pairs(self, variant: Variant, tallies: Tallies | None) -> list[tuple[Any, Any]]:
        """Return wild type and mutant, cut to what the model takes, and every view of the two."""
        pair = self._window(variant)
        if tallies is not None:
            for what, value in zip(("wild type", "mutant"), pair, strict=True):
                tallies.count(what, [value], [self._encode(variant.where, value)])
        return self._viewed(variant.where, pair)

    def _viewed(self, where: str, pair: tuple[Any, Any]) -> list[tuple[Any, Any]]:
        pairs = [pair]
        for augmentation in self.views:
            wild, mutant = (augmentation.views(value) for value in pair)
            if len(wild) != len(mutant) or not wild:
                raise PluginError(
                    f"{where}: {type(augmentation).__name__} gives {len(wild)} views of the wild type and {len(mutant)} "
                    "of the mutant; to average over them it must give as many, one at least"
                )
            pairs += [(one.value, other.value) for one, other in zip(wild, mutant, strict=True)]
        return pairs

    def _window(self, variant: Variant) -> tuple[str, str]:
        if self.context is not None:
            return self._around(variant, self.context)
        if self.limit is not None:
            return self._widest(variant, self.limit)
        if not variant.letters.whole:
            raise RecipeError(
                f"'{self.name}' takes inputs of any length: say with --context how many letters to keep on each side "
                "of a variant"
            )
        return variant.alleles(0, len(variant.letters))

    def _widest(self, variant: Variant, limit: int) -> tuple[str, str]:
        """Return the alleles with as much around them as makes no more than ``limit`` tokens."""
        total, span = len(variant.letters), variant.stop - variant.start
        room = max(span, min(total, limit))
        pair, tokens = self._read(variant, room)
        while tokens > limit and room > span:
            # Rounded up, so that each try is shorter than the last.
            room = max(span, room - 1 - (tokens - limit) * room // tokens)
            pair, tokens = self._read(variant, room)
        if tokens > limit:
            raise DataError(
                f"{variant.where}: what lies between the letters that change makes {tokens:,} tokens; '{self.name}' takes "
                f"at most {limit:,}"
            )
        # A token may stand for many letters, so that there is room for more of them than tokens.
        for _ in range(_WIDENED):
            wider = min(total, room * limit // max(tokens, 1))
            if wider <= room:
                break
            room = wider
            found, tokens = self._read(variant, room)
            if tokens > limit:
                break
            pair = found
        return pair

    def _read(self, variant: Variant, room: int) -> tuple[tuple[str, str], int]:
        pair = variant.alleles(*_centred(variant, room))
        return pair, self._tokens(variant.where, pair)

    def _around(self, variant: Variant, context: int) -> tuple[str, str]:
        start, stop = max(0, variant.start - context), min(len(variant.letters), variant.stop + context)
        pair = variant.alleles(start, stop)
        tokens = self._tokens(variant.where, pair)
        if self.limit is not None and tokens > self.limit:
            raise DataError(
                f"{variant.where}: {context:,} letters on each side of the variant make {tokens:,} tokens; '{self.name}' "
                f"takes at most {self.limit:,}: choose a smaller --context, or none"
            )
        return pair

    def _tokens(self, where: str, pair: tuple[str, str]) -> int:
        """Return the tokens of the longest among a pair and its views."""
        values = (value for viewed in self._viewed(where, pair) for value in viewed)
        return max(self._encode(where, value).tokens for value in values)

    def _encode(self, where: str, value: Any) -> Encoding:
        try:
            return encode_one(self.tokenizer, value, where, *self.parts)
        except DataError as error:
            # Rows of a table stand in a message without quotes.
            raise DataError(str(error).replace(f"'{where}'", where, 1)) from None

    def _questions(self, where: str, wild: Any, mutant: Any) -> Iterator[Question]:
        try:
            yield from self.scorer.ask(self.tokenizer, wild, mutant)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
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


def _view(plugins: Plugins, backbone: Chosen, name: str) -> Chosen:
    offer = plugins.get(AugmentationSpec, name)
    modality = backbone.offer.spec.modality
    if offer.spec.modalities and modality not in offer.spec.modalities:
        raise RecipeError(
            f"augmentation '{offer.spec.name}' is for {listed(offer.spec.modalities)}, not for {modality}, which "
            f"'{backbone.offer.spec.name}' reads"
        )
    return Chosen(offer, validated(offer.spec.options, {}, f"augmentation '{offer.spec.name}'"))


def _check_objective(scored_by: Chosen, parts: Parts) -> None:
    spec: ScorerSpec = scored_by.offer.spec
    objective = parts.language.objective
    if spec.objective not in ("any", objective):
        fit = (offer.spec for offer in current().offers(ScorerSpec))
        names = listed(one.name for one in fit if one.objective in ("any", objective))
        raise RecipeError(
            f"scorer '{spec.name}' asks a {spec.objective} language model, and '{parts.name}' is a {objective} one; use "
            f"one of {names}"
        )
    if objective == "masked" and parts.tokenizer.mask is None:
        reads: Spec = parts.made_of[1].offer.spec
        raise PluginError(f"tokenizer '{reads.name}' names no mask token, which a masked language model is asked with")


def _centred(variant: Variant, room: int) -> tuple[int, int]:
    """Return the ends of ``room`` letters around a variant, moved inwards at the ends of its sequence."""
    start = variant.start - (room - (variant.stop - variant.start)) // 2
    start = max(0, min(start, len(variant.letters) - room))
    return start, start + room
