"""A run from recipe to adapted model: read, split, resolve, build, train, measure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import __version__, adapter, peft_folder
from exapt import device as devices
from exapt.adapted import Adapted, encode_labels
from exapt.building import (
    build_backbone,
    build_model,
    build_strategies,
    build_tokenizer,
    encode,
    refuse_too_long,
    unknown_report,
)
from exapt.checkpoint import Checkpoints
from exapt.data.files import table_sha256
from exapt.data.splits import Split, split
from exapt.data.tables import Examples, read_examples
from exapt.errors import OutputError, RecipeError
from exapt.events import Event, Listener, Run
from exapt.features import encodings_digest, frozen_features, key_of
from exapt.fingerprint import architecture, fingerprint, fingerprint_tokenizer
from exapt.manifest import FORMAT, MANIFEST, read_manifest
from exapt.model import Model
from exapt.parts import Array, Encoding, Features, Pooled, Tokenizer
from exapt.plugins import Plugins, current
from exapt.recipe import Recipe
from exapt.resolve import Resolved, resolve
from exapt.rows import Inputs, Rows
from exapt.trainer import Trainer

PARTS = ("train", "valid", "test")
# Rows that a head sees to set its normalisation: features at hand cost nothing, others a forward pass each.
_ADJUST_KEPT, _ADJUST_LIVE, _ADJUST_TOKENS = 4096, 64, 32


@dataclass(frozen=True)
class Table:
    """Labelled examples and how they are split; every row stands in a part."""

    examples: Examples
    split: Split
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def labels(self, part: str) -> dict[str, list[Any]]:
        """Return the labels of one part, by head."""
        rows = getattr(self.split, part)
        return {name: [values[row] for row in rows] for name, values in self.examples.labels.items()}


def read_table(resolved: Resolved) -> Table:
    """Read and split the data of a recipe; rows that no part holds (beyond ``train_size``) are left out.

    Raises ``DataError`` for a table that cannot be used.
    """
    options, recipe = resolved.recipe.data, resolved.recipe
    examples, report = read_examples(options, resolved.labels)
    first = next(iter(resolved.heads))
    stratified = resolved.heads[first].offer.spec.baseline == "classification" and not _per_unit(examples.labels[first])
    parts = split(recipe.split, examples, examples.labels[first] if stratified else None, recipe.seed)
    used = np.sort(np.concatenate([getattr(parts, part) for part in PARTS]))
    place = {row: number for number, row in enumerate(used.tolist())}
    moved = {part: np.array([place[row] for row in getattr(parts, part).tolist()], dtype=np.int64) for part in PARTS}
    facts = {"file": Path(options.path).name, "sha256": table_sha256(options.path)}
    if options.labels:
        facts |= {"labels_file": Path(options.labels).name, "labels_sha256": table_sha256(options.labels)}
    facts["rows"] = {part: len(moved[part]) for part in PARTS}
    notes = (*report.lines(), *parts.notes)
    return Table(examples.take(used), replace(parts, **moved), notes, facts)


def _per_unit(labels: Sequence[Any]) -> bool:
    return len(labels) > 0 and isinstance(labels[0], (list, tuple))


def run(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Adapted:
    """Train as a recipe says; write the adapter to ``out`` if it is given, and logs and checkpoints beside it."""
    plugins = current()
    resolved = resolve(recipe, plugins)
    start = Path(recipe.start) if recipe.start else None
    if start is not None:
        resolved = adopted(resolved, start)
    folder = run_folder(out, resume)
    table = read_table(resolved)
    resolved = resolved.infer(table.labels("train"))
    with _Broadcast(plugins, Run(folder, resolved.as_recipe()), listeners) as tell:
        adapted = _Session(resolved, table, devices.choose(device), tell).train(folder, resume, start)
    if out is not None and is_main_process():
        adapted.save(out)
        if folder is not None:
            Checkpoints(folder, {}).clear()
    return adapted


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks, among those that ``accelerate launch`` started."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def run_folder(out: Path | None, resume: bool) -> Path | None:
    """Return the folder of a run's logs and checkpoints, ``OUT.run``, after checking that it may be written.

    Raises ``OutputError`` if the adapter exists, or if an interrupted run stands there that was not asked to go on.
    """
    if out is None:
        return None
    adapter.check_free(out)
    folder = out.with_name(f"{out.name}.run")
    held = sorted(folder.glob("checkpoint-*")) if folder.is_dir() else []
    if held and not resume:
        raise OutputError(f"'{folder}' holds an interrupted run: add --resume to continue it, or remove the folder")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    return folder


def adopted(resolved: Resolved, start: Path) -> Resolved:
    """Fit the strategies to the adapter to start from. Raises ``RecipeError`` if none of them can take it."""
    if not start.is_dir():
        raise RecipeError(f"there is no folder '{start}' to start from")
    if not peft_folder.is_peft_folder(start):
        if not (start / MANIFEST).is_file():
            raise RecipeError(f"'{start}' is neither an exapt adapter nor a PEFT one")
        return resolved
    takers = [chosen for chosen in resolved.strategies if chosen.offer.spec.adopt]
    if not takers:
        raise RecipeError(
            f"'{start.name}' holds a PEFT adapter, which none of the strategies takes up: use strategy 'lora'"
        )
    fitted = tuple(
        replace(chosen, options=chosen.offer.spec.adopt(chosen.options, start)) if chosen in takers else chosen
        for chosen in resolved.strategies
    )
    return replace(resolved, strategies=fitted)


class _Broadcast:
    """Tells listeners and plugins of a run; a tracker that fails is dropped, with a note, and the run goes on."""

    def __init__(self, plugins: Plugins, run: Run, listeners: Sequence[Listener]) -> None:
        self.run = run
        main = is_main_process()
        hooks = [impl.function for impl in plugins.events.get_hookimpls()] if main else []
        self.hearers: list[Callable[..., Any]] = [*hooks, *(listeners if main else ())]

    def __enter__(self) -> Callable[[Event], None]:
        return self.tell

    def __exit__(self, *_: object) -> None:
        self.hearers.clear()

    def tell(self, event: Event) -> None:
        for hearer in list(self.hearers):
            try:
                hearer(run=self.run, event=event)
            # A tracker is any code at all; hours of training must not end with it.
            except Exception as error:
                self.hearers.remove(hearer)
                note = f"{hearer.__module__} failed on '{event.name}' and hears no more of this run: {error}"
                self.tell(Event("note", {"text": note}))


class _Session:
    """The state of one run between its stages."""

    def __init__(self, resolved: Resolved, table: Table, device: torch.device, tell: Callable[[Event], None]) -> None:
        self.resolved, self.table, self.device, self.tell = resolved, table, device, tell
        self.recipe = resolved.recipe
        self.name = self.recipe.backbone.name
        self.probes = resolved.backbone.offer.spec.probes

    def train(self, folder: Path | None, resume: bool, start: Path | None) -> Adapted:
        for note in self.table.notes:
            self.tell(Event("note", {"text": note}))
        tokenizer = build_tokenizer(self.resolved.tokenizer)
        encodings = self._encode(tokenizer)
        model, rates = self._model(tokenizer, encodings, start)
        rows = self._rows(model, encodings)
        parts = {part: rows.subset(getattr(self.table.split, part)) for part in PARTS}
        if start is None or not self._start_heads(model, start):
            adjust(model, parts["train"], self.recipe.seed)
        self.tell(Event("start", self._sizes(model)))
        devices.seed_everything(self.recipe.seed, self.device)
        trainer = Trainer(model, self.resolved.training, rates, self.recipe.seed, self.tell)
        trainer.fit(parts["train"], parts["valid"], Checkpoints(folder, self._identity(), resume))
        metrics = {part: trainer.evaluate(parts[part]) for part in ("valid", "test")}
        best = trainer.progress.best_epoch + 1
        self.tell(Event("end", {"best_epoch": best, **_flat(metrics)}))
        manifest = self._manifest(model, tokenizer, metrics, best)
        return Adapted(model, tokenizer, self.resolved, manifest)

    def _encode(self, tokenizer: Tokenizer) -> dict[str, list[Encoding]]:
        examples = self.table.examples
        encodings = {
            name: encode(tokenizer, values, examples.ids, self.name) for name, values in examples.inputs.items()
        }
        for line in unknown_report(encodings):
            self.tell(Event("note", {"text": line}))
        options = self.resolved.tokenizer.options.model_dump(mode="json")
        self.tokenizer_word = fingerprint_tokenizer(tokenizer, options, self.probes)
        return encodings

    def _model(
        self, tokenizer: Tokenizer, encodings: Mapping[str, list[Encoding]], start: Path | None
    ) -> tuple[Model, dict[str, float]]:
        strategies = build_strategies(self.resolved)
        self.pretrained = all(strategy.pretrained for strategy in strategies)
        backbone = build_backbone(self.resolved.backbone, self.pretrained, self.recipe.seed)
        for values in encodings.values():
            refuse_too_long(values, self.table.examples.ids, backbone.max_tokens, self.name)
        self.backbone_word, self.architecture = fingerprint(backbone), architecture(backbone)
        self._remember()
        self._resolve_layer(len(backbone.blocks()))
        model, rates = build_model(self.resolved, backbone, strategies, self.device, self.recipe.seed)
        if start is not None:
            self._start_backbone(model, start)
        return model, rates

    def _resolve_layer(self, last: int) -> None:
        layer = self.recipe.layer
        if not -1 <= layer <= last:
            raise RecipeError(f"there is no layer {layer}: '{self.name}' has layers 0 to {last}")
        self.recipe = self.recipe.model_copy(update={"layer": last if layer == -1 else layer})
        self.resolved = replace(self.resolved, recipe=self.recipe)

    def _remember(self) -> None:
        source = getattr(self.resolved.backbone.options, "source", "")
        if source and Path(source).exists():
            adapter.remember_source(self.backbone_word if self.pretrained else self.architecture, source)

    def _start_backbone(self, model: Model, start: Path) -> None:
        files: dict[str, Any] = {}
        if (start / MANIFEST).is_file():
            manifest = read_manifest(start)
            said = manifest["backbone"]["fingerprint"]
            if said and self.pretrained and said != self.backbone_word:
                raise RecipeError(
                    f"'{start.name}' was learned on weights {said[:12]}, but '{self.name}' here has {self.backbone_word[:12]}"
                )
            files = adapter.read_tensors(start, manifest)
            adapter.put_backbone(model, files.get(adapter.BACKBONE, {}), start.name)
        if peft_folder.is_peft_folder(start):
            peft_folder.load_state(model.backbone.module, peft_folder.read_weights(start), f"'{start.name}'")

    def _start_heads(self, model: Model, start: Path) -> bool:
        """Take up heads that ask the very same question; others start afresh. Returns whether all were taken up."""
        if not (start / MANIFEST).is_file():
            return False
        manifest = read_manifest(start)
        theirs, ours = manifest["recipe"]["heads"], self.resolved.as_recipe()["heads"]
        same = [name for name in ours if name in theirs and _question(theirs[name]) == _question(ours[name])]
        tensors = adapter.read_tensors(start, manifest)[adapter.HEADS]
        for name in same:
            head = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            model.head(name).load_state_dict(head)
        return len(same) == len(ours)

    def _rows(self, model: Model, encodings: Mapping[str, list[Encoding]]) -> Rows:
        heads = {name: model.head(name) for name in model.heads}
        inputs = {name: self._inputs(model, values) for name, values in encodings.items()}
        rows = Rows(inputs, {}, heads)
        return Rows(inputs, encode_labels(rows, self.table.examples, self.resolved), heads)

    def _inputs(self, model: Model, encodings: list[Encoding]) -> Inputs:
        # Features are kept only of a backbone that nothing changes: not one that learns, nor one that was changed before.
        if not model.frozen or model.changed or not self.pretrained:
            return Inputs(encodings, {}, np.arange(len(encodings)))
        words = [encodings_digest([encoding]) for encoding in encodings]
        first = {word: place for place, word in reversed(list(enumerate(words)))}
        order = {word: number for number, word in enumerate(dict.fromkeys(words))}
        distinct = [encodings[first[word]] for word in order]
        kept = {}
        for reading in sorted({model.head(name).reads for name in model.heads}):
            key = key_of(
                self.backbone_word, self.tokenizer_word, distinct, model.layer, reading, model.precision, self.device
            )
            kept[reading] = frozen_features(model.backbone, distinct, key, self._features_told)
        return Inputs(encodings, kept, np.array([order[word] for word in words]))

    def _features_told(self, done: int, of: int) -> None:
        self.tell(Event("features", {"done": done, "of": of}))

    def _sizes(self, model: Model) -> dict[str, Any]:
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "trainable": learning,
            "device": self.device.type,
            "precision": model.precision,
            **{f"rows.{part}": count for part, count in self.table.facts["rows"].items()},
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.resolved.as_recipe(),
            "data": dict(self.table.facts),
            "backbone": self.backbone_word,
            "tokenizer": self.tokenizer_word,
        }

    def _manifest(
        self, model: Model, tokenizer: Tokenizer, metrics: Mapping[str, dict[str, float]], best: int
    ) -> dict[str, Any]:
        return {
            "exapt": {"format": FORMAT, "version": __version__},
            "recipe": self.resolved.as_recipe(),
            "plugins": self.resolved.plugins,
            "backbone": self._backbone_facts(model),
            "tokenizer": {"name": self.resolved.tokenizer.offer.spec.name, "fingerprint": self.tokenizer_word},
            "data": dict(self.table.facts),
            "metrics": dict(metrics),
            "best_epoch": best,
            "tensors": adapter.describe_tensors(adapter.learned_files(model)),
            "probe": adapter.probe_record(model, tokenizer, self.probes),
            "made_with": {**devices.describe(self.device), "precision": model.precision},
        }

    def _backbone_facts(self, model: Model) -> dict[str, Any]:
        spec, checkpoint = self.resolved.backbone.offer.spec, self.resolved.checkpoint
        written = self.resolved.as_recipe()["backbone"]
        source = getattr(self.resolved.backbone.options, "source", "")
        return {
            "name": written["name"],
            "family": spec.name,
            "modality": spec.modality,
            "source": written.get("source", ""),
            "revision": written.get("revision", ""),
            "local": bool(source and Path(source).exists()),
            "width": model.backbone.width,
            "licence": checkpoint.licence if checkpoint else "unknown",
            "commercial": checkpoint.commercial if checkpoint else True,
            "paper": checkpoint.paper if checkpoint else "",
            "architecture": self.architecture,
            # Fresh weights are nobody's: what they became is in the adapter as a whole.
            "fingerprint": self.backbone_word if self.pretrained else None,
        }


def _question(head: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in head.items() if key not in ("weight", "label", "class_weights")}


def _flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{part}.{name}": value for part, report in metrics.items() for name, value in report.items()}


def adjust(model: Model, rows: Rows, seed: int) -> None:
    """Show each head the features of some training rows, so that it can set its normalisation."""
    device = next(model.parameters()).device
    sample = np.random.default_rng(seed).permutation(len(rows))
    kept = all(inputs.kept for inputs in rows.inputs.values())
    model.eval()
    for name in model.heads:
        head = model.head(name)
        # Whole tokens of many long inputs would not fit where one pooled vector of each does.
        few = _ADJUST_TOKENS if head.reads == "tokens" else _ADJUST_KEPT if kept else _ADJUST_LIVE
        chosen = np.sort(sample[:few])
        with torch.inference_mode():
            features = {key: _reading(model, rows, key, chosen, head.reads, device) for key in rows.inputs}
        head.adjust(features)


def _reading(
    model: Model, rows: Rows, name: str, chosen: Array, reading: str, device: torch.device
) -> Features | Pooled:
    inputs = rows.inputs[name]
    if inputs.kept or reading == "tokens":
        return model.features(inputs.take(chosen, device))[reading]
    pooled = [
        model.features(inputs.take(chosen[place : place + 1], device))[reading].pool(reading)
        for place in range(len(chosen))
    ]
    return Pooled(reading, torch.cat(pooled))
