"""A run from recipe to adapted model: read, split, resolve, build, train, measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import __version__, adapter
from exapt import device as devices
from exapt.adapted import Adapted
from exapt.broadcast import Broadcast, claimed, run_folder
from exapt.building import (
    build_augmentations,
    build_backbone,
    build_model,
    build_strategies,
    build_tokenizer,
    inferred_tokenizer,
    probe_inputs,
    refuse_too_long,
    source_of,
)
from exapt.checkpoint import Checkpoints
from exapt.errors import RecipeError, listed
from exapt.events import Event, Listener, Run
from exapt.features import FeatureKey, KeptFeatures, answers_digest, encodings_digest, frozen_features
from exapt.fingerprint import architecture, fingerprint, fingerprint_tokenizer
from exapt.golden import probe_record
from exapt.labelled import PARTS, Table, read_table
from exapt.manifest import FORMAT, finite
from exapt.model import Model
from exapt.parts import Array, Encoding, Features, Pooled, Tokenizer
from exapt.plugins import current
from exapt.recipe import Recipe
from exapt.resolve import Resolved, resolve
from exapt.rows import Inputs, Rows
from exapt.start import Start, adopted
from exapt.targets import encode_labels
from exapt.trainer import Trainer
from exapt.windows import in_windows

# Rows that a head sees to set its normalisation: features at hand cost nothing, others a forward pass each.
_ADJUST_KEPT, _ADJUST_LIVE, _ADJUST_TOKENS = 4096, 64, 32


def run(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: bool = False,
    device: str = "",
    listeners: Sequence[Listener] = (),
) -> Adapted:
    """Train as a recipe says; write the adapter to ``out`` if it is given, and logs and checkpoints beside it."""
    plugins, where = current(), devices.choose(device)
    processes = devices.processes(where)
    # From the very start: features and fingerprints are to be the same every time too.
    devices.seed_everything(recipe.seed, where)
    resolved = resolve(recipe, plugins)
    start = Path(recipe.start) if recipe.start else None
    if start is not None:
        resolved = adopted(resolved, start)
    folder = run_folder(out, resume)
    resolved = inferred_tokenizer(resolved)
    table = read_table(resolved)
    resolved = resolved.infer(table.labels("train"))
    with claimed(folder, resume), Broadcast(plugins, Run(folder, resolved.as_recipe()), listeners) as tell:
        session = _Session(resolved, table, where, tell)
        adapted = session.train(Start(start) if start else None, folder, resume)
    if out is not None and processes.is_main_process:
        adapted.save(out)
        Checkpoints(folder, {}).clear()
    processes.wait_for_everyone()
    return adapted


class _Session:
    """The state of one run between its stages."""

    def __init__(self, resolved: Resolved, table: Table, device: torch.device, tell: Callable[[Event], None]) -> None:
        self.resolved, self.table, self.device, self.tell = resolved, table, device, tell
        self.recipe = resolved.recipe
        self.name = self.recipe.backbone.name
        self.probes = probe_inputs(resolved.backbone)

    def train(self, start: Start | None, folder: Path | None, resume: bool) -> Adapted:
        tokenizer = build_tokenizer(self.resolved.tokenizer)
        encodings = dict(self.table.encodings)
        self._know(tokenizer)
        model, rates = self._model(encodings, tokenizer, start)
        rows = self._rows(model, tokenizer, self._in_windows(encodings, model))
        parts = {part: rows.subset(getattr(self.table.split, part)) for part in PARTS}
        parts |= {part: parts[part].settled() for part in ("valid", "test")}
        taken_up = start.put_heads(model, self.resolved.as_recipe()["heads"]) if start else set()
        # Features of a backbone that learns move away from any statistics taken of them at the start.
        if model.frozen:
            adjust(model, parts["train"], self.recipe.seed, taken_up)
        self.tell(Event("start", self._sizes(model)))
        devices.seed_everything(self.recipe.seed, self.device)
        trainer = Trainer(model, self.resolved.training, rates, self.recipe.seed, self.tell)
        trainer.fit(parts["train"], parts["valid"], Checkpoints(folder, self._identity(model.precision), resume))
        metrics = {part: trainer.evaluate(parts[part]) for part in ("valid", "test")}
        metrics |= {name: trainer.evaluate(rows.subset(some).settled()) for name, some in self.table.bands().items()}
        if self.table.leakage and folder is not None and devices.is_main_process():
            self.table.leakage.write(folder / "leakage.csv", overwrite=True)
        best = trainer.progress.best_epoch + 1
        self.tell(Event("end", {"best_epoch": best, **_flat(metrics)}))
        manifest = self._manifest(model, tokenizer, metrics, best)
        return Adapted(model, tokenizer, self.resolved, manifest)

    def _note(self, text: str) -> None:
        self.tell(Event("note", {"text": text}))

    def _know(self, tokenizer: Tokenizer) -> None:
        self.probed = [tokenizer.encode(probe) for probe in self.probes]
        self.tokenizer_word = fingerprint_tokenizer(tokenizer, self.probes)

    def _model(
        self, encodings: Mapping[str, list[Encoding]], tokenizer: Tokenizer, start: Start | None
    ) -> tuple[Model, dict[str, float]]:
        strategies = build_strategies(self.resolved)
        self.pretrained = all(strategy.pretrained for strategy in strategies)
        backbone = build_backbone(self.resolved.backbone, self.pretrained, self.recipe.seed)
        for values in encodings.values():
            refuse_too_long(values, self.table.examples.ids, backbone, self.name, self.resolved.backbone)
        self.backbone_word, self.architecture = fingerprint(backbone), architecture(backbone)
        self._remember()
        self._resolve_layer(len(backbone.blocks()), backbone.features_layer)
        model, rates = build_model(self.resolved, backbone, tokenizer, strategies, self.device, self.recipe.seed)
        if start is not None:
            start.check(self.name, self.backbone_word if self.pretrained else None, self.architecture)
            left_out = start.put_backbone(model)
            if left_out:
                self._note(
                    f"'{start.folder.name}': {len(left_out)} tensors of its own head left out: {', '.join(left_out)}"
                )
        return model, rates

    def _resolve_layer(self, last: int, features_layer: int) -> None:
        labelled, layer = self.resolved.labels.keys(), self.recipe.layer
        if layer == -1 and labelled:
            others = self.resolved.heads.keys() - labelled
            if others and features_layer not in (-1, last):
                raise RecipeError(
                    f"heads of one run read one layer: of '{self.name}', those with labels ({listed(labelled)}) read layer "
                    f"{features_layer} and those without ({listed(others)}) layer {last}; say layer = {last} in the recipe, "
                    "which all of them then read, or train one after the other"
                )
            layer = features_layer
        if not -1 <= layer <= last:
            raise RecipeError(f"there is no layer {layer}: '{self.name}' has layers 0 to {last}")
        self.recipe = self.recipe.model_copy(update={"layer": last if layer == -1 else layer})
        self.resolved = replace(self.resolved, recipe=self.recipe)

    def _remember(self) -> None:
        word = self.backbone_word if self.pretrained else self.architecture
        adapter.remember_places(word, self.tokenizer_word, self.resolved)

    def _in_windows(self, encodings: dict[str, list[Encoding]], model: Model) -> dict[str, list[Encoding]]:
        """Make a row of each window, where each is to be an input of its own."""
        cuts = in_windows(encodings, model.backbone)
        if cuts is None:
            return encodings
        ((name, column),) = self.recipe.data.inputs.items()
        self.table = self.table.cut_up(cuts, [column])
        return {name: cuts.encodings}

    def _rows(self, model: Model, tokenizer: Tokenizer, encodings: Mapping[str, list[Encoding]]) -> Rows:
        heads = {name: model.head(name) for name in model.heads}
        inputs = {name: Inputs.bare(values) for name, values in encodings.items()}
        augmentations = build_augmentations(self.resolved)
        source = source_of(self.table.examples, tokenizer, self.resolved, augmentations, model.backbone)
        bare = Rows(inputs, {}, heads, self.resolved.answered, source)
        targets = encode_labels(bare, self.table.examples, self.resolved, self.table.split)
        # Said once nothing of the data can be refused any more, so that a refusal stands alone.
        for note in (*self.table.notes, *self.table.tallies.lines(), *model.backbone.notes):
            self._note(note)
        # Features are kept only of inputs that stay the same, under a backbone that nothing changes: not one that learns,
        # nor one that was changed before.
        if not bare.renewed and model.frozen and not model.changed and self.pretrained:
            inputs = {name: self._inputs(model, values) for name, values in encodings.items()}
        return replace(bare, inputs=inputs, targets=targets)

    def _inputs(self, model: Model, encodings: list[Encoding]) -> Inputs:
        words = [encodings_digest([encoding]) for encoding in encodings]
        first = {word: place for place, word in reversed(list(enumerate(words)))}
        order = {word: number for number, word in enumerate(dict.fromkeys(words))}
        distinct = [encodings[first[word]] for word in order]
        # One process computes what the others then find.
        with devices.processes(self.device).local_main_process_first():
            kept = {
                reading: self._kept(model, distinct, reading)
                for reading in sorted({model.head(name).reads for name in model.heads})
            }
        return Inputs(encodings, kept, np.array([order[word] for word in words]))

    def _kept(self, model: Model, encodings: list[Encoding], reading: str) -> KeptFeatures:
        key = FeatureKey(
            weights=self.backbone_word,
            tokenizer=self.tokenizer_word,
            code=self._code(model),
            inputs=encodings_digest(encodings),
            layer=model.layer,
            reading=reading,
            precision=model.precision,
            budget=devices.token_budget(self.device),
            machine=devices.describe(self.device),
        )
        return frozen_features(model.backbone, encodings, key, self._features_told)

    def _code(self, model: Model) -> dict[str, Any]:
        info, options = self.resolved.backbone.offer.info, self.resolved.backbone.options
        return {
            info.distribution: info.version,
            "exapt": __version__,
            "transformers": version("transformers"),
            "options": options.model_dump(mode="json", exclude={"source", "revision"}),
            # A config, or a plugin under development, can change without any of these: its answers tell.
            "answers": answers_digest(model.backbone, self.probed, model.layer),
        }

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

    def _identity(self, precision: str) -> dict[str, Any]:
        return {
            "recipe": self.resolved.as_recipe(),
            "data": dict(self.table.facts),
            "backbone": self.backbone_word,
            "tokenizer": self.tokenizer_word,
            "plugins": self.resolved.plugins,
            "made_with": {**devices.describe(self.device), "precision": precision},
            "processes": devices.processes(self.device).num_processes,
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
            "metrics": finite(metrics),
            "best_epoch": best,
            "tensors": adapter.describe_tensors(adapter.learned_files(model)),
            "probe": probe_record(model, tokenizer, self.probes, list(self.recipe.data.inputs)),
            "made_with": {**devices.describe(self.device), "precision": model.precision},
        }

    def _backbone_facts(self, model: Model) -> dict[str, Any]:
        spec, checkpoint = self.resolved.backbone.offer.spec, self.resolved.checkpoint
        written = self.resolved.as_recipe()["backbone"]
        return {
            "name": written["name"],
            "family": spec.name,
            "modality": spec.modality,
            "source": written.get("source", ""),
            "revision": written.get("revision", ""),
            "local": bool(self.resolved.folder),
            "width": model.backbone.width,
            "licence": checkpoint.licence if checkpoint else "unknown",
            "commercial": checkpoint.commercial if checkpoint else True,
            "paper": checkpoint.paper if checkpoint else "",
            "architecture": self.architecture,
            # Fresh weights are nobody's: what they became is in the adapter as a whole.
            "fingerprint": self.backbone_word if self.pretrained else None,
        }


def _flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{part}.{name}": value for part, report in metrics.items() for name, value in report.items()}


def adjust(model: Model, rows: Rows, seed: int, but: Collection[str]) -> None:
    """Show each head, ``but`` those named, the features of some training rows, so that it can set its normalisation."""
    device = next(model.parameters()).device
    sample = np.random.default_rng(seed).permutation(len(rows))
    kept = all(inputs.kept for inputs in rows.inputs.values())
    model.eval()
    for name in [name for name in model.heads if name not in but]:
        head = model.head(name)
        # Whole tokens of many long inputs would not fit where one pooled vector of each does.
        few = _ADJUST_TOKENS if head.reads == "tokens" else _ADJUST_KEPT if kept else _ADJUST_LIVE
        chosen = np.sort(sample[:few])
        with devices.resting():
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
