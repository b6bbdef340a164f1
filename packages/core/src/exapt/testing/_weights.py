# ruff: noqa: D401 - the docstring of a check is the promise that it holds a plugin to
"""The promises of a backbone: where its weights come from, what of it learns, and that it can be saved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from exapt.data.batching import collate
from exapt.errors import listed
from exapt.parts import Backbone, cast_features
from exapt.testing._backbone_case import BackboneCase, gap, learn_from, read
from exapt.testing._check import Check, Faults, said
from exapt.testing._fresh import ask_fresh_process, digest_of, home_of, part
from exapt.testing._watch import deeds_of


def safe_build(case: BackboneCase) -> Faults:
    """Building needs no network (of a local source), unpickles nothing and runs no code that came with the weights."""
    yield from (f"building it {deed}" for deed in deeds_of(case.build))


def weights_loaded(case: BackboneCase) -> Faults:
    """Every parameter and buffer comes from the weights: two builds agree, whatever torch's generator says."""
    first, second = case.backbone.state_dict(), case.build(seed=1).state_dict()
    for name, tensor in first.items():
        if tensor.device.type != "cpu":
            yield f"'{name}' is built on {tensor.device.type}; core alone moves models"
        elif name not in second or not torch.equal(tensor, second[name]):
            yield f"'{name}' differs between two builds with the same weights: it is left at random"
        elif tensor.is_floating_point() and not tensor.isfinite().all():
            yield f"'{name}' is not finite"


def fresh_weights(case: BackboneCase) -> Faults:
    """Without weights the same architecture comes from torch's generator: seeded alike, and not pretrained."""
    states = [case.build(weights=False, seed=seed).state_dict() for seed in (101, 101, 102)]
    pretrained = case.backbone.state_dict()
    if _shapes(states[0]) != _shapes(pretrained):
        odd = {name for name, _ in _shapes(states[0]).items() ^ _shapes(pretrained).items()}
        yield f"fresh and pretrained weights differ in name or shape: {listed(odd)}"
    elif not _same(states[0], states[1]):
        yield "two builds without weights differ under the same seed"
    elif _same(states[0], states[2]):
        yield "two builds without weights are the same under two seeds"
    else:
        learning = [name for name, parameter in case.backbone.named_parameters() if parameter.requires_grad]
        kept = [name for name in learning if name in pretrained and torch.equal(pretrained[name], states[0][name])]
        yield from (f"'{name}' is pretrained in a build without weights" for name in kept if _varies(pretrained[name]))


def _varies(tensor: Tensor) -> bool:
    # Constants, such as a bias of zeros, are the same in any build.
    return tensor.numel() > 0 and bool((tensor != tensor.flatten()[0]).any())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def blocks(case: BackboneCase) -> Faults:
    """Blocks are parts of ``module``, share nothing, and hold the linear layers that low-rank updates go to."""
    backbone = case.backbone
    inside = {id(module) for module in backbone.module.modules()}
    for place, block in enumerate(backbone.blocks()):
        if id(block) not in inside:
            yield f"block {place} is no part of module"
    held = [{id(parameter) for parameter in block.parameters()} for block in backbone.blocks()]
    for one, other in combinations(range(len(held)), 2):
        if held[one] & held[other]:
            yield f"blocks {one} and {other} share parameters"
    yield from _targets(backbone)


def _targets(backbone: Backbone) -> Faults:
    linear = [
        {name.rpartition(".")[2] for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        for block in backbone.blocks()
    ]
    if linear and not any(linear):
        yield "no block holds a linear layer for low-rank updates"
    for target in backbone.lora_targets:
        if not any(target in names for names in linear):
            yield f"no block has the linear layer '{target}' of lora_targets, but {listed(set().union(*linear))}"


def gradients(case: BackboneCase) -> Faults:
    """Every parameter of ``module`` learns when it is let, and none when it is frozen."""
    backbone = case.build()
    inside = {id(parameter) for parameter in backbone.module.parameters()}
    names = [name for name, parameter in backbone.named_parameters() if id(parameter) in inside]
    reached = _reached(backbone, case, set(names))
    yield from (f"'{name}' of module gets no gradient: features do not use it" for name in names if name not in reached)
    frozen = set(names[::2])
    yield from (
        f"'{name}' is frozen, but gets a gradient" for name in _reached(backbone, case, set(names) - frozen) & frozen
    )
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            yield f"the gradient of '{name}' is not finite"


def _reached(backbone: Backbone, case: BackboneCase, learning: set[str]) -> set[str]:
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in learning)
    backbone.zero_grad(set_to_none=True)
    learn_from(cast_features(backbone.train()(case.batch)))
    return {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}


def half_precision(case: BackboneCase) -> Faults:
    """Features under bf16 and fp16, and gradients under bf16, are finite."""
    backbone = case.build()
    # Two short inputs only: on a CPU half precision is many times slower than single.
    batch = collate(sorted(case.encodings, key=lambda encoding: encoding.tokens)[:2])
    for name, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        try:
            with torch.autocast("cpu", dtype=kind), torch.set_grad_enabled(kind == torch.bfloat16):
                features = cast_features(backbone(batch))
        except (RuntimeError, TypeError, ValueError) as error:
            yield f"it does not run in {name}: {said(error)}"
            return
        if not features.hidden[features.mask].isfinite().all():
            yield f"features in {name} are not finite"
    learn_from(features)
    wrong = [name for name, value in backbone.named_parameters() if _broken(value.grad)]
    if wrong:
        yield f"the gradient of '{wrong[0]}' in bf16 is not finite"


def _broken(gradient: Tensor | None) -> bool:
    return gradient is not None and not bool(gradient.isfinite().all())


def recomputed(case: BackboneCase) -> Faults:
    """Gradient checkpointing, which runs the forward pass a second time, gives the same gradients."""
    plain, again = case.build(), case.build()
    learn_from(cast_features(plain(case.batch)))
    learn_from(cast_features(checkpoint(again, case.batch, use_reentrant=False)))
    for (name, one), (_, other) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        if one.grad is not None and other.grad is not None and not gap(one.grad, other.grad) <= 1e-5:
            yield f"with gradient checkpointing the gradient of '{name}' differs by {gap(one.grad, other.grad):.2g}"


def told_by_fingerprint(case: BackboneCase) -> Faults:
    """All that features depend on is in the state, of which the fingerprint is taken."""
    fresh = case.build(weights=False, seed=103)
    fresh.load_state_dict(case.backbone.state_dict())
    difference = gap(case.features.hidden, read(fresh, case.batch).hidden)
    if difference != 0:
        yield f"features of the same state differ by {difference:.2g}: they depend on something outside the state"


def saved_and_loaded(case: BackboneCase) -> Faults:
    """Weights that have learned come back, bit by bit, in another build and in another process."""
    learned = case.build(seed=4)
    with torch.no_grad():
        for place, parameter in enumerate(learned.parameters()):
            parameter.mul_(1 + 0.01 * ((place % 7) - 3))
    hidden = read(learned, case.batch).hidden
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        save_file({name: value.contiguous().clone() for name, value in learned.state_dict().items()}, file)
        loaded = case.build(seed=5)
        loaded.load_state_dict(load_file(file))
        difference = gap(hidden, read(loaded, case.batch).hidden)
        if difference != 0:
            yield f"features differ by {difference:.2g} after weights were saved and loaded"
        yield from _fresh_process(case, learned, file)


def _fresh_process(case: BackboneCase, learned: Backbone, file: Path) -> Faults:
    findable = home_of(case.spec) and home_of(case.tokenizer_spec)
    if not findable or not all(isinstance(value, (str, dict)) for value in case.inputs):
        return
    answer = ask_fresh_process(
        {
            "backbone": part(case.spec, case.options),
            "tokenizer": part(case.tokenizer_spec, case.tokenizer_options),
            "inputs": list(case.inputs),
            "state": str(file),
        }
    )
    batch = collate([case.tokenizer.encode(value) for value in case.inputs])
    if answer["hidden"] != digest_of(read(learned, batch).hidden):
        yield "features differ in a fresh process that loads the saved weights"


BUILD_CHECKS: tuple[Check[BackboneCase], ...] = (
    Check("safe-build", "pickles, downloads and remote code", safe_build),
    Check("weights-loaded", "missing keys left at random: a pooler, a scale", weights_loaded),
    Check("fresh-weights", "a baseline 'from scratch' that is pretrained in secret", fresh_weights),
)

LEARNING_CHECKS: tuple[Check[BackboneCase], ...] = (
    Check("blocks", "low-rank updates on layers outside the model's blocks, or on none", blocks),
    Check("gradients", "parameters that learn in vain, or although frozen", gradients),
    Check("half-precision", "operations and masks that fail in bf16 and fp16", half_precision),
    Check("recomputed", "gradient checkpointing that changes what is learned", recomputed),
    Check("told-by-fingerprint", "an adapter loaded over other weights", told_by_fingerprint),
    Check("saved-and-loaded", "predictions that change from one process to the next", saved_and_loaded),
)
