"""How likely targets are by what a head answers, and targets drawn from it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from exapt.parts import Head


def surprise(head: Head, output: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-likelihood [] of all known targets, summed over rows, units and labels.

    Class weights and a focal loss are of what is learned, and not of what is likely: they have no part in it. Measured values
    have a normal distribution of deviation 1, whatever their head takes of them besides.
    """
    known = _known(head, target)
    if _yes_or_no(output, target):
        said, truth = output.double().sigmoid()[known], target[known].double()
        # A pair stands for itself in both orders.
        return functional.binary_cross_entropy(said, truth, reduction="sum").float() / head.axes
    if not target.is_floating_point():
        logits, truth = output.float().flatten(0, -2), torch.where(known, target, -1).flatten().long()
        return functional.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
    if head.outcomes is not None and head.outcomes.probabilities is not None:
        # In double precision, in which a sigmoid is 1 much later.
        said, truth = head.outcomes.probabilities(output.double())[known], target[known].double()
        return functional.binary_cross_entropy(said, truth, reduction="sum").float()
    return head.loss(output.float(), target) / 2


def drawn(head: Head, output: Tensor, target: Tensor) -> Tensor:
    """Return targets drawn from what a head answers, where there are any: classes, labels, or numbers of deviation 1."""
    known = _known(head, target)
    if _yes_or_no(output, target):
        said = torch.bernoulli(output.float().sigmoid())
    elif not target.is_floating_point():
        shares = output.float().softmax(-1)
        said = torch.multinomial(shares.flatten(0, -2), 1).view(target.shape)
    elif head.outcomes is not None and head.outcomes.probabilities is not None:
        said = torch.bernoulli(head.outcomes.probabilities(output.float()))
    else:
        said = (output.float() + torch.randn_like(output, dtype=torch.float32)).reshape(target.shape)
    return torch.where(known, said.to(target.dtype), target)


def _known(head: Head, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return ~target.isnan() & (target != head.pad)
    return (target != head.pad) & (target >= 0)


def _yes_or_no(output: Tensor, target: Tensor) -> bool:
    """Tell answers to yes or no, of pairs, from those that have a number for each class."""
    return not target.is_floating_point() and output.shape == target.shape
