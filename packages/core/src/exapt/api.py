"""What a script calls; the commands call nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exapt.adapted import Adapted
from exapt.alignment.aligned import Alignment
from exapt.alignment.learning import run as _align
from exapt.alignment.rebuilt import load_alignment
from exapt.alignment.recipe import AlignRecipe, read_align_recipe
from exapt.comparison import Comparison
from exapt.comparison import compare as _compare
from exapt.data.residues import Numbering
from exapt.distilling import Distilled, with_teacher
from exapt.distilling import distil as _distil
from exapt.embedding import Embedder, embed_file
from exapt.episodic import Draw, Episodes
from exapt.events import Listener
from exapt.explanation import Choice as Asked
from exapt.explanation import explain_examples, explain_file, explain_table
from exapt.exporting import Exported, export
from exapt.few_shot import Asked as _Few
from exapt.few_shot import episodes as _episodes
from exapt.generalisation import Generalisation
from exapt.generalisation import leave_one_out as _leave_one_out
from exapt.loading import load
from exapt.rate_finder import RangeOptions, Rates, find_rates
from exapt.recipe import Recipe, read_recipe, validated
from exapt.scanning import scan_file, scan_sequences, scan_table
from exapt.scores import score_file, score_pairs, score_rows
from exapt.scoring import Choice, Scoring
from exapt.searching.driver import search as _search
from exapt.searching.outcome import Search
from exapt.searching.plan import SearchOptions
from exapt.searching.section import section_of
from exapt.sequence_matrix import Sequenced
from exapt.sequence_plan import read_plan
from exapt.sequences import learn_in_sequence as _learn_in_sequence
from exapt.several import Adapters, load_all
from exapt.stages import run_stages, staged
from exapt.task_gains import TaskGain
from exapt.task_gains import compare_tasks as _compare_tasks
from exapt.training import run

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = [
    "Adapted",
    "Adapters",
    "Alignment",
    "Comparison",
    "Embedder",
    "Episodes",
    "Exported",
    "Generalisation",
    "Rates",
    "Search",
    "align",
    "compare",
    "compare_tasks",
    "distil",
    "embed",
    "episodes",
    "explain",
    "export",
    "find_rate",
    "learn_in_sequence",
    "leave_one_out",
    "load",
    "load_alignment",
    "load_all",
    "scan",
    "score",
    "search",
    "train",
]


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
    an interrupted run from its newest checkpoint, to the very same adapter. Of a recipe of several ``stages`` the last
    one's model is returned, which stands upon the others.
    """
    stages = staged(recipe)
    if stages is not None:
        place = Path(out) if out else None
        return run_stages(stages, place, resume=resume, device=device, listeners=listeners)
    return run(read_recipe(recipe), Path(out) if out else None, resume=resume, device=device, listeners=listeners)


def align(
    recipe: AlignRecipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Alignment:
    """Align two backbones from pairs, as a recipe of two towers says, so that the inputs of one find those of the other.

    With ``out`` the alignment is written there, and the run's log to ``OUT.run``.
    """
    return _align(read_align_recipe(recipe), Path(out) if out else None, device=device, listeners=listeners)


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


def episodes(
    data: str | Path,
    backbone: str = "",
    *,
    adapter: str | Path | Adapted = "",
    head: str = "prototypes",
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 100,
    label: str = "",
    classes: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    **reading: Any,
) -> Episodes:
    """Return how well ``shots`` examples of each of ``ways`` classes suffice, over many episodes drawn from a table.

    In each, a ``head`` that is fitted in closed form is given the examples and answers for up to ``queries`` others of each
    class, over features of a backbone as it was published, or as an adapter left it. ``classes`` and ``only``
    (``{"split": "test"}``) limit the rows that are drawn from; ``settings`` holds options of the ``head``, the ``backbone``,
    the ``tokenizer`` and the ``reader``; ``reading`` may name ``inputs``, ``ids``, ``reader``, ``layer``, ``scratch`` (fresh
    weights) and ``device``. Raises ``DataError``, before weights are loaded, if there are too few classes or examples.
    """
    draw = Draw(ways, shots, queries, episodes, seed)
    said: dict[str, Any] = {"head": head, "label": label, "classes": classes, "only": only or {}}
    return _episodes(Path(data), draw, _Few(backbone, adapter, settings=settings or {}, **said, **reading))


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


def search(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    space: Mapping[str, Any] | str | Path | None = None,
    resume: bool = False,
    final: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
    **options: Any,
) -> Search:
    """Search strategies, rates and layers by the valid part alone; trials and the best recipe stand in the folder ``out``.

    ``space`` names keys of the recipe with lists of choices, or ranges: a mapping, or a TOML or JSON file; without it, it
    is the recipe's own section ``search``, or a common one. ``options`` are ``trials``, ``budget`` (minutes) and ``prune``
    (``halving``, ``median`` or ``none``). ``resume`` goes on with an interrupted search, or with more trials; ``final``
    measures the best recipe on the test part at the end, once.
    """
    given, section = section_of(recipe, space)
    how = validated(SearchOptions, options, "search")
    return _search(given, section, Path(out), how, resume=resume, final=final, device=device, listeners=listeners)


def leave_one_out(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    domain: str = "",
    *,
    adapt: bool = False,
    out: str | Path | None = None,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Generalisation:
    """Leave each domain out in turn, learn on the others, and return how good the recipe is on what was left out.

    ``domain`` is the column that names the domains, unless the recipe's ``data.domain`` does. With ``adapt``, strategies
    learn from the rows left out, without their labels. The adapters go to the folder ``out``; one that was begun is gone
    on with.
    """
    place = Path(out) if out else None
    return _leave_one_out(read_recipe(recipe), domain, adapt=adapt, out=place, device=device, listeners=listeners)


def learn_in_sequence(
    plan: Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    method: str = "",
    resume: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Sequenced:
    """Learn tasks one after the other on one backbone, and return how good each was after each of them.

    ``plan`` is a mapping, or a TOML or JSON file: a recipe for all tasks, ``[[tasks]]`` with what differs in each, and a
    section ``[sequence]`` that names the method, unless ``method`` does: finetune, ewc, l2-sp, replay or separate. Into
    ``out`` go an adapter for each task and the matrix; ``resume`` goes on with an interrupted sequence.
    """
    read = read_plan(plan, method)
    return _learn_in_sequence(read, Path(out), resume=resume, device=device, listeners=listeners)


def find_rate(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    picture: str | Path | None = None,
    overwrite: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
    **options: Any,
) -> Rates:
    """Try ever higher learning rates on the training part, and suggest one for the heads and one for the backbone.

    ``options`` are ``steps``, ``low``, ``high`` and ``rule`` (``steepest`` or ``divergence``). ``out`` is a file for the
    table of losses, ``picture`` one for the curves; nothing else is kept.
    """
    files: dict[str, Any] = {"out": Path(out) if out else None, "picture": Path(picture) if picture else None}
    how = validated(RangeOptions, options, "find-rate")
    return find_rates(read_recipe(recipe), how, **files, overwrite=overwrite, device=device, listeners=listeners)


def distil(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    teacher: str | Path | None = None,
    seeds: Sequence[int] = (),
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Distilled:
    """Train a student with its teacher and without, and compare all three on the test part by metric, size and speed.

    The recipe names the strategy ``distillation``; with ``teacher`` it is added, or told who teaches.
    """
    full = with_teacher(read_recipe(recipe), str(teacher)) if teacher else read_recipe(recipe)
    return _distil(full, Path(out) if out else None, seeds=seeds, device=device, listeners=listeners)


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


def compare_tasks(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> list[TaskGain]:
    """Train a recipe of several heads, and each of them alone, over paired seeds; return what each task gains or loses."""
    return _compare_tasks(read_recipe(recipe), seeds=seeds, device=device, listeners=listeners)
