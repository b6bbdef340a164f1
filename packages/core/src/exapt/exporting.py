"""An adapter written into the weights that it was learned on, so that nothing is left to be put upon them."""

from __future__ import annotations

import inspect
import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from exapt import adapter, peft_folder
from exapt import device as devices
from exapt.adapted import Adapted
from exapt.building import build_backbone, build_strategies
from exapt.data.batching import collate
from exapt.errors import AdapterError, RecipeError
from exapt.golden import check_probe, probe
from exapt.loading import load
from exapt.model import backbone_state
from exapt.parts import Batch

FORMATS = ("exapt", "transformers")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written: which strategies were merged, and how many tensors and numbers differ from the published model's."""

    folder: Path
    format: str
    merged: tuple[str, ...]
    tensors: int
    parameters: int


def export(
    folder: str | Path,
    out: str | Path,
    *,
    merged: bool = False,
    format: str = "exapt",  # noqa: A002 - the option's word
    backbone: str = "",
    device: str = "",
) -> Exported:
    """Write an adapter to ``out`` with its update ``merged`` into the backbone's weights.

    The format ``exapt`` is an adapter that needs no PEFT; ``transformers`` is the whole backbone, without heads, in a folder
    that ``AutoModel.from_pretrained`` opens. Raises ``AdapterError`` if there is nothing to merge, or if the merged model
    answers otherwise, and ``RecipeError`` for what cannot be merged.
    """
    folder, out = Path(folder), Path(out)
    if format not in FORMATS:
        raise RecipeError(f"there is no format '{format}' to export to; formats are {', '.join(FORMATS)}")
    if not merged:
        raise RecipeError(
            f"'{folder.name}' stands as it is in its folder, an update in PEFT's own files: merged (--merged) writes it into "
            "the weights"
        )
    adapter.check_free(out)
    adapted = load(folder, backbone=backbone, device=device)
    for chosen in adapted.resolved.strategies:
        if not chosen.offer.spec.merges:
            raise RecipeError(
                f"'{folder.name}' cannot be merged: what strategy '{chosen.offer.spec.name}' learned stays beside the weights, "
                "for which none of them can stand; load and predict with it as it is"
            )
    if format == "exapt" and not (adapted.model.base or peft_folder.has_peft(adapted.model.backbone.module)):
        raise AdapterError(f"'{folder.name}' has nothing to merge: what it changed of the weights, it holds whole")
    changed = _merge(adapted, folder.name)
    if format == "exapt":
        _write_adapter(adapted, folder.name, out)
    else:
        _write_transformers(adapted, folder.name, out)
    numbers = sum(tensor.numel() for tensor in changed.values())
    return Exported(out, format, _names(adapted), len(changed), numbers)


def _names(adapted: Adapted) -> tuple[str, ...]:
    specs = [chosen.offer.spec for chosen in adapted.resolved.strategies]
    return tuple(spec.name for spec in specs if spec.selects)


def _merge(adapted: Adapted, name: str) -> dict[str, Tensor]:
    """Merge what the strategies added; returns the tensors that differ from the published ones."""
    model = adapted.model
    for strategy in build_strategies(adapted.resolved).values():
        strategy.merge(model.backbone)
    inputs, kept = list(adapted.resolved.recipe.data.inputs), adapted.manifest["probe"]
    try:
        check_probe(name, kept, probe(model, adapted.tokenizer, kept["inputs"], inputs))
    except AdapterError as error:
        raise AdapterError(
            f"'{name}' is not exported, because the merged weights do not do the same: {error}"
        ) from None
    changed = _changed(adapted)
    if not changed:
        raise AdapterError(f"'{name}' changed nothing of its backbone: there is nothing to export")
    model.changed, model.base = set(changed), None
    return changed


def _changed(adapted: Adapted) -> dict[str, Tensor]:
    pretrained = adapted.manifest["backbone"]["fingerprint"] is not None
    after = backbone_state(adapted.model.backbone)
    if not pretrained:
        return after
    before = backbone_state(build_backbone(adapted.resolved.backbone, pretrained))
    return {name: value for name, value in after.items() if not torch.equal(value.cpu(), before[name])}


def _write_adapter(adapted: Adapted, name: str, out: Path) -> None:
    """Write an adapter that holds every changed weight whole, under a strategy that adds nothing to the model."""
    manifest = deepcopy(adapted.manifest)
    recipe = manifest["recipe"]
    strategies, base = recipe["strategies"], manifest.pop("base", None)
    recipe |= {"strategies": [{"name": "probe"}], "base": "", "start": ""}
    # What only companions of a run read, such as rows of another domain, goes with them.
    recipe |= {key: None for key in ("target", "reference") if key in recipe}
    manifest["merged"] = {"adapter": name, "strategies": strategies, **({"base": base} if base else {})}
    manifest["tensors"] = adapter.describe_tensors(adapter.learned_files(adapted.model))
    adapter.write(out, adapted.model, manifest)


def _write_transformers(adapted: Adapted, name: str, out: Path) -> None:
    """Write the bare model as transformers does. Raises ``AdapterError`` if it is not one of its models."""
    from transformers import PreTrainedModel

    module: Any = adapted.model.backbone.module
    if not isinstance(module, PreTrainedModel):
        raise AdapterError(
            f"'{name}' was learned on {adapted.name}, whose code is not that of transformers: leave --format out, for an "
            "adapter of exapt"
        )
    with adapter.written(out) as under_way:
        config = deepcopy(module.config)
        config.architectures = [type(module).__name__]
        config.save_pretrained(under_way)
        state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
        save_file(state, under_way / WEIGHTS, metadata={"format": "pt"})
        (under_way / adapter.CARD).write_text(_card(adapted, name), encoding="utf-8")
        _check_same(adapted, _opened(under_way), name)


def _opened(folder: Path) -> Any:
    """Return what transformers makes of a folder, without its report of parts that nobody pretrained, such as a pooler."""
    from transformers import AutoModel, utils

    logging: Any = utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModel.from_pretrained(folder, local_files_only=True)
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()


def _check_same(adapted: Adapted, written: Any, name: str) -> None:
    """Raise ``AdapterError`` unless the model that was ``written`` has the states of the one that it was written from."""
    backbone, kept = adapted.model.backbone, adapted.manifest["probe"]
    device, tolerance = next(backbone.parameters()).device, kept["tolerance"]["fp32"]
    written.to(device).eval()
    for number, value in enumerate(kept["inputs"], 1):
        batch = collate([adapted.tokenizer.encode(value)]).to(device)
        with devices.resting():
            ours, theirs = backbone(batch).hidden, written(**_arguments(written, batch)).last_hidden_state
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
            raise AdapterError(
                f"'{name}' is not exported: transformers' own {type(written).__name__} has other states of probe {number}"
            )


def _arguments(written: nn.Module, batch: Batch) -> dict[str, Tensor]:
    known = inspect.signature(written.forward).parameters
    return {name: array for name, array in batch.arrays.items() if name in known} | {
        "attention_mask": batch.present.long()
    }


def _card(adapted: Adapted, name: str) -> str:
    facts = adapted.manifest["backbone"]
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {json.dumps(facts['source'] or facts['name'], ensure_ascii=False)}",
        f"license: {facts['licence'].lower()}",
        "tags: [exapt, transfer-learning, biology]",
        "---",
        "",
        f"# {facts['name']}, with what the adapter {name} learned",
        "",
        f"The bare model, without its language model's head and without the adapter's own: {', '.join(_names(adapted))} "
        "merged into its weights by exapt. What `AutoModel` adds to it, such as a pooler, is not trained.",
        "",
        "```python",
        "from transformers import AutoModel",
        "",
        'model = AutoModel.from_pretrained("THIS_FOLDER")',
        "```",
        "",
        f"Weights of the pretrained model: {facts['licence']}. Cite: {facts['paper'] or 'not known'}",
        "",
    ]
    return "\n".join(lines)
