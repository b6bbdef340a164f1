"""How neighbours are turned towards each other, where CA atoms are all that is known.

Ingraham et al. 2019, Generative models for graph-based protein design; Dauparas et al. 2022, doi:10.1126/science.add2187.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from exapt_esm.proteinmpnn.geometry import Graph

# A step between CA atoms of one chain, in Å; others jump over what is missing.
_STEP = (3.6, 4.0)


def orientations(alphas: Tensor, present: Tensor, graph: Graph) -> Tensor:
    """Return the direction and the turn [batch * tokens, k, 3 + 4] of each neighbour in the frame of the residue.

    ``alphas`` [batch, tokens, 3] are the CA atoms, 0 where there is none. The turn is a quaternion.
    """
    axes = _frames(alphas, present).flatten(0, 1)
    places = alphas.flatten(0, 1)
    towards = _times(axes[:, None], (graph.of(places) - places[:, None]).unsqueeze(-1)).squeeze(-1)
    turns = _times(axes.transpose(-1, -2)[:, None], graph.of(axes))
    return torch.cat((functional.normalize(towards, dim=-1), _quaternions(turns)), -1)


def _times(one: Tensor, other: Tensor) -> Tensor:
    # Summed term by term: a turn to oneself has to come out symmetric to the last bit, for the signs that are read off it.
    total = one[..., :, 0, None] * other[..., 0, None, :]
    for term in (1, 2):
        total = total + one[..., :, term, None] * other[..., term, None, :]
    return total


def _frames(alphas: Tensor, present: Tensor) -> Tensor:
    """Return three axes [batch, tokens, 3, 3] at each CA atom, zeros where too few neighbours in the chain are known."""
    if alphas.shape[1] < 3:
        return alphas.new_zeros(*alphas.shape, 3)
    steps = alphas[:, 1:] - alphas[:, :-1]
    lengths = steps.norm(dim=-1, keepdim=True)
    known = (lengths > _STEP[0]) & (lengths < _STEP[1])
    directions = functional.normalize(torch.where(known, steps, 0), dim=-1)
    into, onward = directions[:, :-1], directions[:, 1:]
    bend = functional.normalize(into - onward, dim=-1)
    normal = functional.normalize(torch.linalg.cross(into, onward), dim=-1)
    axes = torch.stack((bend, normal, torch.linalg.cross(bend, normal)), 2)
    # The published model has no frame for the last residue but one either.
    inside = present.roll(-2, 1)[:, 1:-1].clone()
    inside[:, -1] = False
    return functional.pad(torch.where(inside[..., None, None], axes, 0), (0, 0, 0, 0, 1, 1))


def _quaternions(turns: Tensor) -> Tensor:
    """Return rotation matrices [..., 3, 3] as quaternions [..., 4], the real part last and not negative."""
    x, y, z = turns.diagonal(dim1=-2, dim2=-1).unbind(-1)
    sizes = 0.5 * torch.stack((1 + x - y - z, 1 - x + y - z, 1 - x - y + z), -1).abs().sqrt()
    skew = (turns - turns.transpose(-1, -2)).flatten(-2)[..., [7, 2, 3]]
    real = (1 + x + y + z).relu().sqrt().unsqueeze(-1) / 2
    return functional.normalize(torch.cat((skew.sign() * sizes, real), -1), dim=-1)
