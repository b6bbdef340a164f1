"""What a script calls; the commands call nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exapt import adapter
from exapt import device as devices
from exapt.adapted import Adapted
from exapt.comparison import Comparison
from exapt.comparison import compare as _compare
from exapt.data.residues import Numbering
from exapt.embedding import Embedder, embed_file
from exapt.errors import AdapterError, RecipeError, listed
from exapt.events import Listener
from exapt.explanation import Choice as Asked
from exapt.explanation import explain_examples, explain_file, explain_table
from exapt.manifest import read_manifest
from exapt.places import BACKBONES, TOKENIZERS, found_here, remembered
from exapt.plugins import Plugins, overridden, using
from exapt.recipe import Recipe, read_recipe
from exapt.resolve import Resolved, resolve
from exapt.scanning import scan_file, scan_sequences, scan_table
from exapt.scores import score_file, score_pairs, score_rows
from exapt.scoring import Choice, Scoring
from exapt.specs import Options, TokenizerSpec, local_paths, settable
from exapt.training import run

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Adapted", "Comparison", "Embedder", "compare", "embed", "explain", "load", "scan", "score", "train"]


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Adapted:
    """Train as a recipe says (a model, a mapping, or a TOML or JSON file) and return the adapted model.

    With ``out`` the adapter is written there, and the run's log and checkpoints to ``OUT.run``; ``resume`` continues
    an interrupted run from its newest checkpoint, to the very same adapter.
    """
    return run(read_recipe(recipe), Path(out) if out else None, resume=resume, device=device, listeners=listeners)


def load(
    folder: str | Path,
    *,
    backbone: str = "",
    device: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Adapted:
    """Load an adapter, and with it only the plugins that it names.

    ``backbone`` (``FAMILY:PATH``, a folder or a file) says where the weights stand, if they are not where they were or
    this machine has not seen them yet; ``settings`` holds options of the ``tokenizer``: where its files stand, and limits
    to what it refuses. Raises ``AdapterError`` unless tensors, backbone, tokenizer and answers are those that were saved,
    and ``RecipeError`` for an option that there is not, or that stays as it was learned.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    plugins = adapter.plugins_for(manifest, folder.name, overridden())
    with using(plugins):
        resolved = _resolved(folder, manifest, backbone, settings or {}, plugins)
        model, tokenizer = adapter.rebuild(folder, manifest, resolved, devices.choose(device))
    return Adapted(model, tokenizer, resolved, manifest)


def _resolved(
    folder: Path,
    manifest: Mapping[str, Any],
    backbone: str,
    settings: Mapping[str, Mapping[str, Any]],
    plugins: Plugins,
) -> Resolved:
    recipe = read_recipe(manifest["recipe"])
    given = _given(folder, settings, recipe, plugins)
    source = _source(folder, manifest, backbone, plugins)
    if recipe.tokenizer is not None:
        files = local_paths(plugins.get(TokenizerSpec, recipe.tokenizer.name).spec.options)
        lost = {key: str(said) for key in files if (said := recipe.tokenizer.options.get(key)) and key not in given}
        here = {**_files(folder, manifest, lost, source), **given}
        recipe = recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update=here)})
    return resolve(recipe, plugins, source)


def _given(
    folder: Path, settings: Mapping[str, Mapping[str, Any]], recipe: Recipe, plugins: Plugins
) -> Mapping[str, Any]:
    """Return the options of the tokenizer. Raises ``RecipeError`` for any that would change what the adapter learned from."""
    unknown = settings.keys() - {"tokenizer"}
    if unknown:
        raise RecipeError(f"of an adapter only options of its tokenizer can be set, not of '{min(unknown)}'")
    given = settings.get("tokenizer", {})
    if not isinstance(given, Mapping) or "name" in given:
        raise RecipeError(f"'{folder.name}' has its own tokenizer: name an option of it, tokenizer.KEY=VALUE")
    own = recipe.tokenizer
    options = plugins.get(TokenizerSpec, own.name).spec.options if own else Options
    saved, free = own.options if own else {}, settable(options)
    for key, value in given.items():
        if key in options.model_fields and key not in free and saved.get(key) != value:
            can = f"what can be set is {listed(free)}" if free else "nothing of it can be set"
            raise RecipeError(f"'{folder.name}' keeps tokenizer.{key} as it was learned: {can}")
    return given


def _files(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, str], weights: str) -> dict[str, str]:
    """Return where files of the tokenizer stand here; the adapter knows their last names alone."""
    here = found_here(files, TOKENIZERS, manifest["tokenizer"]["fingerprint"], weights)
    for key, file in files.items():
        if key not in here:
            raise AdapterError(
                f"'{folder.name}' was learned with tokenizer.{key} '{Path(file).name}', which this machine has not seen: "
                f"say where it is with --set tokenizer.{key}=PATH"
            )
    return here


def _source(folder: Path, manifest: Mapping[str, Any], backbone: str, plugins: Plugins) -> str:
    facts = manifest["backbone"]
    if backbone:
        offer, _, source = plugins.checkpoint(backbone)
        if offer.spec.name != facts["family"]:
            raise AdapterError(
                f"'{folder.name}' was learned on {facts['name']}, not on a model of the family '{offer.spec.name}'"
            )
        return source
    if not facts["local"]:
        return ""
    source = remembered(BACKBONES, facts["fingerprint"] or facts["architecture"]).get("source", "")
    if not source:
        raise AdapterError(
            f"'{folder.name}' was learned on the local weights '{facts['name']}', which are not where they were, or "
            f"which this machine has not seen: say where they are with --backbone {facts['family']}:PATH"
        )
    return source


def embed(
    inputs: Sequence[Any] | str | Path,
    backbone: str,
    *,
    pooling: str = "mean",
    layer: int = -1,
    out: str | Path | None = None,
    device: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> np.ndarray[Any, Any] | list[np.ndarray[Any, Any]] | None:
    """Return the features of some inputs under a backbone as it was published.

    ``pooling`` is ``mean``, ``max`` or ``cls`` for one vector per input [inputs, width], or ``none`` for one array
    [units, width] per input; ``settings`` holds options of the ``backbone`` and its ``tokenizer``. Given the path of a
    table and ``out``, everything streams from file to file and None is returned; ``options`` are those of
    ``exapt.embedding.embed_file``.
    """
    embedder = Embedder.of(backbone, pooling, layer, device, settings)
    if isinstance(inputs, (str, Path)) and out is not None:
        embed_file(embedder, Path(inputs), Path(out), **options)
        return None
    if isinstance(inputs, (str, Path)) or out is not None:
        raise TypeError("embed takes a list of inputs, or the path of a table together with out")
    arrays: np.ndarray[Any, Any] | list[np.ndarray[Any, Any]] = embedder.arrays(inputs)
    return arrays


def explain(
    inputs: Sequence[Any] | Mapping[str, Sequence[Any]] | str | Path,
    adapter: str | Path | Adapted,
    *,
    method: str = "mutagenesis",
    head: str = "",
    target: str = "",
    positions: str | Sequence[int] = "",
    at: int | None = None,
    input: str = "",  # noqa: A002 - the option's word
    probabilities: bool = False,
    out: str | Path | None = None,
    picture: str | Path | None = None,
    overwrite: bool = False,
    device: str = "",
    **table: Any,
) -> pa.Table | None:
    """Return how an adapter's answers depend on each letter of some inputs: a list, one list per named input, or a table's path.

    ``method`` is ``mutagenesis``, for the effect of each substitution, or ``gradient``, for gradient x input. ``head``,
    ``target`` and ``input`` say what is explained where there are several, ``positions`` (``"5-40,57"``, from 1) what
    varies, and ``at`` the position whose answer is explained; ``probabilities`` are explained in place of logits.
    ``picture`` is a heat map's file or, of several inputs, a folder. Of a path, ``table`` holds the options of
    ``exapt.explanation.explain_file``; with ``out`` the table goes to that file and None is returned.
    """
    adapted = adapter if isinstance(adapter, Adapted) else load(adapter, device=device)
    choice = Asked(method, head, target, positions, at, input, probabilities)
    shown: dict[str, Any] = {"picture": picture, "overwrite": overwrite}
    if isinstance(inputs, (str, Path)):
        if out is None:
            return explain_table(adapted, Path(inputs), choice, **shown, **table)
        explain_file(adapted, Path(inputs), Path(out), choice, **shown, **table)
        return None
    if out is not None:
        raise TypeError("explain takes a list of inputs, or the path of a table together with out")
    return explain_examples(adapted, adapted.examples(inputs, None), choice, **shown, **table)


def score(
    variants: Sequence[tuple[Any, Any]] | str | Path,
    backbone: str | Adapted,
    *,
    structure: str | Path = "",
    numbering: Numbering = "file",
    scorer: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    average: Sequence[str] = (),
    context: int | None = None,
    precision: str = "fp32",
    out: str | Path | None = None,
    device: str = "",
    **table: Any,
) -> list[float | None] | None:
    """Return the scores of variants, without labels: under a backbone as published, or an adapter of a language model.

    ``variants`` are pairs of a wild type and a mutant, or the path of a table, for which ``table`` holds the options of
    ``exapt.scores.score_file``, such as ``reference``. Above 0 the model expects the mutant more, in natural logarithms;
    a row that cannot have a score has None. ``settings`` holds options of the ``scorer``, the ``backbone``, the
    ``tokenizer`` and the ``reader``. With ``out`` everything streams from file to file and None is returned.

    Variants of structures are of those in the file or folder ``structure``, with positions by ``numbering``: ``file`` or
    ``index``. Without it, the path of structures gives a list of the mean log-likelihoods of their own sequences; the file
    ``out`` also holds ids, perplexity and recovery.
    """
    alone = isinstance(variants, (str, Path)) and not structure
    place = Path(structure) if structure else None
    choice = Choice(scorer, settings or {}, average, context, precision, place, numbering, alone)
    scoring = _scoring(backbone, choice, device)
    if not isinstance(variants, (str, Path)):
        return score_pairs(scoring, variants)
    if table.get("reference"):
        table["reference"] = Path(table["reference"])
    if out is not None:
        score_file(scoring, Path(variants), Path(out), **table)
        return None
    column = "log_likelihood" if scoring.alone else "score"
    return [value for batch in score_rows(scoring, Path(variants), **table) for value in batch[column].to_pylist()]


def _scoring(backbone: str | Adapted, choice: Choice, device: str) -> Scoring:
    if isinstance(backbone, str):
        return Scoring.of(backbone, choice, device)
    return Scoring.of_adapter(backbone, choice, device)


def scan(
    sequences: Sequence[str] | Mapping[str, str] | str | Path,
    backbone: str | Adapted,
    *,
    positions: str | Sequence[int] = "",
    picture: str | Path | None = None,
    scorer: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    average: Sequence[str] = (),
    context: int | None = None,
    precision: str = "fp32",
    out: str | Path | None = None,
    device: str = "",
    **table: Any,
) -> pa.Table | None:
    """Return the score of every substitution of some sequences: a list, a mapping by id, or the path of a table.

    The columns are id, position (from 1), wild_type, mutant, mutation (A23G) and score, as ``score`` gives it.
    ``positions`` (``"10-40,57"``) limits the scan; ``picture`` is a heat map's file or, of several sequences, a folder.
    The choices are those of ``score``; ``table`` holds the options of ``exapt.scanning.scan_sequences`` or, of a path, of
    ``exapt.scanning.scan_file``, such as ``tell=print``, which alone hears of positions that are left out and of rows
    without a score. With ``out`` the table goes to that file and None is returned.
    """
    choice = Choice(scorer, settings or {}, average, context, precision)
    scoring = _scoring(backbone, choice, device)
    shown: dict[str, Any] = {"positions": positions, "picture": Path(picture) if picture else None}
    if out is not None:
        scan_file(scoring, Path(sequences) if isinstance(sequences, str) else sequences, Path(out), **shown, **table)
        return None
    if isinstance(sequences, (str, Path)):
        return scan_table(scoring, Path(sequences), **shown, **table)
    return scan_sequences(scoring, sequences, **shown, **table)


def compare(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    scratch: Mapping[str, Any] | None = None,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Comparison:
    """Train a recipe, ``scratch`` and a linear model on k-mers over paired seeds, and say whether transfer helped."""
    return _compare(read_recipe(recipe), seeds, scratch or {}, device, listeners)
