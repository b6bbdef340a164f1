"""Several adapters on one backbone: its weights are in memory once, however many adapters stand over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exapt import device as devices
from exapt.adapted import Adapted
from exapt.adapter import canonical
from exapt.building import set_windows
from exapt.errors import AdapterError, RecipeError, did_you_mean
from exapt.loading import load_upon
from exapt.manifest import read_manifest
from exapt.parts import Backbone
from exapt.rebuilding import read_backbone
from exapt.resolve import Chosen

if TYPE_CHECKING:
    import pyarrow as pa


class Adapters(Mapping[str, Adapted]):
    """Adapters of one backbone by name, each of which answers as it does when it is loaded alone."""

    def __init__(self, adapters: Mapping[str, Adapted]) -> None:
        self._adapters = dict(adapters)

    def __getitem__(self, name: str) -> Adapted:
        return self._adapters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def named(self, name: str) -> Adapted:
        """Return an adapter by name. Raises ``RecipeError``, with the nearest, for one that there is not."""
        if name not in self._adapters:
            raise RecipeError(
                f"there is no adapter '{name}'.{did_you_mean(name, self._adapters)} There are: {', '.join(self._adapters)}."
            )
        return self._adapters[name]

    def predict(
        self,
        inputs: Sequence[Any] | Mapping[str, Sequence[Any]],
        adapter: str | Sequence[str],
        ids: Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> pa.Table:
        """Answer for some inputs with the adapter of that name, as ``Adapted.predict`` does.

        A list names the adapter of each input; what they say then stands in one table, with a column ``adapter``, and None
        where an adapter does not say it.
        """
        if isinstance(adapter, str):
            return self.named(adapter).predict(inputs, ids, tell)
        from exapt.switching import Switch

        switch = Switch(self)
        first = next(iter(self._adapters.values()))
        answers = switch.answer(first.examples(inputs, ids), adapter)
        for line in switch.lines():
            tell(line)
        return answers


def load_all(
    folders: Mapping[str, str | Path] | Sequence[str | Path],
    *,
    backbone: str = "",
    device: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Adapters:
    """Load adapters of one backbone, by name or, of a list, by the last name of each folder, over one copy of its weights.

    ``backbone``, ``device`` and ``settings`` are those of ``exapt.load``. Raises ``AdapterError`` for adapters of different
    weights, naming both, and ``RecipeError`` for two of one name.
    """
    named = _named(folders)
    _check_one_backbone({name: read_manifest(folder) for name, folder in named.items()})
    shared = _Shared(devices.choose(device))
    found: dict[str, Adapted] = {}
    for name, folder in named.items():
        adapted = load_upon(shared.read, folder, backbone, device, settings or {})
        for other in found.values():
            # What one of them stands upon was made part of its own weights: of these, too, many are the same.
            if adapted.model.base or other.model.base or adapted.resolved.backbone.kept != other.resolved.backbone.kept:
                share(adapted.model.backbone, other.model.backbone)
        found[name] = adapted
    return Adapters(found)


def _named(folders: Mapping[str, str | Path] | Sequence[str | Path]) -> dict[str, Path]:
    if isinstance(folders, Mapping):
        found = {str(name): Path(folder) for name, folder in folders.items()}
    else:
        found = _unique([(Path(folder).absolute().name, Path(folder)) for folder in folders])
    if not found:
        raise RecipeError("there is no adapter to load: name at least one folder")
    return found


def _unique(pairs: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two adapters are called '{name}': give one of them another name, NAME=FOLDER")
    return dict(pairs)


def by_name(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Return folders that may be written as ``NAME=FOLDER`` by their names. Raises ``RecipeError`` for two of one name."""
    pairs = []
    for folder in folders:
        name, equals, place = str(folder).partition("=")
        whole = not equals or not name or Path(folder).is_dir()
        pairs.append((Path(folder).absolute().name, Path(folder)) if whole else (name, Path(place)))
    return _unique(pairs)


def _check_one_backbone(manifests: Mapping[str, Mapping[str, Any]]) -> None:
    (first, one), *others = ((name, manifest["backbone"]) for name, manifest in manifests.items())
    for name, facts in [(first, one), *others]:
        if facts["fingerprint"] is None:
            raise AdapterError(
                f"'{name}' was learned from fresh weights, none of which it could share with other adapters: load it alone"
            )
        if facts["fingerprint"] != one["fingerprint"]:
            raise AdapterError(
                f"'{first}' was learned on {one['name']} with fingerprint {one['fingerprint'][:12]}, but '{name}' on "
                f"{facts['name']} with {facts['fingerprint'][:12]}: adapters are switched on one backbone"
            )


class _Shared:
    """Backbones as they were published, each in memory once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[str, tuple[Backbone, str]] = {}

    def read(self, chosen: Chosen, pretrained: bool, own: Collection[str] | None) -> tuple[Backbone, str]:
        """Return a backbone whose tensors are those of the first one of its kind, but for its ``own``, and its fingerprint."""
        if not pretrained:
            return read_backbone(chosen, pretrained, own)
        options = chosen.options.model_dump_json(exclude={"windows", "overlap"})
        key = f"{chosen.offer.spec.name} {options}"
        if key not in self._known:
            backbone, word = read_backbone(chosen, pretrained, own)
            self._known[key] = backbone.to(self._device), word
        first, word = self._known[key]
        return set_windows(_copied(first, own), chosen.options), word


def _copied(first: Backbone, own: Collection[str] | None) -> Backbone:
    if own is None:
        return deepcopy(first)
    apart = {id(tensor) for name, tensor in first.state_dict(keep_vars=True).items() if name in own}
    same = [tensor for tensor in (*first.parameters(), *first.buffers()) if id(tensor) not in apart]
    # What stands in the memo is taken for copied already.
    return deepcopy(first, {id(tensor): tensor for tensor in same})


def share(backbone: Backbone, other: Backbone) -> None:
    """Let tensors of a backbone that equal those of another one be the other's, in one memory."""
    theirs = {canonical(name): tensor for name, tensor in other.state_dict(keep_vars=True).items()}
    for prefix, module in backbone.named_modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                there = theirs.get(canonical(f"{prefix}.{name}" if prefix else name))
                if tensor is not None and there is not None and _equal(tensor, there):
                    own[name] = there


def _equal(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return same and isinstance(other, nn.Parameter) == isinstance(one, nn.Parameter) and torch.equal(one, other)
