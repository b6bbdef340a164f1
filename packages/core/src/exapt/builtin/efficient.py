"""Strategies that tune few parameters: what is added to the model, or the smallest parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from exapt.errors import RecipeError
from exapt.hookspecs import hookimpl
from exapt.specs import Options, StrategySpec

if TYPE_CHECKING:
    from exapt.parts import Strategy

exapt_api = 1

_TARGETS = "Linear layers to update, by last or full name, inside the blocks; empty for the backbone's choice."
_ONE_UPDATE = "both put an update on the same layers; choose one of them"


class DoraOptions(Options):
    """The shape of the update."""

    rank: int = Field(8, ge=1, description="Rank of the update.")
    alpha: float = Field(16.0, gt=0, description="Scale of the update, divided by the rank.")
    rank_stabilised: bool = Field(False, description="Divide alpha by the rank's square root instead (rsLoRA).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the update.")
    targets: tuple[str, ...] = Field((), description=_TARGETS)


class Ia3Options(Options):
    """Which layers are scaled."""

    targets: tuple[str, ...] = Field((), description=_TARGETS)


class BottleneckOptions(Options):
    """The shape of the adapters and where they stand."""

    placement: Literal["behind", "beside"] = Field(
        "behind",
        description="Behind a block, on what comes out of it; or beside it, on what goes into it, added to what comes out.",
    )
    width: int = Field(0, ge=0, description="Width of the bottleneck; 0 for the width of the states over 'reduction'.")
    reduction: float = Field(16.0, ge=1, description="What the width of the states is divided by, where 'width' is 0.")
    activation: Literal["gelu", "relu", "silu", "tanh"] = Field("gelu", description="Function between both layers.")
    scale: float = Field(1.0, gt=0, description="What an adapter's output is multiplied by.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside the bottleneck.")
    targets: tuple[str, ...] = Field(
        (),
        description="Layers inside the blocks, by last or full name, to put adapters at; empty for the backbone's choice, "
        "which mostly is the blocks themselves.",
    )


class BiasOptions(Options):
    """Which biases learn."""

    targets: tuple[str, ...] = Field(
        (), description="Layers whose biases learn, by last or full name; empty for all layers."
    )


class NormOptions(Options):
    """Which parameters of the norms learn."""

    parameters: Literal["both", "scale", "shift"] = Field(
        "both", description="Scale and shift of each norm, or one of them alone."
    )


class PromptOptions(Options):
    """The learned vectors."""

    length: int = Field(10, ge=1, description="How many vectors stand before an input's tokens.")
    spread: float = Field(0.02, gt=0, description="Standard deviation of the vectors at the start.")


def _bottleneck(options: BottleneckOptions) -> Strategy:
    from exapt.builtin._adapters import Bottleneck

    return Bottleneck(options)


def _bitfit(options: BiasOptions) -> Strategy:
    from exapt.builtin._efficient import Biases

    return Biases(options)


def _layernorm(options: NormOptions) -> Strategy:
    from exapt.builtin._efficient import Norms

    return Norms(options)


def _prompt(deep: bool) -> Callable[[PromptOptions], Strategy]:
    def build(options: PromptOptions) -> Strategy:
        from exapt.builtin._prompts import Prompt

        return Prompt(options, deep)

    return build


def _dora(options: DoraOptions) -> Strategy:
    from exapt.builtin._lora import Lora
    from exapt.builtin.strategies import LoraOptions

    return Lora(LoraOptions(variant="dora", **options.model_dump()), "dora")


def _ia3(options: Ia3Options) -> Strategy:
    from exapt.builtin._lora import Lora
    from exapt.builtin.strategies import LoraOptions

    return Lora(LoraOptions(variant="ia3", **options.model_dump()), "ia3")


def _adopt(options: Options, folder: Path, variant: Literal["dora", "ia3"]) -> Options:
    """Return the options that a PEFT folder was written with. Raises ``RecipeError`` if it is of another variant."""
    from exapt.builtin._lora import adopt
    from exapt.builtin.strategies import LoraOptions

    given = {name: getattr(options, name) for name in options.model_fields_set}
    found = adopt(LoraOptions(**given), folder, variant)
    if found.variant != variant:
        raise RecipeError(f"'{folder.name}' to start from is an adapter of '{found.variant}', not of '{variant}'")
    kind = type(options)
    return kind.model_validate(found.model_dump(include=set(kind.model_fields)))


def _other_updates(name: str) -> Mapping[str, str]:
    return {other: _ONE_UPDATE for other in ("lora", "dora", "ia3") if other != name}


@hookimpl
def exapt_strategies() -> Iterator[StrategySpec]:
    """Yield dora, ia3, bottleneck, bitfit, layernorm, prompt and prefix."""
    yield from _updates()
    yield StrategySpec(
        name="bottleneck",
        summary="Small layers put into the model learn (Houlsby, Pfeiffer or parallel adapters).",
        options=BottleneckOptions,
        build=_bottleneck,
        merges=False,
        needs=frozenset({"blocks"}),
        training={"learning_rate": 1e-3},
    )
    yield StrategySpec(
        name="bitfit",
        summary="The biases of the backbone learn, and nothing else of it.",
        options=BiasOptions,
        build=_bitfit,
        training={"learning_rate": 1e-3},
    )
    yield StrategySpec(
        name="layernorm",
        summary="Scale and shift of the backbone's norms learn, and nothing else of it.",
        options=NormOptions,
        build=_layernorm,
        training={"learning_rate": 1e-3},
    )
    yield from _prompts()


def _updates() -> Iterator[StrategySpec]:
    yield StrategySpec(
        name="dora",
        summary="Low-rank updates, with the length of each weight apart, learn (LoRA's variant DoRA).",
        options=DoraOptions,
        build=_dora,
        excludes=_other_updates("dora"),
        training={"learning_rate": 3e-4},
        adopt=lambda options, folder: _adopt(options, folder, "dora"),
    )
    yield StrategySpec(
        name="ia3",
        summary="One factor for each number that chosen layers give learns (IA3).",
        options=Ia3Options,
        build=_ia3,
        excludes=_other_updates("ia3"),
        training={"learning_rate": 3e-3},
        adopt=lambda options, folder: _adopt(options, folder, "ia3"),
    )


def _prompts() -> Iterator[StrategySpec]:
    one_prompt = "a prefix is a prompt before every block; choose one of them"
    yield StrategySpec(
        name="prompt",
        summary="Vectors before an input's tokens learn; the model stays as it is.",
        options=PromptOptions,
        build=_prompt(deep=False),
        merges=False,
        needs=frozenset({"blocks", "prompts"}),
        excludes={"prefix": one_prompt},
        training={"learning_rate": 1e-2},
    )
    yield StrategySpec(
        name="prefix",
        summary="Vectors before the tokens learn, others for every block (deep prompt, or prefix, tuning).",
        options=PromptOptions,
        build=_prompt(deep=True),
        merges=False,
        needs=frozenset({"blocks", "prompts"}),
        excludes={"prompt": one_prompt},
        training={"learning_rate": 1e-2},
    )
