"""An alignment from recipe to two towers that find each other: pair, split, compute features, train, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import __version__, adapter
from exapt import device as devices
from exapt.alignment.aligned import Alignment, probed
from exapt.alignment.folder import FORMAT
from exapt.alignment.pairing import Pairs, read_pairs, split_pairs, with_engine
from exapt.alignment.recipe import AlignRecipe, by_chance, chosen_head
from exapt.alignment.towers import Tower, chosen_tower
from exapt.broadcast import Broadcast, claimed, run_folder
from exapt.building import Tallies, build
from exapt.checkpoint import Checkpoints
from exapt.data.splits import PARTS, Split
from exapt.errors import DataError, MetricError, RecipeError, did_you_mean, listed
from exapt.events import Event, Listener, Run
from exapt.manifest import finite
from exapt.model import Model
from exapt.parts import Backbone, Head, HeadContext
from exapt.plugins import current
from exapt.resolve import Chosen
from exapt.rows import Rows
from exapt.trainer import Trainer
from exapt.training import adjust
from exapt.units import left_out

HEAD = "head"


class Locked(Backbone):
    """Stands where a model has its backbone: both towers are locked (Zhai et al. 2022), and their features are at hand."""

    width = 0

    def __init__(self) -> None:
        super().__init__()
        self.eval()


def run(
    recipe: AlignRecipe, out: Path | None = None, *, device: str = "", listeners: Sequence[Listener] = ()
) -> Alignment:
    """Align two towers as a recipe says; write the alignment to ``out`` if it is given, and the run's log beside it."""
    plugins, where = current(), devices.choose(device)
    if devices.processes(where).num_processes > 1:
        raise RecipeError("the rows of a step are compared with each other: align on one process, without a launcher")
    devices.seed_everything(recipe.seed, where)
    head = chosen_head(recipe, plugins)
    chosen = [chosen_tower(name, options, plugins, device) for name, options in recipe.towers.items()]
    recipe = recipe.model_copy(update={"split": with_engine(recipe.split, chosen)})
    folder = run_folder(out, False)
    pairs = read_pairs(recipe, chosen)
    towers = {tower.name: Tower.of(tower, device) for tower in chosen}
    session = _Session(recipe, head, towers, where)
    pairs, split = split_pairs(recipe, session.seen(pairs), chosen)
    with claimed(folder, False), Broadcast(plugins, Run(folder, session.as_recipe()), listeners) as tell:
        for note in dict.fromkeys(pairs.notes):
            tell(Event("note", {"text": note}))
        alignment = session.train(pairs, split, tell)
    if out is not None:
        alignment.save(out)
    return alignment


class _Session:
    """The state of one run between its stages."""

    def __init__(self, recipe: AlignRecipe, head: Chosen, towers: Mapping[str, Tower], device: torch.device) -> None:
        self.recipe, self.head, self.towers, self.device = recipe, head, towers, device

    def as_recipe(self) -> dict[str, Any]:
        """Return the recipe with nothing left to infer, ready for JSON."""
        return {
            "towers": {name: tower.as_recipe() for name, tower in self.towers.items()},
            "split": self.recipe.split.model_dump(mode="json"),
            "head": self.head.as_component(self.recipe.head.name),
            "training": self.recipe.training.model_dump(mode="json"),
            "seed": self.recipe.seed,
        }

    def seen(self, pairs: Pairs) -> Pairs:
        """Return the pairs of which both towers see anything, encoded. Raises ``DataError`` if there are none."""
        encodings, notes = {}, []
        for name, tower in self.towers.items():
            values, tallies = pairs.examples.inputs[name], Tallies(tower.embedder.tokenizer)
            encodings[name] = tower.embedder.encode(values, pairs.examples.ids)
            tallies.count(name, values, encodings[name])
            notes += [*tallies.lines(), *tower.embedder.backbone.notes]
        pairs = replace(pairs, encodings=encodings).told(notes)
        empty = np.any([[encoding.empty for encoding in values] for values in encodings.values()], axis=0)
        if not empty.any():
            return pairs
        if empty.all():
            raise DataError("of no pair do both towers see anything: there is nothing to learn from.")
        return pairs.take(np.flatnonzero(~empty)).told([left_out(int(empty.sum()), "all parts")])

    def train(self, pairs: Pairs, split: Split, tell: Callable[[Event], None]) -> Alignment:
        """Learn the projections from the features of both towers, which are computed once."""
        inputs = {
            name: tower.inputs(
                pairs.encodings[name], lambda done, of: tell(Event("features", {"done": done, "of": of}))
            )
            for name, tower in self.towers.items()
        }
        head = self._built()
        targets = np.stack([values.distinct for values in inputs.values()], 1)
        rows = Rows(inputs, {HEAD: list(targets)}, {HEAD: head}, {HEAD: next(iter(inputs))})
        parts = {part: rows.subset(getattr(split, part)) for part in PARTS}
        model = Model(Locked(), {HEAD: head}, {HEAD: 1.0}, -1).to(self.device)
        adjust(model, parts["train"], self.recipe.seed, ())
        sizes = {f"rows.{part}": len(parts[part]) for part in PARTS}
        learning = sum(parameter.numel() for parameter in head.parameters())
        tell(Event("start", {"trainable": learning, "device": self.device.type, **sizes}))
        devices.seed_everything(self.recipe.seed, self.device)
        trainer = Trainer(model, self.recipe.training.of_the_loop, {}, self.recipe.seed, tell)
        self._refuse_unknown_metric(trainer, parts["valid"])
        trainer.fit(parts["train"], parts["valid"], Checkpoints(None, {}))
        metrics = {part: trainer.evaluate(parts[part]) for part in ("valid", "test")}
        best = trainer.progress.best_epoch + 1
        flat = {f"{part}.{name}": value for part, report in metrics.items() for name, value in report.items()}
        tell(Event("end", {"best_epoch": best, **flat}))
        data = {"towers": dict(pairs.facts), "pairs": {part: len(parts[part]) for part in PARTS}}
        return self._alignment(model, {"data": data, "metrics": finite(metrics), "best_epoch": best})

    def _refuse_unknown_metric(self, trainer: Trainer, valid: Rows) -> None:
        wanted = self.recipe.training.metric
        # No epoch is better than another by what a random order has, so that it is not offered either.
        known = [name for name in trainer.evaluate(valid) if not by_chance(name)] if wanted else []
        if known and wanted not in known:
            raise MetricError(
                f"training.metric '{wanted}' is not measured here.{did_you_mean(wanted, known)} Known: {listed(known)}"
            )

    def _built(self) -> Head:
        torch.manual_seed(self.recipe.seed)
        head: Head = build(self.head, HeadContext({name: tower.width for name, tower in self.towers.items()}))
        return head

    def _alignment(self, model: Model, learned: Mapping[str, Any]) -> Alignment:
        head = model.head(HEAD)
        manifest = {
            "exapt": {"format": FORMAT, "version": __version__},
            "recipe": self.as_recipe(),
            "plugins": self._plugins(),
            "towers": {name: tower.facts for name, tower in self.towers.items()},
            **learned,
            "tensors": adapter.describe_tensors(adapter.learned_files(model)),
            "probes": {name: probed(tower, head, tower.probes) for name, tower in self.towers.items()},
            "made_with": devices.describe(self.device),
        }
        for tower in self.towers.values():
            tower.remember()
        return Alignment(self.towers, head, manifest)

    def _plugins(self) -> dict[str, str]:
        chosen = [part for tower in self.towers.values() for part in (tower.chosen.parts[0], tower.chosen.parts[2])]
        adapted = [tower.chosen.adapted for tower in self.towers.values()]
        named = {part.offer.info.distribution: part.offer.info.version for part in (*chosen, self.head)}
        return {**named, **{name: said for one in adapted if one for name, said in one.manifest["plugins"].items()}}
