"""Zero-shot variant effects: what a pretrained language model expects of a mutant, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.building import Tallies, build, build_backbone, build_tokenizer, refuse_mistaken, remembering
from exapt.data.changes import IncomparableError, UnscorableError
from exapt.data.placements import Structures
from exapt.data.residues import Numbering
from exapt.data.variants import Placement, Row, Told, Unchanged, Variant
from exapt.embedding import named_parts
from exapt.errors import DataError, ExaptError, PluginError, RecipeError
from exapt.expectations import Expectations
from exapt.pairs import Pairs
from exapt.parts import Augmentation, Question, Scorer
from exapt.placed import Placed
from exapt.plugins import current
from exapt.resolve import Chosen, resolve_backbone
from exapt.scorers import (
    Parts,
    check_objective,
    check_reads,
    chosen_scorer,
    chosen_view,
    language_of,
    own_settings,
)


@dataclass(frozen=True)
class Choice:
    """What can be chosen of scoring: the scorer (the backbone's own, unless named), and options of the parts.

    ``settings`` holds options of the ``scorer``, the ``backbone``, the ``tokenizer`` and the ``reader`` of structures or,
    without them, of the table. ``average`` names augmentations over whose views a score is averaged; ``context`` is how many
    letters are kept on each side of a variant, as many as the model takes unless it is said. ``structure`` is the file or
    folder of structures that variants are of, ``numbering`` what their positions are; ``alone`` says that structures are
    scored with their own sequences, without variants.
    """

    scorer: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    average: Sequence[str] = ()
    context: int | None = None
    precision: str = "fp32"
    structure: Path | None = None
    numbering: Numbering = "file"
    alone: bool = False

    @property
    def reading(self) -> Mapping[str, Any]:
        """The options of the reader."""
        return self.settings.get("reader", {})


@dataclass(frozen=True)
class Scoring:
    """A language model, the scorer that asks it, and the views over which it is asked."""

    pairs: Pairs
    scorer: Scorer
    scored_by: Chosen
    expectations: Expectations
    licence: str = ""
    choice: Choice = Choice()
    structures: Structures | None = None
    """The structures that variants are of."""

    @classmethod
    def of(cls, backbone: str, choice: Choice | None = None, device: str = "") -> Scoring:
        """Load a backbone by name and make it score.

        Raises ``RecipeError`` if it has no language model, or none of the kind that the scorer asks.
        """
        plugins, choice = current(), choice or Choice()
        own = own_settings(choice)
        chosen, checkpoint, reads = resolve_backbone(plugins, *named_parts(backbone, own))
        check_reads(chosen, backbone, choice)
        scored_by = chosen_scorer(
            plugins, chosen, backbone, choice, lambda: language_of(build_backbone(chosen), backbone)
        )
        views = [chosen_view(plugins, chosen, name) for name in choice.average]
        tokenizer, model = build_tokenizer(reads), build_backbone(chosen)
        language = language_of(model, backbone)
        free = checkpoint is None or checkpoint.commercial
        licence = "" if free or checkpoint is None else f"{backbone}: {checkpoint.licence}, no commercial use"
        parts = Parts(backbone, (chosen, reads), tokenizer, model, language)
        return cls.with_head(parts, scored_by, views, choice, device, licence)

    @classmethod
    def of_adapter(cls, adapted: Adapted, choice: Choice | None = None, device: str = "") -> Scoring:
        """Make an adapter that learned a language model's objective score.

        Raises ``RecipeError`` if it has no such head, and for options of backbone or tokenizer, which it has already.
        """
        plugins, choice, resolved = current(), choice or Choice(), adapted.resolved
        check_reads(resolved.backbone, adapted.name, choice)
        if own_settings(choice):
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
        scored_by = chosen_scorer(plugins, resolved.backbone, adapted.name, choice, lambda: learned[0])
        views = [chosen_view(plugins, resolved.backbone, name) for name in choice.average]
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
        check_objective(scored_by, parts)
        expectations = Expectations(parts.backbone, parts.language, devices.choose(device), choice.precision)
        limit, kind = parts.backbone.max_tokens, Placed if parts.made_of[0].offer.spec.accepts == "structure" else Pairs
        pairs = kind(parts.name, parts.made_of, remembering(parts.tokenizer), limit, tuple(views), choice.context)
        structures = Structures(choice.structure, choice.reading) if choice.structure else None
        return cls(pairs, build(scored_by), scored_by, expectations, licence, choice, structures)

    @property
    def accepts(self) -> str:
        """What the model reads: ``sequence`` or ``structure``."""
        return str(self.pairs.parts[0].offer.spec.accepts)

    @property
    def reads_structures(self) -> bool:
        """Whether the model reads structures, and not sequences."""
        return self.accepts == "structure"

    @property
    def alone(self) -> bool:
        """Whether inputs are scored by themselves, and not variants of them."""
        return self.choice.alone and self.reads_structures

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
            if isinstance(one, (Variant, Placement)):
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

    def asked_alone(self, where: str, value: Any) -> Iterator[Question]:
        """Yield what to ask about an input by itself. Raises ``DataError``, with what it is called, if that cannot be."""
        yield from self._told(where, lambda: self.scorer.likelihood(self.pairs.tokenizer, value))

    def _questions(self, where: str, wild: Any, mutant: Any) -> Iterator[Question]:
        yield from self._told(where, lambda: self.scorer.ask(self.pairs.tokenizer, wild, mutant))

    def _told(self, where: str, ask: Callable[[], Iterable[Question]]) -> Iterator[Question]:
        try:
            yield from ask()
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
