"""The checks by kind, and the calls that run all those of one component or of a whole plugin."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exapt.errors import DataError
from exapt.parts import Tokenizer
from exapt.plugins import Plugins, using
from exapt.specs import (
    AugmentationSpec,
    BackboneSpec,
    HeadSpec,
    Options,
    ScorerSpec,
    Spec,
    StrategySpec,
    TokenizerSpec,
)
from exapt.testing._augmentation_case import AugmentationCase
from exapt.testing._augmentations import AUGMENTATION_CHECKS
from exapt.testing._backbone_case import BackboneCase
from exapt.testing._backbones import FEATURE_CHECKS
from exapt.testing._cells import CELL_CHECKS
from exapt.testing._check import Check, options_of, run_checks
from exapt.testing._head_case import HeadCase, lengths_of
from exapt.testing._heads import HEAD_CHECKS
from exapt.testing._plugins import PLUGIN_CHECKS, PluginCase
from exapt.testing._posed_case import POSED_INPUTS, PosedHeadCase
from exapt.testing._posed_heads import POSED_HEAD_CHECKS
from exapt.testing._scorers import PAIRS, SCORER_CHECKS, ScorerCase
from exapt.testing._strategies import STRATEGY_CHECKS, StrategyCase
from exapt.testing._structures import STRUCTURE_CHECKS
from exapt.testing._tokenizers import TOKENIZER_CHECKS, TokenizerCase
from exapt.testing._weights import BUILD_CHECKS, LEARNING_CHECKS
from exapt.testing.tiny import LETTERS, MASKED_LETTERS, TINY

CHECKS: Mapping[str, tuple[Check[Any], ...]] = {
    "plugin": PLUGIN_CHECKS,
    "tokenizer": (*TOKENIZER_CHECKS, *CELL_CHECKS, *STRUCTURE_CHECKS),
    "backbone": (*BUILD_CHECKS, *FEATURE_CHECKS, *LEARNING_CHECKS),
    "head": HEAD_CHECKS,
    "head without labels": POSED_HEAD_CHECKS,
    "strategy": STRATEGY_CHECKS,
    "augmentation": AUGMENTATION_CHECKS,
    "scorer": SCORER_CHECKS,
}
"""Every check by kind, in the order in which they run."""

Choice = Options | Mapping[str, Any] | None
"""Options of a component: a model, a mapping, or None for the defaults."""


@contextmanager
def inline(*plugins: Any) -> Iterator[Plugins]:
    """Let exapt see its built-ins and these plugins (modules, classes, objects) alone; nothing is discovered."""
    with using(Plugins([], plugins)) as inside:
        yield inside


def check_tokenizer(spec: TokenizerSpec, options: Choice = None, *, inputs: Sequence[Any]) -> None:
    """Check a tokenizer on inputs that it must be able to read. Raises ``ConformanceError``."""
    case = TokenizerCase(spec, options_of(spec, options), inputs)
    run_checks(f"tokenizer '{spec.name}'", case, CHECKS["tokenizer"])


def check_backbone(
    spec: BackboneSpec, options: Choice = None, *, tokenizer: TokenizerSpec, inputs: Sequence[Any] | None = None
) -> None:
    """Check a backbone, over its own tokenizer, on inputs of different lengths; its probes if none are given.

    Where the options name no source, the first checkpoint's is used. Raises ``ConformanceError``.
    """
    case = _backbone_case(spec, options, tokenizer, inputs)
    run_checks(f"backbone '{spec.name}'", case, CHECKS["backbone"])


def _backbone_case(
    spec: BackboneSpec, options: Choice, tokenizer: TokenizerSpec, inputs: Sequence[Any] | None
) -> BackboneCase:
    first = spec.checkpoints[0] if spec.checkpoints else None
    chosen = options_of(spec, options, **({"source": first.source, "revision": first.revision} if first else {}))
    files = {name: getattr(chosen, name) for name in ("source", "revision") if hasattr(chosen, name)}
    return BackboneCase(spec, chosen, tokenizer, options_of(tokenizer, None, **files), inputs or spec.probes)


def check_head(
    spec: HeadSpec,
    options: Choice = None,
    *,
    labels: Sequence[Any] | None = None,
    lengths: Sequence[int] | None = None,
    inputs: Sequence[Any] = POSED_INPUTS,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Check a head on labels that it must be able to learn by heart: six or more, of all kinds, told apart.

    ``lengths`` are the units of each label's input; needed where a label per unit is not a string or a list of them, and
    for labels of pairs.
    A head without labels is checked on ``inputs``, of letters A to Z unless a ``tokenizer`` for others is given, over a
    small language model of the objective that it takes. Raises ``ConformanceError``, and ``DataError`` if there are no
    labels and it learns from them.
    """
    asked = options_of(spec, options)
    names = tuple(getattr(asked, "inputs", ("sequence",)))
    if not spec.labelled:
        run_checks(
            f"head '{spec.name}'", PosedHeadCase(spec, asked, inputs, names, tokenizer), CHECKS["head without labels"]
        )
        return
    if labels is None:
        raise DataError(f"head '{spec.name}' learns from labels: give check_head some of all kinds, as labels=[...]")
    if spec.fits:
        # Twice, so that each can be told by another when it is left out.
        labels, lengths = [*labels, *labels], None if lengths is None else [*lengths, *lengths]
    case = HeadCase(spec, asked, labels, lengths or [1] * len(labels), names)
    if lengths is None and spec.answers == "pair":
        raise DataError(
            f"head '{spec.name}' answers for pairs: give check_head the units of each input, as lengths=[...]"
        )
    if lengths is None:
        case = HeadCase(spec, asked, labels, lengths_of(labels, case.build().ragged), names)
    run_checks(f"head '{spec.name}'", case, CHECKS["head"])


def check_strategy(
    spec: StrategySpec,
    options: Choice = None,
    *,
    backbone: BackboneSpec = TINY,
    backbone_options: Choice = None,
    tokenizer: TokenizerSpec = LETTERS,
    inputs: Sequence[Any] | None = None,
) -> None:
    """Check a strategy on a backbone: the kit's own tiny one, unless another is given. Raises ``ConformanceError``."""
    on = _backbone_case(backbone, backbone_options, tokenizer, inputs)
    run_checks(f"strategy '{spec.name}'", StrategyCase(spec, options_of(spec, options), on), CHECKS["strategy"])


def check_augmentation(
    spec: AugmentationSpec, options: Choice = None, *, inputs: Sequence[Any], tokenizer: TokenizerSpec = LETTERS
) -> None:
    """Check an augmentation on inputs that a tokenizer reads before and after. Raises ``ConformanceError``."""
    case = AugmentationCase(spec, options_of(spec, options), tokenizer, options_of(tokenizer, None), inputs)
    run_checks(f"augmentation '{spec.name}'", case, CHECKS["augmentation"])


def check_scorer(
    spec: ScorerSpec,
    options: Choice = None,
    *,
    tokenizer: TokenizerSpec = MASKED_LETTERS,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> None:
    """Check a scorer on pairs of wild type and mutant; those that it refuses are left out. Raises ``ConformanceError``."""
    case = ScorerCase(spec, options_of(spec, options), tokenizer, options_of(tokenizer, None), pairs)
    run_checks(f"scorer '{spec.name}'", case, CHECKS["scorer"])


def check_plugin(plugin: Any) -> dict[str, str]:
    """Check a plugin (a module, its name, or an object with hooks), and all it offers of which enough is known.

    Returns each component with ``checked``, or with what has to be given to its own check. Raises ``ConformanceError``.
    """
    case = PluginCase(importlib.import_module(plugin) if isinstance(plugin, str) else plugin)
    run_checks(f"plugin '{case.name}'", case, CHECKS["plugin"])
    with inline(case.plugin) as plugins:
        return {
            f"{spec.kind} '{spec.name}'": _check_offer(spec, case.loaded.specs, plugins) for spec in case.loaded.specs
        }


def _check_offer(spec: Spec, siblings: Sequence[Spec], plugins: Plugins) -> str:
    if isinstance(spec, StrategySpec):
        check_strategy(spec)
        return "checked"
    if isinstance(spec, ScorerSpec):
        # What tells tokens in an order reads more than the letters that the kit has.
        if spec.objective == "ordered":
            return "call check_scorer with pairs and a tokenizer"
        check_scorer(spec)
        return "checked"
    if isinstance(spec, HeadSpec) and not spec.labelled:
        return _check_offered_head(spec)
    if isinstance(spec, AugmentationSpec):
        return "call check_augmentation with inputs"
    if isinstance(spec, BackboneSpec):
        return _check_offered_backbone(spec, plugins)
    if isinstance(spec, TokenizerSpec):
        return _check_offered_tokenizer(spec, siblings)
    return "call check_head with labels" if isinstance(spec, HeadSpec) else "readers and writers have no check"


def _check_offered_head(spec: HeadSpec) -> str:
    # Its questions are about letters, unless it names another kind of input.
    if getattr(options_of(spec, None), "inputs", ("sequence",)) != ("sequence",):
        return "call check_head with inputs and a tokenizer"
    check_head(spec)
    return "checked"


def _check_offered_backbone(spec: BackboneSpec, plugins: Plugins) -> str:
    files = _files_at_hand(spec)
    if files is None:
        return "call check_backbone with a source on this machine"
    check_backbone(spec, files, tokenizer=plugins.get(TokenizerSpec, spec.tokenizer).spec)
    return "checked"


def _check_offered_tokenizer(spec: TokenizerSpec, siblings: Sequence[Spec]) -> str:
    for reader in siblings:
        if isinstance(reader, BackboneSpec) and reader.tokenizer == spec.name:
            files = _files_at_hand(reader)
            if files is not None:
                known = {key: value for key, value in files.items() if key in spec.options.model_fields}
                check_tokenizer(spec, known, inputs=reader.probes)
                return "checked"
    return "call check_tokenizer with inputs"


def _files_at_hand(spec: BackboneSpec) -> dict[str, str] | None:
    """Return source and revision of a checkpoint that needs no network, nothing if none is needed, else None."""
    if "source" not in spec.options.model_fields:
        return {}
    for checkpoint in spec.checkpoints:
        package = checkpoint.source.isidentifier() and importlib.util.find_spec(checkpoint.source) is not None
        if package or Path(checkpoint.source).exists():
            return {"source": checkpoint.source, "revision": checkpoint.revision}
    return None
