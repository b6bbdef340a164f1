"""The strategies of core: what is kept of the pretrained model, and what learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt.hookspecs import hookimpl
from exapt.specs import Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy

exapt_api = 1


class PartialOptions(Options):
    """Which part of the backbone learns."""

    blocks: int = Field(1, ge=1, description="How many of the top blocks learn.")


class LoraOptions(Options):
    """The shape of the update."""

    variant: Literal["lora", "dora", "ia3"] = Field(
        "lora", description="Low-rank update, its weight-decomposed form, or IA3."
    )
    rank: int = Field(8, ge=1, description="Rank of the update; IA3 has none.")
    alpha: float = Field(16.0, gt=0, description="Scale of the update, divided by the rank.")
    rank_stabilised: bool = Field(False, description="Divide alpha by the rank's square root instead (rsLoRA).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the update.")
    targets: tuple[str, ...] = Field(
        (),
        description="Linear layers to update, by last or full name, inside the blocks; empty for the backbone's choice.",
    )


def _probe(options: Options) -> Strategy:
    from exapt.parts import Strategy

    return Strategy()


def _full(options: Options) -> Strategy:
    from exapt.builtin._strategies import Full

    return Full()


def _scratch(options: Options) -> Strategy:
    from exapt.builtin._strategies import Scratch

    return Scratch()


def _partial(options: PartialOptions) -> Strategy:
    from exapt.builtin._strategies import Partial

    return Partial(options.blocks)


def _lora(options: LoraOptions) -> Strategy:
    from exapt.builtin._lora import Lora

    return Lora(options)


def _adopt(options: LoraOptions, folder: Path) -> LoraOptions:
    from exapt.builtin._lora import adopt

    return adopt(options, folder)


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield probe, full, partial, lora and scratch."""
    yield StrategySpec(
        name="probe",
        summary="Frozen backbone; its features are computed once and only the heads learn.",
        build=_probe,
        alone=True,
        training={"epochs": 100, "patience": 10},
    )
    yield StrategySpec(
        name="full",
        summary="The whole backbone learns.",
        build=_full,
        alone=True,
        training={"learning_rate": 3e-5},
    )
    yield StrategySpec(
        name="partial",
        summary="The top blocks of the backbone learn.",
        options=PartialOptions,
        build=_partial,
        training={"learning_rate": 1e-4},
    )
    yield StrategySpec(
        name="lora",
        summary="Low-rank updates of the backbone learn (LoRA, DoRA, IA3), in PEFT's own files.",
        options=LoraOptions,
        build=_lora,
        training={"learning_rate": 3e-4},
        adopt=_adopt,
    )
    yield StrategySpec(
        name="scratch",
        summary="The same architecture from fresh weights: the baseline that transfer must beat.",
        build=_scratch,
        alone=True,
        training={"learning_rate": 3e-4},
    )
