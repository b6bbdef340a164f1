"""The focal loss: Lin et al. 2017, arXiv:1708.02002."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def focal(logits: Tensor, target: Tensor, weights: Tensor, gamma: float, pad: int, smoothing: float = 0.0) -> Tensor:
    """Return the summed focal loss [] of ``logits`` [n, classes] for classes ``target`` [n], ``pad`` where none is known.

    Each class counts by its weight and by the ``gamma``-th power of the probability that it lacks. As in cross-entropy,
    ``smoothing`` is the share of a target that all classes have alike.
    """
    known = target != pad
    classes = logits.shape[-1]
    truth = functional.one_hot(torch.where(known, target, 0), classes) * (1 - smoothing) + smoothing / classes
    shares = logits.log_softmax(-1)
    # Of a probability of 1 the rest has no logarithm.
    lacking = torch.log1p(-shares.exp().clamp(max=1 - 1e-6)) * gamma
    each = -(lacking.exp() * shares * truth * weights).sum(-1)
    return torch.where(known, each, 0).sum()


def binary_focal(logits: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Return the focal loss of each of ``logits`` [...] for the share ``truth`` [...] of yes; 0 makes it cross-entropy."""
    if not gamma:
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    # What is lacking of the one answer is the probability of the other.
    return -(truth * (gamma * no).exp() * yes + (1 - truth) * (gamma * yes).exp() * no)
