"""Published checkpoints: where their files lie, and weights read from files that may be damaged.

For plugins. Every tensor is accounted for: ``fill`` refuses what a model does not have, and says what it still lacks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from exapt.errors import DataError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Of a file, in bytes, on all systems that exapt runs on.
_LONGEST_NAME = 255
_WHOLE = ("model.safetensors", "pytorch_model.bin")
# Under these, trainers save the tensors of a model beside those of its optimizer.
_LEVELS = ("model_state_dict", "state_dict")
# How torch names what a pickle wants to call.
_CODE = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")


@dataclass(frozen=True)
class Files:
    """The files of one checkpoint: in a local folder, or on the Hugging Face hub and in its cache.

    ``family`` is the backbone's name (``esm2``), ``model`` the model's (``ESM-2``): both are for messages.
    """

    source: str
    revision: str
    family: str
    model: str

    def find(self, name: str) -> Path | None:
        """Return a file, downloaded if need be; None if the checkpoint has no such file.

        Raises ``DataError`` if the source is neither a folder nor a hub id, or if the hub does not give it.
        """
        folder = _folder(self.source)
        if folder is not None:
            return folder / name if (folder / name).is_file() else None
        if not _HUB_ID.fullmatch(self.source):
            raise DataError(
                f"there is no folder '{self.source}'; name a folder with {_article(self.model)} {self.model} "
                "checkpoint, or a hub id OWNER/NAME"
            )
        return _from_hub(self.source, self.revision, name)

    def need(self, name: str) -> Path:
        """Return a file without which the checkpoint cannot be used; raises ``DataError`` if it is not there."""
        path = self.find(name)
        if path is None:
            raise DataError(self.lacking(name))
        return path

    def lacking(self, name: str) -> str:
        """Return the sentence for a file that the checkpoint should have."""
        if _folder(self.source) is not None:
            return f"the folder '{self.source}' has no {name}, so it is no {self.model} checkpoint"
        return (
            f"'{self.source}' is no folder here, and its {name} is neither on the hub nor in the cache of this machine; "
            f"connect once to download it, or name a local folder as {self.family}:PATH"
        )

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object that a file of the checkpoint holds; raises ``DataError`` for anything else."""
        return read_json(self.need(name))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards, by their names there.

        One file is in memory at a time. Raises ``DataError`` if there are no weights, or if a file is not what its name
        says.
        """
        for path in self._weights():
            yield from read_tensors(path).items()

    def _weights(self) -> list[Path]:
        # Of what is in the cache nobody need ask the hub, which a machine without a network waits long for.
        there = next((name for name in _WHOLE if _cached(self.source, self.revision, name)), "")
        for name in (there,) if there else _WHOLE:
            whole = self.find(name)
            if whole is not None:
                return [whole]
            index = self.find(f"{name}.index.json")
            if index is not None:
                return [self.need(shard) for shard in _shards(index)]
        raise DataError(self.lacking(" or ".join(_WHOLE)))


def _shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_file_name, places.values())) else set()
    if not names:
        raise DataError(f"'{index}' is no index of weights; download it again")
    return sorted(names)


def _is_file_name(name: Any) -> bool:
    if not isinstance(name, str) or not name or Path(name).name != name:
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME


def _folder(source: str) -> Path | None:
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    return path if source and path.is_dir() else None


def _article(word: str) -> str:
    return "an" if word[0] in "AEIO" else "a"


def _cached(repository: str, revision: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if not revision or not _HUB_ID.fullmatch(repository) or _folder(repository) is not None:
        return False
    return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)


def _from_hub(repository: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    # An entry that is missing from the cache of a machine offline raises a subclass of this one.
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise DataError(f"the hub does not give '{repository}'{at}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; raises ``DataError`` if it holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    # A file of brackets alone, one in another, is too deep to be read.
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"'{path}' is not a JSON object; download it again")
    return found


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors by name that a ``.safetensors`` file, or a file of ``torch.save``, holds.

    Those of a trainer's checkpoint are taken from its ``model_state_dict`` or ``state_dict``, and all else there is left. No
    pickle is ever run. Raises ``DataError`` for a file that is damaged, a pointer to the weights or a web page in
    their place, and for one that holds anything but tensors.
    """
    found = read_saved(path)
    if isinstance(found, dict):
        found = next((found[level] for level in _LEVELS if isinstance(found.get(level), dict)), found)
    if not isinstance(found, dict) or not all(map(_is_named_tensor, found, found.values())):
        raise DataError(f"'{path}' holds something else than tensors by name")
    return found


def _is_named_tensor(name: Any, tensor: Any) -> bool:
    return isinstance(name, str) and isinstance(tensor, Tensor)


def read_saved(path: Path) -> Any:
    """Return what a ``.safetensors`` file, or a file of ``torch.save``, holds: tensors, and plain values around them.

    Raises ``DataError`` as ``read_tensors`` does, for a file that holds code too.
    """
    refuse_text(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # A damaged pickle leads its reader anywhere, and so fails in any way at all.
    except Exception as error:
        code = _CODE.search(str(error))
        if code:
            raise DataError(
                f"'{path}' asks for '{code[1]}' to be run, which exapt does not do; take the weights as safetensors"
            ) from None
        raise DataError(f"'{path}' is damaged, cut short, or holds more than tensors; download it again") from None


def refuse_text(path: Path) -> None:
    """Raise ``DataError`` if a file of weights is a git-lfs pointer or a web page instead."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"'{path}' is a git-lfs pointer, not the weights; run 'git lfs pull' in its folder")
    if start.startswith(b"<"):
        raise DataError(f"'{path}' is a web page, not the weights; download it again")


@torch.no_grad()
def fill(
    wanted: Mapping[str, Tensor], given: Iterable[tuple[str, Tensor]], files: Files, dropped: Mapping[str, str]
) -> set[str]:
    """Copy tensors into those of a model by name, and return the names that were not given.

    ``dropped`` maps the names, or beginnings of names, that the model leaves out on purpose to the reason. Raises
    ``DataError`` for any other tensor that the model does not have, that has another shape, that is of whole numbers where
    the model's are not, that holds values which are not finite in the model's type, or none at all, or that is given twice
    with different values.
    """
    filled: set[str] = set()
    for name, tensor in given:
        if name.startswith(tuple(dropped)):
            continue
        if name not in wanted:
            raise DataError(f"the weights of '{files.source}' hold '{name}', which {files.model} does not have")
        _refuse_no_values(name, tensor, files)
        place = wanted[name]
        if place.shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, where its config.json asks for {list(place.shape)}"
            raise DataError(f"'{name}' in the weights of '{files.source}' has the shape {shapes}")
        if tensor.is_floating_point() != place.is_floating_point():
            kinds = f"'{name}' as {tensor.dtype}, where {files.model} has {place.dtype}"
            raise DataError(f"the weights of '{files.source}' hold {kinds}; they are of another kind or damaged")
        if name in filled and not torch.equal(place, tensor.to(place)):
            raise DataError(f"the weights of '{files.source}' hold two different tensors for '{name}'")
        place.copy_(tensor)
        if not torch.isfinite(place).all():
            raise DataError(
                f"the weights of '{files.source}' hold values in '{name}' that are not finite as {place.dtype}; they are "
                "damaged: download them again"
            )
        filled.add(name)
    return set(wanted) - filled


def _refuse_no_values(name: str, tensor: Tensor, files: Files) -> None:
    kind = "a tensor without values" if tensor.is_meta else "a sparse tensor" if tensor.layout != torch.strided else ""
    if kind or tensor.is_quantized:
        raise DataError(
            f"the weights of '{files.source}' hold '{name}' as {kind or 'a quantized tensor'}; save them as plain ones"
        )


def refuse_missing(missing: Iterable[str], files: Files) -> None:
    """Raise ``DataError`` if there are tensors that the weights should have held and did not."""
    names = set(missing)
    if names:
        raise DataError(f"the weights of '{files.source}' lack {len(names)} tensors, such as '{min(names)}'")
