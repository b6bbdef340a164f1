"""A run from recipe to adapted model: read, split, resolve, build, train, measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import __version__, adapter
from exapt import device as devices
from exapt.acting import Acting
from exapt.adapted import Adapted
from exapt.base import Base, named_base
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
from exapt.composition import check_files
from exapt.data.domains import domain_names, numbered
from exapt.errors import RecipeError, listed
from exapt.events import Event, Listener, Run
from exapt.fingerprint import architecture, fingerprint, fingerprint_tokenizer
from exapt.fitting import fit_heads
from exapt.golden import probe_record
from exapt.keeping import Keeping
from exapt.labelled import PARTS, Other, Table, read_other
from exapt.manifest import FORMAT, finite
from exapt.model import Model
from exapt.parts import Array, Backbone, Encoding, Features, Learns, Pooled, Strategy, Tokenizer
from exapt.plugins import current
from exapt.recipe import Recipe
from exapt.resolve import Resolved, check_apart, resolve
from exapt.retention import Retention
from exapt.rows import Inputs, Rows
from exapt.shift import DOMAINS, Shift, Target, domains_report, parted, target_of
from exapt.start import Start, adopted
from exapt.targets import encode_labels
from exapt.tasks import read_table
from exapt.trainer import Schedule, Trainer
from exapt.under_way import recalled
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
    parts: Sequence[str] = PARTS,
    schedule: Schedule | None = None,
) -> Adapted:
    """Train as a recipe says; write the adapter to ``out`` if it is given, and logs and checkpoints beside it.

    Rows that none of the ``parts`` holds are left out altogether, and without ``test`` no label of the target domain is
    read. ``schedule`` stands in for the recipe's schedule of rates.
    """
    plugins, where = current(), devices.choose(device)
    processes = devices.processes(where)
    # From the very start: features and fingerprints are to be the same every time too.
    devices.seed_everything(recipe.seed, where)
    resolved, base = known(recipe)
    start = Path(recipe.start) if recipe.start else None
    folder = run_folder(out, resume)
    resolved, table, target = read(resolved, parts)
    with claimed(folder, resume), Broadcast(plugins, Run(folder, resolved.as_recipe()), listeners) as tell:
        session = _Session(resolved, table, target, base, where, tell)
        adapted = session.train(Start(start) if start else None, folder, resume, schedule)
    if out is not None and processes.is_main_process:
        adapted.save(out)
        Checkpoints(folder, {}).clear()
    processes.wait_for_everyone()
    return adapted


def known(recipe: Recipe) -> tuple[Resolved, Base | None]:
    """Return a recipe whose every part is known, and what it stands upon, before any data are read."""
    resolved = resolve(recipe, current())
    check_files(resolved.strategies)
    base = named_base(recipe.base, recipe.start)
    return adopted(resolved, Path(recipe.start)) if recipe.start else resolved, base


def read(resolved: Resolved, parts: Sequence[str] = PARTS) -> tuple[Resolved, Table, Other | None]:
    """Read the tables of a recipe; returned with it is what only they and the files of the checkpoint know."""
    resolved = inferred_tokenizer(resolved)
    table = read_table(resolved, parts)
    resolved = resolved.infer(table.labels("train"))
    other = resolved.recipe.target
    target = read_other(resolved, other, "target", "test" in parts) if other else None
    if target is not None:
        check_apart(resolved, table.facts, target.facts)
    return resolved, table, target


def layered(resolved: Resolved, backbone: Backbone) -> Resolved:
    """Return a recipe with the layer that its heads read of a backbone. Raises ``RecipeError`` if there is no such layer."""
    name, last, layer = resolved.recipe.backbone.name, len(backbone.blocks()), resolved.recipe.layer
    labelled, features_layer = resolved.labels.keys(), backbone.features_layer
    if layer == -1 and labelled:
        others = resolved.heads.keys() - labelled
        if others and features_layer not in (-1, last):
            raise RecipeError(
                f"heads of one run read one layer: of '{name}', those with labels ({listed(labelled)}) read layer "
                f"{features_layer} and those without ({listed(others)}) layer {last}; say layer = {last} in the recipe, "
                "which all of them then read, or train one after the other"
            )
        layer = features_layer
    if not -1 <= layer <= last:
        raise RecipeError(f"there is no layer {layer}: '{name}' has layers 0 to {last}")
    return replace(resolved, recipe=resolved.recipe.model_copy(update={"layer": last if layer == -1 else layer}))


class _Session:
    """The state of one run between its stages."""

    def __init__(
        self,
        resolved: Resolved,
        table: Table,
        target: Other | None,
        base: Base | None,
        device: torch.device,
        tell: Callable[[Event], None],
    ) -> None:
        self.resolved, self.table, self.target, self.base = resolved, table, target, base
        self.device, self.tell = device, tell
        self.recipe = resolved.recipe
        self.name = self.recipe.backbone.name
        self.probes = probe_inputs(resolved.backbone)

    def train(self, start: Start | None, folder: Path | None, resume: bool, schedule: Schedule | None) -> Adapted:
        tokenizer = build_tokenizer(self.resolved.tokenizer)
        encodings = dict(self.table.encodings)
        self._know(tokenizer)
        model, rates, strategies = self._model(encodings, tokenizer, start)
        model.targeted = self.target is not None
        rows = self._rows(model, tokenizer, self._in_windows(encodings, model))
        parts = {part: rows.subset(getattr(self.table.split, part)) for part in PARTS}
        parts |= {part: parts[part].settled() for part in ("valid", "test")}
        taken_up = start.put_heads(model, self.resolved.as_recipe()["heads"]) if start else set()
        # Features of a backbone that learns move away from any statistics taken of them at the start.
        if model.frozen:
            adjust(model, parts["train"], self.recipe.seed, taken_up)
        fit_heads(model, parts["train"], devices.token_budget(self.device))
        self.tell(Event("start", self._sizes(model)))
        devices.seed_everything(self.recipe.seed, self.device)
        acting = Acting(strategies, model).to(self.device)
        model.acting = acting if acting.in_passes else None
        trainer = Trainer(model, self.resolved.training, rates, self.recipe.seed, self.tell, acting, schedule)
        target = self._target(model, tokenizer)
        shift = self._shift(model, parts["train"], target, trainer.budget)
        identity = self._identity(model.precision)
        streams = {"target": target.rows} if target else {}
        streams |= recalled(strategies.values(), self.resolved.answered)
        if target is not None and target.measured:
            trainer.elsewhere = {"target": partial(target.report, trainer.evaluate)}
        trainer.fit(parts["train"], parts["valid"], Checkpoints(folder, identity, resume), streams)
        model.acting = None
        metrics = {part: trainer.evaluate(parts[part]) for part in ("valid", "test")}
        if target is not None and target.measured:
            metrics["target"] = target.report(trainer.evaluate)
        metrics |= {name: trainer.evaluate(rows.subset(some).settled()) for name, some in self.table.bands().items()}
        metrics |= self._kept(model)
        if self.table.leakage and folder is not None and devices.is_main_process():
            self.table.leakage.write(folder / "leakage.csv", overwrite=True)
        best = trainer.progress.best_epoch + 1
        domains = domains_report(shift, metrics, trainer.metric)
        transfer = finite({**trainer.report, **({DOMAINS: domains} if domains else {})})
        self.tell(Event("end", {"best_epoch": best, **_flat(metrics), **({"transfer": transfer} if transfer else {})}))
        manifest = self._manifest(model, tokenizer, metrics, best) | ({"transfer": transfer} if transfer else {})
        return Adapted(model, tokenizer, self.resolved, manifest)

    def _note(self, text: str) -> None:
        self.tell(Event("note", {"text": text}))

    def _know(self, tokenizer: Tokenizer) -> None:
        self.probed = [tokenizer.encode(probe) for probe in self.probes]
        self.tokenizer_word = fingerprint_tokenizer(tokenizer, self.probes)

    def _model(
        self, encodings: Mapping[str, list[Encoding]], tokenizer: Tokenizer, start: Start | None
    ) -> tuple[Model, dict[str, Learns], dict[str, Strategy]]:
        strategies = build_strategies(self.resolved)
        self.pretrained = all(strategy.pretrained for strategy in strategies.values())
        if self.base is not None and not self.pretrained:
            raise RecipeError(f"strategy 'scratch' starts afresh: it cannot stand upon '{self.base.folder.name}'")
        self.pretrained = self.pretrained and not (self.base is not None and self.base.fresh)
        backbone = build_backbone(self.resolved.backbone, self.pretrained, self.recipe.seed)
        for values in encodings.values():
            refuse_too_long(values, self.table.examples.ids, backbone, self.name, self.resolved.backbone)
        self.backbone_word, self.architecture = fingerprint(backbone), architecture(backbone)
        self._remember()
        if self.base is not None:
            self.base.check(self.name, self.backbone_word, self.architecture)
            self.base.lay(backbone, current())
        self.resolved = layered(self.resolved, backbone)
        self.recipe = self.resolved.recipe
        self.retention = self._retention(backbone, tokenizer)
        if start is None:
            self._measure_reference(backbone.to(self.device))
        model, rates = build_model(self.resolved, backbone, tokenizer, strategies, self.device, self.recipe.seed)
        model.tokenizer = self.tokenizer_word
        # What a strategy puts before the tokens takes of their room.
        for values in encodings.values():
            refuse_too_long(values, self.table.examples.ids, backbone, self.name, self.resolved.backbone)
        model.base = self.base.folder if self.base else None
        if start is not None:
            start.check(self.name, self.backbone_word if self.pretrained else None, self.architecture)
            left_out = start.put_backbone(model)
            if left_out:
                self._note(
                    f"'{start.folder.name}': {len(left_out)} tensors of its own head left out: {', '.join(left_out)}"
                )
            self._measure_reference(backbone)
        self.keeping = self._keeping(model, strategies, start is None)
        return model, rates, strategies

    def _retention(self, backbone: Backbone, tokenizer: Tokenizer) -> Retention | None:
        options = self.recipe.reference
        return Retention.of(self.resolved, options, backbone, tokenizer) if options else None

    def _measure_reference(self, backbone: Backbone) -> None:
        """Ask the language model before anything learns, and before what a strategy puts in stands in its way."""
        if self.retention is not None:
            precision = devices.resolve_precision(self.resolved.training.precision, self.device)
            self.retention.before = self.retention.measure(backbone, precision)

    def _kept(self, model: Model) -> dict[str, dict[str, float]]:
        """Return what the language model's loss was and is, by part."""
        if self.retention is None:
            return {}
        # What nothing changed answers as before.
        changed = bool(model.changed)
        after = self.retention.measure(model.backbone, model.precision) if changed else self.retention.before
        self._note(self.retention.told(after))
        return {"reference before": self.retention.before, "reference after": after}

    def _keeping(self, model: Model, strategies: Mapping[str, Strategy], afresh: bool) -> Keeping:
        # An adapter to start from, or what changes the model from the first, would make them states of another model.
        same = self.pretrained and afresh and all(strategy.neutral for strategy in strategies.values())
        return Keeping(
            backbone=self.resolved.backbone,
            weights=self.backbone_word + (self.base.digest if self.base else ""),
            tokenizer=self.tokenizer_word,
            probed=self.probed,
            device=self.device,
            tell=self.tell,
            features=self.pretrained and model.frozen and not model.changed,
            states=same and self.resolved.training.cache,
        )

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
        if not bare.renewed:
            inputs = {name: self.keeping.inputs(model, values) for name, values in encodings.items()}
        rows = replace(bare, inputs=inputs, targets=targets)
        return self._in_domains(rows, model) if self.recipe.data.domain else rows

    def _in_domains(self, rows: Rows, model: Model) -> Rows:
        examples, data = self.table.examples, self.recipe.data
        names = domain_names(examples.table, data.domain, examples.ids, Path(data.path).name)
        model.domains, numbers = numbered(names)
        return replace(rows, domains=numbers)

    def _target(self, model: Model, tokenizer: Tokenizer) -> Target | None:
        """Return the rows of the domain that the model is for, if the recipe names a table of them."""
        if self.target is None:
            return None
        target = target_of(self.target, model, tokenizer, self.resolved, partial(self.keeping.inputs, model))
        for note in self.target.notes:
            self._note(f"target: {note}")
        return target

    def _shift(self, model: Model, train: Rows, target: Target | None, budget: int) -> Shift:
        # A search, which is not to see how good a model is elsewhere, need not pay for it either.
        unseen = self.target is not None and not self.target.measured
        domains = {} if unseen else parted(train, target.rows if target else None, model.domains)
        shift = Shift(model, domains, self.recipe.seed, budget)
        for note in shift.notes:
            self._note(note)
        return shift

    def _sizes(self, model: Model) -> dict[str, Any]:
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "trainable": learning,
            "device": self.device.type,
            "precision": model.precision,
            **{f"rows.{part}": count for part, count in self.table.facts["rows"].items()},
        }

    def _data_facts(self) -> dict[str, Any]:
        return {**self.table.facts, **({"target": dict(self.target.facts)} if self.target else {})}

    def _identity(self, precision: str) -> dict[str, Any]:
        return {
            "recipe": self.resolved.as_recipe(),
            "data": self._data_facts(),
            "backbone": self.backbone_word,
            "base": self.base.digest if self.base else "",
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
            "plugins": {**(self.base.manifest["plugins"] if self.base else {}), **self.resolved.plugins},
            **({"base": {"name": self.base.folder.name, "digest": self.base.digest}} if self.base else {}),
            "backbone": self._backbone_facts(model),
            "tokenizer": {"name": self.resolved.tokenizer.offer.spec.name, "fingerprint": self.tokenizer_word},
            "data": self._data_facts(),
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
