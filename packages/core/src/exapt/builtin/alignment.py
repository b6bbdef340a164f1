"""The built-in head that aligns two backbones: its options. The module itself is in ``_alignment``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from exapt.hookspecs import hookimpl
from exapt.specs import HeadSpec, Options

if TYPE_CHECKING:
    from exapt.parts import Head, HeadContext

exapt_api = 1

# What the papers begin with: CLIP's temperature, and SigLIP's with its bias.
_BEGIN: dict[str, tuple[float, float | None]] = {"softmax": (0.07, None), "sigmoid": (0.1, -10.0)}
# As in CLIP: beyond it training becomes unstable.
COLDEST = 0.01


class AlignmentOptions(Options):
    """Options of ``contrastive-alignment``."""

    towers: tuple[str, str] = Field(("one", "other"), description="Names of both towers; taken from the recipe.")
    width: int = Field(64, ge=1, description="Width of the space that both towers are projected to.")
    hidden: int = Field(0, ge=0, description="Width of a hidden layer in each projection; 0 for a linear one.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the features that is dropped while learning.")
    standardise: bool = Field(
        True, description="Scale each feature of a tower by its mean and deviation over training rows."
    )
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="What tells a pair from all others of a step: a softmax over them in both directions (InfoNCE, as in "
        "CLIP), or a sigmoid for each of them (SigLIP).",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        description="What cosines are divided by at the start, 0.01 or more; learned. 0 for the loss's own: 0.07, or 0.1.",
    )
    bias: float | None = Field(
        None, description="What is added to them at the start, for the sigmoid; learned. -10 if it is not said."
    )

    @model_validator(mode="before")
    @classmethod
    def _begun(cls, given: Any) -> Any:
        loss = given.get("loss", "softmax") if isinstance(given, dict) else None
        if not isinstance(loss, str) or loss not in _BEGIN:
            return given
        temperature, own = _BEGIN[loss]
        bias = given.get("bias")
        said = {"temperature": given.get("temperature") or temperature, "bias": own if bias is None else bias}
        return {**given, **said}

    @model_validator(mode="after")
    def _begins_well(self) -> AlignmentOptions:
        if self.temperature < COLDEST:
            raise ValueError(
                f"a temperature of {self.temperature:g} is too low to learn with: give {COLDEST:g} or more, or 0 for the loss's own"
            )
        if self.loss == "softmax" and self.bias:
            raise ValueError('bias is of loss = "sigmoid": a softmax is the same with any; leave it out')
        return self


@hookimpl
def exapt_heads() -> Iterable[HeadSpec]:
    """Yield the question of which inputs of two backbones go together."""
    yield HeadSpec(
        name="contrastive-alignment",
        summary="Which inputs of two backbones go together, for exapt align (CLIP, SigLIP, LiT).",
        options=AlignmentOptions,
        build=_build,
        labelled=False,
        towers=True,
    )


def _build(options: AlignmentOptions, context: HeadContext) -> Head:
    from exapt.builtin._alignment import ContrastiveAlignment

    return ContrastiveAlignment(options, context)
