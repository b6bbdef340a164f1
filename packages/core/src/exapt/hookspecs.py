"""The whole contract between exapt and a plugin.

A plugin is a module with ``exapt_api = 1`` and any of the functions below, named by an entry point of the group
``exapt.plugins``. Each example is complete but for its imports: ``from exapt import HeadSpec, hookimpl, ...``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from exapt.events import Event, Run
    from exapt.specs import (
        AugmentationSpec,
        BackboneSpec,
        HeadSpec,
        ReaderSpec,
        ScorerSpec,
        StrategySpec,
        TokenizerSpec,
        WriterSpec,
    )

PROJECT = "exapt"
API = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def exapt_readers() -> Iterable[ReaderSpec]:
    """Yield file formats that tables can be read from.

    ::

        @hookimpl
        def exapt_readers():
            yield ReaderSpec(name="embl", summary="EMBL flat files.", suffixes=(".embl",), build=build)
    """
    yield from ()


@hookspec
def exapt_writers() -> Iterable[WriterSpec]:
    """Yield file formats that answers and embeddings can be written to.

    ::

        @hookimpl
        def exapt_writers():
            yield WriterSpec(name="tsv", summary="Tab-separated values.", suffixes=(".tsv",), build=build)
    """
    yield from ()


@hookspec
def exapt_tokenizers() -> Iterable[TokenizerSpec]:
    """Yield ways to turn one input into tokens.

    ::

        @hookimpl
        def exapt_tokenizers():
            yield TokenizerSpec(name="letters", summary="One token per letter.", build=build)
    """
    yield from ()


@hookspec
def exapt_backbones() -> Iterable[BackboneSpec]:
    """Yield families of pretrained models.

    ::

        @hookimpl
        def exapt_backbones():
            yield BackboneSpec(name="tiny", summary="A tiny model.", build=build, tokenizer="letters",
                               modality="protein", probes=("MKTAYIAK",))
    """
    yield from ()


@hookspec
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield questions that can be asked of a backbone's features.

    ::

        @hookimpl
        def exapt_heads():
            yield HeadSpec(name="ordinal", summary="Ordered classes.", options=OrdinalOptions, build=build)
    """
    yield from ()


@hookspec
def exapt_strategies() -> Iterable[StrategySpec]:
    """Yield ways of transfer.

    ::

        @hookimpl
        def exapt_strategies():
            yield StrategySpec(name="biases", summary="Only biases learn.", build=lambda options: Biases())
    """
    yield from ()


@hookspec
def exapt_augmentations() -> Iterable[AugmentationSpec]:
    """Yield changes of inputs that keep their meaning.

    ::

        @hookimpl
        def exapt_augmentations():
            yield AugmentationSpec(name="reversed", summary="Read backwards.", build=lambda options: Reversed())
    """
    yield from ()


@hookspec
def exapt_scorers() -> Iterable[ScorerSpec]:
    """Yield ways to score variants without labels.

    ::

        @hookimpl
        def exapt_scorers():
            yield ScorerSpec(name="next-token", summary="The token behind.", build=lambda options: NextToken())
    """
    yield from ()


@hookspec
def exapt_run_events(run: Run, event: Event) -> None:
    """Hear of a training run: its start, each step, each epoch and its end.

    ::

        @hookimpl
        def exapt_run_events(run, event):
            if event.name == "epoch":
                print(event.facts["valid.loss"])
    """
