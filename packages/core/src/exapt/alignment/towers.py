"""A tower: a backbone that stays as it is, with a choice of layer and pooling, and its features of many inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exapt import __version__
from exapt import device as devices
from exapt.adapted import Adapted
from exapt.alignment.recipe import TowerOptions
from exapt.building import probe_inputs
from exapt.embedding import Embedder
from exapt.errors import RecipeError
from exapt.features import FeatureKey, answers_digest, encodings_digest, forward_all, frozen_features
from exapt.fingerprint import architecture
from exapt.loading import load
from exapt.parts import Array, Encoding
from exapt.places import BACKBONES, TOKENIZERS, remember
from exapt.plugins import Plugins
from exapt.recipe import DataOptions
from exapt.resolve import Chosen, portable, resolve_backbone, weights_folder
from exapt.rows import Inputs
from exapt.specs import Checkpoint, TokenizerSpec, Windowed

READING = "tower"
"""What an aligning head reads of each tower: its own pooling, whichever that is."""

Parts = tuple[Chosen, Checkpoint | None, Chosen]
"""A backbone, its published checkpoint if it has one, and its tokenizer."""


@dataclass(frozen=True)
class ChosenTower:
    """A tower of which everything was looked up: its parts by name, or an adapter that was loaded."""

    name: str
    options: TowerOptions
    parts: Parts
    adapted: Adapted | None = None

    @property
    def accepts(self) -> str:
        """The kind of input: a sequence, a structure or a cell."""
        return str(self.parts[0].offer.spec.accepts)

    @property
    def modality(self) -> str:
        """Such as ``protein``."""
        return str(self.parts[0].offer.spec.modality)

    @property
    def data(self) -> DataOptions:
        """How its table is read."""
        given = self.options.data
        inputs = {self.accepts: given.input or self.accepts}
        return DataOptions(path=given.path, format=given.format, reader=given.reader, id=given.id, inputs=inputs)


def chosen_tower(name: str, options: TowerOptions, plugins: Plugins, device: str) -> ChosenTower:
    """Look up the parts of a tower, or load its adapter. Raises ``ComponentError``, ``RecipeError`` or ``AdapterError``."""
    if options.adapter:
        adapted = load(options.adapter, device=device)
        resolved = adapted.resolved
        return ChosenTower(name, options, (resolved.backbone, resolved.checkpoint, resolved.tokenizer), adapted)
    assert options.backbone is not None
    return ChosenTower(name, options, inferred(resolve_backbone(plugins, options.backbone, options.tokenizer)))


def inferred(parts: Parts) -> Parts:
    """Return parts with what only the files of the checkpoint know written into the tokenizer's options."""
    backbone, checkpoint, reads = parts
    spec: TokenizerSpec = reads.offer.spec
    return backbone, checkpoint, Chosen(reads.offer, spec.infer(reads.options))


@dataclass(frozen=True)
class Tower:
    """A tower at work."""

    chosen: ChosenTower
    embedder: Embedder
    probes: Sequence[Any]

    @classmethod
    def of(cls, chosen: ChosenTower, device: str) -> Tower:
        """Build it. Raises ``RecipeError`` for a layer that there is not."""
        options, parts = chosen.options, chosen.parts
        probes = probe_inputs(parts[0])
        if chosen.adapted is not None:
            return cls(chosen, _of_adapter(chosen.adapted, options, device), probes)
        assert options.backbone is not None
        name = options.backbone.name
        return cls(chosen, Embedder.of_parts(name, parts, options.pooling, options.layer, device), probes)

    @property
    def name(self) -> str:
        """What the recipe calls it."""
        return self.chosen.name

    @property
    def width(self) -> int:
        """The width of its features."""
        return self.embedder.backbone.width

    def inputs(self, encodings: Sequence[Encoding], tell: Callable[[int, int], None]) -> Inputs:
        """Return inputs with their features, each distinct one computed once and kept; ``tell`` hears (done, all)."""
        words = [encodings_digest([encoding]) for encoding in encodings]
        first = {word: place for place, word in reversed(list(enumerate(words)))}
        order = {word: number for number, word in enumerate(dict.fromkeys(words))}
        distinct = [encodings[first[word]] for word in order]
        kept = frozen_features(self.embedder.backbone, distinct, self._key(distinct), tell)
        return Inputs(encodings, {READING: kept}, np.array([order[word] for word in words]))

    def _key(self, encodings: Sequence[Encoding]) -> FeatureKey:
        embedder, backbone = self.embedder, self.chosen.parts[0]
        probes = [embedder.tokenizer.encode(probe) for probe in self.probes]
        return FeatureKey(
            weights=embedder.key["weights"],
            tokenizer=embedder.key["tokenizer"],
            code={
                backbone.offer.info.distribution: backbone.offer.info.version,
                "exapt": __version__,
                "transformers": version("transformers"),
                "options": embedder.key["options"],
                # What an adapter changed, or a plugin under development, shows in the answers.
                "answers": answers_digest(embedder.backbone, probes, embedder.layer),
            },
            inputs=encodings_digest(encodings),
            layer=embedder.layer,
            reading=embedder.pooling,
            precision=embedder.key["precision"],
            budget=devices.token_budget(embedder.device),
            machine=devices.describe(embedder.device),
        )

    def exact(self, encodings: Sequence[Encoding]) -> torch.Tensor:
        """Return pooled features [inputs, width], each input by itself and in fp32, whatever the device is fast in."""
        vectors: list[Array] = [np.empty(0)] * len(encodings)
        for rows, features in forward_all(self.embedder.backbone, encodings, self.embedder.layer, "fp32", budget=1):
            for row, vector in zip(rows, features.pool(self.embedder.pooling).numpy(), strict=True):
                vectors[row] = vector
        return torch.from_numpy(np.stack(vectors)).to(self.embedder.device)

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of its backbone and its tokenizer."""
        if self.chosen.adapted is not None:
            manifest = self.chosen.adapted.manifest
            return {"backbone": manifest["backbone"], "tokenizer": manifest["tokenizer"]}
        backbone, checkpoint, reads = self.chosen.parts
        spec, written = backbone.offer.spec, self.as_recipe()["backbone"]
        return {
            "backbone": {
                "name": written["name"],
                "family": spec.name,
                "modality": spec.modality,
                "source": written.get("source", ""),
                "revision": written.get("revision", ""),
                "local": bool(weights_folder(checkpoint, backbone.options)),
                "width": self.width,
                "licence": checkpoint.licence if checkpoint else "unknown",
                "commercial": checkpoint.commercial if checkpoint else True,
                "paper": checkpoint.paper if checkpoint else "",
                "architecture": architecture(self.embedder.backbone),
                "fingerprint": self.embedder.key["weights"],
            },
            "tokenizer": {"name": reads.offer.spec.name, "fingerprint": self.embedder.key["tokenizer"]},
        }

    def as_recipe(self) -> dict[str, Any]:
        """Return it as it stands in the recipe, with nothing left to infer; folders by their last name."""
        options, (backbone, checkpoint, reads) = self.chosen.options, self.chosen.parts
        data = {**options.data.model_dump(mode="json"), "path": Path(options.data.path).name}
        said = {"data": data, "pair": options.pair, "layer": self.embedder.layer, "pooling": options.pooling}
        if options.adapter:
            return {**said, "adapter": Path(options.adapter).name}
        assert options.backbone is not None
        folder = weights_folder(checkpoint, backbone.options)
        named = options.tokenizer.name if options.tokenizer else ""
        return {
            **said,
            "backbone": portable(backbone.as_component(options.backbone.name), folder),
            "tokenizer": portable(reads.as_component(named), folder),
        }

    def remember(self) -> None:
        """Note, on this machine only, where the files of its weights and of its tokenizer stand."""
        if self.chosen.adapted is not None:
            return
        backbone, checkpoint, reads = self.chosen.parts
        folder, key = weights_folder(checkpoint, backbone.options), self.embedder.key
        remember(BACKBONES, key["weights"], {"source": folder} if folder else {})
        remember(TOKENIZERS, key["tokenizer"], reads.files)


def _of_adapter(adapted: Adapted, options: TowerOptions, device: str) -> Embedder:
    """Return an embedder by the backbone of an adapter, at the layer that its heads read unless another is named."""
    model, manifest, chosen = adapted.model, adapted.manifest, adapted.resolved.backbone
    if isinstance(chosen.options, Windowed) and chosen.options.windows == "score":
        raise RecipeError(
            f"'{options.adapter}' answers for windows, and a pair is of whole inputs: it cannot be a tower"
        )
    last = len(model.backbone.blocks())
    layer = model.layer if options.layer == -1 else options.layer
    if not -1 <= layer <= last:
        raise RecipeError(f"there is no layer {layer}: '{adapted.name}' has layers 0 to {last}")
    where = devices.choose(device)
    facts = manifest["backbone"]
    key = {
        "weights": facts["fingerprint"] or facts["architecture"],
        "tokenizer": manifest["tokenizer"]["fingerprint"],
        "options": chosen.options.model_dump(mode="json", exclude={"source", "revision"}),
        "precision": devices.resolve_precision("auto", where),
    }
    licence = "" if facts["commercial"] else f"{facts['name']}: {facts['licence']}, no commercial use"
    parts = (chosen, adapted.resolved.tokenizer)
    return Embedder(adapted.name, model.backbone, adapted.tokenizer, parts, options.pooling, layer, where, key, licence)
