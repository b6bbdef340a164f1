"""What a plugin yields: frozen descriptions of its components.

A spec is cheap: it names a component, describes its options and knows how to build it. Whatever needs tensors is
imported inside ``build``, so that listing what is installed costs no import of torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from exapt.data.tables import Reader, Writer
    from exapt.parts import Augmentation, Backbone, Head, HeadContext, Scorer, Strategy, Tokenizer

_NAME = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")


class Options(BaseModel):
    """What a user may choose of a component. Frozen; unknown keys are refused; every field has a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class OnDisk:
    """Marks an option that names a file or folder: adapters keep its last name alone, each machine where it stands."""


LocalPath = Annotated[str, OnDisk()]
"""An option that names a file or folder of this machine; empty for none."""


@dataclass(frozen=True)
class Written:
    """Marks an option that names a file to be written: it need not be there yet."""


NewPath = Annotated[str, OnDisk(), Written()]
"""An option that names a file that a run writes; empty for none."""


@dataclass(frozen=True)
class Limit:
    """Marks an option that says no more than what is refused: an adapter may be loaded with another value of it."""


@dataclass(frozen=True)
class OfLoss:
    """Marks an option of a head that says what its loss measures: with other values of it, losses cannot be compared.

    Nor can any ``metrics`` of an option by which other rows, units or tokens are measured.
    """

    metrics: bool = False


def loss_options(options: type[Options], metrics: bool = False) -> list[str]:
    """Return the names of the options that say what a loss measures; or of those alone that all ``metrics`` depend on."""
    marks = (OfLoss(metrics=True),) if metrics else (OfLoss(), OfLoss(metrics=True))
    return [name for name, field in options.model_fields.items() if any(mark in field.metadata for mark in marks)]


def settable(options: type[Options]) -> list[str]:
    """Return the names of the options that an adapter may be loaded with: files, whose content is verified, and limits."""
    return [
        name for name, field in options.model_fields.items() if OnDisk() in field.metadata or Limit() in field.metadata
    ]


def local_paths(options: type[Options]) -> list[str]:
    """Return the names of the options that name files or folders."""
    return [name for name, field in options.model_fields.items() if OnDisk() in field.metadata]


def new_paths(options: type[Options]) -> list[str]:
    """Return the names of the options that name files to be written."""
    return [name for name, field in options.model_fields.items() if Written() in field.metadata]


class Sourced(Options):
    """Options of a component that reads files of a checkpoint: core fills in which."""

    source: str = Field("", description="Local folder, hub id or package that holds the weights.")
    revision: str = Field("", description="Revision of a hub id; empty for a local folder or a package.")


class Windowed(Options):
    """Options of a backbone whose inputs may be longer than it takes: core reads them in windows."""

    windows: Literal["refuse", "pool", "score"] = Field(
        "refuse",
        description="What to do with an input longer than the model takes: refuse it, pool the states of overlapping "
        "windows, or score each window as an input of its own.",
    )
    overlap: float = Field(
        0.25, ge=0, le=0.9, description="Least share of a window that it has in common with the next one."
    )


class Annotating(Options):
    """Options of a writer that puts answers back beside what they are about: core fills them in."""

    source: Path = Field(description="Table that the answers are about, whose rows are all answered, in their order.")
    answers: Literal["embedding", "prediction", "column"] = Field(description="What is written.")
    names: dict[str, str] = Field(
        description="What the answers are called: the backbone, each task by how its columns begin, or the column."
    )
    facts: dict[str, Any] = Field(
        description="Where the answers come from, to be kept with them as JSON; whole once the writer is closed."
    )
    replace: bool = Field(description="Whether earlier answers of the same name may go.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One set of published weights, under the name by which a user asks for it."""

    name: str
    source: str
    revision: str = ""
    licence: str
    """SPDX identifier of the licence of the weights."""
    commercial: bool
    """Whether that licence permits commercial use."""
    parameters: int
    width: int
    context: int = 0
    """The most tokens of one input that the weights were trained on, special ones included; 0 if it is not known."""
    paper: str
    """DOI or URL of the paper to cite."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A named component. Each kind of component is one subclass.

    Raises ``ValueError`` for a name that is not lower-case words joined by ``-``, ``_`` or ``.``, or without a summary.
    """

    kind: ClassVar[str] = "component"

    name: str
    summary: str
    options: type[Options] = Options

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' is no component name: use lower-case words joined by '-', '_' or '.'")
        if not self.summary.strip():
            raise ValueError(f"{self.kind} '{self.name}' has no summary")


@dataclass(frozen=True, kw_only=True)
class ReaderSpec(Spec):
    """A file format. ``build(options, path)`` gives a ``Reader``: record batches of named columns."""

    kind: ClassVar[str] = "reader"

    suffixes: tuple[str, ...]
    """File name endings, with the dot; ``.gz`` after them is core's business."""
    build: Callable[[Any, Path], Reader]
    members: tuple[str, ...] = ()
    """Names of files, or patterns such as ``*.pdb``, in either case: a folder with one of them is a table of this format."""
    files: Callable[[Path], Iterable[Path]] | None = None
    """``files(path)`` gives all files that a table consists of; without it, these are the file, or all of a folder."""
    letters: str = ""
    """Column of texts: where the format holds labels or masks of units, one letter for each, it is the column ``label`` or
    ``mask``.
    """


@dataclass(frozen=True, kw_only=True)
class WriterSpec(Spec):
    """Where answers and embeddings go. ``build(options, path)`` gives a ``Writer``; core renames the file when it is whole.

    With options derived from ``Annotating`` it writes a copy of the table that the answers are about, with them in it;
    such a file may take the table's own place.
    """

    kind: ClassVar[str] = "writer"

    suffixes: tuple[str, ...]
    build: Callable[[Any, Path], Writer]


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec(Spec):
    """How an input becomes tokens. Options derived from ``Sourced`` receive the backbone's source and revision.

    ``infer(options)`` writes what only the checkpoint's files know into the options, so that a recipe that is kept has
    nothing left to infer.
    """

    kind: ClassVar[str] = "tokenizer"

    build: Callable[[Any], Tokenizer]
    infer: Callable[[Any], Any] = field(default=lambda options: options)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A family of pretrained models.

    ``build(options, weights)`` gives the model with its pretrained weights or, if ``weights`` is false, the same
    architecture freshly initialised from torch's generator.
    """

    kind: ClassVar[str] = "backbone"

    build: Callable[[Any, bool], Backbone]
    tokenizer: str
    """Name of the tokenizer that the weights were trained with."""
    modality: str
    """Such as ``protein``, ``dna`` or ``cell``."""
    probes: tuple[Any, ...]
    """Synthetic inputs whose outputs are kept with each adapter, to verify it on the next machine."""
    checkpoints: tuple[Checkpoint, ...] = ()
    accepts: Literal["sequence", "structure", "cell"] = "sequence"
    scorers: tuple[str, ...] = ()
    """Names of the scorers that suit the family; the first is the one that ``exapt score`` takes unless told."""
    prompts: bool = True
    """Whether its blocks can see vectors before the tokens, of which nothing else is known: no letter, no coordinates."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """A question. ``infer(options, labels)`` writes what only the labels know, such as class names, into the options.

    Labels that are lists, one value for each unit, hold None for units without a label.
    """

    kind: ClassVar[str] = "head"

    build: Callable[[Any, HeadContext], Head]
    infer: Callable[[Any, Sequence[Any]], Any] = field(default=lambda options, labels: options)
    columns: str = ""
    """Option that takes the names of the label columns where a recipe gives several and leaves the option out."""
    answers: Literal["input", "unit", "token", "pair"] = "input"
    """What it answers for: each input, each of its units, each token or each pair of units; only whole inputs are split by
    class.
    """
    labelled: bool = True
    """Whether it learns from labels of the data; if not, it makes its targets of the inputs."""
    baseline: Literal["classification", "multilabel", "regression", "none"] = "none"
    """Which linear model on k-mers ``exapt compare`` sets beside it."""
    fits: bool = False
    """Whether it is fitted to the features of all training rows at once, by ``Head.fit``, beside whatever it learns."""
    learns: bool = True
    """Whether anything of it learns by steps: not so of a head that is fitted whole."""
    check: Callable[[Any, Any], None] | None = None
    """``check(options, recipe)`` raises ``RecipeError`` if the options do not go with the ``Recipe``."""
    towers: bool = False
    """Whether it aligns two backbones, and is learned by ``exapt align``: of the pooled features of one tower or of both it
    gives a unit vector for each, [batch, towers, width], and ``scale`` [] is what cosines are multiplied by.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.towers and (self.labelled or self.answers != "input" or self.baseline != "none"):
            raise ValueError(
                f"head '{self.name}' aligns two towers: pairs are all it learns from (labelled=False, answers='input', "
                "baseline='none')"
            )
        if not (self.learns or self.fits):
            raise ValueError(f"head '{self.name}' neither learns nor is fitted: it would answer by chance for ever")
        if self.labelled and self.answers == "token":
            raise ValueError(
                f"head '{self.name}' learns from labels and answers for each token: labels are of inputs or of units, so "
                "answers is 'input' or 'unit'; a head that poses its own questions says labelled=False"
            )
        if self.answers == "pair" and (not self.labelled or self.baseline != "none"):
            raise ValueError(
                f"head '{self.name}' answers for pairs of units: it learns from labels (labelled=True), and no linear model "
                "on k-mers can stand beside it (baseline='none')"
            )


Need = Literal["target", "learning", "augmentations", "blocks", "labels", "valid", "pretrained", "prompts"]
"""What a strategy may need: the recipe's target data; something of the backbone that learns; augmentations; a backbone
built of blocks; heads that learn from labels; a valid part; pretrained weights; or a backbone that takes vectors before its tokens.
"""


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Spec):
    """A way to transfer. ``training`` holds the training defaults that suit it, or makes them of the options; a recipe's own
    values win.

    ``adopt(options, folder)`` is for strategies that keep PEFT's layout: it fits the options to a PEFT folder that a run
    starts from, and raises ``RecipeError`` if they disagree.
    """

    kind: ClassVar[str] = "strategy"

    build: Callable[[Any], Strategy]
    training: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] = field(default_factory=dict)
    selects: bool = True
    """Whether it says what of the backbone learns. Others are companions: where none that selects is named, ``full`` does."""
    alone: bool = False
    """Whether it says so of the whole backbone, so that no other strategy that selects can stand beside it."""
    merges: bool = True
    """Whether what it adds can become part of the weights, for another stage to stand upon and to be exported."""
    needs: frozenset[Need] = frozenset()
    """What must be there for it to do anything."""
    excludes: Mapping[str, str] = field(default_factory=dict)
    """Names of strategies that it cannot stand beside, and why: the end of a sentence."""
    check: Callable[[Any, Any], None] | None = None
    """``check(options, recipe)`` raises ``RecipeError`` if the options do not go with the ``Recipe``."""
    check_heads: Callable[[Any, Mapping[str, tuple[HeadSpec, Any]]], None] | None = None
    """``check_heads(options, heads)`` raises ``RecipeError`` if they do not go with the heads: spec and options of each, by name.
    """
    adopt: Callable[[Any, Path], Any] | None = None

    def training_of(self, options: Any) -> Mapping[str, Any]:
        """Return the training defaults that suit it with these options."""
        return self.training(options) if callable(self.training) else self.training


@dataclass(frozen=True, kw_only=True)
class AugmentationSpec(Spec):
    """A change of inputs that keeps their meaning: made at random in training, or averaged over when answering."""

    kind: ClassVar[str] = "augmentation"

    build: Callable[[Any], Augmentation]
    modalities: tuple[str, ...] = ()
    """Modalities of the backbones whose inputs it can change; empty for all."""


@dataclass(frozen=True, kw_only=True)
class ScorerSpec(Spec):
    """A way to tell the effect of a variant from what a pretrained model expects, without labels."""

    kind: ClassVar[str] = "scorer"

    build: Callable[[Any], Scorer]
    objective: Literal["masked", "causal", "ordered", "any"] = "any"
    """The kind of language model that it asks."""
